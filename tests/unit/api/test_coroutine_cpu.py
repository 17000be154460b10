"""A coroutine that is run by steps behaves as awaited, and knows its own CPU seconds."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading

import anyio
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.api.coroutine_cpu import CoroutineCpu
from carbontrack.system.clock import thread_cpu_s
from tests.support.costs import collect_all, without_collections

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


def burn(seconds):
    """Use the processor."""
    end_s = thread_cpu_s() + seconds
    while thread_cpu_s() < end_s:
        pass


def begun():
    """What runs a coroutine, under way."""
    cpu = CoroutineCpu(lambda: True)
    cpu.begin()
    return cpu


async def by_steps(coroutine):
    """What the coroutine returns, run by steps."""
    cpu = begun()
    try:
        return await cpu.run(coroutine)
    finally:
        cpu.end()


async def awaited(coroutine):
    """The same without us."""
    return await coroutine


WAYS = pytest.mark.parametrize("way", [awaited, by_steps], ids=lambda way: way.__name__)


@WAYS
def test_results_exceptions_and_context_are_as_awaited(way):
    """The same object comes out, and what the body sets in its context stays set."""
    error = ValueError("mine")

    async def fails():
        await asyncio.sleep(0)
        variable.set("inside")
        raise error

    async def works():
        await asyncio.sleep(0)
        return 7

    async def main():
        assert await way(works()) == 7
        with pytest.raises(ValueError, match="mine") as caught:
            await way(fails())
        assert caught.value is error
        assert variable.get() == "inside"

    contextvars.Context().run(asyncio.run, main())


@WAYS
def test_cancellation_and_time_limits_are_as_awaited(way):
    """A task can be cancelled, may refuse, and a limit of time ends what is inside of it."""
    seen = []

    async def refuses():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
        return "all the same"

    async def limited():
        if not hasattr(asyncio, "timeout"):  # Python 3.10
            return await asyncio.wait_for(asyncio.sleep(60), 0.001)
        async with asyncio.timeout(0.001):
            return await asyncio.sleep(60)

    async def main():
        task = asyncio.ensure_future(way(refuses()))
        await asyncio.sleep(0)
        task.cancel("why")
        assert await task == "all the same"
        with pytest.raises((TimeoutError, asyncio.TimeoutError)):
            await way(limited())
        task = asyncio.ensure_future(way(asyncio.sleep(60)))
        await asyncio.sleep(0)
        task.cancel("why")
        told = "why" if hasattr(asyncio, "timeout") else None  # 3.10 loses it on the way
        with pytest.raises(asyncio.CancelledError, match=told):
            await task

    asyncio.run(main())
    assert seen == ["cancelled"]


@WAYS
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_task_groups_and_scopes_of_anyio_work_inside(way, backend):
    """Cancel scopes, task groups whose child fails, and threads."""

    async def fails():
        raise ValueError("child")

    async def body():
        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep(60)
        assert scope.cancelled_caught
        failed = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(fails)
                await anyio.sleep(60)
        except Exception as error:  # a group, which Python 3.10 has not
            failed = error
        assert [str(one) for one in failed.exceptions] == ["child"]
        return await anyio.to_thread.run_sync(threading.get_ident)

    async def main():
        assert await way(body()) != threading.get_ident()

    anyio.run(main, backend=backend)


def test_trio_cancels_what_is_inside():
    """Its own scopes, without anyio."""

    async def main():
        with trio.move_on_after(0.001) as scope:
            await by_steps(trio.sleep(60))
        assert scope.cancelled_caught

    trio.run(main)


ACTIONS = st.lists(
    st.sampled_from(["yield", "catch", "raise", "return", "cleanup"]), max_size=8
)  # what a body does, in this order
DRIVES = st.lists(st.sampled_from(["send None", "send 1", "throw", "close"]), max_size=10)


class _Yields:
    def __await__(self):
        got = yield "asks"
        return got


async def _body(actions, log):
    try:
        for action in actions:
            if action == "catch":
                try:
                    log.append(await _Yields())
                except ValueError as error:
                    log.append(f"caught {error}")
            elif action == "yield":
                log.append(await _Yields())
            elif action == "raise":
                raise KeyError("body")
            elif action == "return":
                return "early"
        return "end"
    finally:
        log.append("finally")
        if "cleanup" in actions:
            await _Yields()  # also after GeneratorExit, which is an error


def _driven(way, actions, drives):
    """What comes out of the coroutine at each step, and what its body has seen."""
    log: list = []
    coroutine, out = way(_body(actions, log)), []
    for drive in drives:
        try:
            if drive.startswith("send"):
                out.append(coroutine.send(None if not out or drive == "send None" else 1))
            elif drive == "throw":
                out.append(coroutine.throw(ValueError("thrown")))
            else:
                out.append(coroutine.close())
        except BaseException as error:
            out.append((type(error).__name__, str(error)))
    try:
        coroutine.close()
    except RuntimeError as error:
        out.append(str(error))
    return out, log


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@settings(deadline=None, max_examples=100)
@given(ACTIONS, DRIVES)
def test_whatever_is_sent_and_thrown_in(actions, drives):
    """A coroutine that awaits it answers as one that awaits the body itself."""
    assert _driven(by_steps, actions, drives) == _driven(awaited, actions, drives)


def test_its_own_steps_are_its_own():
    """Tasks take turns on one thread; each has what it has used, the one that waits nothing."""
    found = {}

    async def task(name, seconds):
        cpu = begun()

        async def body():
            for _ in range(5):
                burn(seconds / 5)
                await asyncio.sleep(0.001)
            found[name + " inside"] = cpu()

        await cpu.run(body())
        cpu.end()
        found[name] = cpu()

    async def main():
        await asyncio.gather(task("waits", 0.0), task("works", 0.05), task("less", 0.02))

    asyncio.run(main())
    assert found["works"] == pytest.approx(0.05, rel=0.2)
    assert found["less"] == pytest.approx(0.02, rel=0.3)
    assert found["waits"] <= 0.003
    assert found["works inside"] == pytest.approx(found["works"], rel=0.1)


@pytest.mark.parametrize("is_known", [True, False], ids=["known to be in a thread", "not known"])
def test_what_other_threads_use_is_shared_among_those_that_have_work_there(is_known):
    """Where it is known which ones have, others that wait meanwhile have nothing of it."""
    found = {}

    async def main():
        waits, works = begun(), begun()
        if is_known:
            works.in_thread()
        await works.run(asyncio.to_thread(burn, 0.05))
        for name, cpu in (("works", works), ("waits", waits)):
            cpu.end()
            found[name] = cpu()

    with without_collections():  # one would be work of the loop's thread
        asyncio.run(main())
    assert sum(found.values()) == pytest.approx(0.05, rel=0.3)
    if is_known:
        assert found["waits"] <= 0.005
    else:
        assert found["waits"] == pytest.approx(found["works"], rel=0.3)


def test_what_its_tasks_use_is_its_own():
    """The loop's thread outside of steps, such as a stream in another task."""
    found = {}

    async def stream(cpu):
        cpu.in_tasks()
        for _ in range(5):
            burn(0.01)
            await asyncio.sleep(0)

    async def main():
        waits, streams = begun(), begun()

        async def body():
            await asyncio.create_task(stream(streams))

        await streams.run(body())
        for name, cpu in (("streams", streams), ("waits", waits)):
            cpu.end()
            found[name] = cpu()

    asyncio.run(main())
    assert found["streams"] == pytest.approx(0.05, rel=0.2)
    assert found["waits"] <= 0.005


def test_a_step_can_be_seen_from_another_thread():
    """While the loop is blocked by it, too."""
    seen = []

    async def main():
        cpu = begun()

        async def blocks():
            thread = threading.Thread(target=lambda: seen.append(cpu()))
            burn(0.03)
            thread.start()
            thread.join()

        await cpu.run(blocks())
        cpu.end()

    asyncio.run(main())
    assert seen == [pytest.approx(0.03, rel=0.3)]


def test_what_has_ended_takes_no_part_and_leaves_no_garbage():
    """Its seconds stay as they are, and nothing waits for the collector."""

    async def main():
        cpu = begun()
        await cpu.run(asyncio.sleep(0))
        cpu.end()
        before = cpu()
        await asyncio.to_thread(burn, 0.01)
        burn(0.01)
        assert cpu() == before
        collect_all()
        gc.disable()
        for _ in range(100):
            await by_steps(asyncio.sleep(0))
        assert gc.collect() == 0
        gc.enable()

    asyncio.run(main())
