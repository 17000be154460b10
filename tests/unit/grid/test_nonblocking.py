"""A source of intensity that waits, or takes a lock of the program's, holds nothing up."""

import threading
from datetime import datetime, timezone

import pytest

from carbontrack.grid.intensity import Chain, FailSafeSource, Fixed, GridIntensity
from carbontrack.grid.nonblocking import FRESH_S, NonblockingSource
from carbontrack.system.log import DeferredLog
from carbontrack.testing import FakeClock
from tests.support.bench import Bench, joules

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


class Foreign:
    """Somebody's source; while `gate` is closed it does not answer."""

    def __init__(self, g=100.0):
        self.g = g
        self.asked = 0
        self.gate = threading.Event()
        self.gate.set()

    def at(self, when):
        self.asked += 1
        self.gate.wait(60.0)
        return GridIntensity("X", self.g, self.g, self.g, "theirs", 2026, "m")


def test_a_source_that_hangs_holds_no_span_up():
    """It is asked while no lock is held, waited for briefly, and the span goes on without it."""
    source = Foreign()
    source.gate.clear()
    with Bench(grid=source) as bench:
        with bench.tracker.span("s") as span:
            bench.run(4.0, ticks=2)
            assert bench.sampler.lock.acquire(timeout=60.0), "the lock is free while it hangs"
            bench.sampler.lock.release()
        assert joules(span.record) == pytest.approx(400.0)
        assert span.record.emissions_g is None
        assert source.asked == 1, "one question at a time"
        source.gate.set()
        bench.session.ledger._grid._thread.join(60.0)
        with bench.tracker.span("later") as later:
            bench.run(2.0)
        assert later.record.intensity_g_per_kwh == 100.0


def test_a_source_may_take_the_lock_that_its_program_holds():
    """A program that opens a span inside its own lock is not hung by its own source."""
    lock = threading.Lock()
    asked = threading.Event()

    class Locked(Foreign):
        def at(self, when):
            asked.set()
            with lock:
                return super().at(when)

    with Bench(grid=Locked()) as bench:
        with lock, bench.tracker.span("s") as span:
            assert asked.wait(60.0)
            bench.clock.advance(2.0)
        assert joules(span.record) == pytest.approx(200.0)


def test_it_is_asked_at_edges_and_ticks_at_most_once_a_second():
    """Each tick weighs with the answer of its moment; a thousand edges are one question."""
    source = Foreign()
    with Bench(grid=source) as bench:
        with bench.tracker.span("s") as span:
            bench.run(2.0)
            source.g = 300.0
            bench.run(2.0)
            for _ in range(20):
                with span.span("child"):
                    pass
        assert source.asked == 3
        assert span.record.intensity_g_per_kwh == pytest.approx(200.0)


def test_what_it_said_last_holds_while_it_fails():
    """Errors are told and change nothing."""
    source, later, clock = Foreign(), DeferredLog(), FakeClock(now=NOW)
    grid = NonblockingSource(source, later)
    grid.refresh(clock)
    assert grid.now(NOW).g_per_kwh == 100.0
    source.gate = None
    clock.advance(FRESH_S)
    grid.refresh(clock)
    assert grid.now(NOW).g_per_kwh == 100.0
    assert len(later._waiting) == 1


def test_a_constant_is_asked_once():
    """Whoever made it."""
    source = Foreign()
    source.constant = True
    clock, grid = FakeClock(now=NOW), NonblockingSource(source, DeferredLog())
    for _ in range(3):
        grid.refresh(clock)
        clock.advance(10.0)
    assert (source.asked, grid.changes) == (1, False)


def test_what_a_source_says_of_itself_is_read_once():
    """When it is taken in: a source cannot make a later reading wait by changing its mind."""
    source = Foreign()
    grid = NonblockingSource(source, DeferredLog())
    source.prompt = True
    assert grid.now(NOW) is None
    assert source.asked == 0


def test_our_own_sources_are_asked_in_place():
    """They answer from memory; a chain with somebody else's source in it may not."""
    mine = Fixed.of(50.0)
    assert Chain([], mine).prompt
    assert not Chain([FailSafeSource("theirs", Foreign())], mine).prompt
    threads = threading.active_count()
    grid = NonblockingSource(mine, DeferredLog())
    grid.refresh(FakeClock(now=NOW))
    assert grid.now(NOW) is mine.intensity
    assert threading.active_count() == threads
