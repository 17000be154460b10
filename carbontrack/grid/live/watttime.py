"""WattTime: marginal emissions, those of one more kilowatt-hour, with an account.

Its terms forbid sharing its data: figures are kept in this machine's own cache only.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from carbontrack.grid.live.provider import Signal, items
from carbontrack.grid.live.web import FetchFailed, Get
from carbontrack.grid.series import Slot, parse_time_s

BASE_URL = "https://api.watttime.org"
G_PER_LB = 453.59237
"""Grams in a pound, exact by definition (international yard and pound agreement, 1959)."""


class WattTime:
    """The marginal operating emissions rate (MOER) of a balancing region, every five minutes."""

    name = "WattTime"
    signal: Signal = "marginal"
    counts = "direct"
    poll_s = 600.0

    def __init__(self, zone: str, token: str, *, base_url: str = BASE_URL) -> None:
        """Take the account as "user:password", and the region's name or "latitude,longitude"."""
        self.zone = zone
        user, _, password = token.partition(":")
        self._login = (user, password)
        self._base_url = base_url
        self._bearer: str | None = None
        self._region = None if "," in zone else zone

    def __repr__(self) -> str:
        return f"WattTime({self.zone!r})"

    def fetch(self, get: Get, now: datetime) -> Iterable[Slot]:  # noqa: ARG002 - the protocol's
        """The present rate and the forecast of a day, in one answer."""
        region = self._region or self._find_region(get)
        params = {"region": region, "signal_type": "co2_moer", "horizon_hours": "24"}
        answer = self._ask(get, "forecast", params)
        meta = answer.get("meta") if isinstance(answer, dict) else None
        meta = meta if isinstance(meta, dict) else {}
        if meta.get("units") != "lbs_co2_per_mwh":
            raise FetchFailed(f"{self.name} returns {meta.get('units')!r}, not lbs_co2_per_mwh")
        step_s = float(meta.get("data_point_period_seconds") or 300.0)
        return [s for entry in items(answer, "data") if (s := _slot(entry, step_s))]

    forecast = fetch

    def _find_region(self, get: Get) -> str:
        latitude, longitude = self.zone.split(",")
        params = {"latitude": latitude, "longitude": longitude, "signal_type": "co2_moer"}
        answer = self._ask(get, "region-from-loc", params)
        region = answer.get("region") if isinstance(answer, dict) else None
        if not isinstance(region, str):
            raise FetchFailed(f"{self.name} knows no region at {self.zone}", refused=True)
        self._region = region
        return region

    def _ask(self, get: Get, what: str, params: dict[str, str]) -> Any:
        """Request with the token of the last log-in, and log in again where it has expired."""
        if self._bearer is not None:
            try:
                return self._get(get, what, params)
            except FetchFailed as failure:
                if not failure.refused:
                    raise
        answer = get(f"{self._base_url}/login", login=self._login)
        token = answer.get("token") if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise FetchFailed(f"{self.name} returned no token")
        self._bearer = token
        return self._get(get, what, params)

    def _get(self, get: Get, what: str, params: dict[str, str]) -> Any:
        headers = {"Authorization": f"Bearer {self._bearer}"}
        return get(f"{self._base_url}/v3/{what}", params=params, headers=headers)


def _slot(entry: Any, step_s: float) -> Slot | None:
    try:
        start_s = parse_time_s(entry["point_time"])
        g_per_kwh = float(entry["value"]) * G_PER_LB / 1000.0
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return Slot(start_s, start_s + step_s, g_per_kwh, estimated=True)
