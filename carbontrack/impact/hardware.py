"""Processors and accelerators by the names that people write, with their thermal design power."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from carbontrack.errors import ConfigError, close_matches, did_you_mean
from carbontrack.meters import cpu_info as cpu_names
from carbontrack.meters import gpu_names
from carbontrack.meters.gpu_names import GpuModel, key_of
from carbontrack.system.files import package_text

_CPU_LINES = ("", "core ", "xeon ")
"""What people omit before "i7-8700K" and "E5-2620 v4"."""


def find_gpu(name: str) -> GpuModel:
    """The accelerator of this name: "A100", "NVIDIA A100-SXM4-80GB", "rtx 4090", "TPU v3".

    A name that fits several cards means the one sold most; the name of the result says which.

    Raises:
        ConfigError: the table has no such card; the message offers the nearest names.
    """
    found = gpu_names.find_gpu(_text(name, "gpu"))
    if found is None:
        near = _nearest(name, gpu_names.gpu_names())
        raise ConfigError(f"gpu={name!r} is in no table; give power_w instead{near}")
    return found


def find_cpu(name: str) -> cpu_names.CpuPart:
    """The processor of this name: "Xeon Gold 6248", "AMD EPYC 7763 64-Core Processor".

    Raises:
        ConfigError: the table has no such part; the message offers the nearest names.
    """
    plain = cpu_names.plain_name(_text(name, "cpu"))
    found = next(filter(None, (cpu_names.find_part(line + plain) for line in _CPU_LINES)), None)
    if found is None:
        near = _nearest(plain, _cpu_names())
        raise ConfigError(f"cpu={name!r} is in no table; give power_w instead{near}")
    return found


def _text(name: object, what: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{what}={name!r} is not the name of any hardware")
    return name


def _nearest(name: str, known: Iterable[str]) -> str:
    by_key = {key_of(full): full for full in sorted(known)}
    near = [by_key[key] for key in close_matches(key_of(name), by_key, most=3)]
    return did_you_mean(near)


@cache
def _cpu_names() -> frozenset[str]:
    lines = package_text(cpu_names.TABLE).splitlines()[1:]
    return frozenset(line.partition(",")[0] for line in lines)
