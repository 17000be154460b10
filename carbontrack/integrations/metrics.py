"""A record in the form that other programs take: numbers under flat names, and facts as texts.

All integrations use these names, whatever the framework or the experiment tracker.
"""

from __future__ import annotations

import math

from carbontrack.record import Record
from carbontrack.units import JOULES_PER_KWH

PREFIX = "carbontrack/"
NUMBERS = (
    *("energy_kwh", "energy_low_kwh", "energy_high_kwh"),
    *("emissions_g", "emissions_low_g", "emissions_high_g"),
    *("cpu_kwh", "gpu_kwh", "ram_kwh", "duration_s"),
)
"""The columns that are exported, in addition to `power_w`."""
WORDS = ("basis", "region", "intensity_source", "meters", "record_id", "status")


def metrics_of(record: Record, prefix: str = PREFIX) -> dict[str, float]:
    """Return the record's numbers, such as `carbontrack/energy_kwh`, without unknown ones.

    `power_w` is the mean power over the record's duration. If the record sums calls that ran at the
    same time, it is the mean power of one call.
    """
    found: dict[str, float | None] = {name: getattr(record, name) for name in NUMBERS}
    if record.energy_kwh is not None and record.duration_s:
        found["power_w"] = record.energy_kwh * JOULES_PER_KWH / record.duration_s
    return {
        prefix + name: float(number)
        for name, number in found.items()
        if number is not None and math.isfinite(number)
    }


def facts_of(record: Record) -> dict[str, str]:
    """Return the record's facts as texts, for tags or a configuration, without unknown ones."""
    found = {name: getattr(record, name) for name in WORDS}
    return {name: str(fact) for name, fact in found.items() if fact is not None}
