"""What every metric says: rounds of a test, and the figure made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from carbontrack.records import Basis

SPREAD = 0.04
"""Relative standard deviation of a test's figure among processes that run the same code: where the
system puts code and data. Recorded: see docs/explanation/comparing.md."""

Statistic = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One run of a test, as measured.

    Attributes:
        joules: what it used; None where nothing answered.
        fixed_joules: the part of `joules` that the machine's speed does not scale, such as a GPU's.
        speed: of this machine at that time, in reference machines; 1.0 where that has no meaning.
        low_ratio, high_ratio: the interval of the energy, in parts of it.
        g_per_joule, g_low_per_joule, g_high_per_joule: emissions of a joule; None is unknown.
        resolution_joules: what cannot be told from zero.
        basis: how it is known.
        duration_s: how long it took.
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
    """The figure of a test: the best estimate, its interval, and how it came about."""

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


class Window(Protocol):
    """A time that is being measured."""

    def so_far(self) -> Round:
        """What has been used up to now."""
        ...

    def close(self) -> Round:
        """End the time and tell what was used in it."""
        ...

    def child(self, name: str) -> Window:
        """A time within this one, which takes nothing away from it."""
        ...


class Metric(Protocol):
    """A way to tell what a test used."""

    name: str
    same_everywhere: bool
    """Whether figures from two machines may be compared."""
    spread: float
    """Relative standard deviation of a test's figure among processes, where nothing changed."""

    def statistic(self, figures: Sequence[float], /) -> float:
        """The figure made of several rounds: their least or their median."""
        ...

    def open(self, name: str) -> Window:
        """Begin to measure."""
        ...

    def speed_now(self) -> float:
        """The speed of this machine at this moment, in reference machines."""
        ...

    def describe(self) -> str:
        """The pins and choices behind the figures, in a few words."""
        ...

    def close(self) -> None:
        """Give everything up."""
        ...


def sum_up(metric: Metric, rounds: Sequence[Round]) -> Measurement:
    """The figure of a test from its rounds.

    Rounds in which nothing answered are left out. All are scaled by the highest speed seen among
    them: the least time of the test belongs to the least time of the calibration beside it.
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
