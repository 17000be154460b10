"""An estimate with the interval around it, and how intervals of independent things combine."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, hypot, inf, log
from typing import NamedTuple


class Interval(NamedTuple):
    """A best estimate with a low and a high end; the unit is in the name of what holds it.

    The ends may lie at different distances: 47, between 20 and 105.
    """

    best: float
    low: float
    high: float


def product(*factors: Interval) -> Interval:
    """The product of independent factors, none below 0.

    Factors are off by ratios, so that the logarithms of the ratios combine in quadrature, each side
    for itself (JCGM 100:2008, GUM, 5.1.2, for the logarithm of the product):

        ln(best / low) = sqrt(sum of ln(best_i / low_i)^2), and likewise above

    A low end of 0 makes the product's low end 0. Where a best estimate is 0, ratios say nothing,
    and the ends are the products of the ends.
    """
    best = low = high = 1.0
    for factor in factors:
        best, low, high = best * factor.best, low * factor.low, high * factor.high
    if best <= 0.0:
        return Interval(best, low, high)
    below = hypot(*(_log_ratio(factor.best, factor.low) for factor in factors))
    above = hypot(*(_log_ratio(factor.high, factor.best) for factor in factors))
    return Interval(best, best * exp(-below), best * exp(above))


def _log_ratio(larger: float, smaller: float) -> float:
    return log(larger / smaller) if smaller > 0.0 else inf


def total(terms: Iterable[Interval]) -> Interval:
    """The sum of independent terms: half-widths combine in quadrature, each side for itself.

    JCGM 100:2008, GUM, 5.1.2. The low end is never below 0.
    """
    parts = list(terms)
    best = sum(part.best for part in parts)
    below = hypot(*(part.best - part.low for part in parts))
    above = hypot(*(part.high - part.best for part in parts))
    return Interval(best, max(0.0, best - below), best + above)
