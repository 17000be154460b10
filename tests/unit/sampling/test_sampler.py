"""The sampler: when it reads, when it sleeps, what it survives."""

import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from carbontrack.attribution.usage import UsageReader
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.clock import SystemClock
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.tracker import Tracker
from tests.support.bench import Bench, ScriptedUsage, joules


def test_each_edge_and_each_tick_is_one_reading():
    """Opening reads once, closing reads once, a tick reads once."""
    with Bench() as bench:
        with bench.tracker.span("a"):
            assert bench.meter.reads == 1
            bench.run(1.0)
            assert bench.meter.reads == 2
        assert bench.meter.reads == 3


def test_a_tick_that_fails_is_not_the_last(caplog):
    """Whatever goes wrong in a tick is logged; the next tick comes."""

    class TickListener:
        def after_tick(self, now_s):
            raise RuntimeError("listener broke")

    with Bench() as bench, bench.tracker.span("a") as span:
        listener = TickListener()
        bench.sampler.tick_listeners.add(listener)
        bench.run(2.0, ticks=2)
        span.close()
        assert joules(span.record) == pytest.approx(200.0)
    assert "listener broke" in caplog.text


def test_the_most_demanding_meter_sets_the_pace():
    """A counter that may wrap within seconds is read at least that often."""
    meter = FakeMeter(max_period_s=2.0)
    with Bench([meter], interval_s=3600.0) as bench, bench.tracker.span("a"):
        bench.clock.until_waiting()
        bench.clock.advance(20.0)
        assert meter.reads >= 10


def test_the_longest_gap_is_the_spans():
    """`max_gap_s` is the longest time without a reading inside the span."""
    with Bench() as bench:
        with bench.tracker.span("a") as a:
            bench.run(1.0)
            bench.run(7.0)
            with bench.tracker.span("b") as b:
                bench.run(2.0)
        assert a.record.max_gap_s == pytest.approx(7.0)
        assert b.record.max_gap_s == pytest.approx(2.0)


def test_a_pause_is_not_billed_when_its_end_finds_a_meter_silent():
    """A meter that fails as a span opens hours after the last one carries nothing of the hours."""
    with Bench() as bench:
        with bench.tracker.span("before"):
            bench.run(10.0)
        bench.clock.advance(10_000.0)
        bench.meter.fail(1)
        with bench.tracker.span("after") as span:
            bench.run(2.0)
            bench.run(8.0)
    assert joules(span.record) == pytest.approx(800.0)  # of 1,000: nobody saw the first 2 s
    assert span.record.coverage == pytest.approx(0.8)
    assert span.record.missed_reads == 1


class WornOutUsage(ScriptedUsage):
    """Answers twice, then never again."""

    def read(self, now_s):
        if self.reads >= 2:
            raise ValueError("no more")
        return super().read(now_s)


def test_a_reader_of_usage_that_breaks_reaches_nobody():
    """Spans open and close, the last share holds on, and the sampler falls asleep in the end."""
    clock, meter = FakeClock(), FakeMeter(watts=100.0)
    sampler = Sampler([meter], interval_s=3600.0, clock=clock, usage=WornOutUsage(ours=0.25))
    with Tracker(meters=sampler, attribution="process", clock=clock) as tracker:
        for _ in range(3):
            with tracker.span("outer") as outer:
                clock.advance(10.0)
                with outer.span("inner"):
                    clock.advance(10.0)
                outer.snapshot()
            assert not sampler.awake
            assert sampler.leaves == 0
            assert joules(outer.record) <= 2000.0
            clock.advance(3600.0)
    sampler.close()


class BrokenClock(FakeClock):
    """Fails when asked how long the machine slept."""

    def suspended_s(self):
        raise OSError("no such clock")


def test_a_sample_that_fails_is_carried_by_the_next():
    """Whatever breaks inside a sample is counted as a fault and never reaches a span's edge."""
    with Bench() as bench:
        with bench.tracker.span("work") as span:
            bench.clock.advance(5.0)
            bench.sampler.clock = BrokenClock()
            with span.span("child"):
                pass
            bench.sampler.clock = bench.clock
            bench.clock.advance(5.0)
        assert joules(span.record) == pytest.approx(1000.0)
        assert span.record.faults == "sample:2"


