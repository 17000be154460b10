"""Workers that are killed lose at most what they did in the last second; it is recovered once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from tests.support.recovered import counted_once

PROGRAM = """
import multiprocessing, os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import carbontrack

@carbontrack.track("work", region="FR", output="rows.csv")
def work():
    return 1

def calls(_):
    for _ in range(50):
        work()
    time.sleep(3.0)  # some ticks
    for _ in range(5):
        work()
    return os.getpid()

def calls_and_kill(_):
    calls(_)
    os.kill(os.getpid(), signal.SIGKILL)

def one_call(_):
    work()
    os._exit(0)

def pool(method):
    with multiprocessing.get_context(method).Pool(2) as workers:  # it ends them by SIGTERM
        assert len(set(workers.map(calls, [0, 0], chunksize=1))) == 2

def executor(method):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as workers:
        try:
            workers.submit(calls_and_kill, 0).result()
        except BrokenProcessPool:
            return

def one(method):
    process = multiprocessing.get_context(method).Process(target=one_call, args=(0,))
    process.start()
    process.join()

if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
"""
EXPECTED = {"pool": (100, 110), "executor": (50, 55), "one": (1, 1)}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", *command],
        cwd=folder,
        env={**os.environ, "CARBONTRACK_STATE_DIR": str(folder / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="it kills with POSIX signals")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("end", EXPECTED)
def test_killed_workers_lose_the_last_second(tmp_path: Path, end: str, method: str) -> None:
    """`with Pool()`, a killed executor's worker, and a single call before `os._exit`."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run(tmp_path, "program.py", end, method)
    assert (done.returncode, done.stderr) == (0, "")
    for _ in range(2):  # the second time there is nothing to recover
        assert run(tmp_path, "-m", "carbontrack", "recover").returncode == 0

    rows = counted_once(iter_records(tmp_path / "rows.csv"))
    least, most = EXPECTED[end]
    assert least <= sum(row.calls or 0 for row in rows) <= most
    assert max(Counter(row.record_id for row in rows).values()) == 1
    assert all((row.energy_kwh or 0.0) > 0.0 for row in rows)
    assert list((tmp_path / "state" / "journal").iterdir()) == []
