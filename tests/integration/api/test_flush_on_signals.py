"""Rows that are written when a signal ends the program, for those who ask for it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from carbontrack.report.read import iter_records

PROGRAM = """
import signal, sys, time
import carbontrack

if "own handler" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
asked = "asked" in sys.argv
with carbontrack.track("job", region="FR", output="rows.csv", flush_on_signals=asked):
    print("ready", flush=True)
    time.sleep(30)
"""

SERVER = """
import threading, time
import carbontrack

@carbontrack.track(region="FR", output="rows.csv", flush_on_signals=True)
def infer():
    pass

thread = threading.Thread(target=infer)
thread.start()
thread.join()
print("ready", flush=True)
time.sleep(30)
"""


def end(tmp_path: Path, *arguments: str, program: str = PROGRAM) -> int:
    """Send SIGTERM to the program once it is measured; returns how it ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        env={"HOME": str(tmp_path), "PATH": ""},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60.0)
    return process.returncode


def rows(tmp_path: Path) -> list[str]:
    """The status of every row that was written."""
    file = tmp_path / "rows.csv"
    return [row.status for row in iter_records(file)] if file.exists() else []


def test_the_row_is_there_and_the_signal_has_its_own_effect(tmp_path: Path):
    """Asked for, SIGTERM still kills by SIGTERM, and the row is written first."""
    assert end(tmp_path, "asked") == -signal.SIGTERM
    assert rows(tmp_path) == ["interrupted"]


def test_the_programs_own_handler_is_called(tmp_path: Path):
    """A handler that was there before decides how the program ends."""
    assert end(tmp_path, "asked", "own handler") == 7
    assert rows(tmp_path) == ["interrupted"]


def test_without_asking_no_handler_is_installed(tmp_path: Path):
    """The row is then the journal's business."""
    assert end(tmp_path) == -signal.SIGTERM
    assert rows(tmp_path) == []


def test_a_function_that_only_other_threads_call_is_written_too(tmp_path: Path):
    """The handler is there since the main thread has decorated it."""
    assert end(tmp_path, program=SERVER) == -signal.SIGTERM
    assert rows(tmp_path) == ["ok"]
