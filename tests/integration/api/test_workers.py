"""Processes made by multiprocessing: what they measured is written when they end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from carbontrack.report.read import iter_records

PROGRAM = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor

import carbontrack

@carbontrack.track("work", region="FR", output="rows.csv")
def work(number):
    return number * number

def ten(_):
    return sum(work(number) for number in range(10))

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        process = context.Process(target=ten, args=(0,), daemon=True)
        process.start()
        process.join()
        assert process.exitcode == 0
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            assert list(executor.map(ten, [0, 0])) == [285, 285]
        pool = context.Pool(2)
        assert pool.map(ten, [0, 0]) == [285, 285]
        pool.close()
        pool.join()
    work(1)
    if os.fork() == 0:
        ten(0)
        sys.exit(0)
    os.wait()
    process = multiprocessing.get_context("fork").Process(target=ten, args=(0,))
    process.start()
    process.join()
"""


def test_no_call_of_a_worker_is_lost(tmp_path: Path):
    """Fork, spawn and fork server; processes, executors and pools: every call is in one row."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        # from 3.12 on Python itself warns of forks while there are threads
        [sys.executable, "-W", "ignore::DeprecationWarning", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(iter_records(tmp_path / "rows.csv"))
    assert sum(row.calls or 0 for row in rows) == 3 * 50 + 1 + 10 + 10
    assert len({row.record_id for row in rows}) == len(rows)
    assert all(row.status == "ok" for row in rows)
