"""The product of independent factors with intervals around them."""

from __future__ import annotations

from math import exp, hypot, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.interval import Interval, product

FACTOR = st.builds(
    lambda best, below, above: Interval(best, best / below, best * above),
    st.floats(1e-6, 1e6),
    st.floats(1.0, 1e3),
    st.floats(1.0, 1e3),
)
SHARP = st.floats(1e-6, 1e6).map(lambda best: Interval(best, best, best))


@given(st.lists(FACTOR, min_size=1, max_size=5))
def test_a_product_lies_between_its_widest_factor_and_both_ends_at_once(factors):
    """Its ends are at least as far off, by ratio, as any factor's, and less than all together."""
    found = product(*factors)
    best = low = high = 1.0
    for factor in factors:
        best, low, high = best * factor.best, low * factor.low, high * factor.high
    close = 1.0 + 1e-9
    assert found.best == pytest.approx(best)
    assert low / close <= found.low <= found.best * close
    assert found.best / close <= found.high <= high * close
    assert found.low <= best * min(one.low / one.best for one in factors) * close
    assert found.high >= best * max(one.high / one.best for one in factors) / close


@given(FACTOR, SHARP)
def test_a_sharp_factor_only_scales(factor, sharp):
    """What has no interval adds none."""
    scaled = tuple(end * sharp.best for end in factor)
    assert product(factor, sharp) == pytest.approx(scaled)


@given(FACTOR, FACTOR)
def test_ratios_combine_in_quadrature_of_their_logarithms(one, other):
    """Each side for itself."""
    found = product(one, other)
    below = hypot(log(one.best / one.low), log(other.best / other.low))
    above = hypot(log(one.high / one.best), log(other.high / other.best))
    assert found.low == pytest.approx(one.best * other.best * exp(-below))
    assert found.high == pytest.approx(one.best * other.best * exp(above))


@given(FACTOR)
def test_nothing_at_one_end_is_nothing_in_the_product(factor):
    """And where a best estimate is 0 the ends are the products of the ends."""
    assert product(factor, Interval(1.0, 0.0, 2.0)).low == 0.0
    nothing = product(factor, Interval(0.0, 0.0, 2.0))
    assert nothing == (0.0, 0.0, factor.high * 2.0)
    assert product(Interval(5e-324, 5e-324, 1e308), factor).low >= 0.0
