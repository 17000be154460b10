"""Yearly values from the package's tables: carbon intensity, PUE and water of a region.

`lookup` returns a region's carbon intensity, `site` and `grid_water` the overheads of a data centre
(PUE, WUE) and the water behind its electricity, and `editions` the age of the tables.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Literal

from carbontrack.errors import NoIntensity
from carbontrack.grid import names, rows
from carbontrack.grid.intensity import GridIntensity
from carbontrack.values import NamedTuple

Method = Literal["lifecycle", "direct", "marginal"]
WORLD = "WORLD"
_TABLE: dict[str, str] = {
    "lifecycle": "intensity",
    "direct": "intensity_direct",
    "marginal": "intensity_marginal",
}


def lookup(region: str, *, method: Method = "lifecycle", year: int | None = None) -> GridIntensity:
    """The yearly carbon intensity of a region: "FR", "California", "aws:eu-west-3".

    The result's `zone` is the region's code; its `source` also names the grid of a cloud region.
    `method` is "lifecycle" by default, the basis of every national value; "direct" gives stack
    emissions, "marginal" those of one more kWh (US subregions only). The result's own `method`
    states exactly what is counted; a few zones have only a direct value.

    `year` selects the value of that year, from 2000 on: countries, the world and its parts have
    one. Any other region has its newest value, and a year without a value has that of the nearest
    known year; the result's `year` states which. None is the newest.

    Raises:
        UnknownRegion: no table has the region, or its name is ambiguous; `matches` has the
            candidates.
        NoIntensity: the region is known but has no value; that of another region is never used.
        ConfigError: the year is before 2000, or not a year.
    """
    newest = _lookup(region, method)
    return newest if year is None else _in_year(newest, year)


@lru_cache(maxsize=1024)
def _lookup(region: str, method: str) -> GridIntensity:
    if method not in _TABLE:
        raise ValueError(f"method {method!r} is none of {', '.join(_TABLE)}")
    place = names.normalise(region)
    found = next(filter(None, (rows.row(_TABLE[method], z) for z in _zones(place, method))), None)
    if found is None:
        raise NoIntensity(_why_none(place, method))
    grid = "" if found["zone"] == place else f" (the grid of {found['zone']})"
    return GridIntensity(
        zone=place,
        g_per_kwh=float(found["g_per_kwh"]),
        low_g_per_kwh=float(found["low_g_per_kwh"]),
        high_g_per_kwh=float(found["high_g_per_kwh"]),
        source=f"{rows.source(found['source'])}{grid}",
        year=int(found["year"]),
        method=found["method"],
    )


def _in_year(newest: GridIntensity, year: int) -> GridIntensity:
    from carbontrack.grid import history  # few ask for an earlier year

    return history.in_year(newest, zone_of(newest.zone), history.checked_year(year))


_UNTRACED = (
    "not traced; flow-traced values of 199 countries are 0.63 to 1.73 times these (5 to 95 %), and "
    "66 % of them are inside the interval"
)
_STACK_ONLY = (
    "not traced, and stack emissions only: the plants' own consumption and imports are not in the "
    "interval"
)


def beyond_interval(zone: str, method: str) -> str | None:
    """The uncertainty from a value's method, which its interval does not include; None: not known.

    Compared with the yearly means of Electricity Maps for 2025 (ODbL), none of which are included
    in the package.
    """
    place = rows.row("zones", zone_of(zone))
    if place is None or place["kind"] == "aggregate":
        return None
    if method.startswith("lifecycle_"):
        return _UNTRACED
    return _STACK_ONLY if method.startswith("direct_") else None


def zone_of(place: str) -> str:
    """The grid zone of a code: the code itself, or the zone of a cloud region."""
    cloud = rows.row("cloud_regions", place) if ":" in place else None
    return cloud["zone"] if cloud is not None else place


def _zones(place: str, method: str) -> tuple[str, ...]:
    """The keys of the rows to try for a region, best first; a cloud region belongs to a zone."""
    cloud = rows.row("cloud_regions", place) if ":" in place else None
    if cloud is None or method == "lifecycle":
        return (zone_of(place),)
    return (place, cloud["direct_zone"], cloud["zone"])


def _why_none(place: str, method: str) -> str:
    known = rows.row("zones", place)
    name = f"{known['name']} ({place})" if known else place
    reason = f"no table has a {method} intensity for {name}"
    like = known["supplied_like"] if known and method == "lifecycle" else ""
    hint = (
        f"; its grid resembles that of {like}, so region={like!r} may be close enough"
        if like
        else ""
    )
    return f"{reason}{hint}; or give intensity_g_per_kwh"


# -- the age of the tables ---------------------------------------------------------------------

_YEARS = {
    "intensity": "year",
    "intensity_direct": "year",
    "intensity_marginal": "year",
    "water": "year",
    "cloud_regions": "pue_year",
    "generation_factors": "year",
}
"""Table -> its column for the year that a row's value describes."""


