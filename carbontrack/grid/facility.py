"""What a site adds: power for cooling and conversion (PUE), and water there and at the plants."""

from __future__ import annotations

from typing import NamedTuple

from carbontrack.grid import names, rows, table


class Site(NamedTuple):
    """A cloud region's or a provider's overheads; None is unknown.

    `pue` is the site's energy over that of its computers; `wue_l_per_kwh` the water it consumes
    for each kWh of them. A basis is "region", "region_design" (a plan, not a measurement) or
    "provider_default" (the fleet's mean).
    """

    code: str
    pue: float | None
    pue_year: int | None
    pue_basis: str | None
    wue_l_per_kwh: float | None
    wue_year: int | None
    wue_basis: str | None


class GridWater(NamedTuple):
    """Litres that generating a kWh consumes, the water that reservoirs evaporate kept apart.

    `l_per_kwh` leaves reservoirs out: what to charge to power of their evaporation is contested,
    and where there is much hydropower it outweighs all else. `with_reservoirs_…` includes it.
    """

    zone: str
    l_per_kwh: float
    with_reservoirs_l_per_kwh: float
    with_reservoirs_low_l_per_kwh: float
    with_reservoirs_high_l_per_kwh: float
    year: int
    source: str


def site(region: str) -> Site | None:
    """The overheads of a cloud region ("aws:eu-west-3"), or None for a place that is none.

    Raises:
        UnknownRegion: the region is no place.
    """
    code = names.normalise(region)
    found = rows.row("cloud_regions", code)
    if found is None:
        return None
    return Site(
        code=code,
        pue=_number(found["pue"]),
        pue_year=_year(found["pue_year"]),
        pue_basis=found["pue_basis"] or None,
        wue_l_per_kwh=_number(found["wue_l_per_kwh"]),
        wue_year=_year(found["wue_year"]),
        wue_basis=found["wue_basis"] or None,
    )


def grid_water(region: str) -> GridWater | None:
    """The water behind a place's electricity, of its country; None where nothing is known.

    Raises:
        UnknownRegion: the region is no place.
    """
    zone = table.zone_of(names.normalise(region))
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
    """Litres consumed for what computers used; None if nothing is known.

    On site per kWh of theirs, at the plants per kWh of the whole site (ISO/IEC 30134-9).
    """
    if wue_l_per_kwh is None and grid is None:
        return None
    at_plants_l = computers_kwh * pue * grid.l_per_kwh if grid is not None else 0.0
    return computers_kwh * (wue_l_per_kwh or 0.0) + at_plants_l


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


def _year(cell: str) -> int | None:
    return int(cell) if cell else None
