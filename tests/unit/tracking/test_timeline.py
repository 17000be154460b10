"""Power over time: what is kept, what a gap looks like, and that nothing is kept unasked."""

from __future__ import annotations

import logging
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest

from carbontrack.meters.meter import MeterSet
from carbontrack.testing import FakeMeter
from carbontrack.tracking.noop import NoOpSpan
from carbontrack.tracking.part import MeterFacts
from carbontrack.tracking.timeline import (
    MOST_BINS,
    Edge,
    PowerSeries,
    timeline_object,
    timeline_of,
    with_timeline,
)
from carbontrack.units import JOULES_PER_KWH
from tests.support.bench import Bench
from tests.support.keeping import KeepingBench


def rows_of(span, component="cpu"):
    return [row for row in span.timeline() if row.component == component]


def test_each_tick_is_a_bin_with_its_power():
    """100 W, then 20 W: that is what the bins say, whose edges are the ticks."""
    with KeepingBench() as bench:
        with bench.tracker.span("a") as run:
            bench.run(2.0, ticks=2)
            bench.meter.watts = 20.0
            bench.run(2.0, ticks=2)
            bench.clock.advance(0.5)
        rows = rows_of(run)
        assert [row.watts for row in rows] == pytest.approx([100.0, 100.0, 20.0, 20.0, 20.0])
        assert [(row.start_s, row.end_s) for row in rows] == [
            (0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0), (4.0, 4.5),
        ]  # fmt: skip
        assert bench.timelines.kept == [timeline_object(*with_timeline(run))]


def test_a_silent_meter_leaves_a_gap_and_its_answer_carries_the_energy():
    """Two ticks without an answer have no watts; the third has the mean of all three seconds."""
    with KeepingBench() as bench:
        with bench.tracker.span("a") as run:
            bench.run(1.0)
            bench.meter.fail(2)
            bench.run(2.0, ticks=2)
            bench.run(1.0)
        rows = rows_of(run)
        assert [row.watts for row in rows[:4]] == [100.0, None, None, pytest.approx(100.0)]
        assert rows[3].observed_s == pytest.approx(3.0)
        assert sum(row.energy_j for row in rows) == pytest.approx(400.0)


def test_what_a_reset_swallowed_is_a_gap_not_a_zero():
    """A dropped step was not observed, so no power is claimed for it."""
    with KeepingBench() as bench:
        with bench.tracker.span("a") as run:
            bench.run(1.0)
            bench.meter.reset()
            bench.run(1.0)
            bench.run(1.0)
        assert [row.watts for row in rows_of(run)[:3]] == [100.0, None, 100.0]


def test_a_meter_that_stands_in_goes_on_with_the_curve():
    """The substitute's watts are the component's while the first meter is silent."""
    spare = FakeMeter("model:cpu", watts=10.0, basis="modelled")
    first = FakeMeter()
    with KeepingBench(MeterSet((first,), substitutes={"cpu": lambda: spare})) as bench:
        with bench.tracker.span("a") as run:
            bench.run(2.0, ticks=2)
            first.gone()
            bench.run(6.0, ticks=6)
        watts = [row.watts for row in rows_of(run)]
        assert watts[:2] == [100.0, 100.0]
        assert watts[-3:] == pytest.approx([10.0, 10.0, 10.0])
        total_j = sum(row.energy_j for row in rows_of(run))
        assert total_j == pytest.approx(run.record.cpu_kwh * JOULES_PER_KWH)


def test_a_long_run_keeps_even_bins():
    """A day of ticks of a second is a few hundred bins, each about as wide as the next."""
    curve = PowerSeries(Edge(0.0, (0.0,), (0.0,)))
    for second in range(1, 86_401):
        curve.add(Edge(float(second), (second * 5.0,), (float(second),)))
    widths = [b.at_s - a.at_s for a, b in pairwise(curve.edges[:-1])]
    assert MOST_BINS / 4 < len(curve.edges) <= MOST_BINS + 1
    assert max(widths) <= 2.5 * min(widths)


def test_a_span_under_a_counters_refresh_has_the_records_figure():
    """Nothing could be counted, so the curve shows the power that the record was made of."""
    with KeepingBench([FakeMeter(resolution_s=0.5)]) as bench:
        with bench.tracker.span("warm"):
            bench.run(3.0, ticks=3)
        with bench.tracker.span("short") as run:
            bench.clock.advance(0.1)
        (row,) = rows_of(run)
        assert row.energy_j == run.record.cpu_kwh * JOULES_PER_KWH
        assert row.watts == pytest.approx(100.0)


def test_energy_that_no_count_shows_is_spread_over_the_time():
    """A figure without any count behind it is drawn as constant power."""
    edges = [Edge(5.0, (), ()), Edge(6.0, (0.0,), (0.0,)), Edge(9.0, (0.0,), (0.0,))]
    meters = [MeterFacts("fake:cpu", "cpu", "modelled", 9.0, 0.0, is_substitute=False)]
    figures = SimpleNamespace(
        cpu_kwh=40.0 / JOULES_PER_KWH, gpu_kwh=None, ram_kwh=None, other_kwh=None
    )
    rows = timeline_of(edges, meters, figures).rows()
    assert [row.watts for row in rows] == pytest.approx([10.0, 10.0])


def test_an_open_span_shows_what_there_is_so_far():
    """Rows reach up to the present, from any point on."""
    with KeepingBench() as bench, bench.tracker.span("a") as run:
        bench.run(3.0, ticks=3)
        bench.clock.advance(0.25)
        assert rows_of(run)[-1].end_s == 3.25
        assert sum(row.energy_j for row in rows_of(run)) == pytest.approx(325.0)


def test_children_and_discarded_spans_keep_none():
    """One timeline for each root that is written."""
    with KeepingBench() as bench:
        with bench.tracker.span("a") as run:
            with run.span("b") as child:
                bench.run(2.0, ticks=2)
            assert child.timeline() == []
        bench.tracker.span("c").open().discard()
        assert [timeline["name"] for timeline in bench.timelines.kept] == ["a"]


def test_a_timeline_that_cannot_be_written_is_said_and_stops_nothing(caplog):
    """The record is written all the same, and the log tells once what was lost."""
    with KeepingBench() as bench, caplog.at_level(logging.WARNING, "carbontrack"):
        bench.timelines.broken = True
        for _ in range(2):
            with bench.tracker.span("a"):
                bench.clock.advance(1.0)
        assert len(bench.records) == 2
        assert caplog.text.count("no space left") == 1


def test_unasked_nothing_is_kept():
    """Without the setting there is no series, no listener and no row."""
    with Bench() as bench:
        with bench.tracker.span("a") as run:
            bench.run(3.0, ticks=3)
        assert run.power_series is None
        assert run.timeline() == []
        assert len(bench.sampler.tick_listeners) == 0


def test_unasked_nothing_is_loaded(tmp_path):
    """A program that wants no timeline does not even load what would keep one."""
    code = (
        "import sys, carbontrack\n"
        "with carbontrack.track('a', region='FR', output='a.csv', state_dir='.'): pass\n"
        "print('carbontrack.tracking.timeline' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_a_disabled_span_has_an_empty_timeline():
    """CARBONTRACK_DISABLE takes the figures away, not the method."""
    with NoOpSpan("a") as run:
        assert run.timeline() == []
    assert run.timeline() == []
