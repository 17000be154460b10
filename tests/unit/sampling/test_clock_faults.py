"""A clock that goes back or stands still: unknown figures and a fault, never a sure zero."""

from __future__ import annotations

import os
import threading

import pytest

from carbontrack.api.track import track
from carbontrack.system.clock import STEP_S, process_cpu_s
from carbontrack.testing import FakeClock, FakeMeter
from tests.support.bench import Bench, joules

UNKNOWN = (
    *("duration_s", "energy_kwh", "energy_low_kwh", "energy_high_kwh", "machine_kwh", "cpu_kwh"),
    *("emissions_g", "emissions_high_g", "embodied_g", "water_l", "coverage", "basis"),
)


class ClockThatGoesBack(FakeClock):
    """A clock that a test can set back, as when frozen time ends."""

    def go_back(self, seconds: float) -> None:
        with self._changed:
            self._move_to(self._monotonic_s - seconds)


class StandingClock(FakeClock):
    """A clock that says that it runs by itself, and stands still."""

    is_stepped = False


def work_beyond_a_step() -> None:
    """More CPU seconds than all processors have between two steps of a clock."""
    end_s = process_cpu_s() + 1.5 * STEP_S * (os.cpu_count() or 1)
    while process_cpu_s() < end_s:
        sum(range(10_000))


def test_the_span_around_a_clock_that_goes_back_is_unknown():
    """Neither time nor energy is known, which the faults say; the rest of the row is as ever."""
    clock = ClockThatGoesBack()
    with Bench(clock=clock) as bench:
        with bench.tracker.span("a") as span:
            bench.run(5.0)
            clock.go_back(900.0)
            bench.run(1.0)
        assert {name: getattr(span.record, name) for name in UNKNOWN} == dict.fromkeys(UNKNOWN)
        assert span.record.faults == "clock:1"
        assert (span.record.status, span.record.missed_reads) == ("ok", 0)


def test_spans_after_a_clock_that_went_back_are_as_ever():
    """Children opened later in the same span, and later roots, have their figures."""
    clock = ClockThatGoesBack()
    with Bench(clock=clock) as bench:
        with bench.tracker.span("a") as span:
            clock.go_back(900.0)
            bench.sampler.sample()
            with span.span("child") as child:
                bench.run(2.0)
        with bench.tracker.span("b") as later:
            bench.run(3.0)
    assert joules(child.record) == pytest.approx(200.0)
    assert (later.record.duration_s, later.record.faults) == (pytest.approx(3.0), None)
    assert joules(later.record) == pytest.approx(300.0)


def test_a_meter_never_sees_time_go_back():
    """What a model adds up by the clock goes on adding up."""
    seen_s: list[float] = []

    class Model(FakeMeter):
        def read_joules(self, now_s):
            seen_s.append(now_s)
            return super().read_joules(now_s)

    clock = ClockThatGoesBack()
    with Bench([Model()], clock=clock) as bench, bench.tracker.span("a"):
        clock.go_back(50.0)
        bench.run(1.0)
        clock.go_back(500.0)
        bench.run(1.0)
    assert len(seen_s) > 3
    assert seen_s == sorted(seen_s)


def test_summed_calls_go_on_after_a_clock_that_went_back():
    """The row with the jump is unknown; the next has its calls, energy and time."""
    clock = ClockThatGoesBack()
    with Bench(clock=clock, attribution="machine") as bench:

        @track("f", window_s=10.0, tracker=bench.tracker)
        def tracked():
            clock.advance(0.5)

        tracked()
        bench.sampler.tick()
        clock.go_back(5000.0)
        tracked()
        bench.run(15.0, ticks=15)
        tracked()
        bench.run(15.0)
    first, second = (record for record in bench.records if record.name == "f")
    assert (first.calls, first.duration_s, first.energy_kwh) == (2, None, None)
    assert first.faults == "clock:1"
    assert (second.calls, second.duration_s, second.faults) == (1, pytest.approx(0.5), None)
    assert joules(second) == pytest.approx(50.0)


def test_a_clock_that_stands_still_while_the_process_works_is_a_fault():
    """A frozen clock of the program's own: not 0 J in 0 s."""
    with Bench(clock=StandingClock()) as bench:
        with bench.tracker.span("a") as span:
            work_beyond_a_step()
        assert {name: getattr(span.record, name) for name in UNKNOWN} == dict.fromkeys(UNKNOWN)
        assert span.record.faults == "clock:1"


def test_a_clock_that_stands_still_while_nothing_works_is_none():
    """Clocks move in steps, and an empty block is between two of them."""
    with Bench(clock=StandingClock()) as bench:
        with bench.tracker.span("a") as span:
            threading.Event().wait(0.05)
        assert (span.record.duration_s, span.record.faults) == (0.0, None)


def test_a_fake_clock_may_stand_still():
    """A test moves it when it likes, however long the test computes."""
    with Bench() as bench:
        with bench.tracker.span("a") as span:
            work_beyond_a_step()
        assert (span.record.duration_s, span.record.faults) == (0.0, None)
