"""Decorated calls inside a span: as deep as the program goes, at the same cost at every depth."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from carbontrack.api.track import track
from carbontrack.tracking.context import current
from carbontrack.tracking.span import current_span
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


def test_who_asks_deep_inside_is_given_the_whole_line() -> None:
    """`current_span` in a deep recursion makes every call around a span, and all of them end."""
    with Bench() as bench:

        @track("down", tracker=bench.tracker)
        def down(n: int) -> int:
            if n:
                return down(n - 1)
            span, length = current_span(), 0
            assert span is current_span()
            while span is not None:
                span, length = span.parent, length + 1
            return length

        depth = sys.getrecursionlimit() // 4
        with bench.tracker.span("root"):
            assert down(depth) == depth + 2
        assert bench.sampler.leaves == 0


def test_a_call_that_has_ended_does_not_come_back() -> None:
    """A task that outlives a call inside a span is the child of the span when it asks."""
    with Bench() as bench:

        @track("first", tracker=bench.tracker)
        async def first() -> Any:
            return asyncio.create_task(second())

        @track("second", tracker=bench.tracker)
        async def second() -> list[str]:
            await asyncio.sleep(0)
            line, span = [], current_span()
            while span is not None:
                line.append(span.name)
                span = span.parent
            return line

        async def run() -> list[str]:
            line: list[str] = await (await first())
            return line

        with bench.tracker.span("root"):
            assert asyncio.run(run()) == ["second", "root"]
        assert bench.sampler.leaves == 0


def test_a_call_whose_span_is_closed_just_now_is_a_root() -> None:
    """Whoever asks in the moment in which another thread closes the span around gets a span."""
    with Bench() as bench:
        root = bench.tracker.span("root")

        @track("work", tracker=bench.tracker)
        def work() -> Any:
            call = current.get()
            contextvars.Context().run(root.close)
            return call.promote()

        def within() -> Any:
            root.open()
            return work()

        span = contextvars.Context().run(within)
        assert (span.name, span.parent, span.is_open) == ("work", None, False)
        assert bench.sampler.leaves == 0
