"""As the first process of a container, which is what an orchestrator sends SIGTERM to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from carbontrack.report.read import iter_records
from tests.support.namespaces import NEW_PROC, environ, needs_namespaces, unshare

pytestmark = needs_namespaces

ENDS_AT_SIGTERM = "print('ready', flush=True); import time; time.sleep(60)"
WAITS_FOR_A_LINE = """
import sys
import carbontrack
with carbontrack.track("block", output="rows.csv"):
    print("ready", flush=True)
    sys.stdin.readline()
"""


def started(folder: Path, *command: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """The command as process 1, once it has said that it is ready; and that process, from here."""
    outer = subprocess.Popen(
        [*unshare("sh", "-c"), f'{NEW_PROC} && exec "$@"', "sh", *command],
        cwd=folder,
        env=environ(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert outer.stdout is not None
    assert outer.stdout.readline() == "ready\n"
    (first,) = psutil.Process(outer.pid).children()
    return outer, first


def test_run_passes_sigterm_on_and_writes_its_row(tmp_path: Path) -> None:
    """The command is stopped, the exit code says by what, and the row is there."""
    ours = ["-m", "carbontrack", "run", "--quiet", "--output", "rows.csv", "--"]
    outer, first = started(tmp_path, sys.executable, *ours, sys.executable, "-c", ENDS_AT_SIGTERM)
    first.send_signal(signal.SIGTERM)
    _, said = outer.communicate(timeout=60)
    assert outer.returncode == 128 + signal.SIGTERM, said
    (record,) = iter_records(tmp_path / "rows.csv")
    assert (record.status, record.error) == ("error", "ended by SIGTERM")


def test_a_program_without_run_does_not_notice_sigterm(tmp_path: Path) -> None:
    """So says the page on Docker: the kernel keeps it from a first process without a handler."""
    outer, first = started(tmp_path, sys.executable, "-c", WAITS_FOR_A_LINE)
    first.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        outer.wait(timeout=0.5)
    _, said = outer.communicate("go on\n", timeout=60)
    assert outer.returncode == 0, said
    (record,) = iter_records(tmp_path / "rows.csv")
    assert record.status == "ok"
