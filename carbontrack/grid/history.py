"""The intensity of an earlier year: a country's own figure of that year, where it is known.

Loaded only when a year before that of the newest figure is asked for. The tables have such a series
for countries, for the world and for its parts; below a country they have none.
"""

from __future__ import annotations

from math import hypot

from carbontrack.errors import ConfigError
from carbontrack.grid import rows
from carbontrack.grid.intensity import GridIntensity
from carbontrack.values import NamedTuple

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

    Spread of the years, trend times age, and factors combine in quadrature. By ratio, the low
    end is as far below the figure as the high end is above. The README of the tables has the rule.
    """
    terms = (2.0 * spread.noise, spread.trend * age_years, spread.factors)
    half = g_per_kwh * sum(term * term for term in terms) ** 0.5
    high = g_per_kwh + half
    if g_per_kwh < HIGHEST_G_PER_KWH:
        high = min(high, HIGHEST_G_PER_KWH)
    return g_per_kwh * g_per_kwh / (g_per_kwh + half), high


def checked_year(year: object) -> int:
    """The year, if the tables cover it.

    Raises:
        ConfigError: it is no whole number from 2000 to 2100.
    """
    if isinstance(year, bool) or not isinstance(year, int):
        raise ConfigError(f"year={year!r} is not a year; write it as 2022")
    if not FIRST_YEAR <= year <= LAST_YEAR:
        begin = f"the tables begin in {FIRST_YEAR}"
        raise ConfigError(f"year={year} is not from {FIRST_YEAR} to {LAST_YEAR}; {begin}")
    return year


def in_year(newest: GridIntensity, zone: str, year: int) -> GridIntensity:
    """The figure of `year`, or the known one that is nearest to it.

    A place without a series keeps its newest figure; the interval widens by the years in between,
    at the pace of its country.

    Args:
        newest: the zone's figure in the tables.
        zone: the grid zone, also for a cloud region.
        year: the year that is asked for.
    """
    if newest.year is None or year >= newest.year:
        return newest
    is_lifecycle = newest.method.startswith("lifecycle")
    found = rows.row("intensity_history", zone) if is_lifecycle else None
    if found is None:
        return _aged(newest, zone, year)
    known = dict(enumerate(found["g_per_kwh"].split(), int(found["first_year"])))
    nearest = min((y for y, g in known.items() if g != "-"), key=lambda y: (abs(y - year), -y))
    g_per_kwh, age_years = float(known[nearest]), abs(year - nearest)
    if found["low_g_per_kwh"]:  # the world and its parts: over the countries of that year
        at = nearest - int(found["first_year"])
        low, high = (float(found[f"{end}_g_per_kwh"].split()[at]) for end in ("low", "high"))
    else:
        spread = _spread(found, age_years)._replace(factors=float(found["factors"]))
        low, high = interval(g_per_kwh, spread, age_years)
    return _with(newest, g_per_kwh, low, high, nearest)


def _aged(newest: GridIntensity, zone: str, year: int) -> GridIntensity:
    """The newest figure with an interval that holds for `year`, so many years before its own."""
    assert newest.year is not None
    place = rows.row("zones", zone)
    country = (place and place["parent"]) or zone
    age_years = newest.year - year
    change = _spread(rows.row("intensity_history", country), age_years).trend * age_years
    g_per_kwh = newest.g_per_kwh
    if not g_per_kwh:
        return newest
    above = hypot(newest.high_g_per_kwh / g_per_kwh - 1.0, change)
    below = hypot(g_per_kwh / newest.low_g_per_kwh - 1.0, change)
    high = max(newest.high_g_per_kwh, min(HIGHEST_G_PER_KWH, g_per_kwh * (1.0 + above)))
    return _with(newest, g_per_kwh, g_per_kwh / (1.0 + below), high, newest.year)


def _with(
    newest: GridIntensity, g_per_kwh: float, low: float, high: float, year: int
) -> GridIntensity:
    return GridIntensity(
        zone=newest.zone,
        g_per_kwh=g_per_kwh,
        low_g_per_kwh=float(f"{low:.4g}"),
        high_g_per_kwh=float(f"{high:.4g}"),
        source=newest.source,
        year=year,
        method=newest.method,
    )


def _spread(country: dict[str, str] | None, age_years: int) -> Spread:
    """Noise and trend of a country's row; those of any country where it has none, or is far."""
    usual = rows.row("intensity_history", ANY_COUNTRY)
    assert usual is not None
    known = country if country and country["noise"] and age_years <= OLD_AFTER_YEARS else usual
    return Spread(float(known["noise"]), float(known["trend"]), 0.0)
