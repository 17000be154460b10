"""Processors and accelerators by the names that people write, with their thermal design power."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from carbontrack.errors import ConfigError, close_matches, did_you_mean
from carbontrack.meters import cpu_info as cpu_names
from carbontrack.system.files import package_text

GPU_TABLE = "data/gpu_tdp.csv"

_MAKERS = re.compile(r"\b(?:nvidia|amd|intel|google|geforce|tesla|radeon|graphics|gpu|chip)\b")
_CPU_LINES = ("", "core ", "xeon ")
"""What people omit before "i7-8700K" and "E5-2620 v4"."""
_NO_WORD = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class GpuModel:
    """An accelerator: the thermal design power (TDP) of one card, and its kind."""

    name: str
    tdp_w: float
    memory_gb: float | None
    year: int | None
    kind: str
    grade: str
    source: str


def find_gpu(name: str) -> GpuModel:
    """The accelerator of this name: "A100", "NVIDIA A100-SXM4-80GB", "rtx 4090", "TPU v3".

    A name that fits several cards means the one sold most; the name of the result says which.

    Raises:
        ConfigError: the table has no such card; the message offers the nearest names.
    """
    found = _gpus().get(_key(_text(name, "gpu")))
    if found is None:
        near = _nearest(name, {gpu.name for gpu in _gpus().values()})
        raise ConfigError(f"gpu={name!r} is in no table{near}; or give power_w")
    return found


def known_gpu(name: str) -> GpuModel | None:
    """The accelerator of this name, as `find_gpu` finds it; None where no table has such a card."""
    return _gpus().get(_key(name))


def find_cpu(name: str) -> cpu_names.CpuPart:
    """The processor of this name: "Xeon Gold 6248", "AMD EPYC 7763 64-Core Processor".

    Raises:
        ConfigError: the table has no such part; the message offers the nearest names.
    """
    plain = cpu_names.plain_name(_text(name, "cpu"))
    found = next(filter(None, (cpu_names.find_part(line + plain) for line in _CPU_LINES)), None)
    if found is None:
        near = _nearest(plain, _cpu_names())
        raise ConfigError(f"cpu={name!r} is in no table{near}; or give power_w")
    return found


def _text(name: object, what: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{what}={name!r} is not the name of any hardware")
    return name


def _nearest(name: str, known: Iterable[str]) -> str:
    by_key = {_key(full): full for full in sorted(known)}
    near = [by_key[key] for key in close_matches(_key(name), by_key, most=3)]
    return did_you_mean(near)


def _key(name: str) -> str:
    """The name without makers and brands, in lower-case letters and digits only."""
    words = _MAKERS.sub(" ", _NO_WORD.sub(" ", name.lower()))
    return words.replace(" ", "") or _NO_WORD.sub("", name.lower())


@cache
def _gpus() -> dict[str, GpuModel]:
    """Every spelling of a card, and the card; an earlier row wins where two share a spelling."""
    index: dict[str, GpuModel] = {}
    for line in package_text(GPU_TABLE).splitlines()[1:]:
        name, tdp_w, memory_gb, year, kind, keys, grade, source, _note = line.split(",", 8)
        gpu = GpuModel(
            name=name,
            tdp_w=float(tdp_w),
            memory_gb=float(memory_gb) if memory_gb else None,
            year=int(year) if year else None,
            kind=kind,
            grade=grade,
            source=source,
        )
        for spelling in (name, *keys.split("|")):
            index.setdefault(_key(spelling), gpu)
    return index


@cache
def _cpu_names() -> frozenset[str]:
    lines = package_text(cpu_names.TABLE).splitlines()[1:]
    return frozenset(line.partition(",")[0] for line in lines)
