"""Forecast of a loop's total energy and emissions from the steps measured so far.

The first step is excluded from the mean per iteration, since caches, compilers and loading of data
make it unlike the others; its use still counts in the total. The others are treated as draws from
one distribution whose mean drifts, and the interval is a prediction interval for the sum of the
remaining draws. The derivation is in docs/explanation/forecast.md.

`forecast` is the statistics; `LoopCourse` collects the steps of a running loop from its records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import hypot, pi, sqrt, tan
from statistics import NormalDist

from carbontrack.record import Record
from carbontrack.tracking.budget import Budget, Verdict
from carbontrack.units import JOULES_PER_KWH, format_grams, format_joules, format_watts
from carbontrack.values import NamedTuple

CONFIDENCE = 0.95
FEWEST_FOR_CORRELATION = 6
"""The fewest steps from which the autocorrelation can be estimated."""
LARGEST_CORRELATION = 0.9
RATE_DRIFT = 0.12
"""Relative half-width, 95 %, of the difference between the future and the past mean: CPU clocks,
temperature and other programs change it slowly. Measured on identical work: the 95th percentile
over all of tests/data/noise.json, in windows of 50 rounds."""


class LoopStep(NamedTuple):
    """One or more iterations that were measured together, and what they used."""

    iterations: int
    amount: float


class LoopTotal(NamedTuple):
    """The forecast of a loop's total; the bounds are None while they cannot be estimated."""

    amount: float
    low: float | None
    high: float | None


def forecast(steps: Sequence[LoopStep], iterations: int) -> LoopTotal | None:
    """Forecast the total of a loop, with its 95 % interval; None before the first step.

    Args:
        steps: the steps so far, in order.
        iterations: the total number of iterations; if more have been done, none remain.
    """
    if not steps:
        return None
    used = sum(step.amount for step in steps)
    left = max(0, iterations - sum(step.iterations for step in steps))
    if not left:
        return LoopTotal(used, used, used)
    known = steps[1:]
    count = sum(step.iterations for step in known) or steps[0].iterations
    mean = (sum(step.amount for step in known) if known else used) / count
    amount = used + left * mean
    if len(known) < 2:
        return LoopTotal(amount, None, None)
    variance = sum(one.iterations * (one.amount / one.iterations - mean) ** 2 for one in known)
    variance *= _inflation(known, mean) / (len(known) - 1)
    chance = student_t(len(known) - 1) * sqrt(variance * (left + left * left / count))
    half = hypot(chance, RATE_DRIFT * left * mean)
    return LoopTotal(amount, max(used, amount - half), amount + half)


