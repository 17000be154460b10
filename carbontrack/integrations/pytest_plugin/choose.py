"""Which metric a run measures by, and how it is built on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from carbontrack.config import environment
from carbontrack.config.settings import Settings
from carbontrack.errors import MeterError
from carbontrack.integrations.pytest_plugin.metrics import Metric
from carbontrack.integrations.pytest_plugin.options import Options
from carbontrack.integrations.pytest_plugin.reference import (
    G_PER_KWH,
    WATTS_PER_BUSY_CORE,
    ReferenceMetric,
)
from carbontrack.meters.meter import Meter
from carbontrack.system.clock import SystemClock


def choose(options: Options, settings: Settings, *, alone: bool) -> Metric:
    """The metric that was asked for; for "auto" measured where a CPU counter can be read.

    Args:
        options: what was asked for.
        settings: carbontrack's own, as they were when the run started.
        alone: False where other processes run tests at the same time; "auto" is then reference.

    Raises:
        ConfigError: a setting cannot be used.
    """
    if options.metric == "measured" or (options.metric == "auto" and alone and _counts(settings)):
        from carbontrack.api.assembly import assemble, environment_now
        from carbontrack.integrations.pytest_plugin.metrics import MeasuredMetric

        return MeasuredMetric(assemble(settings, environment_now()))
    return ReferenceMetric(
        watts=options.reference_watts or WATTS_PER_BUSY_CORE,
        g_per_kwh=options.reference_intensity or G_PER_KWH,
        gpu_joules=_gpu_joules(settings),
    )


def pins_text(options: Options) -> str:
    """What is known of the metric before anyone builds it."""
    if options.metric == "measured":
        return "measured metric"
    watts = options.reference_watts or WATTS_PER_BUSY_CORE
    g_per_kwh = options.reference_intensity or G_PER_KWH
    return f"reference metric, {watts:g} W per busy core, {g_per_kwh:g} g CO2e/kWh"


def _counts(settings: Settings) -> bool:
    """Whether a counter of the CPU's energy can be read."""
    from carbontrack.meters.rapl import powercap_meters

    meters, _ = powercap_meters(Path(settings.sysfs_path))
    for meter in meters:
        meter.close()
    return any(meter.component == "cpu" for meter in meters)


def _gpu_joules(settings: Settings) -> Callable[[], float] | None:
    """The joules of this machine's GPUs so far; None where there is none to read."""
    from carbontrack.meters.detect import NVML_LIBRARY, nvml_is_present

    if settings.gpu_ids == () or not nvml_is_present(NVML_LIBRARY):
        return None
    from carbontrack.meters.nvml import nvml_meters

    meters, _, _ = nvml_meters(settings.gpu_ids, environment.visible_gpus())
    return _Gpus(meters) if meters else None


class _Gpus:
    """The joules of some meters while this process has CUDA loaded.

    An idle GPU takes tens of watts, and a test that does not use it must cost the same on a machine
    without one. A meter that does not answer stands still.
    """

    def __init__(self, meters: tuple[Meter, ...], maps: Path = Path("/proc/self/maps")) -> None:
        self._meters = meters
        self._maps = maps
        self._joules = {meter.id: 0.0 for meter in meters}
        self._seen_joules = self._counted_joules = 0.0
        self._loaded = False

    def __call__(self) -> float:
        joules = self._read()
        if self._loaded or self._has_cuda():
            self._loaded = True
            self._counted_joules += joules - self._seen_joules
        self._seen_joules = joules
        return self._counted_joules

    def _read(self) -> float:
        now_s = SystemClock.monotonic_s()
        for meter in self._meters:
            try:
                self._joules[meter.id] = meter.read_joules(now_s)
            except MeterError:
                continue
        return sum(self._joules.values())

    def _has_cuda(self) -> bool:
        try:
            return b"libcuda" in self._maps.read_bytes()
        except OSError:
            return True
