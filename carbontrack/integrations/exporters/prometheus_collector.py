"""Prometheus: a collector of live values: meters, power, open blocks, the grid, and failures."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from prometheus_client import Metric, core

from carbontrack.api.live import LiveFigures, LiveView, Tracker
from carbontrack.integrations.exporters.labels import BoundedKeys, Key, label_text
from carbontrack.system.interrupts import attempt
from carbontrack.system.log import OnceLog

LIVE = {
    "meter_energy_joules": (("meter", "component", "basis"), "Energy while anything was measured."),
    "missed_reads": ((), "Failed reads of single meters."),
    "lost_records": ((), "Records that an output did not accept."),
    "power_watts": (("component",), "Power of the meters now, while anything is measured."),
    "open_energy_joules": (("name",), "Energy so far of the blocks that are open, times PUE."),
    "open_emissions_grams": (("name",), "Emissions so far of the blocks that are open, g CO2e."),
    "grid_intensity_grams_per_kilowatt_hour": (
        ("region", "source"),
        "Carbon intensity, g CO2e per kWh.",
    ),
}
_COUNTERS = ("meter_energy_joules", "missed_reads", "lost_records")
_FACTS = {
    "version": "carbontrack",
    "scope": "scope",
    "host_id": "host_id",
    "cpu_model": "cpu_model",
}
Sample = tuple[str, Key, float | None]


class CarbontrackCollector:
    """Collects live values; use it as `REGISTRY.register(CarbontrackCollector())`.

    A scrape reads the meters once. In multi-process mode `prometheus_client` does not use
    collectors.

    Args:
        tracker: the tracker whose meters and blocks to export; by default all trackers that `track`
            and `auto` have created in this process.
    """

    def __init__(self, tracker: Tracker | None = None) -> None:
        self._view, self._names = LiveView(tracker), BoundedKeys()
        self._log = OnceLog()

    def describe(self) -> Iterable[Metric]:
        """The families without samples, so that registering reads no meter."""
        return [*map(_family, LIVE), core.InfoMetricFamily("carbontrack", "What measures.")]

    def collect(self) -> Iterable[Metric]:
        """The families as of one reading; unknown values have no sample."""
        found, error = attempt(self._view.look)
        if error is not None:  # or the program's own metrics would be missing as well
            self._log.say("live values could not be exported", logging.ERROR, error)
        look = found or LiveFigures()
        sums: dict[tuple[str, Key], float] = {}
        for name, labels, value in self._samples(look):
            if value is not None:
                sums[name, labels] = value + sums.get((name, labels), 0.0)
        families = {name: _family(name) for name in LIVE}
        for (name, labels), value in sums.items():
            families[name].add_metric(labels, value)
        facts = {key: look.facts.get(column) for key, column in _FACTS.items()}
        known = {key: label_text(fact) for key, fact in facts.items() if fact is not None}
        info = core.InfoMetricFamily("carbontrack", "What measures.", value=known or None)
        return [*families.values(), info]

    def _samples(self, look: LiveFigures) -> Iterator[Sample]:
        yield "missed_reads", (), look.missed_reads
        yield "lost_records", (), look.lost_records
        for meter in look.meters:
            yield "meter_energy_joules", (meter.id, meter.component, meter.basis), meter.joules
            yield "power_watts", (meter.component,), meter.watts
        for (name, key), value in self._names.open_sums(look).items():
            yield f"open_{name}_{'joules' if name == 'energy' else 'grams'}", key, value
        for key, g_per_kwh in look.intensities.items():
            yield "grid_intensity_grams_per_kilowatt_hour", key, g_per_kwh


def _family(name: str) -> core.CounterMetricFamily | core.GaugeMetricFamily:
    labels, text = LIVE[name]
    kind = core.CounterMetricFamily if name in _COUNTERS else core.GaugeMetricFamily
    return kind(f"carbontrack_{name}", text, labels=labels)
