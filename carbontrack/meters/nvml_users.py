"""Who uses a board, or a slice of one, as the driver tells it; asked through its courier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carbontrack.meters.meter import BoardUse
from carbontrack.meters.nvml_driver import Device, Nothing, NotSupported

_COMPUTE = "nvmlDeviceGetComputeRunningProcesses"
_OTHERS = ("nvmlDeviceGetGraphicsRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses")


class Users:
    """The processes on a board's parts: the board itself, or those of its slices that are ours.

    Args:
        parts: a device for each part, with the part's share of the board, 0 to 1.
    """

    def __init__(self, parts: Sequence[tuple[Device, float]]) -> None:
        self._parts = tuple(parts)
        self.part = min(1.0, sum(part for _, part in self._parts))
        self._tells_time = True
        self._since_us = 0

    def look(self) -> tuple[BoardUse, ...]:
        """Who uses each part; one errand for each, so that reads get in between.

        Raises:
            MeterReadError, MeterGone: the driver does not answer, or the board is gone.
        """
        return tuple(
            device.ask(lambda device=device, part=part: self._use(device, part))  # type: ignore[misc]
            for device, part in self._parts
        )

    def _use(self, device: Device, part: float) -> BoardUse:
        holders = _holders(device)
        several = holders is not None and len(holders) > 1
        return BoardUse(part, holders, self._busy(device) if several else None)

    def _busy(self, device: Device) -> Mapping[int, float] | None:
        """Percent of the multiprocessors' time, summed over the driver's samples since last time.

        The driver keeps samples of some seconds, each over its own short window.
        """
        if not self._tells_time:
            return None
        try:
            samples = device.call("nvmlDeviceGetProcessUtilization", self._since_us)
        except Nothing:
            return {}  # nobody was busy
        except NotSupported:
            self._tells_time = False
            return None
        busy: dict[int, float] = {}
        for sample in samples:
            if 0 <= sample.smUtil <= 100:
                busy[sample.pid] = busy.get(sample.pid, 0.0) + sample.smUtil
            self._since_us = max(self._since_us, sample.timeStamp)
        return busy


def _holders(device: Device) -> frozenset[int] | None:
    """Every process with a context: for computing, for graphics, or through MPS."""
    try:
        found: list[Any] = list(device.call(_COMPUTE))
    except NotSupported:
        return None
    for name in _OTHERS:
        try:
            found += device.call(name)
        except NotSupported:
            continue
    return frozenset(process.pid for process in found)
