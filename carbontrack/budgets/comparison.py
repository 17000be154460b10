"""Now against a saved baseline: the ratio of two figures, and how far it may be off.

A test's figure differs from one process to the next, though nothing in it has changed: where the
system puts code and data decides which of them meet in a cache or a branch predictor (Mytkowicz
et al., "Producing Wrong Data Without Doing Anything Obviously Wrong!", ASPLOS 2009). Rounds within
a process share that, and cannot show it. So a figure is known by its processes, and what one
process cannot show is taken from recordings. The derivation is in docs/explanation/comparing.md.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from carbontrack.budgets.metric import Statistic
from carbontrack.forecast import student_t

RESAMPLES = 1000
FEWEST_ROUNDS = 3
"""With fewer rounds on either side an interval cannot be known, and nothing is surely over."""
NEW, TOO_SMALL, ZERO = "new", "too small to compare", "the baseline is zero"
"""Notes by which the gate tells what can hide a change from what cannot."""
PRIOR_DEGREES = 5.7
"""How many degrees of freedom the recorded spread among processes is worth beside what is seen."""

Rounds = Sequence[float]
Processes = Sequence[Rounds]
"""The rounds of a test, process by process."""


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
    now: Processes,
    then: Processes,
    *,
    statistic: Statistic,
    seed: str,
    spread: float,
    machines_differ_by: float = 0.0,
) -> Comparison:
    """The ratio of two figures and its 95 % interval.

    Each side's figure is the mean of its processes' figures. Three things widen the interval, in
    quadrature of logarithms: the spread among processes; where a side has one process only, that
    of its rounds; and what two machines may differ by.

    Args:
        now: rounds in joules, process by process; at least one.
        then: the same of the baseline.
        statistic: makes a figure of the rounds of a process.
        seed: of the draws, so that a verdict can be repeated.
        spread: relative standard deviation of a figure among processes, as recorded.
        machines_differ_by: relative half-width, 95 %, where the sides are two machines'.
    """
    figures, base = [statistic(rounds) for rounds in now], [statistic(rounds) for rounds in then]
    if min(base) <= 0.0:
        return Comparison(note=ZERO)
    ratio = fmean(figures) / fmean(base)
    if min(sum(map(len, now)), sum(map(len, then))) < FEWEST_ROUNDS:
        return Comparison(ratio, note=f"no interval with fewer than {FEWEST_ROUNDS} rounds")
    low, high = _of_rounds(now, then, statistic, random.Random(seed))  # noqa: S311 - no secrets
    apart = math.hypot(_of_processes(figures, base, spread), machines_differ_by)
    return Comparison(
        ratio, ratio * math.exp(-math.hypot(low, apart)), ratio * math.exp(math.hypot(high, apart))
    )


def _of_processes(figures: Rounds, base: Rounds, spread: float) -> float:
    """Half-width of the ratio's logarithm for the spread among processes.

    The spread that is seen, pooled over both sides, is moderated by the recorded one, which counts
    as `PRIOR_DEGREES` further degrees of freedom (Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004).
    """
    degrees = PRIOR_DEGREES + len(figures) + len(base) - 2
    squares = sum(_relative_squares(side) for side in (figures, base))
    variance = (PRIOR_DEGREES * spread**2 + squares) / degrees
    return student_t(degrees) * math.sqrt(variance * (1.0 / len(figures) + 1.0 / len(base)))


def _relative_squares(side: Rounds) -> float:
    mean = fmean(side)
    return sum((one / mean - 1.0) ** 2 for one in side) if mean > 0.0 else 0.0


def _of_rounds(
    now: Processes, then: Processes, statistic: Statistic, draw: random.Random
) -> tuple[float, float]:
    """How far below and above the ratio's logarithm may lie because of the rounds of one process.

    Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13):
    rounds are drawn again with replacement 1,000 times; the ends are the 2.5th and 97.5th
    percentiles. With two processes and more their spread shows the rounds' as well.
    """

    def again(side: Processes) -> float:
        if len(side) > 1:
            return 1.0
        return statistic(draw.choices(side[0], k=len(side[0]))) / statistic(side[0])

    if len(now) > 1 < len(then) or statistic(now[0]) <= 0.0:
        return 0.0, 0.0
    drawn = sorted(again(now) / again(then) for _ in range(RESAMPLES))
    low, high = drawn[round(0.025 * RESAMPLES)], drawn[round(0.975 * RESAMPLES) - 1]
    return max(0.0, -math.log(max(low, 1e-9))), max(0.0, math.log(high))
