"""NVIDIA GPUs through the driver's management library (NVML) and nvidia-ml-py.

A board's energy counter is read where there is one (Volta and newer) and as long as it counts, else
its power is integrated. Each GPU has a meter of its own, identified by UUID, and a fault of one
does not affect another. A meter also reports which processes use its board, or its slices (MIG).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from carbontrack.errors import MeterError, MeterReadError, MeterUnavailable
from carbontrack.meters.counter import Gauge
from carbontrack.meters.counter_or_power import Answer, CounterOrPower
from carbontrack.meters.gpu_candidates import CandidateGpu, Candidates, unmeasured
from carbontrack.meters.gpu_selection import (
    Choice,
    Gpu,
    asked_gpus,
    chosen_slices,
    hides_all,
    visible_gpus,
)
from carbontrack.meters.meter import UNMEASURED, Meter, Refusal, is_shared
from carbontrack.meters.nvml_board import KEEP_S, RESOLUTION_S, Board, Users
from carbontrack.meters.nvml_driver import (
    START_TIMEOUT_S,
    Device,
    Driver,
    DriverThread,
    NoDriver,
    NotSupported,
)
from carbontrack.values import NamedTuple

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


class _Shown(NamedTuple):
    """What a board showed at one instant."""

    energy_j: Answer
    power_w: Answer


class GpuEnergy(Board):
    """The energy of one board: its counter, or its power, integrated, while that does not count.

    The counter has millijoules since the driver was loaded; a smaller value means that the driver
    was reloaded, never a wrap: 64 bits of millijoules do not wrap in practice. The board's power
    is integrated as a check; where the two differ by more than the interval, the interval becomes
    as wide as their difference.
    """

    def __init__(self, driver: Driver, uuid: str, users: Users | None = None) -> None:
        super().__init__(Device(driver, uuid, self._show), users)
        self._asks_counter, self._asks_power = True, False
        first = self._show(self._device)
        if isinstance(first.power_w, MeterError):  # asked only where the counter has failed
            error = first.energy_j
            raise error if isinstance(error, MeterReadError) else first.power_w
        self._nominal_w = first.power_w
        cap_w, has_counter = self._device.cap_w(), isinstance(first.energy_j, float)
        self._source = CounterOrPower(cap_w, 2 * RESOLUTION_S, counter_first=has_counter)
        self._follow()
        self._check = Gauge(cap_w)
        self._checks = 0
        self._checked_at_s = float("-inf")
        self._counted_before_j = 0.0
        driver.add(self._device)

    @property
    def max_period_s(self) -> float | None:
        """The sensor's period while the power is integrated; no limit while the counter counts."""
        return POWER_PERIOD_S if self._source.by_power else None

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Reloads of the driver, impossible steps, gaps of the power, counters that stood still."""
        return self._source.fault_counts

    @property
    def relative_uncertainty(self) -> float:
        """The published one, or the difference of counter and power over at least two minutes.

        The power's from its first use on: a span may have both.
        """
        if self._source.used_power:
            return POWER_UNCERTAINTY
        counted_j = self._source.total_j - self._counted_before_j
        if self._checks < CHECKS_NEEDED or counted_j <= 0.0:
            return RELATIVE_UNCERTAINTY
        return min(1.0, max(RELATIVE_UNCERTAINTY, abs(self._check.total_j / counted_j - 1.0)))

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
            return self._source.total_j
        shown = self._device.read(now_s)
        try:
            total_j = self._source.advance(shown.energy_j, shown.power_w, now_s)
        finally:
            self._follow()
        self._read_at_s = now_s
        if now_s - self._checked_at_s >= CHECK_EVERY_S and not self._source.used_power:
            self._compare(now_s)
        return total_j

    def _follow(self) -> None:
        """What the next reading asks for; read in the driver's thread."""
        self._asks_counter, self._asks_power = self._source.asks_counter, self._source.asks_power
        if self._source.by_power and self._asks_counter:
            self._device.ask_anew(_ENERGY)

    def _show(self, device: Device) -> _Shown:
        """The counter, if it is asked for; the power where it fails, or is asked for as well."""
        counted = _answer(device, energy_j) if self._asks_counter else None
        if self._asks_power or isinstance(counted, MeterError):
            return _Shown(counted, _answer(device, power_w))
        return _Shown(counted, None)

    def _compare(self, now_s: float) -> None:
        self._checked_at_s = now_s
        try:
            watts = self._device.ask(power_w)
            self._check.advance(watts, now_s)
        except MeterError:
            return
        self._checks += 1
        if self._checks == 1 or self._check.fault_counts:
            # the first check, or the first after a gap: from here on both cover the same time
            self._check = Gauge(self._check.cap_w)
            self._check.advance(watts, now_s)
            self._counted_before_j = self._source.total_j
            self._checks = 1


def _answer(device: Device, reading: Callable[[Device], float]) -> float | MeterError:
    """A reading, or the error in its place.

    Raises:
        MeterGone: the board is lost, whatever it would be asked.
    """
    try:
        return reading(device)
    except (NotSupported, MeterReadError) as error:
        return error


_ENERGY = "nvmlDeviceGetTotalEnergyConsumption"


def energy_j(device: Device) -> float:
    """The board's energy counter."""
    return device.number(_ENERGY) * 1e-3


