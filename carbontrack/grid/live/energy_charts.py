"""Energy-Charts of Fraunhofer ISE: about forty European countries, without a key, CC BY 4.0."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import zip_longest

from carbontrack.grid.live.provider import Signal, items
from carbontrack.grid.live.web import Get
from carbontrack.grid.series import Slot

BASE_URL = "https://api.energy-charts.info"
_STEP_S = 900.0


class EnergyCharts:
    """CO2e intensity of a country's mix by quarter hours, up to the end of the forecast."""

    name = "Energy-Charts"
    signal: Signal = "average"
    counts = "unstated"
    poll_s = 900.0

    def __init__(self, zone: str, *, base_url: str = BASE_URL) -> None:
        self.zone = zone.lower()
        self._base_url = base_url

    def fetch(self, get: Get, now: datetime) -> Iterable[Slot]:  # noqa: ARG002 - the protocol's
        """Today's figures, and the forecast for today and tomorrow."""
        answer = get(f"{self._base_url}/co2eq", params={"country": self.zone})
        times = items(answer, "unix_seconds")
        columns = (times, times[1:], items(answer, "co2eq"), _optional(answer, "co2eq_forecast"))
        slots = []
        for start_s, next_s, measured, expected in zip_longest(*columns):
            g = expected if measured is None else measured
            if isinstance(start_s, (int, float)) and isinstance(g, (int, float)):
                step_s = min(next_s - start_s, 3600.0) if isinstance(next_s, int) else _STEP_S
                slots.append(Slot(float(start_s), start_s + step_s, float(g), measured is None))
        return slots

    forecast = fetch


def _optional(answer: dict[str, object], key: str) -> list[object]:
    found = answer.get(key)
    return found if isinstance(found, list) else []
