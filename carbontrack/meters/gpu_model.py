"""Energy of an NVIDIA GPU whose driver answers but shows no energy and no power.

Used only where the setting `gpu_model` asks for it: the power is the design power (TDP) of the
board by its name, times a share by the driver's utilisation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from carbontrack.interval import Interval
from carbontrack.meters.counter import Gauge
from carbontrack.meters.gpu_names import GpuModel, find_gpu
from carbontrack.meters.gpu_power import FULL_SHARE, IDLE_SHARE, gpu_share
from carbontrack.meters.meter import Refusal
from carbontrack.meters.nvml_board import KEEP_S, Board, Users
from carbontrack.meters.nvml_driver import Device, Driver, NotSupported
from carbontrack.record import Basis
from carbontrack.values import NamedTuple

UNKNOWN_SHARE = Interval(gpu_share(0.5).best, IDLE_SHARE.low, FULL_SHARE.high)
"""Where the driver does not say how busy it is: anything between idle and full use."""
UTILISATION_PERIOD_S = 1.0
"""The driver's figure is a mean over the last 1/6 to 1 s, by product (nvml.h, nvmlUtilization_t),
so that a read each second misses little."""


class Modelled(NamedTuple):
    """A GPU by its name, and the part of a board that it is.

    Attributes:
        board: the board, from the table.
        part: the GPU's part of its TDP, above 0 and up to 1.
        how: what the part is of, for people; "" for a whole board.
    """

    board: GpuModel
    part: float = 1.0
    how: str = ""

    @property
    def tdp_w(self) -> float:
        """Its share of the board's design power."""
        return self.board.tdp_w * self.part


class ModelledGpu(Board):
    """Design power x a share that rises with the driver's utilisation, integrated at three levels.

    Args:
        driver: the driver that lists the board.
        uuid: the board's.
        gpu: its design power.
        users: the users of its slices; None: those of the whole board.
    """

    basis: Basis = "assumed"
    kind = "model"
    resolution_s = UTILISATION_PERIOD_S
    max_period_s: float | None = UTILISATION_PERIOD_S
    relative_uncertainty = 1.0
    """Half the interval's width or more, at any load; `low_j` and `high_j` say it exactly."""

    def __init__(
        self, driver: Driver, uuid: str, gpu: Modelled, users: Users | None = None
    ) -> None:
        device = Device(driver, uuid, utilisation)
        try:
            load = utilisation(device)
        except NotSupported:
            device = Device(driver, uuid, _is_there)
            _is_there(device)
            self._share_of: Callable[[float], Interval] = lambda _load: UNKNOWN_SHARE
            load, by = 0.0, f"{UNKNOWN_SHARE.best:.2g}, because its driver shows no utilisation"
        else:
            self._share_of = gpu_share
            by = f"({IDLE_SHARE.best:g} to {FULL_SHARE.best:g} by its utilisation)"
        super().__init__(device, users)
        self._gpu = gpu
        self._gauges = [Gauge(float("inf")) for _ in Interval._fields]
        self.nominal_w: float | None = self._powers_w(load)[0]
        part = f" x {gpu.part:.3g} ({gpu.how})" if gpu.how else ""
        self.about = f"{gpu.board.name}, no sensor: {gpu.board.tdp_w:g} W{part} x {by}"
        driver.add(device)

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Gaps too long to be interpolated."""
        return self._gauges[0].fault_counts

    @property
    def low_j(self) -> float:
        """Joules at the low end, as of the last read."""
        return self._gauges[1].total_j

    @property
    def high_j(self) -> float:
        """Joules at the high end, as of the last read."""
        return self._gauges[2].total_j

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if not 0.0 <= now_s - self._read_at_s < KEEP_S:
            powers_w = self._powers_w(self._device.read(now_s))
            for gauge, power_w in zip(self._gauges, powers_w, strict=True):
                gauge.advance(power_w, now_s)
            self._read_at_s = now_s
        return self._gauges[0].total_j

    def _powers_w(self, load: float) -> list[float]:
        return [self._gpu.tdp_w * share for share in self._share_of(load)]


def utilisation(device: Device) -> float:
    """The share of the last moments in which the GPU ran a kernel, by its driver."""
    percent = device.number("nvmlDeviceGetUtilizationRates", "gpu")
    return min(1.0, max(0.0, percent / 100.0))


def _is_there(device: Device) -> float:
    device.call("nvmlDeviceGetName")  # a lost board stops counting
    return 0.0


def modelled_gpu(name: str) -> Modelled | None:
    """What is known of a whole GPU by the driver's name of it; None: not its design power."""
    board = find_gpu(name)
    if board is None:
        return None
    if board.gpus == 1:
        return Modelled(board)
    return Modelled(board, 1.0 / board.gpus, f"one of {board.gpus} GPUs on the board")


def with_most_power(refused: Iterable[Refusal], names: Iterable[str]) -> tuple[Refusal, ...]:
    """The refusals, those with a fault with the most power that such a GPU uses.

    Which of the GPUs of these names is refused is not told: it is taken to be the largest one. Not
    known where the design power of none is.
    """
    known = (modelled_gpu(name) or modelled_virtual_gpu(name) for name in names)
    most_w = max((gpu.tdp_w * FULL_SHARE.high for gpu in known if gpu is not None), default=None)
    return tuple(
        one._replace(most_w=most_w) if one.fault is not None and one.most_w is None else one
        for one in refused
    )


_PROFILE = re.compile(r"(?:NVIDIA |GRID )*(.+?)-(?:\d+-)?(\d+)[ABCQ](?:ME)?")
"""The name of a virtual GPU: the board, instances of a slice, GB of memory, the kind of licence."""
_BOARDS = {
    "A100": "A100 40GB",
    "A100X": "A100 40GB",
    "A100D": "A100 80GB",
    "A100DX": "A100 80GB",
    "V100X": "V100",
    "V100D": "V100 32GB",
    "V100DX": "V100 32GB",
    "RTX6000": "Quadro RTX 6000",
}
"""Boards that virtual GPUs call by other names: D is for double memory, X for a module (SXM)."""


def modelled_virtual_gpu(name: str) -> Modelled | None:
    """A virtual GPU ("GRID T4-4Q") as the part of the board that its memory is; None: unknown."""
    profile = _PROFILE.fullmatch(name)
    board = find_gpu(_BOARDS.get(profile[1], profile[1])) if profile else None
    if profile is None or board is None or not board.memory_gb:
        return None
    part = float(profile[2]) / board.memory_gb
    if not 0.0 < part <= 1.0:
        return None
    how = f"{profile[2]} of {board.memory_gb:g} GB of its memory"
    return Modelled(board, part, how)
