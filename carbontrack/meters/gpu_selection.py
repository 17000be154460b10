"""Which GPUs to count: the grammar of CUDA_VISIBLE_DEVICES and of the setting gpu_ids.

An entry may also name a MIG slice, a part into which a board is divided; `slices_of` finds these
and their sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from carbontrack.errors import ConfigError, close_matches, did_you_mean


class Slice(NamedTuple):
    """A MIG slice: its UUID ("MIG-…"), and its part of the board's compute slices, 0 to 1."""

    uuid: str
    part: float


_NONE = frozenset({"", "-1", "none", "void", "nodevfiles"})
"""Values that hide every GPU; `none`, `void` and the like come from container runtimes."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver lists it: position, UUID ("GPU-…"), name, its MIG slices."""

    index: int
    uuid: str
    name: str = ""
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The GPUs to count, and what could not be understood."""

    gpus: tuple[Gpu, ...]
    problem: str | None = None


def visible_gpus(visible: str | None, gpus: Sequence[Gpu]) -> Choice:
    """The GPUs that CUDA shows to a process with this CUDA_VISIBLE_DEVICES.

    A comma-separated list of indices, UUIDs, unique beginnings of UUIDs, or MIG slices (which stand
    for the GPU that they are part of). As in CUDA, the list ends at the first entry that names
    nothing. Where that is the very first, all GPUs are counted and `problem` says why: too much
    with a note is better than nothing without one.
    """
    if visible is None:
        return Choice(tuple(gpus))
    entries = [entry.strip() for entry in visible.split(",")]
    if entries[0].lower() in _NONE:
        return Choice(())
    chosen: list[Gpu] = []
    for entry in entries:
        if entry == "-1":
            break
        gpu = _named(entry, gpus)
        if gpu is None:
            problem = f"CUDA_VISIBLE_DEVICES={visible!r} names no GPU of this machine at {entry!r}"
            return Choice(tuple(chosen or gpus), problem)
        if gpu not in chosen:
            chosen.append(gpu)
    return Choice(tuple(chosen))


def asked_gpus(gpu_ids: Sequence[str], gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs of the setting `gpu_ids`, in the same grammar.

    Raises:
        ConfigError: an id names no GPU of this machine.
    """
    chosen: list[Gpu] = []
    for entry in gpu_ids:
        gpu = _named(entry.strip(), gpus)
        if gpu is None:
            known = [gpu.uuid for gpu in gpus]
            hint = did_you_mean(close_matches(entry, known), form=str)
            there = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none at all"
            raise ConfigError(f"gpu_ids: no GPU {entry!r} on this machine, which has {there}{hint}")
        if gpu not in chosen:
            chosen.append(gpu)
    return tuple(chosen)


def chosen_slices(entries: Sequence[str], gpu: Gpu) -> tuple[Slice, ...]:
    """The board's slices that a list of GPUs names; all of its slices where it names none."""
    wanted = [entry.strip().lower() for entry in entries]
    named = [
        part
        for part in gpu.slices
        if any(len(e) > len("mig-") and part.uuid.lower().startswith(e) for e in wanted)
    ]
    return tuple(named) or gpu.slices


def _uuids(gpu: Gpu) -> tuple[str, ...]:
    return tuple(part.uuid for part in gpu.slices)


def _named(entry: str, gpus: Sequence[Gpu]) -> Gpu | None:
    if entry.isdigit():
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    wanted = entry.lower()
    if wanted.startswith("mig-gpu-"):  # before driver 470: "MIG-GPU-<uuid>/<instance>/<instance>"
        wanted = wanted.removeprefix("mig-").split("/")[0]
    if not wanted.startswith(("gpu-", "mig-")) or len(wanted) <= len("gpu-"):
        return None
    fits = [
        gpu
        for gpu in gpus
        if any(uuid.lower().startswith(wanted) for uuid in (gpu.uuid, *_uuids(gpu)))
    ]
    return fits[0] if len(fits) == 1 else None


def slices_of(nvml: Any, handle: Any) -> tuple[Slice, ...]:
    """The slices of a board; none where it is not divided, or cannot be."""
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
            continue  # an empty position, or a slice that is hidden from this container
    return tuple(found)


def _part(nvml: Any, handle: Any, most: int) -> float:
    """Compute slices over those of the whole board, which are as many as it can be divided into."""
    try:
        count = int(nvml.nvmlDeviceGetAttributes(handle).computeInstanceSliceCount)
    except nvml.NVMLError:
        count = 1  # the smallest size
    return min(1.0, max(1, count) / most)
