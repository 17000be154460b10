"""What an edge costs, and leaves behind: the same at any depth and beside any number of others."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from contextvars import Context
from functools import partial
from types import FrameType
from typing import Any

import pytest

from carbontrack.api.track import track
from carbontrack.tracking.span import Span
from tests.support.bench import Bench
from tests.support.costs import without_collections

pytestmark = pytest.mark.usefixtures("frozen")
TIMES = 50
Make = Callable[[], Any]
"""Makes a block that can be opened."""


def with_blocks(make: Make) -> None:
    for _ in range(TIMES):
        with make():
            pass


def by_hand(make: Make) -> None:
    for _ in range(TIMES):
        make().open().close()


def async_with_blocks(make: Make) -> None:
    async def all_of_them() -> None:
        for _ in range(TIMES):
            async with make():
                pass

    asyncio.run(all_of_them())


def across_tasks(make: Make) -> None:
    async def one() -> None:
        with make():
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        for _ in range(TIMES // 10):
            await asyncio.gather(*[one() for _ in range(10)])

    asyncio.run(all_of_them())


def in_generators(make: Make) -> None:
    def once() -> Iterator[None]:
        with make():
            yield

    for _ in range(TIMES):
        for _ in once():
            pass


def in_dropped_generators(make: Make) -> None:
    def once() -> Iterator[None]:
        with make():
            yield

    for _ in range(TIMES):
        next(once())


def overlapping(make: Make) -> None:
    for _ in range(TIMES):
        first, second = make().open(), make().open()
        first.close()
        second.close()


def nested(make: Make) -> None:
    for _ in range(TIMES // 10):
        spans = [make().open() for _ in range(10)]
        for span in reversed(spans):
            span.close()


WAYS = [
    *(with_blocks, by_hand, async_with_blocks, across_tasks, in_generators, in_dropped_generators),
    *(overlapping, nested),
]


@pytest.mark.parametrize("kind", ["roots", "children", "blocks", "children with rows"])
@pytest.mark.parametrize("way", WAYS)
def test_spans_leave_nothing_to_the_garbage_collector(
    way: Callable[[Make], None], kind: str
) -> None:
    """Their last reference frees them, however they were opened."""
    with Bench() as bench:
        tracker = bench.tracker
        if kind == "children with rows":
            bench.session.spans = "all"
        root = tracker.span("around").open()
        makes: dict[str, Make] = {
            "roots": lambda: tracker.span("root"),
            "children": lambda: root.span("child"),
            "children with rows": lambda: root.span("child"),
            "blocks": lambda: track("block", tracker=tracker),
        }
        if kind == "roots":
            root.close()
        left = left_by(lambda: way(makes[kind]))
        root.close()
    assert left == [], "what a way leaves is in a cycle"


def left_by(act: Callable[[], None]) -> list[str]:
    """The types of our objects that only the garbage collector frees."""
    act()  # what is made for the first time
    gc.collect()
    gc.disable()
    try:
        act()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return sorted({repr(type(one)) for one in gc.garbage if "carbontrack" in repr(type(one))})
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def bytecodes(act: Callable[[], object]) -> int:
    """How many instructions of the package an act takes."""
    count = 0

    def note(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode" and "/carbontrack/" in frame.f_code.co_filename
        return note

    before = sys.gettrace()
    with without_collections():
        sys.settrace(note)
        try:
            act()
        finally:
            sys.settrace(before)
    return count


def edges(bench: Bench, make: Make) -> tuple[int, int]:
    """The fewest instructions of opening a span, and of closing it, in a context of its own."""
    found = []
    for _ in range(8):  # some edges do what is due once in a while
        context, span = Context(), make()
        bench.clock.advance(0.001)
        opened = bytecodes(partial(context.run, span.open))
        bench.clock.advance(0.001)
        found.append((opened, bytecodes(partial(context.run, span.close))))
    return min(one for one, _ in found), min(other for _, other in found)


def test_an_edge_costs_the_same_at_any_depth() -> None:
    """So a program's cost is linear in its depth, to 1,000 blocks inside of each other."""
    found = {}
    with without_collections(), Bench() as bench:
        spans = [bench.tracker.span("root").open()]
        while len(spans) <= 1000:
            if len(spans) in (10, 1000):
                found[len(spans)] = edges(bench, partial(spans[-1].span, "child"))
            spans.append(spans[-1].span("inner").open())
        for span in reversed(spans):
            span.close()
        assert len(bench.records) == 1
    assert found[10] == found[1000]


@pytest.mark.parametrize("kind", ["roots", "children"])
def test_an_edge_costs_the_same_beside_many_open_spans(kind: str) -> None:
    """10 or 1,000 of them, in other tasks and threads."""
    found = {}
    with without_collections(), Bench() as bench:
        around = bench.tracker.span("around").open()
        others: list[Span] = []
        for many in (10, 1_000):
            while len(others) < many:
                other = bench.tracker.span("x") if kind == "roots" else around.span("x")
                Context().run(other.open)
                others.append(other)
            root, _ = edges(bench, lambda: bench.tracker.span("another"))  # its end writes a row
            found[many] = root, *edges(bench, lambda: around.span("child"))
        for other in others:
            other.close()
        around.close()
    assert found[10] == found[1_000]
