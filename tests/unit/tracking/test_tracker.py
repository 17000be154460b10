"""The tracker: what it takes, how it starts and ends."""

import contextvars
import gc
import logging
import threading

import pytest

from carbontrack.attribution.policy import Attribution
from carbontrack.errors import ConfigError
from carbontrack.grid.intensity import GridIntensity
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.tracker import Tracker
from tests.support.bench import Bench, joules

FRANCE = GridIntensity("FR", 50.0, 40.0, 80.0, "table", 2024, "lifecycle")


@pytest.mark.parametrize("interval_s", [0, -1.0, float("nan"), 3601.0])
def test_an_impossible_interval_is_refused(interval_s):
    """The time between ticks lies above 0 and within an hour."""
    with pytest.raises(ConfigError, match="interval_s"):
        Tracker(meters=[], interval_s=interval_s)


@pytest.mark.parametrize("grid", ["FR", True, object(), -1.0, 9e9])
def test_an_impossible_grid_is_refused(grid):
    """A grid is a figure, an intensity, or something that answers `at`."""
    with pytest.raises(ConfigError):
        Tracker(meters=[], grid=grid)


def test_an_impossible_scope_is_refused():
    """The scope is process or machine."""
    with pytest.raises(ConfigError, match="scope"):
        Tracker(meters=[], attribution="mine")


@pytest.mark.parametrize("grid", [50.0, FRANCE])
def test_emissions_are_energy_times_the_grid(grid):
    """1000 J at 50 g/kWh, times PUE."""
    bench = Bench(grid=grid, attribution=Attribution(pue=2.0))
    with bench, bench.tracker.span("a") as span:
        bench.clock.advance(10.0)
    assert span.record.emissions_g == pytest.approx(1000.0 * 2.0 / 3.6e6 * 50.0)
    assert span.record.intensity_g_per_kwh == 50.0
    assert span.record.pue == 2.0


def test_it_starts_with_its_first_span():
    """Building a tracker starts no thread and reads no meter."""
    threads = threading.active_count()
    meter = FakeMeter()
    tracker = Tracker(meters=[meter], clock=FakeClock())
    assert threading.active_count() == threads
    assert meter.reads == 0
    with tracker.span("a"):
        assert threading.active_count() == threads + 1
    tracker.close()
    assert threading.active_count() == threads


def test_closing_writes_what_is_open_once_and_closes_everything():
    """An open root is interrupted; sinks and meters are closed; a second close does nothing."""
    bench = Bench()
    span = bench.tracker.span("a").open()
    bench.clock.advance(1.0)
    bench.tracker.close()
    bench.tracker.close()
    span.close()
    assert [row.status for row in bench.records] == ["interrupted"]
    assert joules(span.record) == pytest.approx(100.0)
    assert bench.sink.closed
    assert bench.meter.closed


def test_a_closed_tracker_opens_nothing():
    """A span of a closed tracker is refused, with the reason."""
    bench = Bench()
    bench.tracker.close()
    with pytest.raises(ConfigError, match="closed"):
        bench.tracker.span("a")


def test_trackers_built_by_hand_stand_alone():
    """Spans of two trackers take nothing from each other."""
    with Bench() as one, Bench() as other:
        with one.tracker.span("a") as a, other.tracker.span("b") as b:
            one.clock.advance(1.0)
            other.clock.advance(1.0)
        assert joules(a.record) == joules(b.record) == pytest.approx(100.0)
        assert b.record.parent_id is None


def test_trackers_on_one_sampler_share():
    """On a common sampler the even split is over the spans of all of them."""
    with Bench() as bench:
        sink = MemorySink()
        second = Tracker(meters=bench.sampler, sinks=[sink])
        with bench.tracker.span("a") as a, second.span("b") as b:
            bench.clock.advance(1.0)
        second.close()
        assert joules(a.record) == joules(b.record) == pytest.approx(50.0)
        assert not bench.meter.closed


def test_a_log_handler_that_measures_does_not_hang(caplog):
    """A handler that opens a span itself, while a lost meter is told of, comes back."""

    class Measuring(logging.Handler):
        def emit(self, record):
            with bench.tracker.span("logging"):
                pass

    handler = Measuring()
    with Bench() as bench:
        logging.getLogger("carbontrack").addHandler(handler)
        try:
            with bench.tracker.span("a"):
                bench.meter.gone()
                bench.run(1.0)
        finally:
            logging.getLogger("carbontrack").removeHandler(handler)
    assert not bench.sampler.awake


@pytest.mark.parametrize(
    ("fact", "value", "named"),
    [
        ("id", "", "id=''"),
        ("component", "disk", "one of cpu, gpu, ram, other"),
        ("basis", "guessed", "one of measured, modelled, assumed"),
        ("resolution_s", None, "resolution_s=None"),
        ("relative_uncertainty", float("nan"), "relative_uncertainty=nan"),
        ("read_joules", 5.0, "read_joules=5.0"),
        ("high_j", 0.0, "has high_j only; it must have both low_j and high_j, or neither"),
        ("low", 0.5, "has low_j only"),
        ("ends", float("nan"), "low_j=nan; it must be joules, 0 or more"),
    ],
)
def test_a_meter_that_says_something_impossible_is_refused(fact, value, named):
    """Before anything is measured, with what it says and what it may say."""
    meter = FakeMeter(low=value) if fact == "low" else FakeMeter()
    if fact == "ends":
        meter.low_j = meter.high_j = value
    setattr(meter, fact, value)
    with pytest.raises(ConfigError, match=named):
        Tracker(meters=[meter])


def test_what_cannot_be_written_to_is_refused():
    """A path is no sink; the error says what is."""
    with pytest.raises(ConfigError, match="CsvSink"):
        Tracker(meters=[FakeMeter()], sinks=["runs.csv"])


def test_a_sink_with_write_alone_is_enough(caplog):
    """One without `close` takes records; that it cannot be closed is logged, and others are."""

    class WriteOnly:
        def __init__(self):
            self.records = []

        def write(self, record):
            self.records.append(record)

    only, other = WriteOnly(), MemorySink()
    with Tracker(meters=[FakeMeter()], sinks=[only, other]) as tracker, tracker.span("a"):
        pass
    assert [record.name for record in only.records] == ["a"]
    assert other.closed
    assert "did not close" in caplog.text


def test_a_dropped_tracker_ends_its_thread_and_leaves_the_meters_alone():
    """Its open block is written; the meters, which were handed in, serve another tracker."""
    meter, sink = FakeMeter(watts=10.0), MemorySink()
    tracker = Tracker(meters=[meter], sinks=[sink], interval_s=3600.0)
    before = set(threading.enumerate())
    contextvars.copy_context().run(tracker.span("open").open)
    (thread,) = set(threading.enumerate()) - before

    del tracker
    gc.collect()
    assert [(row.name, row.status) for row in sink.records] == [("open", "interrupted")]
    thread.join(60.0)
    assert not thread.is_alive()
    assert not meter.closed
    with Tracker(meters=[meter], sinks=[sink], interval_s=3600.0) as other, other.span("next"):
        pass
    assert sink.records[-1].cpu_kwh is not None