def _inflation(steps: Sequence[LoopStep], mean: float) -> float:
    """The factor by which autocorrelation r widens the variance of a sum: (1 + r) / (1 - r)."""
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
    """The two-sided quantile of Student's t; for 3 degrees of freedom and more within 0.2 %.

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


MOST_STEPS = 512
"""The largest number of steps kept; beyond it, adjacent steps are merged in pairs."""
_WATTS_S = 1.0
"""The shortest time over which the shown power is averaged."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast of a loop's total energy and emissions, from its steps so far.

    The 95 % interval is that of the extrapolation: where the record's best estimate will be at the
    end. The uncertainty of the meters is in the record's own interval.

    Attributes:
        energy_kwh, energy_low_kwh, energy_high_kwh: total energy; None where it is unknown.
        emissions_g, emissions_low_g, emissions_high_g: total emissions; None where unknown.
    """

    energy_kwh: float | None = None
    energy_low_kwh: float | None = None
    energy_high_kwh: float | None = None
    emissions_g: float | None = None
    emissions_low_g: float | None = None
    emissions_high_g: float | None = None

    @property
    def text(self) -> str:
        """In words: "6.10 g (5.80 to 6.50 g) in total"; empty where nothing is known."""
        if self.emissions_g is not None:
            found = self.emissions_g, self.emissions_low_g, self.emissions_high_g
            return _in_total(found, format_grams)
        if self.energy_kwh is not None:
            bounds = self.energy_kwh, self.energy_low_kwh, self.energy_high_kwh
            joules = tuple(None if kwh is None else kwh * JOULES_PER_KWH for kwh in bounds)
            return _in_total(joules, format_joules)
        return ""


class LoopCourse:
    """The steps of a running loop, its forecast and its power, from successive records."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.forecast: Forecast | None = None
        self.watts: float | None = None
        self._steps: dict[str, list[LoopStep]] = {"energy_kwh": [], "emissions_g": []}
        self._before: Record | None = None
        self._watts_from: Record | None = None

    def take(self, record: Record, iterations: int) -> None:
        """Add the record after `iterations` more iterations."""
        for name, steps in self._steps.items():
            now, then = getattr(record, name), getattr(self._before, name, None) or 0.0
            if now is not None:
                steps.append(LoopStep(iterations, now - then))
            if len(steps) > MOST_STEPS:
                steps[:] = [
                    LoopStep(one.iterations + two.iterations, one.amount + two.amount)
                    for one, two in zip(steps[::2], steps[1::2], strict=False)
                ] + (steps[-1:] if len(steps) % 2 else [])
        self._before = record
        self._follow_watts(record)
        if self.total is not None:
            columns: dict[str, float | None] = {}
            for name, steps in self._steps.items():
                head, unit = name.rsplit("_", 1)
                whole = forecast(steps, self.total) or LoopTotal(0.0, None, None)
                if steps:
                    columns |= {name: whole.amount, f"{head}_low_{unit}": whole.low}
                    columns[f"{head}_high_{unit}"] = whole.high
            self.forecast = Forecast(**columns)

    def _follow_watts(self, record: Record) -> None:
        since = self._watts_from
        seconds = (record.duration_s or 0.0) - (since.duration_s or 0.0 if since else 0.0)
        kwh = None if record.energy_kwh is None else record.energy_kwh
        if since is not None and kwh is not None:
            kwh -= since.energy_kwh or 0.0
        if kwh is not None and seconds > 0.0:
            self.watts = max(0.0, kwh) * JOULES_PER_KWH / seconds
        if since is None or seconds >= _WATTS_S:
            self._watts_from = record

    @property
    def text(self) -> str:
        """The text after the progress bar."""
        parts = [] if self.watts is None else [format_watts(self.watts)]
        record = self._before
        if record is not None and record.emissions_g is not None:
            parts.append(f"{format_grams(record.emissions_g)} CO2e")
        elif record is not None and record.energy_kwh is not None:
            parts.append(format_joules(record.energy_kwh * JOULES_PER_KWH))
        if self.forecast is not None and self.forecast.text:
            parts.append(self.forecast.text)
        return ", ".join(parts)


def forecast_verdict(budget: Budget, found: Forecast | None, record: Record) -> Verdict | None:
    """The verdict on a forecast: "over" if even its lower bound exceeds the budget.

    The lower bound is that of the extrapolation times the ratio of the record's lower bound to its
    best estimate, so that it includes the uncertainty of the meters.
    """
    if found is None:
        return None
    ends = replace(
        record,
        energy_kwh=found.energy_kwh,
        energy_low_kwh=_part(found.energy_low_kwh, record.energy_low_kwh, record.energy_kwh),
        energy_high_kwh=_part(found.energy_high_kwh, record.energy_high_kwh, record.energy_kwh),
        emissions_g=found.emissions_g,
        emissions_low_g=_part(found.emissions_low_g, record.emissions_low_g, record.emissions_g),
        emissions_high_g=_part(found.emissions_high_g, record.emissions_high_g, record.emissions_g),
    )
    verdict = budget.check(ends)
    return None if verdict.low is None else verdict


def _part(whole: float | None, bound: float | None, estimate: float | None) -> float | None:
    if whole is None or bound is None or not estimate:
        return whole
    return whole * bound / estimate


def _in_total(found: tuple[float | None, ...], text: Callable[..., str]) -> str:
    amount, low, high = found
    assert amount is not None
    if low is None or high is None:
        return f"about {text(amount)} in total"
    least = text(low, like=amount).split()[0]  # the unit is written once
    return f"{text(amount)} ({least} to {text(high, like=amount)}) in total"
