"""Accelerators by the names that people and drivers write, with their thermal design power."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from carbontrack.system.files import package_text

GPU_TABLE = "data/gpu_tdp.csv"

_MAKERS = re.compile(r"\b(?:nvidia|amd|intel|google|geforce|tesla|radeon|graphics|gpu|chip)\b")
_NO_WORD = re.compile(r"[^a-z0-9]+")
_SEVERAL = re.compile(r"(\d+) GPUs on one board")


@dataclass(frozen=True, slots=True)
class GpuModel:
    """An accelerator: the thermal design power (TDP) of one card, and its kind.

    Attributes:
        gpus: GPUs on the card, each of which a driver lists for itself.
    """

    name: str
    tdp_w: float
    memory_gb: float | None
    year: int | None
    kind: str
    grade: str
    source: str
    gpus: int = 1


def find_gpu(name: str) -> GpuModel | None:
    """The accelerator of this name, whole and in any spelling; None: the table has none."""
    return _gpus().get(key_of(name))


def gpu_names() -> Iterable[str]:
    """The names of all accelerators of the table."""
    return {gpu.name for gpu in _gpus().values()}


def key_of(name: str) -> str:
    """The name without makers and brands, in lower-case letters and digits only."""
    words = _MAKERS.sub(" ", _NO_WORD.sub(" ", name.lower()))
    return words.replace(" ", "") or _NO_WORD.sub("", name.lower())


@cache
def _gpus() -> dict[str, GpuModel]:
    """Every spelling of a card, and the card; an earlier row wins where two share a spelling."""
    index: dict[str, GpuModel] = {}
    for line in package_text(GPU_TABLE).splitlines()[1:]:
        name, tdp_w, memory_gb, year, kind, keys, grade, source, note = line.split(",", 8)
        several = _SEVERAL.search(note)
        gpu = GpuModel(
            name=name,
            tdp_w=float(tdp_w),
            memory_gb=float(memory_gb) if memory_gb else None,
            year=int(year) if year else None,
            kind=kind,
            grade=grade,
            source=source,
            gpus=int(several[1]) if several else 1,
        )
        for spelling in (name, *keys.split("|")):
            index.setdefault(key_of(spelling), gpu)
    return index
