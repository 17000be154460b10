"""The row of a worker, and of tasks in it, whatever goes wrong in either."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import carbontrack
from carbontrack.api.job import RunningTask
from carbontrack.errors import ConfigError
from carbontrack.integrations.workers import WorkerRow, in_block
from carbontrack.record import Record
from carbontrack.report.read import iter_records


@pytest.fixture(autouse=True)
def _job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test sets is gone behind it."""
    monkeypatch.setenv("CARBONTRACK_JOB_ID", "nightly")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


def new(output: Path, **settings: Any) -> WorkerRow:
    """As a worker gets it."""
    row: WorkerRow = pickle.loads(
        pickle.dumps(WorkerRow("worker", output=str(output), region="FR", **settings))
    )
    return row


def task(name: str, attempt: int = 0) -> tuple[str, RunningTask]:
    return name, RunningTask(f"{name}-id", attempt)


def rows_of(output: Path) -> dict[str, Record]:
    return {row.name: row for row in iter_records(output)}


def test_tasks_are_rows_in_the_row_of_their_worker(output: Path) -> None:
    """With their ids, with what is inside of them, and with the error that ended them."""
    row = new(output, labels={"queue": "q"})
    row.begin(here=False)
    assert carbontrack.current_span() is None
    with row.task(task, "fine", 1), carbontrack.track("inside"):
        pass
    with row.task(task, "said") as ending:
        ending.error = "ValueError:\n no"
    with pytest.raises(KeyError), row.task(task, "raised"):
        raise KeyError("k")
    row.end()
    row.end()
    rows = rows_of(output)
    worker = rows["worker"]
    assert (worker.labels, worker.task_id, worker.job_id) == ({"queue": "q"}, None, "nightly")
    for name in ("fine", "said", "raised"):
        assert rows[name].parent_id == worker.record_id
        assert (rows[name].task_id, rows[name].job_id) == (f"{name}-id", "nightly")
    assert rows["inside"].parent_id == rows["fine"].record_id
    assert (rows["inside"].task_id, rows["inside"].attempt) == ("fine-id", 1)
    assert (rows["said"].status, rows["said"].error) == ("error", "ValueError: no")
    assert (rows["raised"].status, rows["raised"].error) == ("error", "KeyError: 'k'")


def test_what_runs_here_is_inside_of_a_worker_that_begins_here(output: Path) -> None:
    """As Ray's tasks are, which run in the thread that calls its hook."""
    row = new(output)
    row.begin(here=True)
    with carbontrack.track("block"):
        pass
    row.end()
    rows = rows_of(output)
    assert rows["block"].parent_id == rows["worker"].record_id


def test_nothing_of_ours_ends_a_task(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the worker has no row, where nothing is known of the task, where all is off."""
    unopened = new(output)
    with unopened.task(task, "a"):
        pass
    unopened.end()
    open_one = new(output)
    open_one.begin(here=False)
    for _ in range(2):
        with open_one.task(lambda: 1 // 0):
            pass
    assert caplog.text.count("is not measured") == 1
    open_one.end()
    assert set(rows_of(output)) == {"worker"}
    off = new(output, disable=True)
    off.begin(here=False)
    with off.task(task, "b"):
        pass
    off.end()
    broken = new(output)
    broken._settings["output"] = "/no/such/folder/rows.csv"
    broken.begin(here=False)
    assert "/no/such/folder" in caplog.text
    with broken.task(task, "c"):
        pass


def test_roots_only_leaves_out_the_rows_of_tasks(output: Path) -> None:
    """For many short ones; the worker's row is the same."""
    row = new(output, spans="roots")
    row.begin(here=False)
    with row.task(task, "a"):
        pass
    row.end()
    assert set(rows_of(output)) == {"worker"}


def test_wrong_settings_are_said_where_it_is_made() -> None:
    """Not in the worker; a tracker is of one process."""
    with pytest.raises(ConfigError, match="did you mean"):
        WorkerRow("worker", regoin="FR")
    with pytest.raises(ConfigError, match="cannot be sent"):
        WorkerRow("worker", tracker=object())


def test_every_kind_of_function_is_inside_its_block_to_its_end() -> None:
    """Plain ones, generators, coroutines and async generators stay what they are."""
    open_blocks: list[str] = []

    @contextmanager
    def block() -> Iterator[None]:
        open_blocks.append("block")
        yield
        open_blocks.pop()

    def plain(a: int) -> int:
        return a + len(open_blocks)

    async def coroutine(a: int) -> int:
        await asyncio.sleep(0)
        return a + len(open_blocks)

    def generator(a: int) -> Generator[int, None, str]:
        yield a + len(open_blocks)
        yield a + len(open_blocks)
        return "end"

    async def async_generator(a: int) -> AsyncGenerator[int, None]:
        await asyncio.sleep(0)
        yield a + len(open_blocks)

    async def listed() -> list[int]:
        return [item async for item in in_block(async_generator, block)(10)]

    assert in_block(plain, block)(10) == 11
    assert asyncio.run(in_block(coroutine, block)(10)) == 11
    assert list(in_block(generator, block)(10)) == [11, 11]
    assert asyncio.run(listed()) == [11]
    assert open_blocks == []
    for function in (plain, coroutine, generator, async_generator):
        wrapped = in_block(function, block)
        assert wrapped.__name__ == function.__name__
        for kind in ("iscoroutinefunction", "isgeneratorfunction", "isasyncgenfunction"):
            assert getattr(inspect, kind)(wrapped) == getattr(inspect, kind)(function)
