"""Random programs of processes on a simulated machine: the report's sum is the machine's energy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records, read_records
from tests.integration.api import simulated_processes

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists() or not hasattr(os, "fork"), reason="needs procfs and fork"
)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the folder; nothing is said on stderr."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "CARBONTRACK_STATE_DIR": str(folder / "state"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done


@pytest.mark.parametrize("seed", range(12))
def test_the_sum_is_the_machines_energy_to_the_last_bit(tmp_path: Path, seed: int) -> None:
    """Opens, closes, forks, kills, what outlives: the time in which any block was open, once."""
    done = run(tmp_path, simulated_processes.__file__, str(seed))
    run(tmp_path, "-m", "carbontrack", "recover")
    expected_j = simulated_processes.WATTS * json.loads(done.stdout)["open_s"]
    frame = read_records(tmp_path / "rows.csv", without_double_counting=True)
    assert float(frame["energy_kwh"].sum()) * 3.6e6 == pytest.approx(expected_j, rel=1e-9)
    rows = list(iter_records(tmp_path / "rows.csv"))
    ids = {row.record_id for row in rows}
    assert len(ids) == len(rows)
    assert {row.parent_id for row in rows if row.parent_holds} <= ids
