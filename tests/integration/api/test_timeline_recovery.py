"""Power over time of a run that was killed: as far as its last checkpoint, with its energy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from carbontrack.report.timelines import iter_timelines
from carbontrack.sinks.journal.recovery import recover

WORK = """
import carbontrack
with carbontrack.track("job", region="FR", timeline=True, checkpoint_s=0.1, interval_s=0.05,
                       state_dir="state"):
    print("open", flush=True)
    while True:
        sum(range(10_000))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL and flock are POSIX")
def test_a_killed_runs_timeline_is_recovered_with_its_record(tmp_path: Path) -> None:
    """The curve ends where the recovered record does, and holds the same energy."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WORK], cwd=tmp_path, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    time.sleep(1.5)
    process.kill()
    process.wait(timeout=60.0)
    process.stdout.close()

    assert not (tmp_path / "emissions.timeline.jsonl").exists()
    recover(tmp_path / "state")

    (record,) = iter_records(tmp_path / "emissions.csv")
    (run,) = iter_timelines(tmp_path / "emissions.csv")
    assert record.status == "recovered"
    assert run.record_id == record.record_id
    assert len(run.timeline.edges_s) > 5
    assert run.timeline.edges_s[-1] == pytest.approx(record.duration_s, abs=1e-6)
    for component, joules in run.timeline.energy_j.items():
        assert joules[-1] / 3.6e6 == getattr(record, f"{component}_kwh")
