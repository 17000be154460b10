"""A timeline's energy is its span's, and it stays small, whatever happens to the meters."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.testing import FakeMeter
from carbontrack.tracking.timeline import MOST_BINS, Edge, PowerSeries, with_timeline
from carbontrack.units import kwh_from
from tests.support.keeping import KeepingBench

ACTION = st.one_of(
    st.tuples(st.just("tick"), st.floats(0.0, 5.0)),
    st.tuples(st.just("many"), st.integers(100, 900)),
    st.tuples(st.just("watts"), st.floats(0.0, 500.0)),
    st.tuples(st.just("fail"), st.integers(1, 6)),
    st.tuples(st.just("reset"), st.just(0)),
    st.tuples(st.just("gone"), st.just(0)),
    st.tuples(st.just("suspend"), st.floats(0.0, 100.0)),
    st.tuples(st.just("child"), st.just(0)),
    st.tuples(st.just("close"), st.just(0)),
    st.tuples(st.just("other"), st.just(0)),
    st.tuples(st.just("look"), st.just(0)),
)


class Story:
    """One root span, and what happens around it."""

    def __init__(self) -> None:
        self.meters = [FakeMeter("fake:cpu"), FakeMeter("fake:gpu", "gpu", watts=30.0)]
        self.bench = KeepingBench(self.meters)
        self.root = self.bench.tracker.span("root").open()
        self.inner = []

    def do(self, action, amount):
        """One step of it."""
        bench, meter = self.bench, self.meters[0]
        if action in ("tick", "many"):
            for _ in range(1 if action == "tick" else amount):
                bench.run(amount if action == "tick" else 1.0)
        elif action == "watts":
            bench.sampler.sample()
            meter.watts = amount
        elif action in ("fail", "reset", "gone"):
            getattr(meter, action)(*([amount] if action == "fail" else []))
        elif action == "suspend":
            bench.clock.suspend(amount)
        elif action == "child":
            self.inner.append((self.inner[-1] if self.inner else self.root).span("child").open())
        elif action == "close" and self.inner:
            self.inner.pop().close()
        elif action == "look":
            self.root.timeline()

    def end(self):
        """Close what is open, innermost first."""
        for span in reversed([self.root, *self.inner]):
            span.close()
        self.bench.tracker.close()  # else its thread would go on polling the clock
        return self.root


@settings(max_examples=120, deadline=None)
@given(program=st.lists(ACTION, max_size=25))
def test_the_curve_holds_the_spans_energy_to_the_last_bit(program):
    """Failed reads, resets, losses, suspends, thinning: the curve ends with the record's figure."""
    story = Story()
    for action, amount in program:
        story.do(action, amount)
    root = story.end()
    timeline = with_timeline(root)[1]
    for component in ("cpu", "gpu"):
        kwh = getattr(root.record, f"{component}_kwh")
        if kwh is None:
            assert component not in timeline.energy_j
            continue
        assert kwh_from(timeline.energy_j[component][-1]) == kwh
        rows = [row for row in root.timeline() if row.component == component]
        whole_j = timeline.energy_j[component][-1]
        # each difference of two counts may be rounded by half a unit of the larger one
        rounding_j = len(rows) * math.ulp(whole_j)
        assert abs(math.fsum(row.energy_j for row in rows) - whole_j) <= rounding_j
        under_curve_j = math.fsum(r.watts * r.observed_s for r in rows if r.watts is not None)
        assert under_curve_j == pytest.approx(whole_j, rel=1e-9, abs=1e-9)
        assert all(row.energy_j >= 0.0 for row in rows)


@settings(max_examples=120, deadline=None)
@given(program=st.lists(ACTION, max_size=25))
def test_bins_follow_each_other_and_stay_few(program):
    """From 0 to the span's end without a hole or an overlap, and never more than the limit."""
    story = Story()
    for action, amount in program:
        story.do(action, amount)
    root = story.end()
    edges_s = with_timeline(root)[1].edges_s
    assert len(edges_s) <= MOST_BINS + 1
    assert edges_s[0] == 0.0
    assert edges_s[-1] == root.record.duration_s
    assert list(edges_s) == sorted(edges_s)
    assert all(a < b for a, b in pairwise(edges_s[:-1]))


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.floats(0.001, 30.0), min_size=1, max_size=300),
    most=st.integers(4, 40),
)
def test_a_series_of_any_length_fits_its_bins(steps, most):
    """However unevenly its edges come, it keeps the first, the last and a limited number."""
    at_s, curve = 50.0, PowerSeries(Edge(50.0, (0.0,), (0.0,)), most_bins=most)
    for number, step_s in enumerate(steps):
        at_s += step_s
        curve.add(Edge(at_s, (float(number),), (at_s,)))
        assert len(curve.edges) <= most + 1
        assert curve.edges[-1] == Edge(at_s, (float(number),), (at_s,))
    assert curve.edges[0].at_s == 50.0
