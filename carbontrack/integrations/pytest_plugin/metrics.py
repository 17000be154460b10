"""Metrics: what a test used in each round, and the figure made of its rounds.

`Metric` is what every metric offers, those of other plugins too. `MeasuredMetric` reads this
machine's meters at the start and end of each test; `reference.ReferenceMetric` needs no meters.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Protocol

from carbontrack.record import Basis, Record
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracker import Tracker
from carbontrack.units import JOULES_PER_KWH

SPREAD = 0.04
"""Relative standard deviation of a test's figure among processes that run the same code, because
code and data lie elsewhere in memory. Recorded: see docs/explanation/comparing.md."""

Statistic = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One run of a test, as measured.

    Attributes:
        joules: what it used; None where nothing answered.
        fixed_joules: the part of `joules` that does not scale with the machine's speed, as a GPU's.
        speed: of this machine at that time, as a multiple of the reference machine's; else 1.0.
        low_ratio, high_ratio: the interval of the energy, as multiples of `joules`.
        g_per_joule, g_low_per_joule, g_high_per_joule: emissions of a joule; None is unknown.
        resolution_joules: the least that can be told from zero.
        basis: how the energy is known.
        duration_s: how long the round took.
    """

    joules: float | None
    fixed_joules: float = 0.0
    speed: float = 1.0
    low_ratio: float = 1.0
    high_ratio: float = 1.0
    g_per_joule: float | None = None
    g_low_per_joule: float | None = None
    g_high_per_joule: float | None = None
    resolution_joules: float = 0.0
    basis: Basis | None = None
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The figure of a test: the best estimate, its interval, and how it was obtained."""

    metric: str
    basis: Basis | None = None
    energy_joules: float | None = None
    energy_low_joules: float | None = None
    energy_high_joules: float | None = None
    emissions_g: float | None = None
    emissions_low_g: float | None = None
    emissions_high_g: float | None = None
    resolution_joules: float = 0.0
    resolution_g: float = 0.0
    duration_s: float = 0.0
    rounds_joules: tuple[float, ...] = ()


class MeasurementWindow(Protocol):
    """A time span that is being measured."""

    def so_far(self) -> Round:
        """What has been used since the start."""
        ...

    def close(self) -> Round:
        """End the window and return what was used in it."""
        ...

    def child(self, name: str) -> MeasurementWindow:
        """A window inside this one; what it counts stays part of this one."""
        ...


class Metric(Protocol):
    """A way to find out what a test used."""

    name: str
    same_everywhere: bool
    """Whether figures from two machines may be compared."""
    spread: float
    """Relative standard deviation of a test's figure among processes, where nothing changed."""

    def statistic(self, figures: Sequence[float], /) -> float:
        """The figure of several rounds, such as their minimum or median."""
        ...

    def open(self, name: str) -> MeasurementWindow:
        """Open a window."""
        ...

    def speed_now(self) -> float:
        """The speed of this machine now, as a multiple of the reference machine's."""
        ...

    def describe(self) -> str:
        """What the figures depend on, in a few words."""
        ...

    def close(self) -> None:
        """Release what the metric holds."""
        ...


def sum_up(metric: Metric, rounds: Sequence[Round]) -> Measurement:
    """The figure of a test from its rounds.

    Rounds in which nothing answered are left out. All others are scaled by the highest speed among
    them: the minimum of the test's times belongs with the minimum of the calibration's.
    """
    answered = [entry for entry in rounds if entry.joules is not None]
    if not answered:
        return Measurement(metric=metric.name)
    speed = max(entry.speed for entry in answered)
    scaled = tuple(_scaled(entry, speed) for entry in answered)
    joules = metric.statistic(scaled)
    worst = max(answered, key=lambda entry: entry.resolution_joules)
    typical = min(answered, key=lambda entry: abs(_scaled(entry, speed) - joules))
    low = max(0.0, joules * typical.low_ratio - worst.resolution_joules)
    high = joules * typical.high_ratio + worst.resolution_joules
    g, g_low, g_high = typical.g_per_joule, typical.g_low_per_joule, typical.g_high_per_joule
    return Measurement(
        metric=metric.name,
        basis=typical.basis,
        energy_joules=joules,
        energy_low_joules=low,
        energy_high_joules=high,
        emissions_g=_times(joules, g),
        emissions_low_g=_times(low, g if g_low is None else g_low),
        emissions_high_g=_times(high, g if g_high is None else g_high),
        resolution_joules=worst.resolution_joules,
        resolution_g=worst.resolution_joules * (g or 0.0),
        duration_s=typical.duration_s,
        rounds_joules=scaled,
    )


