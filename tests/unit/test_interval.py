"""Intervals: products by ratios, totals by differences, each side for itself.

`tests/property/test_intervals.py` has what holds for all products.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.interval import Interval, product, total

SIZES = st.floats(1e-9, 1e9)
RATIOS = st.floats(1.0, 1e3)


@st.composite
def intervals(draw: st.DrawFn, *, from_zero: bool = False) -> Interval:
    """A best estimate between two ends, by ratios; a low end of 0 where asked for."""
    best, below, above = draw(SIZES), draw(RATIOS), draw(RATIOS)
    low = 0.0 if from_zero and draw(st.booleans()) else best / below
    return Interval(best, low, best * above)


LISTS = st.lists(intervals(from_zero=True), min_size=1, max_size=6)


def inside(found: Interval) -> bool:
    """The best estimate lies between the ends, none of which is below 0."""
    return 0.0 <= found.low <= found.best <= found.high


def test_a_product_and_a_total_worked_by_hand() -> None:
    """The ends of a product are 2^5 of the best, those of a total 5 away: 3, 4 and 5."""
    narrow, wide = Interval(1.0, 2.0**-3, 2.0**3), Interval(1.0, 2.0**-4, 2.0**4)
    assert product(narrow, wide) == pytest.approx((1.0, 2.0**-5, 2.0**5))
    left, right = Interval(10.0, 7.0, 13.0), Interval(20.0, 16.0, 24.0)
    assert total([left, right]) == pytest.approx((30.0, 25.0, 35.0))


def test_each_side_has_its_own_width() -> None:
    """A factor that is certain on one side leaves the other's end of that side alone."""
    above, below = Interval(2.0, 2.0, 6.0), Interval(5.0, 1.0, 5.0)
    assert product(above, below) == pytest.approx((10.0, 2.0, 30.0))
    assert total([above, below]) == pytest.approx((7.0, 3.0, 11.0))


def test_nothing_at_all() -> None:
    """A sum of no terms is 0, without doubt."""
    assert total([]) == (0.0, 0.0, 0.0)


@given(intervals(from_zero=True))
def test_one_alone_is_itself(one: Interval) -> None:
    """And a factor that is exactly 1, or a term that is exactly 0, changes nothing."""
    assert product(one) == pytest.approx(one)
    assert product(one, Interval(1.0, 1.0, 1.0)) == pytest.approx(one)
    assert total([one]) == pytest.approx(one, abs=1e-12 * one.high)  # a low end cancels
    assert total([one, Interval(0.0, 0.0, 0.0)]) == pytest.approx(one, abs=1e-12 * one.high)


@given(LISTS)
def test_a_total_is_no_wider_than_the_corners(terms: list[Interval]) -> None:
    """Nor narrower than its widest term."""
    found = total(terms)
    best, low, high = (math.fsum(ends) for ends in zip(*terms, strict=True))
    slack = 1e-9 * high
    assert found.best == pytest.approx(best)
    assert inside(found)
    assert low - slack <= found.low
    assert found.high <= high + slack
    for term in terms:
        assert best - found.low >= term.best - term.low - slack
        assert found.high - best >= term.high - term.best - slack


@given(LISTS, st.floats(1e-3, 1e3))
def test_units_do_not_matter(parts: list[Interval], scale: float) -> None:
    """In joules or in kWh, the same interval."""
    scaled = [Interval(*(scale * end for end in part)) for part in parts]
    expected = tuple(scale * end for end in total(parts))
    assert total(scaled) == pytest.approx(expected, abs=1e-12 * expected[2])  # a low end cancels
    whole = product(scaled[0], *parts[1:])
    assert whole == pytest.approx(tuple(scale * end for end in product(*parts)))


@given(LISTS, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(parts: list[Interval], random: object) -> None:
    """Nor in which steps they are combined, as long as no low end is cut at 0."""
    shuffled = sorted(parts, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert product(*shuffled) == pytest.approx(product(*parts))
    expected = total(parts)
    rounding = 1e-12 * expected.high  # a low end cancels
    assert total(shuffled) == pytest.approx(expected, abs=rounding)
    assert product(product(*parts[:1]), *parts[1:]) == pytest.approx(product(*parts))
    assert total([total(parts[:1]), *parts[1:]]) == pytest.approx(expected, abs=rounding)


@pytest.mark.parametrize("grid", [Interval(330.0, 280.0, 390.0), Interval(40.0, 25.0, 70.0)])
def test_ninety_in_a_hundred_stay_ninety(grid: Interval) -> None:
    """Of lognormal figures whose ends are the 5th and 95th percentile: products, and totals."""
    rng = np.random.default_rng(16)
    cpu, ram = Interval(47.0, 20.0, 105.0), Interval(9.6, 2.9, 38.0)

    def drawn(around: Interval) -> np.ndarray:
        normal = rng.standard_normal(50_000) / 1.6449
        return around.low * (around.high / around.low) ** ((1.0 + normal) / 2.0)

    watts, grams = total([cpu, ram]), product(total([cpu, ram]), grid)
    true_w = drawn(cpu) + drawn(ram)
    true_g = true_w * drawn(grid)
    for found, truth in ((watts, true_w), (grams, true_g)):
        assert abs(np.mean((truth >= found.low) & (truth <= found.high)) - 0.90) <= 0.03
