"""The last row of a decorated function holds every call, whatever other threads do meanwhile."""

from __future__ import annotations

import gc
import sys
import threading
from contextvars import Context
from typing import Any

import pytest

from carbontrack.api.track import track
from carbontrack.grid.intensity import Fixed, GridIntensity
from carbontrack.record import Record
from carbontrack.system.clock import SystemClock
from carbontrack.testing import FakeMeter, MemorySink
from carbontrack.tracking.tracker import Tracker


class Halt:
    """Holds one thread at a place that it passes, until it is told to go on."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.passes = 0
        """How often it passes before it is held."""
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def passed(self) -> None:
        """Called at the place."""
        if self.thread != threading.get_ident():
            return
        self.passes -= 1
        if self.passes < 0:
            self.thread = None
            self.reached.set()
            assert self.go_on.wait(60.0)


class HaltingClock(SystemClock):
    """A clock that holds a thread where it reads the time."""

    def __init__(self) -> None:
        self.halt = Halt()

    def monotonic_s(self) -> float:  # type: ignore[override]
        """The time, later for the thread that is held."""
        self.halt.passed()
        return SystemClock.monotonic_s()


class ChangingGrid:
    """A grid that is asked again and again, for which no lock is held."""

    def at(self, when: Any) -> GridIntensity:
        """An intensity."""
        return Fixed.of(50.0).at(when)


def counted(sink: MemorySink) -> int:
    """How many calls are in rows."""
    assert len({record.record_id for record in sink.records}) == len(sink.records)
    return sum(record.calls or 0 for record in sink.records)


def tracker_with(sink: MemorySink, **more: Any) -> Tracker:
    """A tracker that never ticks."""
    return Tracker(meters=[FakeMeter()], sinks=[sink], interval_s=3600.0, **more)


@pytest.mark.parametrize("calls_before", [0, 3])
def test_a_call_that_ends_while_the_last_row_is_written_is_in_a_row(calls_before: int) -> None:
    """Its thread is between the end of the call and its count when the tracker is closed."""
    clock, sink = HaltingClock(), MemorySink()
    tracker = tracker_with(sink, clock=clock)

    @track("work", tracker=tracker)
    def work(*, is_held: bool) -> None:
        if is_held:
            clock.halt.thread = threading.get_ident()

    for _ in range(calls_before):
        work(is_held=False)

    thread = threading.Thread(target=work, kwargs={"is_held": True})
    thread.start()
    assert clock.halt.reached.wait(60.0)
    closing = threading.Thread(target=tracker.close)
    closing.start()
    closing.join(0.5)  # a first call is held while it has the sampler's lock: closing waits for it
    clock.halt.go_on.set()
    closing.join(60.0)
    thread.join(60.0)
    assert not closing.is_alive()
    assert counted(sink) == calls_before + 1


@pytest.mark.parametrize("calls_before", [0, 3])
def test_a_call_that_begins_while_the_last_row_is_written_is_in_a_row(calls_before: int) -> None:
    """Its thread is about to open a window when the tracker is closed."""
    clock, sink = HaltingClock(), MemorySink()
    tracker = tracker_with(sink, clock=clock, grid=ChangingGrid())

    @track("work", tracker=tracker)
    def work() -> None:
        """Do nothing."""

    for _ in range(calls_before):
        work()
        for site in tracker.session.sites.living():
            site.write_row()  # so that the next call opens a window

    def call_late() -> None:
        clock.halt.passes, clock.halt.thread = 1, threading.get_ident()
        work()

    thread = threading.Thread(target=call_late)
    thread.start()
    assert clock.halt.reached.wait(60.0)
    tracker.close()
    clock.halt.go_on.set()
    thread.join(60.0)
    assert counted(sink) == calls_before + 1


def test_the_garbage_collector_does_not_lose_a_row() -> None:
    """A finalizer, or another thread in its time, begins a call just when the row is made."""
    sink = MemorySink()
    tracker = tracker_with(sink)

    @track("work", tracker=tracker, window_s=3600)
    def work() -> None:
        """Do nothing."""

    @track("other", tracker=tracker, window_s=3600)
    async def other() -> None:
        await never

    class Never:
        def __await__(self) -> Any:
            yield

    never, kept = Never(), []

    class Garbage:
        def __init__(self) -> None:
            self.myself = self

        def __del__(self) -> None:
            begun = other()
            Context().run(begun.send, None)  # a call under way, of which nobody awaits the end
            kept.append(begun)

    gc.collect()
    gc.disable()
    before, tuples = gc.get_threshold(), []
    try:
        for number in range(1, 150):
            for _ in range(3):
                work()
            tuples.append([(number, tuples) for _ in range(3000)])  # none is kept for reuse
            Garbage()
            gc.set_threshold(gc.get_count()[0] + number)
            gc.enable()
            for site in tracker.session.sites.living():
                if site.name == "work":
                    site.interrupt()
                    site.closed = False  # once more
            gc.disable()
    finally:
        gc.set_threshold(*before)
        gc.enable()
    rows = [record for record in sink.records if record.name == "work"]
    assert sum(record.calls or 0 for record in rows) == 149 * 3
    tracker.close()


def test_a_budget_that_cannot_be_checked_does_not_lose_the_row() -> None:
    """The row is written, unmarked."""
    from carbontrack.tracking.call_site import Callee, call_site_of

    def no_check(record: Record) -> Record:
        raise ValueError(record.name)

    sink = MemorySink()
    tracker = tracker_with(sink)
    site = call_site_of(
        tracker.session, Callee("work", {}, "code"), window_s=10.0, budget_check=no_check
    )
    from carbontrack.tracking.call import Call

    call = Call(site)
    call.begin()
    call.end()
    tracker.close()
    assert counted(sink) == 1


def test_threads_that_call_to_the_end_lose_nothing() -> None:
    """Many threads, a switch at every chance, and the end in the middle; many times."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            _close_among_threads()
    finally:
        sys.setswitchinterval(before)


def _close_among_threads() -> None:
    sink, done = MemorySink(), [0] * 6
    tracker = tracker_with(sink)

    @track("work", tracker=tracker)
    def work() -> None:
        """Do nothing."""

    work()

    def call_until_closed(index: int) -> None:
        while not tracker.session.closed:
            work()
            done[index] += 1

    threads = [threading.Thread(target=call_until_closed, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    while sum(done) < 300:
        pass
    tracker.close()
    for thread in threads:
        thread.join()
    # the last call of a thread may have begun after the close, and is then said to be uncounted
    assert counted(sink) + tracker.session.uncounted_calls == sum(done) + 1
