"""NVIDIA GPUs through the driver's management library and nvidia-ml-py.

A board's energy counter is read where there is one (Volta and newer), else its power is integrated.
Each GPU has a meter of its own, known by UUID, and what happens to one never touches another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carbontrack.errors import MeterError, MeterUnavailable
from carbontrack.meters.counter import Counter, Gauge
from carbontrack.meters.courier import Courier
from carbontrack.meters.gpu_choice import Gpu, asked_gpus, visible_gpus
from carbontrack.meters.meter import Meter, Refusal
from carbontrack.meters.nvml_driver import START_TIMEOUT_S, Device, Driver, NotSupported
from carbontrack.records import Basis, Component

RESOLUTION_S = 0.1
"""Counter and power change every 20 to 100 ms, by model (Alumet; Zeus: "roughly 100 ms")."""
KEEP_S = 0.02
"""A reading is used again for this long, the fastest refresh that is known. Reading it much more
often made the counter of an RTX 4090 fall short of the truth (Dauner et al.: by 95 % at 2 kHz)."""
RELATIVE_UNCERTAINTY = 0.05
"""Half-width. Against a shunt meter, the sensors of over 70 boards differ by a gain of about +-5 %
in steady state, fixed for each board (Yang, Adamek and Armour, SC'24, arXiv 2312.02741)."""
POWER_UNCERTAINTY = 0.10
"""Half-width for integrated power: the gain above, and what is missed between windows. The sensor
looks for 25 of each 100 ms on some boards; following that study's protocol leaves 4.9 % in total,
ignoring it far more. Twice its figure is taken, since a running program cannot follow it."""
POWER_PERIOD_S = 0.1
"""Power is read once per sensor period, so that every window it shows is seen."""
CHECK_EVERY_S = 5.0
"""The counter is compared with the integrated power this often: seldom enough to cost nothing."""
CHECKS_NEEDED = 24
"""Fewer samples of the power, each of 25 ms or more, say too little about two minutes."""
_POWER_INSTANT = 186
"""NVML_FI_DEV_POWER_INSTANT; nvmlDeviceGetPowerUsage is a mean over 1 s on most new boards."""


class GpuEnergy:
    """The energy counter of one board, in millijoules since the driver was loaded.

    A smaller value is a reloaded driver, never a wrap: 64 bits of millijoules last for ever. The
    board's power is integrated beside it; where the two disagree by more than the interval, the
    interval becomes as wide as their disagreement.
    """

    component: Component = "gpu"
    basis: Basis = "measured"
    resolution_s = RESOLUTION_S
    max_period_s: float | None = None

    def __init__(self, driver: Driver, uuid: str) -> None:
        self.id = f"nvml:{uuid}"
        self._device = Device(driver, uuid, energy_j)
        energy_j(self._device)
        self._counter = Counter(None, self._device.cap_w(), refresh_s=2 * RESOLUTION_S)
        self._read_at_s = float("-inf")
        self._nominal_w: float | None = None
        self._power = Gauge(self._device.cap_w())
        self._checks = 0
        self._checked_at_s = float("-inf")
        self._counted_before_j = 0.0
        driver.add(self._device)

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Reloads of the driver and impossible steps."""
        return self._counter.fault_counts

    @property
    def relative_uncertainty(self) -> float:
        """The published one, or the disagreement of counter and power over at least two minutes."""
        counted_j = self._counter.total_j - self._counted_before_j
        if self._checks < CHECKS_NEEDED or counted_j <= 0.0:
            return RELATIVE_UNCERTAINTY
        return min(1.0, max(RELATIVE_UNCERTAINTY, abs(self._power.total_j / counted_j - 1.0)))

    @property
    def nominal_w(self) -> float | None:
        """The power when this was first asked for."""
        if self._nominal_w is None:
            try:
                self._nominal_w = self._device.ask(power_w)
            except MeterError:
                return None
        return self._nominal_w

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if 0.0 <= now_s - self._read_at_s < KEEP_S:
            return self._counter.total_j
        total_j = self._counter.advance(self._device.read(now_s), now_s)
        self._read_at_s = now_s
        if now_s - self._checked_at_s >= CHECK_EVERY_S:
            self._compare(now_s)
        return total_j

    def _compare(self, now_s: float) -> None:
        self._checked_at_s = now_s
        try:
            watts = self._device.ask(power_w)
            self._power.advance(watts, now_s)
        except MeterError:
            return
        self._checks += 1
        if self._checks == 1 or self._power.fault_counts:
            # begin, after a pause again: from here on both see the same time
            self._power = Gauge(self._power.cap_w)
            self._power.advance(watts, now_s)
            self._counted_before_j = self._counter.total_j
            self._checks = 1

    def close(self) -> None:
        """Let go of the driver."""
        self._device.close()


class GpuPower:
    """The power of one board without an energy counter, integrated."""

    component: Component = "gpu"
    basis: Basis = "measured"
    resolution_s = RESOLUTION_S
    relative_uncertainty = POWER_UNCERTAINTY
    max_period_s = POWER_PERIOD_S

    def __init__(self, driver: Driver, uuid: str) -> None:
        self.id = f"nvml:{uuid}"
        self._device = Device(driver, uuid, power_w)
        self.nominal_w: float | None = power_w(self._device)
        self._gauge = Gauge(self._device.cap_w())
        self._read_at_s = float("-inf")
        driver.add(self._device)

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Silences too long to be interpolated."""
        return self._gauge.fault_counts

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if 0.0 <= now_s - self._read_at_s < KEEP_S:
            return self._gauge.total_j
        total_j = self._gauge.advance(self._device.read(now_s), now_s)
        self._read_at_s = now_s
        return total_j

    def close(self) -> None:
        """Let go of the driver."""
        self._device.close()


def energy_j(device: Device) -> float:
    """The board's energy counter."""
    return float(device.call("nvmlDeviceGetTotalEnergyConsumption")) * 1e-3


def power_w(device: Device) -> float:
    """The board's power now: the instant field where there is one, else what the driver gives."""
    try:
        return device.field(_POWER_INSTANT) * 1e-3
    except NotSupported:
        return float(device.call("nvmlDeviceGetPowerUsage")) * 1e-3


def nvml_meters(
    gpu_ids: Sequence[str] | None, visible: str | None, driver: Driver | None = None
) -> tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]:
    """A meter for each GPU that is ours, their names, and what was refused.

    Raises:
        ConfigError: `gpu_ids` names a GPU that this machine does not have.
    """
    courier = Courier("nvml")
    try:
        found = courier.ask(
            lambda: _open(driver or Driver.load(courier), gpu_ids, visible), START_TIMEOUT_S
        )
    except MeterUnavailable as error:
        found = (), (), (Refusal("nvml", str(error), error.cure),)
    except MeterError as error:
        return (), (), (Refusal("nvml", str(error), "nvidia-smi  # does it hang as well?"),)
    if not found[0] or driver is not None:
        courier.close()
    return found


