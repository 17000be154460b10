"""The machine's location: CodeCarbon's country, region and cloud as a carbontrack region, and back.

CodeCarbon asks a web service for the country if none is given. This does not: the region is then
detected offline, else it is the world average with its wide interval.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from carbontrack.compat.codecarbon.config import Conf
from carbontrack.compat.codecarbon.log import LOGGER
from carbontrack.errors import UnknownRegion
from carbontrack.grid import names, rows
from carbontrack.record import Record

_FULL_NAMES = {"US": "United States", "GB": "United Kingdom"}
_STATES = ("US state", "province/territory")
"""The kinds of zones that have a name in CodeCarbon's column `region`."""


def region_of(conf: Conf) -> str | None:
    """The region that the parameters name; None if they name no known region."""
    return _of_cloud(conf) or _of_country(conf)


def _of_cloud(conf: Conf) -> str | None:
    provider, region = conf["cloud_provider"], conf["cloud_region"]
    if not provider:
        return None
    if not region:
        LOGGER.error("cloud_provider has no effect without cloud_region")
        return None
    code = names.cloud_code(str(provider), str(region))
    if code is None:
        LOGGER.error("cloud region %r of %r is not known", region, provider)
    return code


def _of_country(conf: Conf) -> str | None:
    country, part = conf["country_iso_code"] or conf["country_2letter_iso_code"], conf["region"]
    if not country:
        return _known(part) if part else None
    found = _known(country)
    if found is None:
        LOGGER.error("country_iso_code=%r is not known; the world average is used", country)
        return None
    within = names.part_of(found, str(part)) if part else None
    return within or found


def columns_of(record: Record, region: str | None, conf: Conf) -> dict[str, Any]:
    """The columns of a row that name a place, as CodeCarbon has them.

    Args:
        record: has the region that carbontrack detected, if any.
        region: the result of `region_of`.
        conf: the given parameters; they take precedence over the detected region.
    """
    country, alpha3, state = _names_of(region or record.region or "")
    provider = conf["cloud_provider"] or record.cloud_provider or ""
    return {
        "country_name": country,
        "country_iso_code": alpha3,
        "region": str(conf["region"] or state).lower(),
        "cloud_provider": provider,
        "cloud_region": conf["cloud_region"] or record.cloud_region or "",
        "on_cloud": "Y" if provider else "N",
    }


@lru_cache(maxsize=64)  # asked for each row, and each looks a table through
def _names_of(code: str) -> tuple[str, str, str]:
    """The names of a region's country, its three letters, and the name of the state."""
    zone = (rows.row("cloud_regions", code) or {}).get("zone", code)
    here = country = rows.row("zones", zone) or {}
    while country and country["kind"] != "country":
        country = rows.row("zones", country["parent"]) or {}
    name = _FULL_NAMES.get(country.get("zone", ""), country.get("name", ""))
    state = here["name"] if here.get("kind") in _STATES else ""
    return name, country.get("alpha3", ""), state


def _known(text: str) -> str | None:
    try:
        return names.normalise(text)
    except UnknownRegion:
        return None
