"""What grows with a program, and what must not: counts of functions and blocks of memory, no times.

Costs of one step are counted as calls of functions; see tests/support/costs.py.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import Context
from pathlib import Path
from typing import Literal

import pytest

import carbontrack
from carbontrack.report.read import iter_records
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.testing import FakeMeter, MemorySink
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracker import Tracker
from tests.support.costs import blocks_kept, function_calls
from tests.support.trials import StillClock

pytestmark = pytest.mark.xdist_group("serial")  # blocks of memory

ROOT = Path(__file__).parents[3]
KEPT_BLOCKS = 300
"""Blocks of memory that caches may take, whatever grows."""


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    """One that ticks only when it is told to."""
    with Tracker(meters=[FakeMeter()], grid=50.0, interval_s=3600.0) as made:
        yield made


def one_more(root: Span) -> Callable[[], object]:
    """A child span of this one, opened and closed."""
    return lambda: root.span("x").open().close()


def cost(act: Callable[[], object], times: int = 20) -> float:
    """The functions that an act calls, by the least of some batches: now and then more is due."""
    return min(function_calls(act, times) for _ in range(8))


# -- what a step costs ---------------------------------------------------------------------------


def test_a_span_does_not_know_of_other_roots(tracker: Tracker) -> None:
    """It costs the same beside 1,000 open roots; the machine's energy is divided all the same."""
    with tracker.span("root") as root:
        before = cost(one_more(root))
        contexts = [Context() for _ in range(1000)]
        others = [context.run(tracker.span("other").open) for context in contexts]
        assert cost(one_more(root)) <= before + 1
        for context, other in zip(contexts, others, strict=True):
            context.run(other.close)


def test_a_span_does_not_know_of_its_siblings(tracker: Tracker) -> None:
    """It costs the same beside 2,000 open ones as beside ten."""
    with tracker.span("root") as root:
        first = [root.span("sibling").open() for _ in range(10)]
        before = cost(one_more(root))
        siblings = [*first, *(root.span("sibling").open() for _ in range(2000))]
        assert cost(one_more(root)) <= before + 1
        for sibling in reversed(siblings):
            sibling.close()


def test_depth_costs_in_proportion_at_most() -> None:
    """A span in a thousand others, and all of these, opened and closed; each has its record."""
    costs = {}
    for depth in (10, 100, 1000):
        sink = MemorySink()
        with (
            Tracker(meters=[FakeMeter()], sinks=[sink], interval_s=3600.0) as tracker,
            ExitStack() as opened,
        ):
            tracker.session.spans = "all"
            for _ in range(depth):
                innermost = opened.enter_context(tracker.span("x"))
            costs[depth] = cost(one_more(innermost))
            opened.close()
            assert len(sink.records) == depth + 8 * 21
            assert {record.status for record in sink.records} == {"ok"}
    assert costs[1000] - costs[10] <= 11 * (costs[100] - costs[10] + 10)


@pytest.mark.parametrize("end", ["closes", "interrupts"])
@pytest.mark.parametrize("spans", ["roots", "all"])
def test_an_end_reaches_as_deep_as_spans_lie(spans: Literal["roots", "all"], end: str) -> None:
    """The outermost of 3,000 ends first: far more than functions may lie in each other."""
    sink = MemorySink()
    with Tracker(meters=[FakeMeter()], sinks=[sink], interval_s=3600.0) as tracker:
        tracker.session.spans = spans
        opened = [tracker.span("x").open() for _ in range(3000)]
        if end == "closes":
            opened[0].close()
            assert sink.records[-1].status == "ok"
            assert opened[1].is_open
    assert not any(span.is_open for span in opened)
    ids = [record.record_id for record in sink.records]
    assert len(ids) == len(set(ids)) >= (3000 if spans == "all" else 1)


def test_a_span_costs_in_proportion_to_the_meters() -> None:
    """From 4 to 64, at most linearly."""
    costs = {}
    for count in (4, 16, 64):
        meters = [FakeMeter(f"fake:{number}") for number in range(count)]
        with (
            Tracker(meters=meters, grid=50.0, interval_s=3600.0) as tracker,
            tracker.span("root") as root,
        ):
            costs[count] = cost(one_more(root))
    assert (costs[64] - costs[16]) / 48 <= (costs[16] - costs[4]) / 12 * 1.05


def test_a_call_does_not_know_of_other_threads(tracker: Tracker) -> None:
    """It costs the same after calls in 64 threads, while these live."""

    @carbontrack.track("call", tracker=tracker)
    def call() -> None:
        pass

    before = cost(call, 256)
    over = threading.Event()
    threads = [threading.Thread(target=lambda: (call(), over.wait())) for _ in range(64)]
    for thread in threads:
        thread.start()
    try:
        assert cost(call, 256) <= before + 1
    finally:
        over.set()
        for thread in threads:
            thread.join()


# -- what stays in memory ------------------------------------------------------------------------


def test_threads_that_have_ended_leave_nothing(tracker: Tracker) -> None:
    """Each has called, and opened a block."""

    @carbontrack.track("call", tracker=tracker)
    def call() -> None:
        with carbontrack.track("block", tracker=tracker):
            pass

    def in_a_thread() -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    assert blocks_kept(in_a_thread, 500) <= KEPT_BLOCKS


