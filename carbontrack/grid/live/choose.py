"""From the names in a setting to a grid: live services in order, then the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from carbontrack.errors import ConfigError
from carbontrack.grid import rows
from carbontrack.grid.chain import Candidate, Chain, Guarded
from carbontrack.grid.intensity import IntensitySource
from carbontrack.grid.live.cache import Cache
from carbontrack.grid.live.eia import Eia
from carbontrack.grid.live.electricity_maps import ElectricityMaps
from carbontrack.grid.live.energy_charts import EnergyCharts
from carbontrack.grid.live.feed import Feed, Outside
from carbontrack.grid.live.provider import Provider
from carbontrack.grid.live.uk_carbon_intensity import UkCarbonIntensity
from carbontrack.grid.live.watttime import WattTime
from carbontrack.grid.live.web import Web
from carbontrack.grid.region import Region

ENTRY_POINTS = "carbontrack.intensity"
"""Entry-point group of other packages' sources: a callable that takes a Region and the token, or
None, and returns an IntensitySource."""

_EUROPE = (
    "AL AT BA BE BG CH CY CZ DE DK EE ES FI FR GB GE GR HR HU IE IT LT "
    "LU LV MD ME MK MT NL NO PL PT RO RS SE SI SK TR UA XK "
)
"""Countries of Energy-Charts."""


def make_grid(
    names: Sequence[str],
    region: Region,
    last: IntensitySource,
    *,
    token: str | None = None,
    state: Path | None = None,
    outside: Outside | None = None,
    base_urls: Mapping[str, str] | None = None,
) -> IntensitySource:
    """The sources of a setting, asked in order, and `last`, which is the table's figure.

    A name is that of a service, of a plugin, or "table", which ends the list. A service's own zone
    may follow a colon: "watttime:CAISO_NORTH". `base_urls` moves a service, for tests.

    Raises:
        ConfigError: a name is unknown, a token is missing, or no named service covers the region.
    """
    candidates: list[Candidate] = []
    uncovered: list[str] = []
    for text in names:
        name, _, own_zone = text.partition(":")
        name = _plain(name)
        if name == "table":
            break
        if name not in SERVICES:
            warn = outside.warn if outside is not None else None
            candidates.append(Guarded(text, _plugin(text, region, token), warn))
            continue
        zone = own_zone.strip() or _COVERS[name](region.zone)
        if zone is None:
            uncovered.append(text)
            continue
        provider = _provider(name, zone, token, (base_urls or {}).get(name))
        cache = Cache.of(state, name, zone, provider.signal) if state is not None else None
        web = Web([token, *token.split(":")] if token else [])
        candidates.append(Feed(provider, web.get, zone=region.zone, cache=cache, outside=outside))
    if uncovered and not candidates:
        raise ConfigError(
            f"intensity_source={','.join(uncovered)} does not cover the region {region.zone!r}; "
            "give another source, or the service's own zone after a colon: 'eia:CISO'"
        )
    return Chain(candidates, last) if candidates else last


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _provider(name: str, zone: str, token: str | None, base_url: str | None) -> Provider:
    kind, needs_token = SERVICES[name]
    if needs_token and not token:
        raise ConfigError(
            f"intensity_source={name} needs a token; set live_token, or CARBONTRACK_LIVE_TOKEN"
        )
    where: dict[str, Any] = {"base_url": base_url} if base_url else {}
    return kind(zone, token, **where) if needs_token else kind(zone, **where)


def _plugin(text: str, region: Region, token: str | None) -> IntensitySource:
    from importlib.metadata import entry_points

    found = entry_points(group=ENTRY_POINTS)
    for point in found:
        if point.name == text:
            source: IntensitySource = point.load()(region, token)
            return source
    known = ", ".join([*SERVICES, *(point.name for point in found), "table"])
    from difflib import get_close_matches

    near = get_close_matches(_plain(text), SERVICES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"intensity_source={text!r} is none of {known}{hint}")


def _live_zone(zone: str) -> str:
    """Electricity Maps' name of a zone, which for cloud regions stands in the table."""
    cloud = rows.row("cloud_regions", zone) if ":" in zone else None
    return cloud["live_zone"] if cloud else zone


def _country(zone: str) -> str:
    return _live_zone(zone).partition("-")[0]


def _electricity_maps_zone(zone: str) -> str | None:
    """All but US states and eGRID subregions, which lie across its zones, and aggregates."""
    live = _live_zone(zone)
    row = rows.row("zones", live)
    kinds = {"US state", "eGRID subregion", "aggregate"}
    return None if row is not None and row["kind"] in kinds else live


def _eia_zone(zone: str) -> str | None:
    """The balancing authority at the end of an operator's zone: "US-CAL-CISO" -> "CISO"."""
    live = _live_zone(zone)
    if live == "US":
        return "US48"
    parts = live.split("-")
    return parts[2] if parts[0] == "US" and len(parts) == 3 else None


def _watttime_zone(zone: str) -> str | None:
    """The coordinates of a cloud region, from which the service finds its own name."""
    cloud = rows.row("cloud_regions", zone)
    if cloud is None or not cloud["latitude"]:
        return None
    return f"{cloud['latitude']},{cloud['longitude']}"


_COVERS: dict[str, Callable[[str], str | None]] = {
    "ukcarbonintensity": lambda zone: "GB" if _country(zone) == "GB" else None,
    "electricitymaps": _electricity_maps_zone,
    "watttime": _watttime_zone,
    "energycharts": lambda zone: _country(zone) if _country(zone) in _EUROPE.split() else None,
    "eia": _eia_zone,
}
SERVICES: dict[str, tuple[Callable[..., Provider], bool]] = {
    "ukcarbonintensity": (UkCarbonIntensity, False),
    "electricitymaps": (ElectricityMaps, True),
    "watttime": (WattTime, True),
    "energycharts": (EnergyCharts, False),
    "eia": (Eia, True),
}
"""Name -> its class, and whether it needs a token."""
