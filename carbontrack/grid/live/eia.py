"""The US Energy Information Administration: hourly generation by fuel, with an API key.

The intensity is computed here: the mix times lifecycle medians, each with its range over published
sets (table generation_factors). The data are in the public domain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from carbontrack.grid import rows
from carbontrack.grid.live.provider import Signal, items
from carbontrack.grid.live.web import FetchFailed, Get
from carbontrack.grid.series import Slot, parse_time_s

BASE_URL = "https://api.eia.gov/v2"
TECHNOLOGY = {
    "COL": "coal_pc",
    "NG": "gas_cc",
    "OIL": "oil",
    "NUC": "nuclear",
    "WAT": "hydro",
    "SUN": "solar_pv_utility",
    "WND": "wind_onshore",
    "GEO": "geothermal",
}
"""Fuel of the EIA -> technology of the table. Storage is left out, since its energy was generated
before; "other" and "unknown" have no factor, and an hour with over a tenth of them no figure."""
_STORAGE = ("PS", "BAT", "SNB", "UES")


class Eia:
    """The generation mix of a US balancing authority, such as CISO, ERCO or PJM."""

    name = "US EIA"
    signal: Signal = "average"
    counts = "lifecycle"
    poll_s = 1800.0

    def __init__(self, zone: str, token: str, *, base_url: str = BASE_URL) -> None:
        self.zone = zone
        self._token = token
        self._base_url = base_url

    def __repr__(self) -> str:
        return f"Eia({self.zone!r})"

    def fetch(self, get: Get, now: datetime) -> Iterable[Slot]:
        """The published hours of the last day, the newest an hour or two ago."""
        params = {
            "api_key": self._token,
            "frequency": "hourly",
            "data[0]": "value",
            "facets[respondent][]": self.zone,
            "start": f"{now - timedelta(hours=24):%Y-%m-%dT%H}",
            "sort[0][column]": "period",
            "sort[0][direction]": "desc",
            "length": "500",
        }
        answer = get(f"{self._base_url}/electricity/rto/fuel-type-data/data/", params=params)
        megawatthours: dict[str, dict[str, float]] = defaultdict(dict)
        for entry in items(answer, "response", "data"):
            try:
                hour, fuel = str(entry["period"]), str(entry["fueltype"])
                megawatthours[hour][fuel] = float(entry["value"])
            except (KeyError, TypeError, ValueError):
                continue
        return [slot for hour, mix in megawatthours.items() if (slot := _slot(hour, mix))]

    def forecast(self, get: Get, now: datetime) -> Iterable[Slot]:  # noqa: ARG002 - the protocol's
        """Nothing: the EIA forecasts demand, not the mix."""
        raise FetchFailed(f"{self.name} has no forecast of carbon intensity", refused=True)


def _slot(hour: str, mix: dict[str, float]) -> Slot | None:
    generated = {f: mwh for f, mwh in mix.items() if mwh > 0.0 and f not in _STORAGE}
    total = sum(generated.values())
    known = {TECHNOLOGY[f]: mwh for f, mwh in generated.items() if f in TECHNOLOGY}
    covered = sum(known.values())
    if total <= 0.0 or covered < 0.9 * total:
        return None
    grams = sum(mwh * _factor(technology) for technology, mwh in known.items())
    try:
        end_s = parse_time_s(f"{hour}:00")  # the EIA names an hour by its end
    except ValueError:
        return None
    return Slot(end_s - 3600.0, end_s, grams / covered)


def _factor(technology: str) -> float:
    found = rows.row("generation_factors", technology)
    assert found is not None, technology
    return float(found["g_per_kwh"])
