"""What has been seen of a loop that runs, and what it will have used at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from carbontrack.budget import Budget, Verdict
from carbontrack.forecast import Step, Total, forecast
from carbontrack.records import Record
from carbontrack.units import JOULES_PER_KWH, format_grams, format_joules, format_watts

MOST_STEPS = 512
"""Looks that are kept; of more, two neighbours at a time become one."""
_WATTS_S = 1.0
"""The least time that the shown watts are a mean of."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the whole loop will have used, by its own steps so far.

    The interval is that of the extrapolation, 95 %: where the record's best estimate will be at
    the end. How well the meters know that is told by the record's own interval.

    Attributes:
        energy_kwh, energy_low_kwh, energy_high_kwh: in all; None where it is not known.
        emissions_g, emissions_low_g, emissions_high_g: in all; None where it is not known.
    """

    energy_kwh: float | None = None
    energy_low_kwh: float | None = None
    energy_high_kwh: float | None = None
    emissions_g: float | None = None
    emissions_low_g: float | None = None
    emissions_high_g: float | None = None

    @property
    def text(self) -> str:
        """In words: "6.10 g (5.80 to 6.50 g) in all"; empty where nothing is known."""
        if self.emissions_g is not None:
            found = self.emissions_g, self.emissions_low_g, self.emissions_high_g
            return _in_all(found, format_grams)
        if self.energy_kwh is not None:
            bounds = self.energy_kwh, self.energy_low_kwh, self.energy_high_kwh
            joules = tuple(None if kwh is None else kwh * JOULES_PER_KWH for kwh in bounds)
            return _in_all(joules, format_joules)
        return ""


class Course:
    """What the looks at a loop have seen."""

    def __init__(self, total: int | None) -> None:
        self.total = total
        self.forecast: Forecast | None = None
        self.watts: float | None = None
        self._steps: dict[str, list[Step]] = {"energy_kwh": [], "emissions_g": []}
        self._before: Record | None = None
        self._watts_from: Record | None = None

    def take(self, record: Record, iterations: int) -> None:
        """So many iterations later the record stands like this."""
        for name, steps in self._steps.items():
            now, then = getattr(record, name), getattr(self._before, name, None) or 0.0
            if now is not None:
                steps.append(Step(iterations, now - then))
            if len(steps) > MOST_STEPS:
                steps[:] = [
                    Step(one.iterations + two.iterations, one.amount + two.amount)
                    for one, two in zip(steps[::2], steps[1::2], strict=False)
                ] + (steps[-1:] if len(steps) % 2 else [])
        self._before = record
        self._follow_watts(record)
        if self.total is not None:
            columns: dict[str, float | None] = {}
            for name, steps in self._steps.items():
                head, unit = name.rsplit("_", 1)
                whole = forecast(steps, self.total) or Total(0.0, None, None)
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
        """What the bar shows."""
        parts = [] if self.watts is None else [format_watts(self.watts)]
        record = self._before
        if record is not None and record.emissions_g is not None:
            parts.append(f"{format_grams(record.emissions_g)} CO2e")
        elif record is not None and record.energy_kwh is not None:
            parts.append(format_joules(record.energy_kwh * JOULES_PER_KWH))
        if self.forecast is not None and self.forecast.text:
            parts.append(self.forecast.text)
        return ", ".join(parts)


def foreseen(budget: Budget, found: Forecast | None, record: Record) -> Verdict | None:
    """The verdict on a forecast; "over" where even its lower end is, by the meters' own as well.

    The lower end is that of the extrapolation times the part that the record's lower bound is of
    its best estimate.
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


def _in_all(found: tuple[float | None, ...], text: Callable[..., str]) -> str:
    amount, low, high = found
    assert amount is not None
    if low is None or high is None:
        return f"about {text(amount)} in all"
    least = text(low, like=amount).split()[0]  # the unit is said once
    return f"{text(amount)} ({least} to {text(high, like=amount)}) in all"
