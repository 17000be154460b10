"""Great Britain's own service: half-hourly figures and a forecast of 48 hours, without a key.

Carbon Intensity API, National Energy System Operator and University of Oxford, CC BY 4.0. It counts
direct emissions of power stations, those of imports included.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from carbontrack.grid.live.provider import Signal, items
from carbontrack.grid.live.web import Get
from carbontrack.grid.series import Slot, parse_time_s

BASE_URL = "https://api.carbonintensity.org.uk"


class UkCarbonIntensity:
    """The national figure of Great Britain, by half hours."""

    name = "UK Carbon Intensity"
    signal: Signal = "average"
    counts = "direct"
    poll_s = 1800.0

    def __init__(self, zone: str = "GB", *, base_url: str = BASE_URL) -> None:
        self.zone = zone
        self._base_url = base_url

    def fetch(self, get: Get, now: datetime) -> Iterable[Slot]:
        """The last half hour, the present one and the next two days, in one request."""
        since = now - timedelta(minutes=30)
        answer = get(f"{self._base_url}/intensity/{since:%Y-%m-%dT%H:%MZ}/fw48h")
        return [slot for entry in items(answer, "data") if (slot := _slot(entry))]

    forecast = fetch


def _slot(entry: dict[str, object]) -> Slot | None:
    """A half hour; `actual` where it is known, else the forecast."""
    try:
        figures = entry["intensity"]
        assert isinstance(figures, dict)
        actual, forecast = figures.get("actual"), figures.get("forecast")
        g = forecast if actual is None else actual
        start_s, end_s = parse_time_s(str(entry["from"])), parse_time_s(str(entry["to"]))
        return Slot(start_s, end_s, float(str(g)), actual is None)
    except (KeyError, ValueError, TypeError, AssertionError):
        return None
