"""The intensity source for the names in a setting: live services in order, then the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError, NoIntensity, close_matches, did_you_mean
from carbontrack.grid import rows
from carbontrack.grid.intensity import Candidate, Chain, FailSafeSource, IntensitySource
from carbontrack.grid.live.eia import Eia
from carbontrack.grid.live.electricity_maps import ElectricityMaps
from carbontrack.grid.live.energy_charts import EnergyCharts
from carbontrack.grid.live.feed import Cache, Feed, Outside
from carbontrack.grid.live.provider import Provider
from carbontrack.grid.live.uk_carbon_intensity import UkCarbonIntensity
from carbontrack.grid.live.watttime import WattTime
from carbontrack.grid.live.web import FetchFailed, Web
from carbontrack.grid.region import Region
from carbontrack.grid.series import Slot, in_order
from carbontrack.system.log import RateLimitedLog

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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
    """The sources of a setting, asked in order, and then `last`, the table's figure.

    A name is that of a service, of a plugin, or "table", which ends the list. A service's own zone
    may follow a colon: "watttime:CAISO_NORTH". `base_urls` replaces services' addresses, for tests.

    Raises:
        ConfigError: a name is unknown, a token is missing, or no named service covers the region.
    """
    outside = outside or Outside(warn=RateLimitedLog().warn)
    candidates: list[Candidate] = []
    for text in _until_table(names):
        found = _covering(text, region, token, base_urls or {})
        if found is not None:
            get, zone = _web(token).get, region.zone
            cache = _cache(found, state) if state is not None else None
            candidates.append(Feed(found, get, zone=zone, cache=cache, outside=outside))
        elif _plain(text) not in SERVICES:
            candidates.append(FailSafeSource(text, _plugin(text, region, token), outside.warn))
    if not candidates and any(_until_table(names)):
        raise _not_covered(names, region)
    return Chain(candidates, last) if candidates else last


def check(names: Sequence[str], region: Region, token: str | None) -> None:
    """Check whether these sources can be made here, without making them.

    Raises:
        ConfigError: as for `make_grid`.
    """
    until_table = _until_table(names)
    found = [
        _covering(text, region, token, {}) if _plain(text) in SERVICES else _point(text)
        for text in until_table
    ]
    if until_table and not any(one is not None for one in found):
        raise _not_covered(names, region)


def forecast(
    names: Sequence[str],
    region: Region,
    *,
    token: str | None = None,
    now: datetime,
    base_urls: Mapping[str, str] | None = None,
) -> tuple[tuple[Slot, ...], str]:
    """The forecast of the first service that answers, and that service's name.

    It waits for the network: it is meant for commands and scripts, not for measured programs.

    Raises:
        ConfigError: as for `make_grid`.
        NoIntensity: no service gave a forecast; the message says why each did not.
    """
    reasons = []
    for text in _until_table(names):
        provider = _covering(text, region, token, base_urls or {})
        if provider is None:
            if _plain(text) not in SERVICES:
                _point(text)  # raises for an unknown name
            continue
        try:
            slots = in_order(provider.forecast(_web(token).get, now))
        except FetchFailed as failure:
            reasons.append(failure.reason)
            continue
        if slots:
            return slots, f"{provider.name}, {provider.signal}, {provider.counts}"
        reasons.append(f"{provider.name} returned an impossible value")
    if not reasons:
        raise _not_covered(names, region)
    raise NoIntensity(f"no forecast for {region.zone}: {'; '.join(reasons)}")


def _until_table(names: Sequence[str]) -> list[str]:
    ends = [place for place, name in enumerate(names) if _plain(name) == "table"]
    return list(names[: ends[0]] if ends else names)


def _not_covered(names: Sequence[str], region: Region) -> ConfigError:
    return ConfigError(
        f"intensity_source={','.join(names)} does not cover the region {region.zone!r}; "
        "give another source, or the service's own zone after a colon: 'eia:CISO'"
    )


def _covering(
    text: str, region: Region, token: str | None, base_urls: Mapping[str, str]
) -> Provider | None:
    """The service of this name for a region; None for a plugin or a region it does not cover."""
    name, own_zone = _plain(text), text.partition(":")[2].strip()
    zone = own_zone or (_COVERS[name](region.zone) if name in _COVERS else None)
    if zone is None or name not in SERVICES:
        return None
    return _provider(name, zone, token, base_urls.get(name))


def _web(token: str | None) -> Web:
    return Web([token, *token.split(":")] if token else [])


def _cache(provider: Provider, state: Path) -> Cache:
    return Cache.of(state, provider.name, provider.zone, provider.signal)


def _plain(text: str) -> str:
    """The bare name in a setting's text: "Energy-Charts:de" -> "energycharts"."""
    return "".join(filter(str.isalnum, text.partition(":")[0].lower()))


def _provider(name: str, zone: str, token: str | None, base_url: str | None) -> Provider:
    kind, needs_token = SERVICES[name]
    if needs_token and not token:
        raise ConfigError(
            f"intensity_source={name} needs a token; set live_token, or CARBONTRACK_LIVE_TOKEN"
        )
    where: dict[str, Any] = {"base_url": base_url} if base_url else {}
    return kind(zone, token, **where) if needs_token else kind(zone, **where)


def _plugin(text: str, region: Region, token: str | None) -> IntensitySource:
    from carbontrack.system import plugins  # and with it importlib.metadata, for plugins alone

    source: IntensitySource = plugins.load(_point(text))(region, token)
    return source


def _point(text: str) -> EntryPoint:
    from carbontrack.system import plugins

    try:
        return plugins.find(plugins.INTENSITY, text)
    except ValueError:
        others = plugins.installed(plugins.INTENSITY)
        near = close_matches(_plain(text), SERVICES) or close_matches(text, others)
        known = ", ".join([*SERVICES, *others, "table"])
        raise ConfigError(
            f"intensity_source={text!r} is none of {known}{did_you_mean(near)}"
        ) from None


def _live_zone(zone: str) -> str:
    """Electricity Maps' name of a zone, which for cloud regions stands in the table."""
    cloud = rows.row("cloud_regions", zone) if ":" in zone else None
    return cloud["live_zone"] if cloud else zone


def _country(zone: str) -> str:
    return _live_zone(zone).partition("-")[0]


def _electricity_maps_zone(zone: str) -> str | None:
    """All but US states and eGRID subregions, which differ from its zones, and aggregates."""
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
    """The coordinates of a cloud region, from which the service finds its own region."""
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
