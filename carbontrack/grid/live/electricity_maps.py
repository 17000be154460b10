"""Electricity Maps: flow-traced averages for more than 350 zones, with a token.

Its terms forbid sharing its data: figures are kept in this machine's own cache only.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from carbontrack.grid.live.provider import Signal, items
from carbontrack.grid.live.web import FetchFailed, Get
from carbontrack.grid.series import Slot, parse_time_s

BASE_URL = "https://api.electricitymaps.com/v4"
_STEP_S = {"5_minutes": 300.0, "15_minutes": 900.0, "hourly": 3600.0}


class ElectricityMaps:
    """Lifecycle intensity of the electricity that a zone consumes."""

    name = "Electricity Maps"
    signal: Signal = "average"
    counts = "lifecycle"
    poll_s = 900.0

    def __init__(self, zone: str, token: str, *, base_url: str = BASE_URL) -> None:
        self.zone = zone
        self._headers = {"auth-token": token}
        self._base_url = base_url

    def __repr__(self) -> str:
        return f"ElectricityMaps({self.zone!r})"

    def fetch(self, get: Get, now: datetime) -> Iterable[Slot]:  # noqa: ARG002 - the protocol's
        """The newest hour."""
        answer = self._ask(get, "latest")
        if not isinstance(answer, dict) or answer.get("carbonIntensity") is None:
            raise FetchFailed(f"{self.name} has no value for {self.zone}")
        return _slots([answer], answer)

    def forecast(self, get: Get, now: datetime) -> Iterable[Slot]:  # noqa: ARG002 - likewise
        """The next day, hour by hour."""
        answer = self._ask(get, "forecast", horizonHours="24")
        entries = items(answer, "forecast")
        return [slot._replace(estimated=True) for slot in _slots(entries, answer)]

    def _ask(self, get: Get, what: str, **more: str) -> Any:
        params = {"zone": self.zone, "emissionFactorType": self.counts, **more}
        url = f"{self._base_url}/carbon-intensity/{what}"
        return get(url, params=params, headers=self._headers)


def _slots(entries: list[Any], answer: dict[str, Any]) -> list[Slot]:
    step_s = _STEP_S.get(str(answer.get("temporalGranularity")), 3600.0)
    slots = []
    for entry in entries:
        try:
            start_s = parse_time_s(entry["datetime"])
            g, estimated = float(entry["carbonIntensity"]), bool(entry.get("isEstimated"))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
        slots.append(Slot(start_s, start_s + step_s, g, estimated))
    return slots
