"""What a loop will have used at its end, from what its first steps have used.

The first step is left out of the rate: caches, compilers and data that is loaded once make it
unlike the others; what it used counts, what it says of the others does not. The rest are taken for
draws from one distribution, whose mean drifts, and the interval is that for a sum of further draws.
The derivation stands in docs/explanation/forecast.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import hypot, pi, sqrt, tan
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95
FEWEST_FOR_CORRELATION = 6
"""Steps from which neighbours' likeness can be told from chance at all."""
LARGEST_CORRELATION = 0.9
RATE_DRIFT = 0.12
"""By how much the rate of what is to come may differ from that of what was, half-width, 95 %:
clocks, heat and neighbours change it slowly. Measured, on work that was the same each time: the
95th percentile over all of tests/data/noise.json, in windows of 50 rounds."""


class Step(NamedTuple):
    """One or more iterations that were looked at together, and what they used."""

    iterations: int
    amount: float


class Total(NamedTuple):
    """What the whole will have used; the bounds are None while nothing can be said of them."""

    amount: float
    low: float | None
    high: float | None


def forecast(steps: Sequence[Step], iterations: int) -> Total | None:
    """The whole loop's use, with its 95 % interval; None before the first step.

    Args:
        steps: what has been done so far, in order.
        iterations: how many there will be in all; if more have been done, none are to come.
    """
    if not steps:
        return None
    used = sum(step.amount for step in steps)
    left = max(0, iterations - sum(step.iterations for step in steps))
    if not left:
        return Total(used, used, used)
    known = steps[1:]
    count = sum(step.iterations for step in known) or steps[0].iterations
    mean = (sum(step.amount for step in known) if known else used) / count
    amount = used + left * mean
    if len(known) < 2:
        return Total(amount, None, None)
    variance = sum(one.iterations * (one.amount / one.iterations - mean) ** 2 for one in known)
    variance *= _inflation(known, mean) / (len(known) - 1)
    chance = student_t(len(known) - 1) * sqrt(variance * (left + left * left / count))
    half = hypot(chance, RATE_DRIFT * left * mean)
    return Total(amount, max(used, amount - half), amount + half)


def _inflation(steps: Sequence[Step], mean: float) -> float:
    """By how much likeness of neighbours widens the variance of a sum: (1 + r) / (1 - r)."""
    count = len(steps)
    if count < FEWEST_FOR_CORRELATION:
        return 1.0
    apart = [step.amount / step.iterations - mean for step in steps]
    whole = sum(one * one for one in apart)
    if whole <= 0.0:
        return 1.0
    found = sum(one * two for one, two in pairwise(apart)) / whole
    # its expectation is r - (1 + 3 r) / n (Marriott and Pope, Biometrika 41, 1954)
    found = (count * found + 1.0) / (count - 3.0)
    found = min(max(found, 0.0), LARGEST_CORRELATION)
    return (1.0 + found) / (1.0 - found)


def student_t(degrees: float, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's t; for 3 degrees and more to 0.2 %.

    Exact for 1 and 2 degrees; else the expansion 26.7.5 of Abramowitz and Stegun, Handbook of
    Mathematical Functions, 1964.
    """
    if degrees == 1:
        return tan(pi * confidence / 2.0)
    if degrees == 2:
        return confidence / sqrt((1.0 - confidence * confidence) / 2.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    terms = (
        (z**3 + z) / 4.0,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96.0,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384.0,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160.0,
    )
    return z + sum(term / float(degrees) ** power for power, term in enumerate(terms, 1))
