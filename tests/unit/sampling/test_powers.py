"""The power that stands for a span too short to be measured: over how long it is taken."""

import pytest

from carbontrack.testing import FakeMeter
from tests.support.bench import Bench, joules

REFRESH_S = 0.1


def stepped(watts):
    """A counter that changes ten times a second, as a GPU's does."""
    return lambda at_s: watts * REFRESH_S * int(at_s / REFRESH_S + 1e-9)


def gpu(watts=80.0):
    return FakeMeter("fake:gpu", "gpu", joules=stepped(watts), resolution_s=REFRESH_S)


@pytest.mark.parametrize("length_s", [0.01, 0.03, 0.06, 0.09])
def test_spans_shorter_than_a_refresh_have_the_power_of_many(length_s):
    """However closely spans follow each other, none has a bare 0 and none has a whole refresh's."""
    with Bench([gpu()]) as bench, bench.tracker.span("run") as run:
        bench.run(1.0, ticks=20)
        for _ in range(40):
            with run.span("short") as short:
                bench.clock.advance(length_s)
            assert short.record.gpu_basis == "modelled"
            assert joules(short.record) == pytest.approx(80.0 * length_s, rel=0.2)


def test_one_refresh_is_never_taken_for_the_power_of_an_instant():
    """A count that moves just after the beginning stands for a refresh's time at least."""
    with Bench([gpu()]) as bench:
        bench.clock.advance(0.05 - bench.clock.monotonic_s() % REFRESH_S + REFRESH_S)
        with bench.tracker.span("run") as run:
            bench.clock.advance(0.049)
            with run.span("short") as short:
                bench.clock.advance(0.002)
        assert joules(short.record) <= 80.0 * 0.002 * 1.001


def test_a_counter_that_changes_often_keeps_its_short_window():
    """A change of power shows after fifty milliseconds where the counter follows it."""
    meter = FakeMeter(watts=100.0, resolution_s=0.001)
    with Bench([meter]) as bench, bench.tracker.span("run") as run:
        bench.run(1.0, ticks=20)
        meter.watts = 200.0
        bench.run(0.06)
        with run.span("short") as short:
            bench.clock.advance(0.0005)
        assert short.record.cpu_basis == "modelled"
        assert joules(short.record) == pytest.approx(200.0 * 0.0005, rel=0.01)
