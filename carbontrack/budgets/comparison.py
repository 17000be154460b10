"""Now against a saved baseline: the ratio of two figures, with an interval by bootstrap."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from carbontrack.budgets.metric import Statistic

RESAMPLES = 1000
FEWEST_ROUNDS = 3
"""With fewer rounds on either side an interval cannot be known, and nothing fails."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a test's figure stands to its baseline.

    Attributes:
        ratio: now over then; 1.2 is 20 % more. None where there is nothing to compare with.
        low, high: 95 % interval of the ratio; None with fewer than three rounds on a side.
        note: why there is no ratio, or no interval.
    """

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    note: str | None = None

    @property
    def text(self) -> str:
        """The ratio as people say it: "+21.3 % (18.9 to 24.0)"."""
        if self.ratio is None:
            return self.note or "not compared"
        change = f"{(self.ratio - 1.0) * 100.0:+.1f} %"
        if self.low is None or self.high is None:
            return f"{change} ({self.note})" if self.note else change
        return f"{change} ({(self.low - 1.0) * 100.0:+.1f} to {(self.high - 1.0) * 100.0:+.1f})"


def compare(
    now: Sequence[float],
    then: Sequence[float],
    *,
    statistic: Statistic,
    seed: str,
    machines_differ_by: float = 0.0,
) -> Comparison:
    """The ratio of two figures and its 95 % interval.

    Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13):
    both sides' rounds are drawn again with replacement 1,000 times; the interval is that of the
    ratios' 2.5th and 97.5th percentiles. The draws are seeded, so a verdict can be repeated.
    `machines_differ_by` widens it, in quadrature, by what two machines may differ by.
    """
    base = statistic(then)
    if base <= 0.0:
        return Comparison(note="the baseline is zero")
    ratio = statistic(now) / base
    if min(len(now), len(then)) < FEWEST_ROUNDS:
        return Comparison(ratio, note=f"no interval with fewer than {FEWEST_ROUNDS} rounds")
    draw = random.Random(seed)  # noqa: S311 - statistics, not secrets
    ratios = sorted(
        statistic(draw.choices(now, k=len(now))) / statistic(draw.choices(then, k=len(then)))
        for _ in range(RESAMPLES)
    )
    low, high = ratios[round(0.025 * RESAMPLES)], ratios[round(0.975 * RESAMPLES) - 1]
    apart = ratio * machines_differ_by
    return Comparison(
        ratio,
        max(0.0, ratio - math.hypot(ratio - low, apart)),
        ratio + math.hypot(high - ratio, apart),
    )
