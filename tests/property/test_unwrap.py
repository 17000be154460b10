"""Unwrapping equals the truth for every curve that is read in time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.meters.counter import Counter, Gauge

STEPS = st.lists(st.tuples(st.floats(0.001, 2.0), st.floats(0.0, 250.0)), max_size=60)


@given(start_j=st.floats(0.0, 999.0), steps=STEPS)
def test_unwrap_equals_truth(start_j, steps):
    """A counter of 1 kJ that wraps again and again gives the true sum."""
    counter = Counter(1000.0, 400.0)
    counter.advance(start_j, 0.0)
    now_s, true_j = 0.0, 0.0
    for seconds, power_w in steps:
        now_s += seconds
        true_j += power_w * seconds
        total_j = counter.advance((start_j + true_j) % 1000.0 or 1e-9, now_s)
        assert total_j == pytest.approx(true_j, abs=1e-6)
    assert counter.fault_counts == {}


@given(steps=STEPS, cuts=st.integers(1, 5))
def test_gauge_is_additive_over_any_split_of_constant_power(steps, cuts):
    """Reading more often does not change the energy of a constant power."""
    coarse, fine = Gauge(300.0), Gauge(300.0)
    now_s = 0.0
    coarse.advance(120.0, now_s)
    fine.advance(120.0, now_s)
    for seconds, _ in steps:
        for cut in range(1, cuts + 1):
            fine.advance(120.0, now_s + seconds * cut / cuts)
        now_s += seconds
        coarse.advance(120.0, now_s)
    assert fine.total_j == pytest.approx(coarse.total_j)
    assert coarse.total_j == pytest.approx(120.0 * now_s)
