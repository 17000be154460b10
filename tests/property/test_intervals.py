"""The product of independent factors with intervals around them."""

from __future__ import annotations

import random
from math import exp, hypot, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.interval import Interval, product
from carbontrack.tracking.part import MeterFacts, Part, interval_j

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


SIGMA_90 = 1.6449
"""Half-width of a normal distribution's 90 % interval, in standard deviations."""


def drawn(interval, chance):
    """A value that lies within the interval in nine of ten cases, below and above it in one each.

    Its ratio to the best estimate is log-normal, on either side as wide as the end says.
    """
    off = chance.gauss(0.0, 1.0) / SIGMA_90
    end = interval.high / interval.best if off > 0.0 else interval.best / interval.low
    return interval.best * end**off


@pytest.mark.parametrize(
    ("energy", "grid"),
    [
        (Interval(47.0, 20.0, 105.0), Interval(41.4, 24.9, 69.1)),  # a model, France
        (Interval(12.0, 1.0, 36.0), Interval(41.4, 24.9, 69.1)),  # an idle model
        (Interval(100.0, 93.0, 107.0), Interval(445.0, 45.0, 720.0)),  # a counter, the world
        (Interval(47.0, 20.0, 105.0), Interval(300.0, 270.0, 330.0)),
    ],
)
def test_a_product_holds_as_often_as_its_factors_do(energy, grid):
    """Simulated with ratios that are off by as much as the ends say, in nine of ten cases.

    Lowest by lowest to highest by highest holds more often, where both are off by alike amounts.
    """
    chance = random.Random(16)
    truths = [(drawn(energy, chance), drawn(grid, chance)) for _ in range(20_000)]
    found = product(energy, grid)
    inside = sum(found.low <= e * g <= found.high for e, g in truths) / len(truths)
    assert 0.88 <= inside <= 0.92
    low, high = energy.low * grid.low, energy.high * grid.high
    assert sum(low <= e * g <= high for e, g in truths) / len(truths) > inside
    assert found.high - found.low < high - low


@pytest.mark.parametrize(
    "parts",
    [
        [(47.0, 20.0, 105.0)],  # a processor at half load
        [(47.0, 20.0, 105.0), (9.6, 2.9, 38.4)],  # and memory
        [(12.0, 1.0, 36.0), (9.6, 2.9, 38.4)],  # at idle
        [(82.0, 40.0, 140.0), (9.6, 2.9, 38.4), (300.0, 285.0, 315.0)],  # and a board, measured
    ],
)
def test_a_record_of_several_meters_holds_as_often_as_each_of_them(parts):
    """The sides of lopsided intervals, combined each for itself: within five points."""
    chance = random.Random(16)
    one_of_each = [
        Part(MeterFacts(f"kind{n}:a", "cpu", "modelled", 0.0, 0.0, is_substitute=False), best,
             "modelled", best, (low, high))
        for n, (best, low, high) in enumerate(parts)
    ]  # fmt: skip
    found = interval_j(one_of_each, 1e9)
    ends = [Interval(*part) for part in parts]
    sums = [sum(drawn(part, chance) for part in ends) for _ in range(20_000)]
    inside = sum(found.low <= joules <= found.high for joules in sums) / len(sums)
    assert abs(inside - 0.9) <= 0.05
