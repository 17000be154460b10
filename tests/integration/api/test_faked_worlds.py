"""First use in a world that something else has faked: frozen time, a file system, a zip file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

MEASURE = """
import json
def show(tag, run):
    from datetime import datetime, timezone
    record, now = run.record, datetime.now(timezone.utc)
    ended = datetime.fromisoformat(record.ended_at.replace("Z", "+00:00"))
    started = datetime.fromisoformat(record.started_at.replace("Z", "+00:00"))
    print(json.dumps({
        "tag": tag, "status": record.status, "s": record.duration_s, "kwh": record.energy_kwh,
        "machine": record.machine_kwh, "coverage": record.coverage, "faults": record.faults,
        "year": [started.year, ended.year], "apart_s": (ended - started).total_seconds(),
        "is_datetime": isinstance(started, datetime) and now.tzinfo is not None,
    }))
def block(tag):
    with carbontrack.track(tag, region="FR", output=None) as run:
        sum(range(2_000_000))
    return run
"""
FROZEN = {
    "first use": """
import carbontrack
with {frozen}:
    first = block("first")
later = block("later")
""",
    "import": """
with {frozen}:
    import carbontrack
    first = block("first")
later = block("later")
""",
    "all of it": """
with {frozen}:
    import carbontrack
    first, later = block("first"), block("later")
""",
}
FREEZERS = {
    "freezegun": ("import freezegun", "freezegun.freeze_time('2031-05-01')"),
    "time-machine": ("import time_machine", "time_machine.travel('2031-05-01', tick=False)"),
    "mock": (
        "import time\nfrom unittest import mock",
        "mock.patch.multiple(time, time=lambda: 5.0, monotonic=lambda: 5.0,"
        " perf_counter=lambda: 5.0, process_time=lambda: 5.0)",
    ),
}


def run(code: str, folder: Path, *, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter with nothing of ours in its environment."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=100,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(path)},
    )


def blocks(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a program has shown of its blocks, by tag."""
    assert (done.returncode, done.stderr) == (0, "")
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["tag"]: one for one in shown}


@pytest.mark.parametrize("when", FROZEN)
@pytest.mark.parametrize("freezer", FREEZERS)
def test_frozen_time_is_not_ours(freezer, when, tmp_path):
    """Imported or first used while time is frozen: true times and energy, then and later."""
    if freezer != "mock":
        pytest.importorskip(freezer.replace("-", "_"), reason=f"{freezer} is not installed")
    if freezer == "time-machine" and sys.platform != "linux":
        pytest.skip("elsewhere every wall clock is moved")
    make, frozen = FREEZERS[freezer]
    show = "\nshow('first', first)\nshow('later', later)"
    found = blocks(run(f"{make}\n{MEASURE}{FROZEN[when].format(frozen=frozen)}{show}", tmp_path))
    for one in found.values():
        assert one["s"] > 0.0
        assert one["kwh"] > 0.0
        assert (one["status"], one["coverage"], one["faults"]) == ("ok", 1.0, None)
        assert 2031 not in one["year"]
        assert one["year"][0] > 1970
        assert one["apart_s"] >= 0.0


def test_calls_in_frozen_time_are_counted(tmp_path):
    """A decorated function that is first called while time is frozen; its times add up."""
    pytest.importorskip("freezegun", reason="freezegun is not installed")
    code = f"""
import freezegun
{MEASURE}
with freezegun.freeze_time("2031-05-01"):
    import carbontrack
    @carbontrack.track("f", region="FR", output="rows.jsonl", window_s=0)
    def f():
        return sum(range(1_000_000))
    f()
f()
"""
    done = run(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(row["duration_s"] > 0.0 and row["energy_kwh"] > 0.0 for row in rows)
    assert not any(row["started_at"].startswith("2031") for row in rows)