def power_w(device: Device) -> float:
    """The board's power now: the instantaneous field where there is one, else the driver's mean."""
    try:
        return device.field(_POWER_INSTANT, _SCOPE_GPU) * 1e-3
    except (NotSupported, MeterReadError):
        return device.number("nvmlDeviceGetPowerUsage") * 1e-3


_NO_SENSOR = "it has neither an energy counter nor a power sensor"
_VIRTUAL_REASON = (
    "it is a virtual GPU (vGPU): the driver does not show a guest the energy of its part of the "
    "board"
)
_VIRTUAL_CURE = "carbontrack doctor  # on the host, which can read the board"
_MODEL_CURE = (
    "CARBONTRACK_GPU_MODEL=1  # assume its power, from its name and the utilisation that the "
    "driver reports"
)


def nvml_meters(
    gpu_ids: Sequence[str] | None,
    visible: str | None,
    driver: Driver | None = None,
    *,
    may_model: bool = False,
    by_bus: bool = True,
) -> tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]:
    """A meter for each GPU that is ours, their names, and what was refused.

    Args:
        gpu_ids: GPUs to count, by index or UUID; None: those of `visible`.
        visible: the value of CUDA_VISIBLE_DEVICES; None where it is not set.
        driver: the driver to ask; None: the machine's.
        may_model: model a GPU that has no sensor, instead of refusing it.
        by_bus: whether the numbers in `visible` are the driver's, as with
            CUDA_DEVICE_ORDER=PCI_BUS_ID; otherwise they are CUDA's own.

    Raises:
        ConfigError: `gpu_ids` names a GPU that this machine does not have.
    """
    thread = DriverThread("nvml")

    def begin() -> _Found:
        opened = driver or Driver.load(thread)
        return _open(opened, gpu_ids, visible, may_model=may_model, by_bus=by_bus)

    fault = None if gpu_ids is None and hides_all(visible) else UNMEASURED
    try:
        found = thread.ask(begin, START_TIMEOUT_S)
    except NoDriver as error:
        found = (), (), (Refusal("nvml", str(error), error.cure),)
    except MeterUnavailable as error:
        found = (), (), (Refusal("nvml", str(error), error.cure, fault),)
    except MeterError as error:
        thread.close()  # when the call that hangs returns
        return (), (), (Refusal("nvml", str(error), "nvidia-smi  # does it hang too?", fault),)
    except BaseException:
        thread.close()
        raise
    if not found[0] or driver is not None:
        thread.close()
    return found


_Found = tuple[tuple[Meter, ...], tuple[str, ...], tuple[Refusal, ...]]


def _open(
    driver: Driver,
    gpu_ids: Sequence[str] | None,
    visible: str | None,
    *,
    may_model: bool,
    by_bus: bool,
) -> _Found:
    gpus = driver.gpus()
    if gpu_ids is not None:
        choice = Choice(asked_gpus(gpu_ids, gpus))
    else:
        choice = visible_gpus(visible, gpus, by_bus=by_bus)
    entries = gpu_ids if gpu_ids is not None else (visible or "").split(",")
    opened = {
        gpu: _meter(driver, gpu, _users(driver, gpu, entries), may_model=may_model)
        for gpu in choice.gpus
    }
    refused = [Refusal("nvml", choice.problem)] if choice.problem else []
    refused += unmeasured(choice, opened)
    not_ours = [gpu for gpu in gpus if gpu not in choice.gpus]
    refused += [
        Refusal(_id_of(gpu), gpu.silent or "it is not used by this program") for gpu in not_ours
    ]
    meters = {gpu: one for gpu, one in opened.items() if not isinstance(one, Refusal)}
    if choice.unsure:
        refused.append(Refusal("nvml", _order_reason(visible), _ORDER_CURE))
        candidates = Candidates(choice.wanted)
        for gpu, meter in tuple(meters.items()):
            if gpu in choice.unsure and is_shared(meter):
                meters[gpu] = CandidateGpu(meter, candidates)
    names = tuple(gpu.name for gpu in choice.gpus if not gpu.silent)
    return tuple(meters.values()), names, tuple(refused)


def _order_reason(visible: str | None) -> str:
    return (
        f"CUDA_VISIBLE_DEVICES={visible!r} contains CUDA's numbers, and CUDA sorts boards of "
        "different models in its own order; the board on which this program computes is counted, "
        "and all boards until that is known"
    )


_ORDER_CURE = (
    "export CUDA_DEVICE_ORDER=PCI_BUS_ID  # numbers as nvidia-smi shows them; or use UUIDs"
)


def _id_of(gpu: Gpu) -> str:
    return f"nvml:{gpu.uuid or gpu.index}"


def _users(driver: Driver, gpu: Gpu, entries: Sequence[str]) -> Users | None:
    """The users of our slices of a board that is divided into slices; None for a whole board."""
    slices = chosen_slices(entries, gpu)
    return Users([(Device(driver, s.uuid, power_w), s.part) for s in slices]) if slices else None


def _meter(driver: Driver, gpu: Gpu, users: Users | None, *, may_model: bool) -> Meter | Refusal:
    """The board's counter or power, or a model; a fault is this board's alone."""
    if gpu.silent:
        return Refusal(_id_of(gpu), gpu.silent)
    try:
        is_virtual = _is_virtual(driver, gpu)
        if not is_virtual:
            return GpuEnergy(driver, gpu.uuid, users)
    except NotSupported:
        pass
    except MeterError as error:
        return Refusal(_id_of(gpu), str(error))
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
