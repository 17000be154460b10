"""Decorated calls inside a span: as deep as the program goes, at the same cost at every depth."""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from carbontrack.api.track import current_span, track
from carbontrack.tracking.context import current
from tests.support.bench import Bench

Decorator = Callable[[Callable[..., Any]], Any]
WHERE = pytest.mark.parametrize("inside", [False, True], ids=["root", "inside a span"])


def around(bench: Bench, inside: bool) -> AbstractContextManager[Any]:
    """An open span, or none."""
    return bench.tracker.span("root") if inside else nullcontext()


def undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that does nothing: a frame for each call, as ours."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except BaseException:
            raise
        return result

    return wrapper


def python_calls(function: Callable[[], object]) -> int:
    """How many functions written in Python are called meanwhile."""
    calls = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, arg: calls.append(1) if event == "call" else None)
    try:
        function()
    finally:
        sys.setprofile(before)
    return len(calls)


@WHERE
def test_a_function_that_calls_itself_costs_the_same_at_every_depth(inside: bool) -> None:
    """Four times as deep is four times the work, not sixteen times."""
    with Bench() as bench, around(bench, inside):

        @track("down", tracker=bench.tracker, window_s=1000)
        def down(n: int) -> int:
            return n and down(n - 1)

        down(1)
        shallow, deep = (python_calls(lambda n=n: down(n)) for n in (40, 160))  # type: ignore[misc]
        assert deep < 4.2 * shallow


def deepest(decorate: Decorator) -> int:
    """How deep a function can call itself."""

    def down(n: int) -> int:
        try:
            return once_more(n + 1)
        except RecursionError:
            return n

    once_more = decorate(down)
    found: int = once_more(0)
    return found


@WHERE
def test_recursion_goes_as_deep_as_without_us(inside: bool, caplog: Any) -> None:
    """Near the limit a call that we have no room to count is made all the same, in silence."""
    with Bench() as bench, around(bench, inside):
        before = current.get()
        ours = deepest(track("down", tracker=bench.tracker))
        assert current.get() is before
        assert ours == deepest(undecorated)
    assert caplog.text == ""
    assert bench.sampler.under_way == {}
    assert not bench.sampler.awake


@WHERE
def test_a_call_with_the_last_frame_is_made(inside: bool, caplog: Any) -> None:
    """A function that needs one frame more than the decorator's is run where there is one."""

    def leaf() -> int:
        return 1

    def reached(n: int, decorate: Decorator) -> bool:
        def at(n: int) -> Any:
            return decorated() if n <= 0 else at(n - 1)

        decorated = decorate(leaf)
        try:
            return bool(at(n))
        except RecursionError:
            return False

    limit = sys.getrecursionlimit()
    with Bench() as bench, around(bench, inside):
        decorate = track("leaf", tracker=bench.tracker, window_s=1000)
        decorate(leaf)()  # the window is open
        before = current.get()
        depths = range(limit - 300, limit)
        ours = [n for n in depths if reached(n, decorate)]
        assert ours == [n for n in depths if reached(n, undecorated)]
        assert 0 < len(ours) < len(depths)
        assert current.get() is before
        assert bench.sampler.under_way == {}
    assert caplog.text == ""


def test_who_asks_inside_is_given_the_span_that_counts() -> None:
    """However deep the calls, the span around counts them, and is the current one."""
    with Bench() as bench:

        @track("down", tracker=bench.tracker)
        def down(n: int) -> Any:
            return down(n - 1) if n else current_span()

        with bench.tracker.span("root") as root:
            assert down(sys.getrecursionlimit() // 4) is root
        assert bench.sampler.leaves == 0


def test_a_task_that_outlives_a_call_is_inside_the_span_still() -> None:
    """Nothing of a call that has ended stays behind in the context of a task."""
    with Bench() as bench:

        @track("first", tracker=bench.tracker)
        async def first() -> Any:
            return asyncio.create_task(second())

        @track("second", tracker=bench.tracker)
        async def second() -> Any:
            await asyncio.sleep(0)
            return current_span()

        async def run() -> Any:
            return await (await first())

        with bench.tracker.span("root") as root:
            assert asyncio.run(run()) is root
        assert bench.sampler.leaves == 0


def test_a_generator_keeps_its_blocks_to_itself() -> None:
    """A block open in a suspended body is current in the body, not in the loop around it."""
    with Bench() as bench:

        @track("numbers", tracker=bench.tracker)
        def numbers() -> Any:
            with bench.tracker.span("inner") as inner:
                for number in range(3):
                    assert current_span() is inner
                    yield number
            yield 3

        with bench.tracker.span("root") as root:
            for _ in numbers():
                assert current_span() is root
                with bench.tracker.span("consumer") as consumer:
                    assert consumer.parent is root
            steps = numbers()
            next(steps)
            with bench.tracker.span("later") as later:
                assert list(steps) == [1, 2, 3]
                assert current_span() is later
        assert bench.sampler.leaves == 0


@pytest.mark.parametrize("how", ["exhausted", "closed", "collected"])
@pytest.mark.parametrize("around", [False, True], ids=["roots", "in a root"])
def test_a_generator_that_ends_in_another_block_gives_that_one_back(how: str, around: bool) -> None:
    """Begun in one block, with a block of its own, it ends in a later one, which stays current."""
    with Bench() as bench:

        @track("numbers", tracker=bench.tracker)
        def numbers() -> Any:
            with bench.tracker.span("inner"):
                yield 1

        def consume() -> None:
            with bench.tracker.span("first"):
                steps = numbers()
                next(steps)
            with bench.tracker.span("second") as second:
                if how == "exhausted":
                    assert list(steps) == []
                elif how == "closed":
                    steps.close()
                else:
                    del steps
                    gc.collect()
                assert current_span() is second
                with bench.tracker.span("child") as child:
                    assert child.parent is second

        if around:
            with bench.tracker.span("root") as root:
                consume()
                assert current_span() is root
        else:
            consume()
        assert current_span() is None
        assert bench.sampler.leaves == 0


def test_what_a_generator_leaves_open_stays_current() -> None:
    """A span that the body opens by hand, and does not close, is the program's own business."""
    with Bench() as bench:

        @track("numbers", tracker=bench.tracker)
        def numbers() -> Any:
            yield 1
            yield bench.tracker.span("by hand").open()

        with bench.tracker.span("first"):
            steps = numbers()
            next(steps)
        with bench.tracker.span("second") as second:
            by_hand = next(steps)
            assert current_span() is second
            assert list(steps) == []
            assert current_span() is by_hand
            by_hand.close()
