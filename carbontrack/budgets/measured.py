"""The measured metric: this machine's meters, read at the edges of each test."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextvars import copy_context

from carbontrack.budgets.metric import SPREAD, Round
from carbontrack.records import Record
from carbontrack.span import Span
from carbontrack.tracker import Tracker
from carbontrack.units import JOULES_PER_KWH


class MeasuredMetric:
    """Counts with a tracker of its own, so that what the tests track themselves stays theirs."""

    name = "measured"
    same_everywhere = False
    spread = SPREAD

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    @staticmethod
    def statistic(figures: Sequence[float], /) -> float:
        """The median: a meter errs to both sides."""
        return statistics.median(figures)

    @property
    def resolution_s(self) -> float:
        """The slowest meter's time between two updates."""
        return max((meter.resolution_s for meter in self.tracker.session.meters()), default=0.0)

    def open(self, name: str) -> MeasuredWindow:
        """Begin to measure."""
        return MeasuredWindow(self, self.tracker.span(name))

    def speed_now(self) -> float:
        """Speed has no meaning here: the joules are this machine's own."""
        return 1.0

    def describe(self) -> str:
        """The meters, and the grid that weighs their joules."""
        grid = self.tracker.session.intensity()
        place = "unknown intensity" if grid is None else f"{grid.g_per_kwh:.0f} g CO2e/kWh"
        meters = ", ".join(meter.id for meter in self.tracker.session.meters()) or "no meter"
        return f"measured metric, {meters}, {place}"

    def close(self) -> None:
        """Let the meters go."""
        self.tracker.close()


class MeasuredWindow:
    """A span that no one else's code finds around it.

    It is opened in a copy of the context: a `track` in the test must not become its child.
    """

    def __init__(self, metric: MeasuredMetric, span: Span) -> None:
        self._metric = metric
        self._span = span
        copy_context().run(span.open)

    def so_far(self) -> Round:
        """What was used up to now."""
        return self._round(self._span.snapshot())

    def close(self) -> Round:
        """End the span."""
        copy_context().run(self._span.close)
        return self._round(self._span.snapshot())

    def child(self, name: str) -> MeasuredWindow:
        """A span within this one."""
        return MeasuredWindow(self._metric, self._span.span(name))

    def _round(self, record: Record) -> Round:
        duration_s = record.duration_s or 0.0
        kwh = record.energy_kwh
        if kwh is None:
            return Round(joules=None, duration_s=duration_s)
        joules = kwh * JOULES_PER_KWH
        watts = joules / duration_s if duration_s > 0.0 else 0.0
        return Round(
            joules=joules,
            low_ratio=_ratio(record.energy_low_kwh, kwh) or 1.0,
            high_ratio=_ratio(record.energy_high_kwh, kwh) or 1.0,
            g_per_joule=_per_joule(record.emissions_g, kwh),
            g_low_per_joule=_per_joule(record.emissions_low_g, record.energy_low_kwh),
            g_high_per_joule=_per_joule(record.emissions_high_g, record.energy_high_kwh),
            resolution_joules=watts * self._metric.resolution_s,
            basis=record.basis,
            duration_s=duration_s,
        )


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _per_joule(grams: float | None, kwh: float | None) -> float | None:
    ratio = _ratio(grams, kwh)
    return None if ratio is None else ratio / JOULES_PER_KWH
