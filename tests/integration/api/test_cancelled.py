"""Tasks that are cancelled, of asyncio, trio and anyio on both: the status is `interrupted`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio

import carbontrack
from tests.support.bench import Bench

BACKENDS = ("asyncio", "trio")


@pytest.fixture
def bench() -> Any:
    with Bench() as made:
        yield made


async def in_block(bench: Bench, body: Callable[[], Any]) -> None:
    with carbontrack.track("task", tracker=bench.tracker):
        await body()


async def in_async_block(bench: Bench, body: Callable[[], Any]) -> None:
    async with bench.tracker.span("task"):
        await body()


async def in_call(bench: Bench, body: Callable[[], Any]) -> None:
    @carbontrack.track("task", tracker=bench.tracker, window_s=0.0)
    async def task() -> None:
        await body()

    await task()


async def in_generator(bench: Bench, body: Callable[[], Any]) -> None:
    @carbontrack.track("task", tracker=bench.tracker, window_s=0.0)
    async def steps() -> Any:
        yield 1
        await body()

    async for _ in steps():
        pass


async def in_stoppable_call(bench: Bench, body: Callable[[], Any]) -> None:
    @carbontrack.track("task", tracker=bench.tracker, budget="1 kWh", on_exceed="raise")
    async def task() -> None:
        await body()

    await task()


WAYS = [in_block, in_async_block, in_call, in_generator, in_stoppable_call]


def expect_interrupted(bench: Bench, name: str) -> None:
    (record,) = bench.records
    assert record.status == "interrupted"
    assert record.error is not None
    assert record.error.startswith(name)
    assert carbontrack.current_span() is None


@pytest.mark.parametrize("way", WAYS)
def test_of_trio(way: Any, bench: Bench) -> None:
    """What trio cancels is interrupted."""

    async def main() -> None:
        with trio.move_on_after(0.01) as scope:
            await way(bench, trio.sleep_forever)
        assert scope.cancelled_caught
        assert carbontrack.current_span() is None

    trio.run(main)
    expect_interrupted(bench, "Cancelled")


@pytest.mark.parametrize("way", WAYS)
def test_of_asyncio(way: Any, bench: Bench) -> None:
    """What asyncio cancels is interrupted."""

    async def main() -> None:
        task = asyncio.ensure_future(way(bench, asyncio.Event().wait))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert carbontrack.current_span() is None

    asyncio.run(main())
    expect_interrupted(bench, "CancelledError")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_of_anyio(way: Any, backend: str, bench: Bench) -> None:
    """What anyio cancels is interrupted, on either backend."""

    async def main() -> None:
        with anyio.move_on_after(0.01) as scope:
            await way(bench, anyio.sleep_forever)
        assert scope.cancelled_caught

    anyio.run(main, backend=backend)
    expect_interrupted(bench, "Cancelled")


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_a_group_of_tasks(backend: str, bench: Bench) -> None:
    """The block is around the group, which is cancelled as a whole."""

    async def tasks() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(anyio.sleep_forever)

    async def main() -> None:
        with anyio.move_on_after(0.01):
            await in_block(bench, tasks)

    anyio.run(main, backend=backend)
    expect_interrupted(bench, "Cancelled")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_time_limit_is_an_error(backend: str, bench: Bench) -> None:
    """`fail_after` cancels inside and raises outside: the block outside of it has failed."""

    async def limited() -> None:
        with anyio.fail_after(0.01):
            await anyio.sleep_forever()

    async def main() -> None:
        await in_block(bench, limited)

    with pytest.raises(TimeoutError):
        anyio.run(main, backend=backend)
    assert [record.status for record in bench.records] == ["error"]


def test_a_class_that_is_only_called_so(bench: Bench) -> None:
    """A program's own exception named Cancelled is an error."""

    class Cancelled(Exception):  # noqa: N818 - as a program may call it
        pass

    with pytest.raises(Cancelled), bench.tracker.span("task"):
        raise Cancelled
    assert [record.status for record in bench.records] == ["error"]