def _scaled(entry: Round, speed: float) -> float:
    assert entry.joules is not None
    return (entry.joules - entry.fixed_joules) * speed + entry.fixed_joules


def _times(joules: float, g_per_joule: float | None) -> float | None:
    return None if g_per_joule is None else joules * g_per_joule


class NoMetric:
    """Stands for a metric that could not be made: nothing is known, so no verdict is sure."""

    name = "none"
    same_everywhere = False
    spread = 0.0

    @staticmethod
    def statistic(figures: Sequence[float], /) -> float:
        """There are no figures."""
        return max(figures)

    def open(self, name: str) -> NoWindow:  # noqa: ARG002 - the protocol's
        """A window that nothing is known of."""
        return NoWindow()

    def speed_now(self) -> float:
        """Nothing depends on it."""
        return 1.0

    def describe(self) -> str:
        """What is known."""
        return "no metric"

    def close(self) -> None:
        """Nothing is open."""


class NoWindow:
    """A window that nothing is known of."""

    def so_far(self) -> Round:
        """Unknown."""
        return Round(joules=None)

    def close(self) -> Round:
        """Unknown."""
        return Round(joules=None)

    def child(self, name: str) -> NoWindow:  # noqa: ARG002 - the protocol's
        """As unknown as this one."""
        return self


class MeasuredMetric:
    """Measures with a tracker of its own, apart from what the tests track themselves."""

    name = "measured"
    same_everywhere = False
    spread = SPREAD

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    @staticmethod
    def statistic(figures: Sequence[float], /) -> float:
        """The median, since a meter errs in both directions."""
        return statistics.median(figures)

    @property
    def resolution_s(self) -> float:
        """The time between two updates of the slowest meter."""
        meters = self.tracker.session.builder.meters()
        return max((meter.resolution_s for meter in meters), default=0.0)

    def open(self, name: str) -> MeasuredWindow:
        """Open a span."""
        return MeasuredWindow(self, self.tracker.span(name))

    def speed_now(self) -> float:
        """Always 1.0: the joules are this machine's own."""
        return 1.0

    def describe(self) -> str:
        """The meters and the grid intensity."""
        session = self.tracker.session
        grid = session.ledger.fresh_intensity(session.sampler.clock)
        place = "unknown intensity" if grid is None else f"{grid.g_per_kwh:.0f} g CO2e/kWh"
        meters = ", ".join(meter.id for meter in session.builder.meters()) or "no meter"
        return f"measured metric, {meters}, {place}"

    def close(self) -> None:
        """Close the meters."""
        self.tracker.close()


class MeasuredWindow:
    """A span, opened in a copy of the context so that a `track` in the test is not its child."""

    def __init__(self, metric: MeasuredMetric, span: Span) -> None:
        self._metric = metric
        self._span = span
        copy_context().run(span.open)

    def so_far(self) -> Round:
        """What has been used since the start."""
        return self._round(self._span.snapshot())

    def close(self) -> Round:
        """End the span."""
        copy_context().run(self._span.close)
        return self._round(self._span.snapshot())

    def child(self, name: str) -> MeasuredWindow:
        """A span inside this one."""
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
