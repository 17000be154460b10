"""The choice of a run's metric, and how the metric is made on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from carbontrack.api.hardware import gpu_joules_reader, has_cpu_counter
from carbontrack.config.settings import Settings
from carbontrack.integrations.pytest_plugin.metrics import Metric
from carbontrack.integrations.pytest_plugin.options import Options
from carbontrack.integrations.pytest_plugin.reference import (
    G_PER_KWH,
    WATTS_PER_BUSY_CORE,
    ReferenceMetric,
)
from carbontrack.system.interrupts import pass_on


def choose(options: Options, settings: Settings, *, alone: bool) -> Metric:
    """The metric that was asked for; "auto" is measured where a CPU counter can be read.

    Args:
        options: what was asked for.
        settings: carbontrack's own, as read at the start of the run.
        alone: False where other processes run tests at the same time; then "auto" is reference.

    Raises:
        ConfigError: a setting cannot be used.
    """
    measured = options.metric == "measured"
    if measured or (options.metric == "auto" and alone and has_cpu_counter(settings)):
        from carbontrack.api.assembly import assemble, current_environment
        from carbontrack.integrations.pytest_plugin.metrics import MeasuredMetric

        return MeasuredMetric(assemble(settings, current_environment()))
    watts, g_per_kwh = _pins(options)
    read_joules = gpu_joules_reader(settings)
    gpu_joules = None if read_joules is None else CudaJoules(read_joules)
    return ReferenceMetric(watts=watts, g_per_kwh=g_per_kwh, gpu_joules=gpu_joules)


def _pins(options: Options) -> tuple[float, float]:
    """Watts of a busy core and g CO2e per kWh, as asked for or as pinned."""
    watts = options.reference_watts or WATTS_PER_BUSY_CORE
    return watts, options.reference_intensity or G_PER_KWH


def pins_text(options: Options) -> str:
    """The metric in words, as far as it is known before it is built."""
    if options.metric == "measured":
        return "measured metric"
    watts, g_per_kwh = _pins(options)
    return f"reference metric, {watts:g} W per busy core, {g_per_kwh:g} g CO2e/kWh"


class CudaJoules:
    """The joules of the GPUs while this process has CUDA loaded.

    An idle GPU takes tens of watts, and a test that does not use it must cost the same on a machine
    without one.

    Args:
        read_joules: the joules of all GPUs so far.
        maps: where the kernel lists the libraries that this process has loaded.
    """

    def __init__(
        self, read_joules: Callable[[], float], maps: Path = Path("/proc/self/maps")
    ) -> None:
        self._read_joules = read_joules
        self._maps = maps
        self._last_joules = self._counted_joules = 0.0
        self._loaded = False

    def __call__(self) -> float:
        """Joules so far."""
        joules = self._read_joules()
        if self._loaded or self._has_cuda():
            self._loaded = True
            self._counted_joules += joules - self._last_joules
        self._last_joules = joules
        return self._counted_joules

    def _has_cuda(self) -> bool:
        try:
            return b"libcuda" in self._maps.read_bytes()
        except OSError as error:
            pass_on(error)
            return True
