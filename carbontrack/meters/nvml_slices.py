"""The slices (MIG) that a board is cut into, and how large they are."""

from __future__ import annotations

from typing import Any, NamedTuple


class Slice(NamedTuple):
    """One slice: its UUID ("MIG-…"), and its part of the board's compute slices, 0 to 1."""

    uuid: str
    part: float


def slices_of(nvml: Any, handle: Any) -> tuple[Slice, ...]:
    """The slices of a board; none where it has none or cannot have any."""
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != 1:
            return ()
        most = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.NVMLError:
        return ()
    found = []
    for position in range(most):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, position)
            found.append(Slice(str(nvml.nvmlDeviceGetUUID(part)), _part(nvml, part, most)))
        except nvml.NVMLError:
            continue  # an empty position, or a slice that this container may not see
    return tuple(found)


def _part(nvml: Any, handle: Any, most: int) -> float:
    """Compute slices over those of the whole board: as many as it can be cut into at most."""
    try:
        count = int(nvml.nvmlDeviceGetAttributes(handle).computeInstanceSliceCount)
    except nvml.NVMLError:
        count = 1  # the smallest there is
    return min(1.0, max(1, count) / most)
