"""A decorated call of any kind leaves nothing for the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import pytest

import carbontrack
from carbontrack.system.reentrance import busily
from carbontrack.tracking.tracker import Tracker
from tests.support.bench import Bench

pytestmark = pytest.mark.usefixtures("frozen")

CALLS = 1000
FEW_CALLS = 100
"""Of each other way to decorate the same function."""


class Suspension:
    """What a coroutine waits for."""

    def __await__(self) -> Iterator[None]:
        yield


def drive(body: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that waits for nothing."""
    with suppress(StopIteration):
        body.send(None)


def fail() -> None:
    raise ValueError("the program's own")


def steps() -> Iterator[int]:
    yield 1
    yield 2


def promoted_steps() -> Iterator[int]:
    assert carbontrack.current_span() is not None
    yield 1


async def wait() -> None:
    await Suspension()


async def finish(fails: bool = False) -> None:
    if fails:
        fail()


async def async_steps() -> AsyncIterator[int]:
    yield 1
    yield 2


def once(*_: object) -> None:
    """Nothing."""


Act = Callable[[], object]
Make = Callable[[Callable[..., Any], Tracker], Act]
"""From a decorator, and its tracker, what makes one call."""


def method(track: Any, _: Tracker) -> Act:
    class Thing:
        call = track(once)

    return Thing().call


def class_method(track: Any, _: Tracker) -> Act:
    class Thing:
        call = track(classmethod(once))

    return Thing.call


def raising(track: Any, _: Tracker) -> Act:
    tracked = track(fail)

    def call() -> None:
        with suppress(ValueError):
            tracked()

    return call


def recursive(track: Any, _: Tracker) -> Act:
    @track
    def down(depth: int) -> None:
        if depth:
            down(depth - 1)

    return partial(down, 2)


def promoted(track: Any, _: Tracker) -> Act:
    return track(carbontrack.current_span)  # type: ignore[no-any-return]


def around_a_block(track: Any, _: Tracker) -> Act:
    @track
    def call() -> None:
        with carbontrack.track("block"):
            pass

    return call


def at_a_tick(track: Any, tracker: Tracker) -> Act:
    return track(tracker.session.sampler.tick)  # type: ignore[no-any-return]


def generator(track: Any, _: Tracker) -> Act:
    tracked = track(steps)
    return lambda: list(tracked())


def generator_promoted(track: Any, _: Tracker) -> Act:
    tracked = track(promoted_steps)
    return lambda: list(tracked())


def generator_not_begun(track: Any, _: Tracker) -> Act:
    return track(steps)  # type: ignore[no-any-return]


def generator_abandoned(track: Any, _: Tracker) -> Act:
    tracked = track(steps)
    return lambda: next(tracked())


def generator_closed(track: Any, _: Tracker) -> Act:
    tracked = track(steps)

    def call() -> None:
        made = tracked()
        next(made)
        made.close()

    return call


def generator_thrown(track: Any, _: Tracker) -> Act:
    tracked = track(steps)

    def call() -> None:
        made = tracked()
        next(made)
        with suppress(ValueError):
            made.throw(ValueError("the program's own"))

    return call


def coroutine(track: Any, _: Tracker) -> Act:
    tracked = track(finish)
    return lambda: drive(tracked())


def coroutine_raising(track: Any, _: Tracker) -> Act:
    tracked = track(finish)

    def call() -> None:
        with suppress(ValueError):
            drive(tracked(fails=True))

    return call


def coroutine_abandoned(track: Any, _: Tracker) -> Act:
    tracked = track(wait)
    return lambda: tracked().send(None)


def coroutine_closed(track: Any, _: Tracker) -> Act:
    tracked = track(wait)

    def call() -> None:
        made = tracked()
        made.send(None)
        made.close()

    return call


def async_generator(track: Any, _: Tracker) -> Act:
    tracked = track(async_steps)

    async def consume() -> None:
        async for _ in tracked():
            pass

    return lambda: drive(consume())


def async_generator_closed(track: Any, _: Tracker) -> Act:
    tracked = track(async_steps)

    async def consume() -> None:
        made = tracked()
        await made.__anext__()
        await made.aclose()

    return lambda: drive(consume())


def async_generator_abandoned(track: Any, _: Tracker) -> Act:
    tracked = track(async_steps)

    async def consume() -> None:
        await tracked().__anext__()

    return lambda: drive(consume())


def plain(track: Any, _: Tracker) -> Act:
    return track(once)  # type: ignore[no-any-return]


KINDS: tuple[Make, ...] = (
    *(plain, method, class_method, raising, recursive, promoted, around_a_block, at_a_tick),
    *(generator, generator_promoted, generator_not_begun, generator_abandoned),
    *(generator_closed, generator_thrown),
    *(coroutine, coroutine_raising, coroutine_abandoned, coroutine_closed),
    *(async_generator, async_generator_closed, async_generator_abandoned),
)
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "labels": {"labels": {"stage": "test"}},
    "budget": {"budget": "1 kWh"},
    "budget that stops": {"budget": "1 kWh", "on_exceed": "raise"},
    "row for each": {"window_s": 0.0},
}


CASES = [
    pytest.param(kind, options, id=f"{kind.__name__}, {options}")
    for kind in KINDS
    for options in OPTIONS
    # a budget that stops is refused for generators
    if not ("stops" in options and "generator" in kind.__name__)
]


@pytest.mark.parametrize("place", ["outside", "inside", "inside, with a row each"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_call_leaves_no_garbage(kind: Make, options: str, place: str) -> None:
    """Whatever it is, however it ends, inside a span too: every object goes with the call."""
    with Bench() as bench:
        if "row" in place:
            bench.session.spans = "all"
        track = carbontrack.track(tracker=bench.tracker, **OPTIONS[options])
        act = kind(track, bench.tracker)
        with nullcontext() if place == "outside" else bench.tracker.span("around"):
            assert found_after(act, FEW_CALLS if OPTIONS[options] else CALLS) == 0


def found_after(act: Act, calls: int) -> int:
    """How many objects the collector finds after many calls; the first ones make what stays."""
    for _ in range(10):
        act()
    gc.collect()
    gc.disable()
    try:
        for _ in range(calls):
            act()
        return gc.collect()
    finally:
        gc.enable()


def test_a_cycle_would_be_found() -> None:
    """The measure sees what a call that refers to itself would leave."""

    def cycle() -> None:
        it: list[object] = []
        it.append(it)

    assert found_after(cycle, CALLS) == CALLS


def test_a_span_that_is_not_measured_leaves_no_garbage() -> None:
    """What a finalizer begins in the middle of an edge passes through, and goes with its block."""
    with Bench() as bench:

        def act() -> None:
            busily(passing)
            with bench.tracker.span("next"):  # whose edge looks for blocks that have been left
                pass

        def passing() -> None:
            with bench.tracker.span("passing"):
                pass

        assert found_after(act, FEW_CALLS) == 0
