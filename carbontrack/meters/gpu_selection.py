"""Which GPUs to count: the grammar of CUDA_VISIBLE_DEVICES and of the setting gpu_ids.

Numbers in gpu_ids are the driver's, by place on the bus, as nvidia-smi shows them. Those in
CUDA_VISIBLE_DEVICES are CUDA's own: unless CUDA_DEVICE_ORDER says PCI_BUS_ID, it calls the fastest
board 0 and leaves the order of the others open (CUDA C++ Programming Guide, environment
variables). Boards of one model keep their order on the bus; among different ones only UUIDs tell.

An entry may also name a MIG slice, a part into which a board is divided; `slices_of` finds these
and their sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from carbontrack.errors import ConfigError, close_matches, did_you_mean
from carbontrack.meters.nvml_binding import Binding, BindingError, as_number
from carbontrack.values import NamedTuple


class Slice(NamedTuple):
    """A MIG slice: its UUID ("MIG-…"), and its part of the board's compute slices, 0 to 1."""

    uuid: str
    part: float


_MOST_SLICES = 64
"""More than any board can be divided into."""
_COMPUTE_SLICES = "computeInstanceSliceCount"
_NONE = frozenset({"", "-1", "none", "void", "nodevfiles"})
"""Values that hide every GPU; `none`, `void` and the like come from container runtimes."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver lists it: position, UUID ("GPU-…"), name, its MIG slices.

    Attributes:
        silent: why nothing more is known of it than its position; "" for one that answers.
        also: other names by which it may be called.
    """

    index: int
    uuid: str = ""
    name: str = ""
    slices: tuple[Slice, ...] = ()
    silent: str = ""
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The GPUs to count, and what could not be understood.

    Attributes:
        gpus: what to count, in the driver's order.
        problem: what could not be understood, for people.
        unsure: those among them of which only `wanted` are ours, nobody knows which.
        wanted: how many of those; 0 where none is unsure.
    """

    gpus: tuple[Gpu, ...]
    problem: str | None = None
    unsure: tuple[Gpu, ...] = ()
    wanted: int = 0


def visible_gpus(
    visible: str | None,
    gpus: Sequence[Gpu],
    *,
    by_bus: bool = True,
    variable: str = "CUDA_VISIBLE_DEVICES",
) -> Choice:
    """The GPUs that CUDA shows to a process with this CUDA_VISIBLE_DEVICES.

    A comma-separated list of indices, UUIDs, unique beginnings of UUIDs, or MIG slices (which stand
    for the GPU that they are part of). As in CUDA, the list ends at the first entry that names
    nothing. Where that is the very first, all GPUs are counted and `problem` says why: too much
    with a note is better than nothing without one.

    Args:
        visible: the list; None: all.
        gpus: those of the driver.
        by_bus: whether its indices are the driver's; otherwise those of boards of several models
            say how many there are, and not which.
        variable: where the list is from, for people.
    """
    if visible is None:
        return Choice(tuple(gpus))
    entries = [entry.strip() for entry in visible.split(",")]
    if hides_all(visible):
        return Choice(())
    chosen: list[Gpu] = []
    named: list[Gpu] = []
    problem = None
    for entry in entries:
        if entry == "-1":
            break
        gpu = _named(entry, gpus)
        if gpu is None:
            problem = f"{variable}={visible!r} names no GPU of this machine in {entry!r}"
            # by its UUID it may be one that does not answer
            named += [gpu for gpu in gpus if gpu.silent and not entry.isdigit()]
            chosen += named
            break
        chosen.append(gpu)
        named += [] if entry.isdigit() else [gpu]
    if not chosen:
        return Choice(tuple(gpus), problem)
    ours = tuple(dict.fromkeys(chosen))
    models = {gpu.name for gpu in gpus if not gpu.silent}
    unsure = tuple(gpu for gpu in gpus if gpu not in named)
    wanted = sum(gpu in ours for gpu in unsure)
    if by_bus or len(models) < 2 or not 0 < wanted < len(unsure):
        return Choice(ours, problem)
    return Choice(tuple(gpus), problem, unsure, wanted)


def amd_gpus(variables: Mapping[str, str], gpus: Sequence[Gpu], *, exact: bool) -> Choice:
    """The GPUs that ROCm shows to a process with these variables.

    ROCR_VISIBLE_DEVICES filters; the others count in what is left, the first of them that is set.

    Args:
        variables: those of the environment, by name.
        gpus: those of the library.
        exact: whether their indices are the runtime's.
    """
    listed = sorted(gpus, key=lambda gpu: gpu.index)
    rocr = variables.get("ROCR_VISIBLE_DEVICES")
    first = visible_gpus(rocr, listed, by_bus=exact, variable="ROCR_VISIBLE_DEVICES")
    name = next((one for one in _OF_WHAT_IS_LEFT if variables.get(one)), None)
    if name is None or not first.gpus:
        return first
    if first.unsure:
        wanted = min(variables[name].count(",") + 1, (rocr or "").count(",") + 1)
        return replace(first, unsure=first.gpus, wanted=wanted)
    places = {replace(gpu, index=place): gpu for place, gpu in enumerate(first.gpus)}
    second = visible_gpus(variables[name], tuple(places), by_bus=exact, variable=name)
    return Choice(
        tuple(places[gpu] for gpu in second.gpus),
        first.problem or second.problem,
        tuple(places[gpu] for gpu in second.unsure),
        second.wanted,
    )


_OF_WHAT_IS_LEFT = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
"""Empty ones count as not set, other than for CUDA."""


def numbers_are_by_bus(variables: Iterable[tuple[str, str]]) -> bool:
    """Whether CUDA_DEVICE_ORDER makes CUDA's numbers those of the driver."""
    return dict(variables).get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"


