"""The rows of CodeCarbon, with its names, order and units: kg, kWh, W, seconds, local time.

CodeCarbon's rows have no way to say that something is unknown: an unknown energy or power is 0.0
there, and an unknown text is empty. carbontrack's own record, next to such a row, keeps None.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from carbontrack.record import Record
from carbontrack.system.version import VERSION
from carbontrack.units import JOULES_PER_KWH

G_PER_KG = 1000.0
SHORTEST_S = 1e-9
"""The rate of emissions is per second, so that no duration is 0."""
_DIFFERENCES = (
    *("duration", "emissions", "cpu_energy", "gpu_energy", "ram_energy", "energy_consumed"),
    "water_consumed",
)


@dataclass
class EmissionsData:
    """A row of `emissions.csv`, in the order of its columns.

    `duration` is in seconds, `emissions` in kg, `emissions_rate` in kg/s, powers in W, energies in
    kWh and times the PUE, `water_consumed` in litres, memory in GiB. `codecarbon_version` names
    carbontrack, because a row must not claim to be another tool's.
    """

    timestamp: str
    project_name: str
    run_id: str
    experiment_id: str
    duration: float
    emissions: float
    emissions_rate: float
    cpu_power: float
    gpu_power: float
    ram_power: float
    cpu_energy: float
    gpu_energy: float
    ram_energy: float
    energy_consumed: float
    water_consumed: float
    country_name: str
    country_iso_code: str
    region: str
    cloud_provider: str
    cloud_region: str
    os: str
    python_version: str
    codecarbon_version: str
    cpu_count: float
    cpu_model: str
    gpu_count: float
    gpu_model: str
    longitude: float | None
    latitude: float | None
    ram_total_size: float
    tracking_mode: str
    cpu_utilization_percent: float = 0.0
    gpu_utilization_percent: float = 0.0
    ram_utilization_percent: float = 0.0
    ram_used_gb: float = 0.0
    on_cloud: str = "N"
    pue: float = 1.0
    wue: float = 0.0

    @property
    def values(self) -> OrderedDict[str, Any]:
        """The row by column."""
        return OrderedDict(self.__dict__)

    def compute_delta_emission(self, previous_emission: EmissionsData) -> None:
        """Make this row the increase since an earlier one of the same run."""
        for name in _DIFFERENCES:
            setattr(self, name, getattr(self, name) - getattr(previous_emission, name))
        self.emissions_rate = self.emissions / self.duration if self.duration > 0.0 else 0.0

    def since(self, earlier: EmissionsData | None) -> EmissionsData:
        """A row of the increase since an earlier one; all of it if there was none."""
        added = replace(self)
        if earlier is not None:
            added.compute_delta_emission(earlier)
        return added

    def toJSON(self) -> str:  # noqa: N802 - CodeCarbon's name
        """The row as JSON."""
        return json.dumps(self.__dict__, sort_keys=True, indent=4)


@dataclass
class TaskEmissionsData:
    """A row of a task; see `EmissionsData`."""

    task_name: str
    timestamp: str
    project_name: str
    run_id: str
    duration: float
    emissions: float
    emissions_rate: float
    cpu_power: float
    gpu_power: float
    ram_power: float
    cpu_energy: float
    gpu_energy: float
    ram_energy: float
    energy_consumed: float
    water_consumed: float
    country_name: str
    country_iso_code: str
    region: str
    cloud_provider: str
    cloud_region: str
    os: str
    python_version: str
    codecarbon_version: str
    cpu_count: float
    cpu_model: str
    gpu_count: float
    gpu_model: str
    longitude: float | None
    latitude: float | None
    ram_total_size: float
    tracking_mode: str
    cpu_utilization_percent: float = 0.0
    gpu_utilization_percent: float = 0.0
    ram_utilization_percent: float = 0.0
    ram_used_gb: float = 0.0
    on_cloud: str = "N"

    @property
    def values(self) -> OrderedDict[str, Any]:
        """The row by column."""
        return OrderedDict(self.__dict__)

    @classmethod
    def of(cls, task_name: str, data: EmissionsData) -> TaskEmissionsData:
        """The task's row, measured while it was open."""
        names = [one.name for one in fields(cls) if one.name != "task_name"]
        return cls(task_name, **{name: getattr(data, name) for name in names})


def data_of(record: Record, **said: Any) -> EmissionsData:
    """CodeCarbon's row of a record.

    Args:
        record: of a span that has ended, or its snapshot.
        said: columns that the record does not have or that the tracker was given, such as
            `project_name`, `run_id`, `experiment_id`, the place, `wue`; they take precedence over
            those of the record.
    """
    pue = record.pue or 1.0
    seconds = max(record.duration_s or 0.0, SHORTEST_S)
    whole = _whole_machine(record)
    kwh = {name: one * pue for name, one in whole.items()}
    share = kwh["total"] / record.energy_kwh if record.energy_kwh else 1.0
    emissions_kg = (record.emissions_g or 0.0) * share / G_PER_KG
    parts = ("cpu", "gpu", "ram")
    columns: dict[str, Any] = {
        "timestamp": datetime.now().strftime("%Y-%m-%dT%H:%M:%S"),
        "project_name": record.name,
        "run_id": record.run_id,
        "experiment_id": "",
        "duration": seconds,
        "emissions": emissions_kg,
        "emissions_rate": emissions_kg / seconds,
        **{f"{name}_power": kwh[name] * JOULES_PER_KWH / seconds for name in parts},
        **{f"{name}_energy": kwh[name] for name in parts},
        "energy_consumed": kwh["total"],
        "water_consumed": kwh["total"] * said.get("wue", 0.0),
        **_hardware(record),
        "pue": pue,
    }
    return EmissionsData(**columns | said)


def _whole_machine(record: Record) -> dict[str, float]:
    """The energy by component before the PUE, in kWh.

    In scope `machine` that is the machine's energy, even if blocks of the program or other trackers
    were open at the same time: carbontrack's records divide it among them, so that they can be
    added up, while each of CodeCarbon's trackers counts all of it.
    """
    kwh = {name: getattr(record, f"{name}_kwh") or 0.0 for name in ("cpu", "gpu", "ram", "other")}
    own = (record.energy_kwh or 0.0) / (record.pue or 1.0)
    machine = record.machine_kwh
    if record.scope != "machine" or machine is None or machine <= own:
        return {**kwh, "total": own}
    cpu = kwh["cpu"] / record.cpu_share if record.cpu_share else kwh["cpu"]
    others = own - kwh["cpu"]
    factor = (machine - cpu) / others if others > 0.0 else 1.0
    return {**{name: one * factor for name, one in kwh.items()}, "cpu": cpu, "total": machine}


def _hardware(record: Record) -> dict[str, Any]:
    return {
        "country_name": "",
        "country_iso_code": "",
        "region": "",
        "cloud_provider": "",
        "cloud_region": "",
        "os": record.os or "",
        "python_version": record.python or "",
        "codecarbon_version": f"carbontrack {VERSION}",
        "cpu_count": record.cpu_threads or 0,
        "cpu_model": record.cpu_model or "",
        "gpu_count": record.gpu_count or 0,
        "gpu_model": _counted(record.gpu_models or ""),
        "longitude": None,
        "latitude": None,
        "ram_total_size": record.ram_gib or 0.0,
        "tracking_mode": record.scope or "",
    }


def _counted(models: str) -> str:
    """The models of GPUs as CodeCarbon writes them: "4 x NVIDIA A100, 1 x NVIDIA T4"."""
    counts = Counter(filter(None, models.split(";")))
    return ", ".join(f"{number} x {model}" for model, number in counts.items())