def test_open_roots_take_their_own_place_only(tracker: Tracker) -> None:
    """A thousand more take as much again, and all of it is given back."""

    def opened(count: int) -> list[tuple[Context, Span]]:
        contexts = [Context() for _ in range(count)]
        return [(context, context.run(tracker.span("x").open)) for context in contexts]

    def closed(roots: list[tuple[Context, Span]]) -> None:
        for context, root in roots:
            context.run(root.close)
        roots.clear()

    closed(opened(1000))
    gc.collect()
    begin = sys.getallocatedblocks()
    first = opened(1000)
    one = sys.getallocatedblocks() - begin
    second = opened(1000)
    two = sys.getallocatedblocks() - begin
    assert two <= 2.05 * one + KEPT_BLOCKS
    closed(first)
    closed(second)
    gc.collect()
    assert sys.getallocatedblocks() - begin <= KEPT_BLOCKS


def test_names_and_labels_of_spans_are_not_kept(tracker: Tracker) -> None:
    """Each root has a name and labels that no other has."""
    number = iter(range(1 << 30))

    def act() -> None:
        here = next(number)
        with tracker.span(f"job {here}", labels={f"label {here}": f"value {here}"}):
            pass

    assert blocks_kept(act, 1500) <= KEPT_BLOCKS


def test_rows_are_not_kept(tmp_path: Path) -> None:
    """Rows go to the file, and the journal is as large after 2,000 as after a few."""
    given = {"region": "FR", "output": str(tmp_path / "runs.csv"), "interval_s": 3600.0}
    with carbontrack.auto(**given, state_dir=str(tmp_path / "state")) as tracker:

        def act() -> None:
            with tracker.span("x"):
                pass

        def held() -> tuple[int, int]:
            with tracker.span("open"):  # an idle tracker closes its files
                return _bytes_in(tmp_path / "state"), _open_files()

        for _ in range(1200):
            act()
        before, files = held()
        assert blocks_kept(act, 1500) <= KEPT_BLOCKS
        after, later_files = held()
        assert after <= 2 * before + 65536
        assert later_files <= files
    assert len(list(iter_records(tmp_path / "runs.csv"))) == 1200 + 300 + 1500 + 2


FORKS = """
import gc, os, sys
import carbontrack
with carbontrack.track("root") as root:
    def act():
        pid = os.fork()
        if not pid:
            with carbontrack.track("in the child"):
                pass
            os._exit(0)
        os.waitpid(pid, 0)
    for _ in range(20):
        act()
    def held():
        gc.collect()
        return sys.getallocatedblocks(), len(os.listdir("/proc/self/fd"))
    found = []
    for _ in range(4):  # in one of them a tick may do something for the first time
        before = held()
        for _ in range(20):
            act()
        found.append([now - then for now, then in zip(held(), before)])
    print(*map(min, zip(*found)))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_children_that_have_ended_leave_nothing(tmp_path: Path) -> None:
    """Neither memory nor open files, in a process that forks again and again."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CARBONTRACK_STATE_DIR": "state"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    blocks, files = map(int, done.stdout.split()[-2:])
    assert blocks < 20, "not one for each of them"
    assert files <= 0


# -- a week --------------------------------------------------------------------------------------

DAY_S = 86_400
WATTS = 20.0


@pytest.mark.slow
def test_a_week_of_spans(tmp_path: Path) -> None:
    """Memory, open files and the rows do not grow after the first days, and nothing is lost.

    The first and the last day have a span a second, those between one in twenty. A second's energy
    is as exact at the end as at the beginning, and the whole is the sum.
    """
    clock = StillClock()
    tracker = Tracker(
        meters=[FakeMeter("fake:cpu", joules=lambda at_s: WATTS * at_s)],
        sinks=[CsvSink(tmp_path / "runs.csv")],
        grid=50.0,
        attribution="machine",
        clock=clock,
    )
    found = []
    with tracker, tracker.span("week") as week:
        for day, step_s in enumerate((1, 20, 20, 20, 20, 20, 1)):
            for _ in range(24):
                _one_hour(week, clock, tracker.session.sampler.tick, step_s)
            gc.collect()
            found.append((sys.getallocatedblocks(), _open_files(), _bytes_in(tmp_path)))
            assert week.snapshot().duration_s == pytest.approx((day + 1) * DAY_S, rel=1e-12)
    blocks, files, stored = zip(*found, strict=True)
    assert max(blocks) - blocks[1] <= KEPT_BLOCKS  # caches fill on the first
    assert set(files) == {files[0]}
    assert max(stored) <= stored[0] + 65536
    assert _joules(week) == pytest.approx(WATTS * 7 * DAY_S, rel=1e-12)


def _one_hour(week: Span, clock: StillClock, tick: Callable[[], None], step_s: int) -> None:
    with week.span("hour") as hour:
        for number in range(3600 // step_s):
            span = hour.span("step").open()
            clock.advance(step_s)
            span.close()
            if number % 10 == 0:
                tick()
    assert _joules(span) == pytest.approx(WATTS * step_s, rel=1e-9)
    assert _joules(hour) == pytest.approx(WATTS * 3600, rel=1e-12)


def _joules(span: Span) -> float:
    return (span.record.energy_kwh or 0.0) * 3.6e6


def _open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
