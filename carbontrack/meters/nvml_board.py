"""A board of NVIDIA's, and the processes that use it or its slices (MIG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from carbontrack.errors import MeterReadError
from carbontrack.meters.meter import GpuUse
from carbontrack.meters.nvml_driver import Device, Nothing, NotSupported
from carbontrack.record import Basis, Component

RESOLUTION_S = 0.1
"""Counter and power change every 20 to 100 ms, by model (Alumet; Zeus: "roughly 100 ms")."""
KEEP_S = 0.02
"""A reading is used again for this long, the fastest refresh that is known. Reading it much more
often made the counter of an RTX 4090 fall short of the truth (Dauner et al.: by 95 % at 2 kHz)."""


class Board:
    """What all kinds of meter have in common: the board, and the processes that use it."""

    component: Component = "gpu"
    basis: Basis = "measured"
    kind = "nvml"
    resolution_s = RESOLUTION_S

    def __init__(self, device: Device, users: Users | None) -> None:
        self.id = f"{self.kind}:{device.uuid}"
        self._device = device
        self._users = users or Users([(device, 1.0)])
        self.part = self._users.part
        self._read_at_s = float("-inf")

    def look(self) -> tuple[GpuUse, ...]:
        """The processes that use the board, or the slices of it that are ours."""
        return self._users.look()

    def close(self) -> None:
        """Stop reading the board."""
        self._device.close()


_COMPUTE = "nvmlDeviceGetComputeRunningProcesses"
_COMPUTE_BY_MPS = "nvmlDeviceGetMPSComputeRunningProcesses"
_GRAPHICS = "nvmlDeviceGetGraphicsRunningProcesses"


class Users:
    """The processes on a board's parts: the whole board, or those of its slices that are ours.

    Args:
        parts: a device for each part, with the part's share of the board, 0 to 1.
    """

    def __init__(self, parts: Sequence[tuple[Device, float]]) -> None:
        self._parts = tuple(parts)
        self.part = min(1.0, sum(part for _, part in self._parts))
        self._has_busy_time = True
        self._since_us = 0

    def look(self) -> tuple[GpuUse, ...]:
        """Who uses each part; one call to the thread for each, so that reads can come between.

        Raises:
            MeterReadError, MeterGone: the driver does not answer, or the board is gone.
        """
        return tuple(device.ask(partial(self._use, part=part)) for device, part in self._parts)

    def _use(self, device: Device, part: float) -> GpuUse:
        try:
            computing, holders = _holders(device)
            several = holders is not None and len(holders) > 1
            return GpuUse(part, holders, self._busy(device) if several else None, computing)
        except Nothing:
            if part == 1.0:
                raise
            return GpuUse(part, None)  # the board was divided anew: this slice is no more
        except (AttributeError, TypeError, ValueError) as error:
            raise MeterReadError(f"{device.uuid} does not list its processes: {error}") from error

    def _busy(self, device: Device) -> Mapping[int, float] | None:
        """Percent of the multiprocessors' time, summed over the driver's samples since last time.

        The driver keeps the samples of some seconds, each over a short window of its own.
        """
        if not self._has_busy_time:
            return None
        try:
            samples = device.call("nvmlDeviceGetProcessUtilization", self._since_us)
        except Nothing:
            return {}  # nobody was busy
        except NotSupported:
            self._has_busy_time = False
            return None
        busy: dict[int, float] = {}
        for sample in samples:
            if not (0 <= sample.smUtil <= 100 and 0 <= sample.timeStamp < _LAST_US):
                continue
            busy[sample.pid] = busy.get(sample.pid, 0.0) + sample.smUtil
            self._since_us = max(self._since_us, sample.timeStamp)
        return busy


_LAST_US = 1e17
"""Microseconds since 1970 until a year that no driver sees; what is later is no time."""
_NO_PID = 0xFFFF_FFFF
"""nvml.h, nvmlProcessInfo_t: what stands where there is no number."""


def _holders(device: Device) -> tuple[frozenset[int] | None, frozenset[int] | None]:
    """The processes with a context for computing; and with any, for graphics or through MPS, too.

    None where the driver does not tell.
    """
    try:
        computing = list(device.call(_COMPUTE))
    except NotSupported:
        return None, None
    computing += _more(device, _COMPUTE_BY_MPS)
    return _pids(computing), _pids([*computing, *_more(device, _GRAPHICS)])


def _more(device: Device, function: str) -> list[Any]:
    try:
        return list(device.call(function))
    except NotSupported:
        return []


def _pids(processes: Sequence[Any]) -> frozenset[int]:
    return frozenset(int(one.pid) for one in processes if 0 < one.pid < _NO_PID)
