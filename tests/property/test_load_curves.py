"""The model of the processor, over every curve and any history: no count falls, none is lost."""

from __future__ import annotations

import csv
import io
from math import isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.interval import Interval
from carbontrack.meters.cpu_model import CpuModel
from carbontrack.meters.cpu_power import FAMILIES
from carbontrack.meters.load_curve import BEFORE_2010, LOADS, SINCE_2010, LoadCurve, curve_of
from carbontrack.system.files import package_text

RATIO = st.builds(
    lambda below, above: Interval(1.0, 1.0 / below, above),
    st.floats(1.0, 20.0),
    st.floats(1.0, 20.0),
)
"""How far off a design power is: up to twenty times, which is more than any list or family."""
NANOSECONDS = st.floats(0.0, 3.0).map(lambda seconds: round(seconds, 9))
"""A clock tells no shorter times."""
HISTORY = st.lists(
    st.tuples(
        NANOSECONDS,  # to the next read
        st.floats(-0.1, 1.5),  # how busy the threads were meanwhile, as was read
    ),
    max_size=40,
)


def curves_of_families() -> list[LoadCurve]:
    rows = csv.DictReader(io.StringIO(package_text(FAMILIES)))
    return [
        curve_of(int(row["year"])).widened(
            Interval(1.0, *(float(row[end]) / float(row["tdp_w_per_thread"]) for end in ENDS))
        )
        for row in rows
    ]


ENDS = ("low_w", "high_w")
CURVES = st.one_of(
    st.sampled_from([SINCE_2010, BEFORE_2010, *curves_of_families()]),
    st.builds(LoadCurve.widened, st.sampled_from([SINCE_2010, BEFORE_2010]), RATIO),
)


@settings(max_examples=300, deadline=None)
@given(curve=CURVES)
def test_each_straight_piece_prolonged_to_no_load_is_not_below_nothing(curve):
    """And none falls: so a count from it never does, whatever the load."""
    for ends in curve:
        for index in range(len(LOADS) - 1):
            slope = (ends[index + 1] - ends[index]) / (LOADS[index + 1] - LOADS[index])
            assert slope >= 0.0
            assert ends[index] - slope * LOADS[index] >= -1e-12
    assert all(low <= best <= high for best, low, high in zip(*curve, strict=True))


@settings(max_examples=300, deadline=None)
@given(
    curve=CURVES,
    history=HISTORY,
    threads=st.integers(1, 512),
    tdp_w=st.floats(0.1, 2000.0),
)
def test_no_count_falls_whatever_is_read(curve, history, threads, tdp_w):
    """Late readings, coarse CPU seconds, even ones that go back: no energy is taken away."""
    busy = [0.0]
    model = CpuModel(tdp_w, lambda: busy[0], threads, curve=curve)
    now_s, last = 0.0, (0.0, 0.0, 0.0)
    for seconds, load in history:
        now_s += seconds
        busy[0] += seconds * load * threads
        joules = model.read_joules(now_s)
        counts = joules, model.low_j, model.high_j
        assert model.low_j <= joules <= model.high_j
        assert all(now_j >= before_j for now_j, before_j in zip(counts, last, strict=True))
        for count_j, ends in zip(counts, curve, strict=True):
            assert count_j <= tdp_w * ends[-1] * now_s * (1.0 + 1e-9)
        last = counts


@settings(max_examples=300, deadline=None)
@given(
    curve=CURVES,
    history=st.lists(st.tuples(st.floats(0.01, 3.0), st.floats(0.0, 1.0)), min_size=1, max_size=40),
    threads=st.integers(1, 512),
)
def test_reading_in_between_takes_nothing_away(curve, history, threads):
    """Time and busy time only go on: no count is above, or falls behind, its own curve's ends.

    And without any help of a maximum: each step is the curve's, from its own anchor.
    """
    busy = [0.0]
    model = CpuModel(100.0, lambda: busy[0], threads, curve=curve)
    model.read_joules(0.0)
    now_s, since_s, worked_s, before = 0.0, 0.0, 0.0, (0.0, 0.0, 0.0)
    for seconds, load in history:
        now_s += seconds
        busy[0] += seconds * load * threads
        worked_s += seconds * load
        joules = model.read_joules(now_s)
        counts = joules, model.low_j, model.high_j
        length_s = now_s - since_s
        wanted = [100.0 * share * length_s for share in curve.at(worked_s / length_s)]
        for count_j, before_j, wanted_j in zip(counts, before, wanted, strict=True):
            assert isclose(count_j - before_j, wanted_j, rel_tol=1e-6, abs_tol=1e-6)
        if length_s >= 1.0:
            since_s, worked_s, before = now_s, 0.0, counts


def test_a_wider_design_power_makes_a_wider_curve():
    """By ratios, in quadrature of their logarithms: nothing to add leaves the curve as it is."""
    same = SINCE_2010.widened(Interval(1.0, 1.0, 1.0))
    for ends, before in zip(same, SINCE_2010, strict=True):
        assert ends == pytest.approx(before)
    wider = SINCE_2010.widened(Interval(1.0, 0.5, 2.0))
    assert wider.best == SINCE_2010.best
    assert all(now < then for now, then in zip(wider.low, SINCE_2010.low, strict=True))
    assert all(now > then for now, then in zip(wider.high, SINCE_2010.high, strict=True))
