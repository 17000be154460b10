"""Power of a processor by its load, as a share of its design power (TDP), with low and high ends.

Where the constants come from, and how often they hold, is in docs/explanation/accuracy.md.
"""

from __future__ import annotations

from carbontrack.interval import Interval, product
from carbontrack.values import NamedTuple

LOADS = (0.0, 0.1, 0.5, 1.0)
"""Shares of the processors' time that are busy, at which a curve is given; linear between them."""


class LoadCurve(NamedTuple):
    """Power at each of `LOADS`, as a share of TDP: best estimate, low and high end.

    Each straight piece, prolonged to load 0, is 0 or more. So the energy P(u) x t, with u the mean
    load over the time t, never falls as busy time and time go on (`CpuModel` counts it).
    """

    best: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def at(self, load: float) -> Interval:
        """The power at a load, as a share of TDP; loads below 0 and above 1 count as 0 and 1."""
        index, part = _piece(load)
        return Interval(*(_between(ends, index, part) for ends in self))

    def widened(self, tdp_ratio: Interval) -> LoadCurve:
        """The curve where TDP itself is known between `low` and `high` times its best estimate.

        The two err independently, so they combine as the factors of a product do.
        """
        at_loads = [product(self.at(load), tdp_ratio) for load in LOADS]
        best, low, high = zip(*at_loads, strict=True)
        return LoadCurve(best, low, high)

    def of_own_load(self, *, whole: bool) -> LoadCurve:
        """The curve over our own load, if the load of other processes is unknown.

        Of a machine that others keep fully busy, our part of the power is in proportion to our
        load; that is the low end. Power rises less than in proportion to load, so that our part is
        at most what the machine would draw for us alone. `whole`: the machine's power is asked for,
        which may be that of full load.
        """
        if whole:
            return self._replace(high=(max(self.high),) * len(LOADS))
        shared = (load * self.low[-1] for load in LOADS)
        return self._replace(low=tuple(map(min, shared, self.low)))


def _piece(load: float) -> tuple[int, float]:
    """The piece on which a load lies, and how far along it, from 0 to 1."""
    load = min(1.0, max(0.0, load))
    index = 0 if load <= LOADS[1] else 1 if load <= LOADS[2] else 2
    return index, (load - LOADS[index]) / (LOADS[index + 1] - LOADS[index])


def _between(ends: tuple[float, ...], index: int, part: float) -> float:
    return ends[index] + (ends[index + 1] - ends[index]) * part


SINCE_2010 = LoadCurve(
    best=(0.12, 0.20, 0.47, 0.82),
    low=(0.01, 0.05, 0.20, 0.40),
    high=(0.36, 0.50, 1.05, 1.40),
)
"""Parts sold since 2010. Ends: 5th and 95th percentile, rounded outward, of two sets with equal
weight: 245 servers since 2014 under SPECpower_ssj2008 (wall power less supply, fans and memory),
and thirteen curves of ten machines read by RAPL under load generators. The best estimate lies
between median and mean, since sums of many machines made from a median would be too small."""
BEFORE_2010 = LoadCurve(
    best=(0.33, 0.40, 0.65, 0.85),
    low=(0.01, 0.07, 0.25, 0.40),
    high=(1.10, 1.20, 1.60, 1.80),
)
"""Parts sold before 2010, from 128 servers of 2006 to 2009 under SPECpower_ssj2008. The part of the
wall power that supply, chipset and memory of that time took is not well known, so the low and high
ends lie outside the 5th and 95th percentile of what remains when mid-range figures are
subtracted."""


def curve_of(year: int | None) -> LoadCurve:
    """The curve of a part by the year it was sold first; one of unknown year counts as recent."""
    return BEFORE_2010 if year is not None and year < 2010 else SINCE_2010
