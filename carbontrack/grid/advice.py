"""Where and when the same work would emit less: pure functions of given figures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from carbontrack.errors import ConfigError
from carbontrack.grid.intensity import GridIntensity, IntensitySource
from carbontrack.grid.series import Slot, gapless_runs, utc
from carbontrack.system.clock import Clock, SystemClock

Verdict = Literal["here", "less", "more", "unclear", "other method"]


@dataclass(frozen=True, slots=True)
class Place:
    """The emissions of some energy at one place, in grams, compared with those where it was used.

    `factor` is 0.5 for half the emissions; None compared with a grid of zero. `verdict` is "less"
    or "more" only where the two intervals do not overlap, else "unclear"; and "other method" where
    the two figures are of different kinds: lifecycle, direct or marginal.
    """

    zone: str
    emissions_g: float
    emissions_low_g: float
    emissions_high_g: float
    factor: float | None
    verdict: Verdict
    intensity: GridIntensity


def compare(energy_kwh: float, here: GridIntensity, others: Iterable[GridIntensity]) -> list[Place]:
    """Rank places by the emissions of the energy there, the least first, `here` included.

    The intervals are those of the grids alone: the energy is the same everywhere, so its own
    uncertainty cancels in the comparison.
    """
    if not 0.0 <= energy_kwh < float("inf"):
        raise ConfigError(f"energy_kwh={energy_kwh!r} must be an amount of energy, 0 or more")
    grids = [here, *(grid for grid in others if grid.zone != here.zone)]
    places = [_place(energy_kwh, here, grid) for grid in grids]
    return sorted(places, key=lambda place: (place.emissions_g, place.zone))


def _place(energy_kwh: float, here: GridIntensity, grid: GridIntensity) -> Place:
    return Place(
        zone=grid.zone,
        emissions_g=energy_kwh * grid.g_per_kwh,
        emissions_low_g=energy_kwh * grid.low_g_per_kwh,
        emissions_high_g=energy_kwh * grid.high_g_per_kwh,
        factor=grid.g_per_kwh / here.g_per_kwh if here.g_per_kwh else None,
        verdict=_verdict(here, grid),
        intensity=grid,
    )


def _verdict(here: GridIntensity, grid: GridIntensity) -> Verdict:
    if grid.zone == here.zone:
        return "here"
    if not same_method(here, grid):
        return "other method"
    if grid.high_g_per_kwh < here.low_g_per_kwh:
        return "less"
    return "more" if grid.low_g_per_kwh > here.high_g_per_kwh else "unclear"


def same_method(one: GridIntensity, other: GridIntensity) -> bool:
    """Whether two figures are of the same kind; a figure given by the user fits any."""
    kinds = {_kind(one.method), _kind(other.method)} - {None}
    return len(kinds) < 2


def _kind(method: str) -> str | None:
    return next((k for k in ("marginal", "direct", "lifecycle") if k in method), None)


@dataclass(frozen=True, slots=True)
class GreenWindow:
    """The lowest-carbon time for some work, and its saving compared with starting at once.

    `saving` is a share of the emissions with the earliest possible start: 0.3 saves 30 %; None
    where the intensity at that time is unknown or zero.
    """

    start: datetime
    end: datetime
    g_per_kwh: float
    first_g_per_kwh: float | None
    saving: float | None


def greenest_window(
    slots: Sequence[Slot],
    hours: float,
    *,
    earliest: datetime | None = None,
    latest_end: datetime | None = None,
) -> GreenWindow:
    """The `hours` of constant power that emit least, in slots that are in order of time.

    This is the exact minimum, not that over some regular starts: the mean over a window changes
    linearly while neither of its ends crosses the end of a slot, so at the minimum one of them lies
    on one. Of equal windows the first is taken. A window never spans a gap in the slots.

    Raises:
        ConfigError: the hours are not positive, or no gapless run of slots is so long.
    """
    if not 0.0 < hours < float("inf"):
        raise ConfigError(f"hours={hours!r} is not a duration")
    length_s = hours * 3600.0
    from_s = earliest.timestamp() if earliest else float("-inf")
    until_s = latest_end.timestamp() if latest_end else float("inf")
    best: tuple[float, float] | None = None
    first: tuple[float, float] | None = None
    for run in gapless_runs(slots):
        low_s, high_s = max(run.start_s, from_s), min(run.end_s, until_s) - length_s
        if low_s > high_s:
            continue
        edges_s = {start for edge in run.edges_s for start in (edge, edge - length_s)}
        starts_s = sorted({low_s, high_s, *(s for s in edges_s if low_s < s < high_s)})
        # rounded to far less than any real difference, so that of equal windows the first is taken
        means = [(round(run.mean_g_per_kwh(s, s + length_s), 9), s) for s in starts_s]
        first = first or means[0]
        best = min(means) if best is None else min(best, *means)
    if best is None or first is None:
        raise ConfigError(f"no period of {hours:g} h without a gap is within the given times")
    first_g = first[0] if earliest is None or first[1] == from_s else None
    saving = 1.0 - best[0] / first_g if first_g else None
    return GreenWindow(utc(best[1]), utc(best[1] + length_s), best[0], first_g, saving)


def wait_for_green(
    source: IntensitySource,
    *,
    max_wait_s: float,
    below: float,
    poll_s: float = 300.0,
    clock: Clock | None = None,
    tell: Callable[[GridIntensity, float], None] | None = None,
) -> bool:
    """Wait until the grid emits less than `below` g CO2e/kWh, for at most `max_wait_s` seconds.

    `tell` is called at each poll, with the intensity and the seconds that are left, for a progress
    line. Ctrl-C ends the wait as it ends any other call. True if the grid became green.
    """
    clock = clock or SystemClock()
    never = threading.Event()
    deadline_s = clock.monotonic_s() + max_wait_s
    while True:
        now = source.at(clock.now_utc())
        left_s = max(0.0, deadline_s - clock.monotonic_s())
        if tell is not None:
            tell(now, left_s)
        if now.g_per_kwh < below:
            return True
        if left_s <= 0.0:
            return False
        clock.wait(never, min(poll_s, left_s))
