"""NVIDIA GPUs through the driver's management library (NVML) and nvidia-ml-py.

A board's energy counter is read where there is one (Volta and newer), else its power is integrated.
Each GPU has a meter of its own, identified by UUID, and a fault of one does not affect another. A
meter also reports which processes use its board, or its slices (MIG).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carbontrack.errors import MeterError, MeterUnavailable
from carbontrack.meters.counter import Counter, Gauge
from carbontrack.meters.gpu_selection import Gpu, asked_gpus, chosen_slices, visible_gpus
from carbontrack.meters.meter import Meter, Refusal
from carbontrack.meters.nvml_board import KEEP_S, RESOLUTION_S, Board, Users
from carbontrack.meters.nvml_driver import (
    START_TIMEOUT_S,
    Device,
    Driver,
    DriverThread,
    NotSupported,
)

RELATIVE_UNCERTAINTY = 0.05
"""Half-width. Against a shunt meter, the sensors of over 70 boards differ by a gain of about +-5 %
in steady state, fixed for each board (Yang, Adamek and Armour, SC'24, arXiv 2312.02741)."""
POWER_UNCERTAINTY = 0.10
"""Half-width for integrated power: the gain above, and what is missed between windows. The sensor
samples 25 of each 100 ms on some boards; following that study's protocol leaves 4.9 % in total,
ignoring it far more. Twice its figure is taken, since a running program cannot follow it."""
POWER_PERIOD_S = 0.1
"""Power is read once per sensor period, so that no window of the sensor is missed."""
CHECK_EVERY_S = 5.0
"""The counter is compared with the integrated power this often; the cost is negligible."""
CHECKS_NEEDED = 24
"""Fewer samples of the power, each of 25 ms or more, are too few for a mean over two minutes."""
_POWER_INSTANT = 186
"""NVML_FI_DEV_POWER_INSTANT; nvmlDeviceGetPowerUsage is a mean over 1 s on most new boards."""
_SCOPE_GPU = 0
"""NVML_POWER_SCOPE_GPU. Scope 1, the module, includes a superchip's processor and memory."""
_VIRTUAL = 2
"""NVML_GPU_VIRTUALIZATION_MODE_VGPU: a guest's part of a board that the host has divided."""


class GpuEnergy(Board):
    """The energy counter of one board, in millijoules since the driver was loaded.

    A smaller value means that the driver was reloaded, never a wrap: 64 bits of millijoules do not
    wrap in practice. The board's power is integrated as a check; where the two differ by more than
    the interval, the interval becomes as wide as their difference.
    """

    max_period_s: float | None = None

    def __init__(self, driver: Driver, uuid: str, users: Users | None = None) -> None:
        super().__init__(Device(driver, uuid, energy_j), users)
        energy_j(self._device)
        self._counter = Counter(None, self._device.cap_w(), refresh_s=2 * RESOLUTION_S)
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
        """The published one, or the difference of counter and power over at least two minutes."""
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
            # the first check, or the first after a gap: from here on both cover the same time
            self._power = Gauge(self._power.cap_w)
            self._power.advance(watts, now_s)
            self._counted_before_j = self._counter.total_j
            self._checks = 1


class GpuPower(Board):
    """The power of one board without an energy counter, integrated."""

    relative_uncertainty = POWER_UNCERTAINTY
    max_period_s = POWER_PERIOD_S

    def __init__(self, driver: Driver, uuid: str, users: Users | None = None) -> None:
        super().__init__(Device(driver, uuid, power_w), users)
        self.nominal_w: float | None = power_w(self._device)
        self._gauge = Gauge(self._device.cap_w())
        driver.add(self._device)

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Gaps too long to be interpolated."""
        return self._gauge.fault_counts

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if 0.0 <= now_s - self._read_at_s < KEEP_S:
            return self._gauge.total_j
        total_j = self._gauge.advance(self._device.read(now_s), now_s)
        self._read_at_s = now_s
        return total_j


def energy_j(device: Device) -> float:
    """The board's energy counter."""
    return float(device.call("nvmlDeviceGetTotalEnergyConsumption")) * 1e-3


def power_w(device: Device) -> float:
    """The board's power now: the instantaneous field where there is one, else the driver's mean."""
    try:
        return device.field(_POWER_INSTANT, _SCOPE_GPU) * 1e-3
    except NotSupported:
        return float(device.call("nvmlDeviceGetPowerUsage")) * 1e-3


_NO_SENSOR = "it has neither an energy counter nor a power sensor"
_VIRTUAL_REASON = (
    "it is a virtual GPU (vGPU): what a guest is shown is no energy of its own part of the board"
)
_VIRTUAL_CURE = "carbontrack doctor  # on the host, which sees the board"
_MODEL_CURE = (
    "CARBONTRACK_GPU_MODEL=1  # assume its power, by its name and how busy the driver says it is"
)


def nvml_meters(
    gpu_ids: Sequence[str] | None,
    visible: str | None,
    driver: Driver | None = None,
    *,
    may_model: bool = False,
) -> tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]:
    """A meter for each GPU that is ours, their names, and what was refused.

    Args:
        gpu_ids: GPUs to count, by index or UUID; None: those of `visible`.
        visible: the value of CUDA_VISIBLE_DEVICES; None where it is not set.
        driver: the driver to ask; None: the machine's.
        may_model: model a GPU that has no sensor, instead of refusing it.

    Raises:
        ConfigError: `gpu_ids` names a GPU that this machine does not have.
    """
    thread = DriverThread("nvml")

    def begin() -> _Found:
        return _open(driver or Driver.load(thread), gpu_ids, visible, may_model=may_model)

    try:
        found = thread.ask(begin, START_TIMEOUT_S)
    except MeterUnavailable as error:
        found = (), (), (Refusal("nvml", str(error), error.cure),)
    except MeterError as error:
        return (), (), (Refusal("nvml", str(error), "nvidia-smi  # does it hang as well?"),)
    if not found[0] or driver is not None:
        thread.close()
    return found


