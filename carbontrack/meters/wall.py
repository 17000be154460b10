"""Power that only a wall meter measures: power supply, board, fans, disks.

A line is fitted once on this host, wall = constant + gain x metered. What it gives beyond the
metered power is counted as a meter of its own, component `other`, so that all components together
are the wall's power and no joule of the other meters is counted again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any, cast

from carbontrack.errors import ConfigError, MeterGone
from carbontrack.meters.meter import Meter
from carbontrack.record import BASES, Basis, Component
from carbontrack.values import NamedTuple

WALL_ID = "wall:rest"
WALL_METER_UNCERTAINTY = 0.02
"""Half-width of a wall meter: accuracy class 2 of household meters (IEC 62053-21) is +-2 %."""
TWO_POINTS_UNCERTAINTY = 0.07
"""Half-width of the wall's power from two readings, which leave no residuals: the mean absolute
error of 5.6 % after a line fit over 318 published runs (Fischer 2025, arXiv 2509.22092), over
0.8."""
_CLOSEST_W = 1.0
_CLOSEST = 0.05


class WallReading(NamedTuple):
    """Mean power over the same time, by the meters of this host and by the wall meter."""

    metered_w: float
    wall_w: float


@dataclass(frozen=True, slots=True)
class WallFit:
    """wall = constant + gain x metered, in watts, for the meters it was made with.

    Attributes:
        relative_uncertainty: half-width of the interval around the energy that the line adds,
            relative to it; the largest over the readings.
        meters: the ids of the meters whose sum `metered` is.
        readings: how many readings it was fitted to.
    """

    gain: float
    constant_w: float
    relative_uncertainty: float
    meters: tuple[str, ...]
    readings: int

    def rest_w(self, metered_w: float) -> float:
        """The power that the line adds to a metered power."""
        return self.constant_w + (self.gain - 1.0) * metered_w


def fit_wall(readings: Sequence[WallReading], meters: Sequence[str]) -> WallFit:
    """The least-squares line through readings.

    Raises:
        ConfigError: fewer than two readings, all at the same power, or an impossible line: a gain
            below 1, or a negative constant.
    """
    check_readings(readings)
    _check_spread(readings)
    count = len(readings)
    x_mean = sum(reading.metered_w for reading in readings) / count
    y_mean = sum(reading.wall_w for reading in readings) / count
    s_xx = sum((reading.metered_w - x_mean) ** 2 for reading in readings)
    s_xy = sum((r.metered_w - x_mean) * (r.wall_w - y_mean) for r in readings)
    gain = s_xy / s_xx
    constant_w = y_mean - gain * x_mean
    if gain < 1.0 - 1e-9:
        raise ConfigError(
            f"these readings give a gain of {gain:.3f}: wall power would rise by less than the "
            "metered power, which is impossible; were both read over the same time, in watts, and "
            "is the whole machine connected to the wall meter?"
        )
    if constant_w < -1e-9:
        raise ConfigError(
            f"these readings give a constant of {constant_w:.1f} W, and a machine cannot draw less "
            "than nothing in addition to what is metered; were both read over the same time, in "
            "watts?"
        )
    line = WallFit(max(1.0, gain), max(0.0, constant_w), 0.0, tuple(meters), count)
    half_w = _half_widths_w(readings, line, x_mean, s_xx)
    rests_w = [line.rest_w(reading.metered_w) for reading in readings]
    worst = max(
        (half / rest if rest > 0.0 else 1.0 for half, rest in zip(half_w, rests_w, strict=True))
    )
    return WallFit(line.gain, line.constant_w, min(1.0, worst), line.meters, count)


def check_readings(readings: Sequence[WallReading]) -> None:
    """Refuse impossible readings.

    Raises:
        ConfigError: a power that is not above 0, or not finite.
    """
    for metered_w, wall_w in readings:
        if not (isfinite(metered_w) and isfinite(wall_w) and metered_w > 0.0 and wall_w > 0.0):
            raise ConfigError(
                f"{metered_w:g} W metered and {wall_w:g} W at the wall are not a valid reading"
            )


def _check_spread(readings: Sequence[WallReading]) -> None:
    if len(readings) < 2:
        raise ConfigError(
            "a gain and a constant need two readings at different loads; take another one, "
            "while the machine is busier"
        )
    powers_w = [reading.metered_w for reading in readings]
    lowest_w, highest_w = min(powers_w), max(powers_w)
    if highest_w - lowest_w < max(_CLOSEST_W, _CLOSEST * highest_w):
        raise ConfigError(
            f"all readings lie between {lowest_w:.1f} and {highest_w:.1f} W metered, too close "
            "together to separate a gain from a constant; take one while the machine is busier"
        )


def _half_widths_w(
    readings: Sequence[WallReading], line: WallFit, x_mean: float, s_xx: float
) -> list[float]:
    """Half-widths of the wall's power that the line gives, at each reading.

    The wall meter's own, and in quadrature the standard error of a single prediction from a line,
    s sqrt(1 + 1/n + (x - mean)^2 / Sxx), with s^2 the squared residuals over n - 2.
    """
    count = len(readings)
    walls_w = [line.rest_w(r.metered_w) + r.metered_w for r in readings]
    if count == 2:
        return [TWO_POINTS_UNCERTAINTY * wall_w for wall_w in walls_w]
    residuals = (r.wall_w - wall_w for r, wall_w in zip(readings, walls_w, strict=True))
    s = sqrt(sum(residual**2 for residual in residuals) / (count - 2))
    return [
        sqrt(
            (WALL_METER_UNCERTAINTY * wall_w) ** 2
            + s**2 * (1.0 + 1.0 / count + (r.metered_w - x_mean) ** 2 / s_xx)
        )
        for r, wall_w in zip(readings, walls_w, strict=True)
    ]


class Tap:
    """A meter, unchanged, that also remembers how far it has counted, and when."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._last_j: float | None = None
        self.grown_j = 0.0
        self.read_at_s = float("-inf")

    def read_joules(self, now_s: float) -> float:
        """The meter's own count."""
        joules = self._meter.read_joules(now_s)
        if self._last_j is not None and joules > self._last_j:
            self.grown_j += joules - self._last_j
        self._last_j, self.read_at_s = joules, now_s
        return joules

    def __getattr__(self, name: str) -> Any:
        """Everything else is the meter's own."""
        return getattr(self._meter, name)


