"""An estimate with its interval, and how independent intervals combine."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, hypot, log, prod
from operator import truediv

from carbontrack.values import NamedTuple


class Interval(NamedTuple):
    """A best estimate with a low and a high end; the unit is in the variable's name.

    The ends can have different distances from the best estimate: 47, between 20 and 105.
    """

    best: float
    low: float
    high: float


def product(*factors: Interval) -> Interval:
    """The product of independent factors, none below 0.

    The errors of factors are ratios, so the logarithms of the ratios combine in quadrature, each
    side separately (JCGM 100:2008, GUM, 5.1.2, for the logarithm of the product):

        ln(best / low) = sqrt(sum of ln(best_i / low_i)^2), and correspondingly above

    A low end of 0 makes the product's low end 0. If a best estimate is 0, ratios are not defined,
    and the ends are the products of the ends.
    """
    bests, lows, highs = zip(*factors, strict=True)
    best, low = prod(bests), 0.0
    if best <= 0.0:
        return Interval(best, prod(lows), prod(highs))
    if 0.0 not in lows:
        low = best * exp(-hypot(*map(log, map(truediv, bests, lows))))
    return Interval(best, low, best * exp(hypot(*map(log, map(truediv, highs, bests)))))


def total(terms: Iterable[Interval]) -> Interval:
    """The sum of independent terms: half-widths combine in quadrature, each side separately.

    JCGM 100:2008, GUM, 5.1.2. The low end is never below 0.
    """
    parts = list(terms)
    best = sum(part.best for part in parts)
    below = hypot(*(part.best - part.low for part in parts))
    above = hypot(*(part.high - part.best for part in parts))
    return Interval(best, max(0.0, best - below), best + above)
