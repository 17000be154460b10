"""Workers as torch's DataLoader has them: forked, daemons, fed by a queue, ended or terminated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.record import Record
from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.recovery import recover

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

WORKERS, BATCHES, MORE = 4, 40, 7
PROGRAM = f"""
import multiprocessing, sys, time
from pathlib import Path

import carbontrack
from carbontrack.sinks.journal.open_runs import open_runs

ending, workers, batches, more = sys.argv[1], {WORKERS}, {BATCHES}, {MORE}
settings = dict(region="FR", output="rows.csv", checkpoint_s=0.1, interval_s=0.05)
context = multiprocessing.get_context("fork")

@carbontrack.track("fetch", window_s=3600, **settings)
def fetch(index):
    return index * index

def loop(indices, results):
    while True:
        index = indices.get()
        if index is None:
            results.cancel_join_thread()
            results.close()
            return
        results.put((index, fetch(index)))

def wait_for_checkpoint(pid, calls):
    end_s = time.monotonic() + 30
    while not any(
        (run.pid, run.record.name, run.record.calls) == (pid, "fetch", calls)
        for run in open_runs(Path("state"))
    ):
        assert time.monotonic() < end_s, open_runs(Path("state"))
        time.sleep(0.02)

with carbontrack.track("epoch", **settings):
    fetch(0)
    results = context.Queue()
    queues = [context.Queue() for _ in range(workers)]
    for queue in queues:
        queue.cancel_join_thread()
    processes = [
        context.Process(target=loop, args=(queue, results), daemon=True) for queue in queues
    ]
    for process in processes:
        process.start()
    for index in range(batches):
        queues[index % workers].put(index)
    got = dict(results.get(timeout=60.0) for _ in range(batches))
    assert got == {{index: index * index for index in range(batches)}}
    if ending == "terminated":
        wait_for_checkpoint(processes[0].pid, batches // workers)
        for index in range(more):
            queues[0].put(index)
        for index in range(more):
            results.get(timeout=60.0)
        processes[0].terminate()
    if ending == "abandoned":
        for process in processes:
            wait_for_checkpoint(process.pid, batches // workers)
        sys.exit(0)  # without a sentinel: multiprocessing terminates its daemons
    for queue in queues:
        queue.put(None)
    for process in processes:
        process.join(60.0)
print([process.exitcode for process in processes])
"""


def load(folder: Path, ending: str) -> str:
    """Run the program in the folder; what it printed."""
    (folder / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        # from 3.12 on Python itself warns of forks while there are threads
        [sys.executable, "-W", "ignore::DeprecationWarning", "program.py", ending],
        cwd=folder,
        env={**os.environ, "CARBONTRACK_STATE_DIR": str(folder / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def fetches(folder: Path) -> dict[int | None, list[Record]]:
    """The rows of the workers' function by process: each once, and a child of the run's."""
    rows = list(iter_records(folder / "rows.csv"))
    assert len({row.record_id for row in rows}) == len(rows)
    (epoch,) = [row for row in rows if row.name == "epoch"]
    workers: dict[int | None, list[Record]] = {}
    for row in rows:
        if row is not epoch:
            assert (row.name, row.parent_id) == ("fetch", epoch.record_id)
            assert row.pid != epoch.pid
            workers.setdefault(row.pid, []).append(row)
    assert len(workers) == WORKERS
    return workers


def calls(rows: list[Record]) -> int:
    """How many calls the rows hold together."""
    return sum(row.calls or 0 for row in rows)


def test_workers_that_end_in_order_lose_no_call(tmp_path: Path) -> None:
    """A None in the index queue ends each of them: every call is in one row, none is recovered."""
    assert load(tmp_path, "orderly") == str([0] * WORKERS)
    workers = fetches(tmp_path)
    assert [calls(rows) for rows in workers.values()] == [BATCHES // WORKERS] * WORKERS
    assert {row.status for rows in workers.values() for row in rows} == {"ok"}
    assert recover(tmp_path / "state") == []


def test_a_terminated_worker_has_what_its_last_checkpoint_has(tmp_path: Path) -> None:
    """SIGTERM from the parent: `recover` brings the calls of the one; the others are whole."""
    assert load(tmp_path, "terminated") == str([-signal.SIGTERM] + [0] * (WORKERS - 1))
    (recovered,) = recover(tmp_path / "state")
    workers = fetches(tmp_path)
    terminated = workers.pop(recovered.record.pid)
    assert [row.status for row in terminated] == ["recovered"]
    assert BATCHES // WORKERS <= calls(terminated) <= BATCHES // WORKERS + MORE
    assert [calls(rows) for rows in workers.values()] == [BATCHES // WORKERS] * (WORKERS - 1)
    assert recover(tmp_path / "state") == []


def test_daemons_that_their_parent_leaves_behind_are_recovered(tmp_path: Path) -> None:
    """A parent that ends without a sentinel terminates all: each has a row from its checkpoint.

    One that lived on after the end of the block has written the row of what the block holds itself.
    """
    load(tmp_path, "abandoned")
    recover(tmp_path / "state")
    workers = fetches(tmp_path)
    assert [calls(rows) for rows in workers.values()] == [BATCHES // WORKERS] * WORKERS
    found = [row for rows in workers.values() for row in rows]
    assert {(row.status, row.parent_holds) for row in found} <= {
        ("recovered", True),
        ("recovered", False),
        ("ok", True),
    }