class WallRest:
    """The energy beyond the other meters: constant x time + (gain - 1) x what they have counted.

    It is read after them, and does not read them again. Its basis is the weakest of theirs, since a
    calibrated model remains a model.
    """

    id = WALL_ID
    component: Component = "other"
    max_period_s: float | None = None

    def __init__(self, fit: WallFit, taps: Sequence[Tap]) -> None:
        self._fit, self._taps = fit, taps
        self.basis: Basis = max((tap.basis for tap in taps), key=BASES.index)
        self.resolution_s: float = max(tap.resolution_s for tap in taps)
        self.relative_uncertainty = fit.relative_uncertainty
        self.fault_counts: Mapping[str, int] = {}
        self.nominal_w = fit.constant_w
        self.about = (
            f"wall power is {fit.constant_w:.1f} W + {fit.gain:.3f} x metered "
            f"(calibrated with {fit.readings} readings)"
        )
        self._first_s: float | None = None
        self._closed = False

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        if self._first_s is None:
            self._first_s = now_s
        metered_j = sum(tap.grown_j for tap in self._taps)
        constant_j = self._fit.constant_w * max(0.0, now_s - self._first_s)
        return constant_j + (self._fit.gain - 1.0) * metered_j

    def close(self) -> None:
        """Nothing is open."""
        self._closed = True


def with_wall(meters: Sequence[Meter], fit: WallFit) -> tuple[Meter, ...]:
    """The meters, and one for the rest of the wall's power."""
    taps = [Tap(meter) for meter in meters]
    return (*cast("list[Meter]", taps), WallRest(fit, taps))
