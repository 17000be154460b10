"""The intensity of an earlier year: a country's own figure of that year, where it is known.

Loaded only when a year before that of the newest figure is asked for. The tables have such a series
for countries, for the world and for its parts; below a country they have none.
"""

from __future__ import annotations

from typing import NamedTuple

from carbontrack.errors import ConfigError
from carbontrack.grid import rows
from carbontrack.grid.intensity import GridIntensity

FIRST_YEAR, LAST_YEAR = 2000, 2100
"""The years that may be asked for. After a zone's newest figure, that figure is the answer."""
ANY_COUNTRY = "-"
"""The row whose spreads hold for figures that are more than `OLD_AFTER_YEARS` away."""
OLD_AFTER_YEARS = 5
HIGHEST_G_PER_KWH = 1095.0
"""The highest factor of any technology in the sets of factors: hard coal, UNECE 2022."""


class Spread(NamedTuple):
    """How far a country's yearly figures may be off, each as a share of the figure.

    Attributes:
        noise: the standard deviation of the years around their trend.
        trend: the change in a year.
        factors: half the range of the results of the published sets of factors, at least 10 %.
    """

    noise: float
    trend: float
    factors: float


def interval(g_per_kwh: float, spread: Spread, age_years: int) -> tuple[float, float]:
    """Low and high of a figure that is `age_years` away from the year it is taken for.

    Spread of the years, trend times age, and factors combine in quadrature. The low lies as far
    below the figure by ratio as the high lies above. The README of the tables explains the rule.
    """
    terms = (2.0 * spread.noise, spread.trend * age_years, spread.factors)
    half = g_per_kwh * sum(term * term for term in terms) ** 0.5
    high = g_per_kwh + half
    if g_per_kwh < HIGHEST_G_PER_KWH:
        high = min(high, HIGHEST_G_PER_KWH)
    return g_per_kwh * g_per_kwh / (g_per_kwh + half), high


def checked_year(year: object) -> int:
    """The year, if the tables can answer for it.

    Raises:
        ConfigError: it is no whole number from 2000 to 2100.
    """
    if isinstance(year, bool) or not isinstance(year, int):
        raise ConfigError(f"year={year!r} is not a year; write one such as 2022")
    if not FIRST_YEAR <= year <= LAST_YEAR:
        begin = f"the tables begin in {FIRST_YEAR}"
        raise ConfigError(f"year={year} is not from {FIRST_YEAR} to {LAST_YEAR}; {begin}")
    return year


def in_year(newest: GridIntensity, zone: str, year: int) -> GridIntensity:
    """The figure of `year`, or the known one that is nearest to it; `newest` where no other is.

    Args:
        newest: the zone's figure in the tables.
        zone: the grid zone, also for a cloud region.
        year: the year that is asked for.
    """
    if newest.year is None or year >= newest.year or not newest.method.startswith("lifecycle"):
        return newest
    found = rows.row("intensity_history", zone)
    if found is None:  # below a country there is no series
        return newest
    known = dict(enumerate(found["g_per_kwh"].split(), int(found["first_year"])))
    nearest = min((y for y, g in known.items() if g != "-"), key=lambda y: (abs(y - year), -y))
    g_per_kwh = float(known[nearest])
    if found["low_g_per_kwh"]:  # the world and its parts: over the countries of that year
        at = nearest - int(found["first_year"])
        low, high = (float(found[f"{end}_g_per_kwh"].split()[at]) for end in ("low", "high"))
    else:
        low, high = interval(g_per_kwh, _spread(found, abs(year - nearest)), abs(year - nearest))
    return GridIntensity(
        zone=newest.zone,
        g_per_kwh=g_per_kwh,
        low_g_per_kwh=float(f"{low:.4g}"),
        high_g_per_kwh=float(f"{high:.4g}"),
        source=newest.source,
        year=nearest,
        method=newest.method,
    )


def _spread(found: dict[str, str], age_years: int) -> Spread:
    noise, trend = found["noise"], found["trend"]
    if age_years > OLD_AFTER_YEARS:
        usual = rows.row("intensity_history", ANY_COUNTRY)
        assert usual is not None
        noise, trend = usual["noise"], usual["trend"]
    return Spread(float(noise), float(trend), float(found["factors"]))