@pytest.mark.parametrize(
    ("slept_s", "suspends"),
    [
        ([0.3, 0.6, 0.9, 1.2], []),
        ([0.004 * number for number in range(500)], []),
        ([0.3, 2.3, 2.6], [2.0]),
        ([1.0, 1.3, 1.6, 3.6], [1.0, 2.0]),
        ([0.0, -2.0, 0.0, -0.3, 0.0], []),
        ([0.0, -2.0, 1.0], [1.0]),
    ],
    ids=["short", "tiny", "among short ones", "two", "a look that took long", "and a suspend"],
)
def test_a_suspend_is_long_from_one_reading_to_the_next(slept_s, suspends):
    """Short ones do not add up to one; one clock read well after the other is none."""

    class Sleeper(FakeClock):
        slept_s = 0.0

        def suspended_s(self):
            return self.slept_s

    clock = Sleeper()
    with Bench(clock=clock) as bench, bench.tracker.span("work"):
        for Sleeper.slept_s in slept_s:
            clock.advance(1.0)
            bench.sampler.sample()
        counts = bench.sampler.counts
        assert counts.suspended_s == pytest.approx(sum(suspends), abs=0.02)
        assert counts.faults == ({"suspend": len(suspends)} if suspends else {})
        lost_j = 100.0 * len(suspends)
        assert sum(counts.energy_j) == pytest.approx(100.0 * len(slept_s) - lost_j)


@pytest.mark.skipif(sys.platform != "linux", reason="it looks in procfs")
def test_a_sampler_that_is_closed_before_it_sleeps_holds_no_descriptor():
    """Its thread ends where it waits for the next tick: what it would close then is closed."""

    def opened():
        found = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # the listing's own
                found.append(str(descriptor.readlink()))
        return found.count("/proc/stat")

    before = opened()
    for with_meters in (True, False):
        clock = FakeClock()
        sampler = Sampler([FakeMeter()], clock=clock, usage=UsageReader(Path("/proc")))
        tracker = Tracker(meters=sampler, attribution="process", clock=clock)
        with tracker.span("work"):
            clock.until_waiting()
            assert opened() == before + 1
        sampler.close(with_meters=with_meters)
        assert opened() == before, with_meters


def test_what_fails_before_a_tick_does_not_end_the_thread(caplog):
    """The look for new meters cannot even be made: the thread says it, and goes on."""
    clock = SystemClock()
    sampler = Sampler([FakeMeter()], interval_s=0.01, clock=clock, again=(0,))
    with Tracker(meters=sampler, clock=clock) as tracker, tracker.span("x"):
        never, said = threading.Event(), 0
        for _ in range(6000):
            said = caplog.text.count("a deadline was missed")
            if said >= 2 or never.wait(0.01):
                break
        assert said >= 2  # the second one is the same thread's
    sampler.close()


@pytest.mark.parametrize("meter", [FakeMeter(), FakeMeter(low=0.5, high=2.0)], ids=["", "ends"])
@pytest.mark.parametrize("scope", ["machine", "process"])
def test_where_only_the_counts_change_nothing_else_is_made(meter, scope):
    """Models with ends as well, and after a fault: as long as the terms stay the same."""
    with Bench([meter], attribution=scope) as bench, bench.tracker.span("a") as span:
        bench.run(1.0)
        meter.reset()
        bench.run(2.0, ticks=2)
        anchor, account = bench.sampler.counts.anchor, bench.session.ledger.account
        for _ in range(5):
            bench.clock.advance(0.002)
            with span.span("b"):
                bench.clock.advance(0.001)
        assert bench.sampler.counts.anchor is anchor
        assert bench.session.ledger.account is account


def test_a_shorter_interval_counts_before_the_next_deadline():
    """A second tracker may ask for it in a pause, while the thread waits for a deadline far off."""
    ticked = threading.Event()

    class TickListener:
        def after_tick(self, now_s):
            ticked.set()

        def fall_asleep(self):
            """There is nothing to give back."""

    with Bench(clock=SystemClock(), interval_s=3600.0) as bench:
        listener = TickListener()
        bench.sampler.tick_listeners.add(listener)
        with bench.tracker.span("a"):
            assert not ticked.wait(0.1)  # the thread waits by now
        bench.sampler.request_interval(0.05)
        with bench.tracker.span("b"):
            assert ticked.wait(10.0)
