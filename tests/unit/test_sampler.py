"""The sampler: when it reads, when it sleeps, what it survives."""

import pytest

from carbontrack.testing import FakeMeter
from tests.support.bench import Bench, joules


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

    class Watcher:
        def after_tick(self, now_s):
            raise RuntimeError("watcher broke")

    with Bench() as bench, bench.tracker.span("a") as span:
        watcher = Watcher()
        bench.sampler.watchers.add(watcher)
        bench.run(2.0, ticks=2)
        span.close()
        assert joules(span.record) == pytest.approx(200.0)
    assert "watcher broke" in caplog.text


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