def _open(
    driver: Driver, gpu_ids: Sequence[str] | None, visible: str | None
) -> tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]:
    gpus, refused = driver.gpus()
    if gpu_ids is not None:
        chosen = asked_gpus(gpu_ids, gpus)
    else:
        choice = visible_gpus(visible, gpus)
        chosen = choice.gpus
        if choice.problem:
            refused.append(Refusal("nvml", choice.problem))
    opened = [_meter(driver, gpu) for gpu in chosen]
    refused += [meter for meter in opened if isinstance(meter, Refusal)]
    refused += [Refusal(f"nvml:{g.uuid}", "it is not ours") for g in gpus if g not in chosen]
    meters = tuple(meter for meter in opened if not isinstance(meter, Refusal))
    return meters, tuple(gpu.name for gpu in chosen), tuple(refused)


def _meter(driver: Driver, gpu: Gpu) -> Meter | Refusal:
    """The energy counter where there is one, else the power; every board fails for itself."""
    try:
        try:
            return GpuEnergy(driver, gpu.uuid)
        except NotSupported:
            return GpuPower(driver, gpu.uuid)
    except NotSupported:
        return Refusal(f"nvml:{gpu.uuid}", "it has neither an energy counter nor a power sensor")
    except MeterError as error:
        return Refusal(f"nvml:{gpu.uuid}", str(error))
