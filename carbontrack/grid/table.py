"""The yearly tables: the intensity of a place, from the package's own files."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from carbontrack.errors import NoIntensity
from carbontrack.grid import names, rows
from carbontrack.grid.intensity import GridIntensity

Method = Literal["lifecycle", "direct", "marginal"]
WORLD = "WORLD"
_TABLE: dict[str, str] = {
    "lifecycle": "intensity",
    "direct": "intensity_direct",
    "marginal": "intensity_marginal",
}


def lookup(region: str, *, method: Method = "lifecycle") -> GridIntensity:
    """The yearly intensity of a place: "FR", "California", "aws:eu-west-3".

    The answer's `zone` is the place's code; its `source` also names the grid that a cloud region
    stands in. `method` is "lifecycle" by default, the basis of every national figure; "direct"
    gives stack emissions, "marginal" what one more kWh causes (US subregions only). The answer's
    own `method` says exactly what is counted; a few zones have only a direct figure.

    Raises:
        UnknownRegion: no table knows the place, or its name means several; `matches` names them.
        NoIntensity: the place is known and has no figure; a neighbour's is never taken for it.
    """
    return _lookup(region, method)


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


def zone_of(place: str) -> str:
    """The grid zone of a code: itself, or the zone that a cloud region stands in."""
    cloud = rows.row("cloud_regions", place) if ":" in place else None
    return cloud["zone"] if cloud is not None else place


def _zones(place: str, method: str) -> tuple[str, ...]:
    """The rows that may answer for a place, best first: a cloud region stands in some zone."""
    cloud = rows.row("cloud_regions", place) if ":" in place else None
    if cloud is None or method == "lifecycle":
        return (zone_of(place),)
    return (place, cloud["direct_zone"], cloud["zone"])


def _why_none(place: str, method: str) -> str:
    known = rows.row("zones", place)
    name = f"{known['name']} ({place})" if known else place
    reason = f"no table has a {method} intensity for {name}"
    like = known["supplied_like"] if known and method == "lifecycle" else ""
    hint = f"; its grid resembles that of {like}, so region={like!r} may serve you" if like else ""
    return f"{reason}{hint}; or give intensity_g_per_kwh"
