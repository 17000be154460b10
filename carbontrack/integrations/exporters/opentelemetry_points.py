"""OpenTelemetry: the names of the metrics, and the points of each, as of one reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from carbontrack.api.live import LiveFigures
from carbontrack.integrations.exporters.labels import BoundedKeys
from carbontrack.integrations.exporters.work_sums import WorkSums

METRICS = {
    "hw.energy": ("J", "Energy of a meter while anything was measured."),
    "carbontrack.process.energy": ("J", "Energy of finished work by component, before PUE."),
    "carbontrack.emissions": ("g", "Emissions of finished work, CO2e."),
    "carbontrack.emissions.low": ("g", "Low end of carbontrack.emissions."),
    "carbontrack.emissions.high": ("g", "High end of carbontrack.emissions."),
    "carbontrack.calls": ("{call}", "Blocks and calls that have ended."),
    "carbontrack.duration": ("s", "Their running time."),
    "carbontrack.missed_reads": ("{read}", "Failed reads of single meters."),
    "carbontrack.lost_records": ("{record}", "Records that an output did not accept."),
    "carbontrack.open.energy": ("J", "Energy so far of the blocks that are open, times PUE."),
    "carbontrack.open.emissions": ("g", "Emissions so far of the blocks that are open, CO2e."),
    "carbontrack.grid.intensity": (
        "g/kWh",
        "Carbon intensity of the grid, CO2e per kilowatt-hour.",
    ),
}
_WORK = {
    "energy": "carbontrack.process.energy",
    "emissions": "carbontrack.emissions",
    "emissions_low": "carbontrack.emissions.low",
    "emissions_high": "carbontrack.emissions.high",
    "calls": "carbontrack.calls",
    "duration": "carbontrack.duration",
}
GAUGES = ("carbontrack.open.energy", "carbontrack.open.emissions", "carbontrack.grid.intensity")
_NAMES = ("carbontrack.name", "carbontrack.basis", "carbontrack.region", "carbontrack.component")
HW_TYPES = {"cpu": "cpu", "gpu": "gpu", "ram": "memory", "other": "other"}
Point = tuple[str, float, Mapping[str, str]]


def points(look: LiveFigures, sums: WorkSums, names: BoundedKeys) -> Iterator[Point]:
    """Every point: its metric, its value, and its attributes; unknown values have none."""
    yield "carbontrack.missed_reads", look.missed_reads, {}
    yield "carbontrack.lost_records", look.lost_records, {}
    for meter in look.meters:
        kind = {"hw.id": meter.id, "hw.type": HW_TYPES[meter.component]}
        yield "hw.energy", meter.joules, {**kind, "carbontrack.basis": meter.basis}
    for (zone, source), g_per_kwh in look.intensities.items():
        grid = {"carbontrack.region": zone, "carbontrack.intensity_source": source}
        yield "carbontrack.grid.intensity", g_per_kwh, grid
    for (name, key), value in names.open_sums(look).items():
        yield f"carbontrack.open.{name}", value, {"carbontrack.name": key[0]}
    for (name, labels), total in sums.rows().items():
        if name in _WORK:
            yield _WORK[name], total, dict(zip(_NAMES, labels, strict=False))
