"""Where the machine is: CodeCarbon's country, region and cloud as one of our regions.

CodeCarbon asks a web service for the country where it is told none. This does not: the place is
then what carbontrack finds offline, else the world's average with its wide interval.
"""

from __future__ import annotations

from typing import Any

from carbontrack.compat.codecarbon.config import Conf
from carbontrack.compat.codecarbon.log import LOGGER
from carbontrack.errors import UnknownRegion
from carbontrack.grid import names, rows


def region_of(conf: Conf) -> str | None:
    """The region that the parameters name; None where they name none that is known."""
    provider, cloud_region = conf["cloud_provider"], conf["cloud_region"]
    if provider and cloud_region:
        code = names.cloud_code(provider, cloud_region)
        if code is not None:
            return code
        LOGGER.error("cloud region %r of %r is not known", cloud_region, provider)
    country = conf["country_iso_code"] or conf["country_2letter_iso_code"]
    if not country:
        return None
    found = _known(country)
    if found is None:
        LOGGER.error("country_iso_code %r is not known; the world's average is used", country)
        return None
    part = conf["region"]
    return (_part_of(found, part) if part else None) or found


def columns_of(region: str | None, conf: Conf) -> dict[str, Any]:
    """The columns of a row that name a place, as CodeCarbon has them."""
    if region is None:
        return {}
    zone = (rows.row("cloud_regions", region) or {}).get("zone", region)
    country = rows.row("zones", zone) or {}
    while country and country["kind"] != "country" and country["parent"]:
        country = rows.row("zones", country["parent"]) or {}
    return {
        "country_name": country.get("name", ""),
        "country_iso_code": country.get("alpha3", ""),
        "region": str(conf["region"] or "").lower(),
        "cloud_provider": conf["cloud_provider"] or "",
        "cloud_region": conf["cloud_region"] or "",
        "on_cloud": "Y" if conf["cloud_provider"] else "N",
    }


def _known(text: str) -> str | None:
    try:
        return names.normalise(text)
    except UnknownRegion:
        return None


def _part_of(country: str, name: str) -> str | None:
    """The part of a country that has this name, such as "california" or "CA"; None: none has."""
    found = rows.row("names", names.fold(name)) or {}
    codes = [*found.get("codes", "").split(), f"{country}-{name.upper()}"]
    inside = (code for code in codes if code.startswith(f"{country}-") and rows.row("zones", code))
    return next(inside, None)