def hides_all(visible: str | None) -> bool:
    """Whether such a list hides every GPU."""
    return visible is not None and visible.split(",")[0].strip().lower() in _NONE


def asked_gpus(gpu_ids: Sequence[str], gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """The GPUs of the setting `gpu_ids`, in the same grammar.

    Raises:
        ConfigError: an id names no GPU of this machine.
    """
    chosen: list[Gpu] = []
    for entry in gpu_ids:
        gpu = _named(entry.strip(), gpus)
        silent = [gpu for gpu in gpus if gpu.silent]
        if gpu is None and silent and not entry.strip().isdigit():
            chosen += [one for one in silent if one not in chosen]  # it may be one of these
            continue
        if gpu is None:
            known = [gpu.uuid for gpu in gpus if gpu.uuid]
            hint = did_you_mean(close_matches(entry, known), form=str)
            there = (
                ", ".join(f"{gpu.index} ({gpu.uuid or gpu.silent})" for gpu in gpus)
                or "none at all"
            )
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


def _names(gpu: Gpu) -> tuple[str, ...]:
    return (gpu.uuid, *(part.uuid for part in gpu.slices), *gpu.also)


def _named(entry: str, gpus: Sequence[Gpu]) -> Gpu | None:
    if entry.isdigit():
        return next((gpu for gpu in gpus if gpu.index == int(entry)), None)
    wanted = entry.lower()
    if wanted.startswith("mig-gpu-"):  # before driver 470: "MIG-GPU-<uuid>/<instance>/<instance>"
        wanted = wanted.removeprefix("mig-").split("/")[0]
    if not wanted.startswith(("gpu-", "mig-")) or len(wanted) <= len("gpu-"):
        return None
    fits = [gpu for gpu in gpus if any(name.lower().startswith(wanted) for name in _names(gpu))]
    return fits[0] if len(fits) == 1 else None


def slices_of(nvml: Binding, handle: Any) -> tuple[Slice, ...]:
    """The slices of a board; none where it is not divided, or cannot be."""
    try:
        if nvml.ask("nvmlDeviceGetMigMode", handle)[0] != 1:
            return ()
        most = min(_MOST_SLICES, int(nvml.number("nvmlDeviceGetMaxMigDeviceCount", handle)))
    except (BindingError, LookupError, TypeError):
        return ()
    found = []
    for position in range(most):
        try:
            part = nvml.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, position)
            found.append(Slice(nvml.text("nvmlDeviceGetUUID", part), _part(nvml, part, most)))
        except BindingError:
            continue  # an empty position, or a slice that is hidden from this container
    return tuple(found)


def _part(nvml: Binding, handle: Any, most: int) -> float:
    """Compute slices over those of the whole board, which are as many as it can be divided into."""
    try:
        shown = getattr(nvml.ask("nvmlDeviceGetAttributes", handle), _COMPUTE_SLICES, None)
        count = as_number(shown, _COMPUTE_SLICES)
    except BindingError:
        count = 1.0  # the smallest size
    return min(1.0, max(1.0, count) / most)