class Edition(NamedTuple):
    """A table's size, and the years that its values describe; `most` is the most frequent."""

    table: str
    rows: int
    oldest: int
    most: int
    newest: int


def editions() -> list[Edition]:
    """The age of every table, by table."""
    found = []
    for table, column in _YEARS.items():
        years = [int(row[column]) for row in rows.rows(table) if row[column]]
        most = Counter(years).most_common(1)[0][0]
        found.append(Edition(table, len(years), min(years), most, max(years)))
    return found


# -- data centres and water --------------------------------------------------------------------


class Facility(NamedTuple):
    """A cloud region's or a provider's overheads; None is unknown.

    `pue` is the site's energy divided by that of its computers; `wue_l_per_kwh` the water it
    consumes for each kWh of them. A basis is "region", "region_design" (a plan, not a measurement)
    or "provider_default" (the fleet's mean).
    """

    code: str
    pue: float | None
    pue_year: int | None
    pue_basis: str | None
    wue_l_per_kwh: float | None
    wue_year: int | None
    wue_basis: str | None


class GridWater(NamedTuple):
    """Litres consumed for a generated kWh, without and with the evaporation from reservoirs.

    `l_per_kwh` leaves reservoirs out: how much of their evaporation to attribute to power
    generation is contested, and with much hydropower it exceeds everything else.
    `with_reservoirs_…` includes it.
    """

    zone: str
    l_per_kwh: float
    with_reservoirs_l_per_kwh: float
    with_reservoirs_low_l_per_kwh: float
    with_reservoirs_high_l_per_kwh: float
    year: int
    source: str


@lru_cache(maxsize=64)
def site(region: str) -> Facility | None:
    """The overheads of a cloud region ("aws:eu-west-3"), or None for any other region.

    Raises:
        UnknownRegion: there is no such region.
    """
    code = names.normalise(region)
    found = rows.row("cloud_regions", code)
    if found is None:
        return None
    return Facility(
        code=code,
        pue=_number(found["pue"]),
        pue_year=_year(found["pue_year"]),
        pue_basis=found["pue_basis"] or None,
        wue_l_per_kwh=_number(found["wue_l_per_kwh"]),
        wue_year=_year(found["wue_year"]),
        wue_basis=found["wue_basis"] or None,
    )


@lru_cache(maxsize=64)
def grid_water(region: str) -> GridWater | None:
    """The water consumed for electricity in a region's country; None if it is unknown.

    Raises:
        UnknownRegion: there is no such region.
    """
    zone = zone_of(names.normalise(region))
    place = rows.row("zones", zone)
    found = rows.row("water", zone) or (rows.row("water", place["parent"]) if place else None)
    if found is None:
        return None
    return GridWater(
        zone=found["zone"],
        l_per_kwh=float(found["l_per_kwh"]),
        with_reservoirs_l_per_kwh=float(found["with_reservoirs_l_per_kwh"]),
        with_reservoirs_low_l_per_kwh=float(found["with_reservoirs_low_l_per_kwh"]),
        with_reservoirs_high_l_per_kwh=float(found["with_reservoirs_high_l_per_kwh"]),
        year=int(found["year"]),
        source=rows.source(found["source"]),
    )


def water_l(
    computers_kwh: float, *, pue: float, wue_l_per_kwh: float | None, grid: GridWater | None
) -> float | None:
    """Litres consumed for the energy of computers; None if nothing is known.

    On site per kWh of the computers, at the power plants per kWh of the whole site (ISO/IEC
    30134-9).
    """
    if wue_l_per_kwh is None and grid is None:
        return None
    at_plants_l = computers_kwh * pue * grid.l_per_kwh if grid is not None else 0.0
    return computers_kwh * (wue_l_per_kwh or 0.0) + at_plants_l


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


def _year(cell: str) -> int | None:
    return int(cell) if cell else None
