"""Celery's prefork workers, and other processes of billiard: they run no `atexit` functions."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from tests.integration.celery_workers import fill, run, serve

pytest.importorskip("celery", reason="not for this system")

TASKS = """
import carbontrack

@app.task
@carbontrack.track("score", region="FR", output="rows.csv")
def score(n):
    return sum(range(100_000))
"""
TASK_COUNT = 20


def calls_by_status(folder: Path) -> Counter[str]:
    rows = list(iter_records(folder / "rows.csv"))
    assert len({row.record_id for row in rows}) == len(rows)
    calls: Counter[str] = Counter()
    for row in rows:
        calls[row.status] += row.calls or 0
    return calls


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with twenty tasks in a queue."""
    fill(tmp_path, TASKS, f"[tasks.score.delay(n) for n in range({TASK_COUNT})]")
    return tmp_path


@pytest.mark.parametrize("most", ["1", "5", None])
def test_recycled_and_warmly_ended_workers_write_their_rows(
    project: Path, most: str | None
) -> None:
    """However many tasks a process does: all calls are in rows, and none needs to be recovered."""
    options = () if most is None else ("--max-tasks-per-child", most)
    serve(project, "-c", "2", *options, lines=TASK_COUNT, end=signal.SIGTERM)
    assert calls_by_status(project) == {"ok": TASK_COUNT}
    run(project, "-m", "carbontrack", "recover")
    assert calls_by_status(project) == {"ok": TASK_COUNT}
    assert list((project / "state" / "journal").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="it finds the processes in procfs")
def test_killed_workers_are_recovered(project: Path) -> None:
    """Nobody writes what killed processes have done; it is in rows all the same, once."""
    serve(project, "-c", "2", lines=TASK_COUNT, end=signal.SIGKILL)
    for _ in range(2):
        run(project, "-m", "carbontrack", "recover")
    assert calls_by_status(project) == {"recovered": TASK_COUNT}


BILLIARD = """
import billiard, sys
import carbontrack

@carbontrack.track("score", region="FR", output="rows.csv")
def score(n):
    return sum(range(100_000))

def ten():
    for n in range(10):
        score(n)

if __name__ == "__main__":
    processes = [billiard.get_context(method).Process(target=ten) for method in ("fork", "spawn")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
"""


def test_a_process_of_billiard_writes_its_rows(tmp_path: Path) -> None:
    """A library that is built like multiprocessing has the same hook."""
    (tmp_path / "program.py").write_text(BILLIARD)
    run(tmp_path, "program.py")
    assert calls_by_status(tmp_path) == {"ok": 20}
