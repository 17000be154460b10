"""Facts about this machine's hardware without a tracker, for test runners and other tools."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from carbontrack.config import environment
from carbontrack.config.settings import Settings
from carbontrack.errors import MeterError
from carbontrack.meters.cpu_info import CpuFacts, read_cpu_facts
from carbontrack.meters.meter import Meter
from carbontrack.system.clock import SystemClock
from carbontrack.system.host import online_threads


def has_cpu_counter(settings: Settings) -> bool:
    """Whether an energy counter of the CPU can be read on the machine that this process sees."""
    from carbontrack.meters.rapl import powercap_meters

    meters, _ = powercap_meters(Path(settings.sysfs_path))
    for meter in meters:
        meter.close()
    if not any(meter.component == "cpu" for meter in meters):
        return False
    facts = read_cpu_facts(Path(settings.procfs_path), Path(settings.sysfs_path))
    return facts.machine_threads is None


def gpu_joules_reader(settings: Settings) -> Callable[[], float] | None:
    """A function that reads the joules of this machine's GPUs so far; None if none can be read."""
    from carbontrack.meters.detect import NVML_LIBRARY, nvml_is_present

    if settings.gpu_ids == () or not nvml_is_present(NVML_LIBRARY):
        return None
    from carbontrack.meters.gpu_selection import numbers_are_by_bus
    from carbontrack.meters.nvml import nvml_meters

    by_bus = numbers_are_by_bus(environment.gpu_variables())
    meters, _, _ = nvml_meters(settings.gpu_ids, environment.visible_gpus(), by_bus=by_bus)
    return _JoulesReader(meters) if meters else None


class _JoulesReader:
    """The sum of several meters; a meter that does not respond keeps its last count."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = meters
        self._joules = {meter.id: 0.0 for meter in meters}

    def __call__(self) -> float:
        now_s = SystemClock.monotonic_s()
        for meter in self._meters:
            try:
                self._joules[meter.id] = meter.read_joules(now_s)
            except MeterError:
                continue
        return sum(self._joules.values())


def machine_fingerprint(cpu: CpuFacts | None = None) -> str:
    """A text of what determines the machine's speed: processor, threads, system, interpreter."""
    cpu = read_cpu_facts() if cpu is None else cpu
    name = cpu.name or cpu.vendor or platform.processor() or platform.machine()
    part = ".".join(filter(None, (cpu.family, cpu.model, cpu.stepping)))
    model = f"{name} ({part})" if part else name
    python = f"{platform.python_implementation()} {'.'.join(platform.python_version_tuple()[:2])}"
    return f"{model} x{online_threads()}, {platform.system()}, {python}"