_Found = tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]


def _open(
    driver: Driver, gpu_ids: Sequence[str] | None, visible: str | None, *, may_model: bool
) -> _Found:
    gpus, refused = driver.gpus()
    if gpu_ids is not None:
        chosen = asked_gpus(gpu_ids, gpus)
    else:
        choice = visible_gpus(visible, gpus)
        chosen = choice.gpus
        if choice.problem:
            refused.append(Refusal("nvml", choice.problem))
    entries = gpu_ids if gpu_ids is not None else (visible or "").split(",")
    opened = [
        _meter(driver, gpu, _users(driver, gpu, entries), may_model=may_model) for gpu in chosen
    ]
    refused += [meter for meter in opened if isinstance(meter, Refusal)]
    refused += [Refusal(f"nvml:{g.uuid}", "it is not ours") for g in gpus if g not in chosen]
    meters = tuple(meter for meter in opened if not isinstance(meter, Refusal))
    return meters, tuple(gpu.name for gpu in chosen), tuple(refused)


def _users(driver: Driver, gpu: Gpu, entries: Sequence[str]) -> Users | None:
    """The users of our slices of a board that is divided into slices; None for a whole board."""
    slices = chosen_slices(entries, gpu)
    return Users([(Device(driver, s.uuid, power_w), s.part) for s in slices]) if slices else None


def _meter(driver: Driver, gpu: Gpu, users: Users | None, *, may_model: bool) -> Meter | Refusal:
    """The energy counter where there is one, else the power; a fault is this board's alone."""
    try:
        is_virtual = _is_virtual(driver, gpu)
        if not is_virtual:
            try:
                return GpuEnergy(driver, gpu.uuid, users)
            except NotSupported:
                return GpuPower(driver, gpu.uuid, users)
    except NotSupported:
        pass
    except MeterError as error:
        return Refusal(f"nvml:{gpu.uuid}", str(error))
    return _without_sensor(driver, gpu, users, is_virtual=is_virtual, may_model=may_model)


def _without_sensor(
    driver: Driver, gpu: Gpu, users: Users | None, *, is_virtual: bool, may_model: bool
) -> Meter | Refusal:
    """A model, where it is asked for and the board's design power is known; else a refusal."""
    from carbontrack.meters import gpu_model  # few boards have no sensor

    known = (gpu_model.modelled_virtual_gpu if is_virtual else gpu_model.modelled_gpu)(gpu.name)
    reason, cures = _NO_SENSOR, []
    if is_virtual:
        reason, cures = _VIRTUAL_REASON, [_VIRTUAL_CURE]
    if known is None:
        reason = f"{reason}; the design power of {gpu.name!r} is not known, so it is not modelled"
    elif may_model:
        try:
            return gpu_model.ModelledGpu(driver, gpu.uuid, known, users)
        except MeterError as error:
            return Refusal(f"nvml:{gpu.uuid}", str(error))
    else:
        cures.append(_MODEL_CURE)
    return Refusal(f"nvml:{gpu.uuid}", reason, "\n".join(cures) or None)


def _is_virtual(driver: Driver, gpu: Gpu) -> bool:
    try:
        mode = Device(driver, gpu.uuid, power_w).call("nvmlDeviceGetVirtualizationMode")
    except MeterError:
        return False  # an older driver has no such call
    return bool(mode == _VIRTUAL)
