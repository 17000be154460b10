"""Cheap signs that there may be other meters than before; loaded only to look for them again."""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable
from pathlib import Path

from carbontrack.errors import MeterUnavailable
from carbontrack.meters.detect import Host, nvml_is_present
from carbontrack.meters.meter import read_text
from carbontrack.system.interrupts import pass_on


def signs(host: Host) -> Hashable:
    """What is different when `detect` would find other meters.

    Zones, sensors, drivers and boards by their names, whether counters may be read, and how many
    boards an NVIDIA library that is in use counts.
    """
    sysfs = host.sysfs
    powercap = _names(sysfs / "class" / "powercap")
    counters = [sysfs / "class" / "powercap" / name / "energy_uj" for name in powercap]
    return (
        tuple(
            (name, os.access(file, os.R_OK)) for name, file in zip(powercap, counters, strict=True)
        ),
        _names(sysfs / "bus" / "event_source" / "devices"),
        read_text(host.procfs / "sys" / "kernel" / "perf_event_paranoid"),
        _names(sysfs / "class" / "hwmon"),
        _names(sysfs / "class" / "drm"),
        tuple((sysfs / "module" / name).is_dir() for name in ("amdgpu", "nvidia")),
        _names(host.procfs / "driver" / "nvidia" / "gpus"),
        nvml_is_present(host.nvml_library) and host.gpu_ids != (),
        _nvml_boards() if host.gpu_ids != () else None,
    )


def _names(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(os.listdir(folder)))  # noqa: PTH208 - only the names are needed
    except OSError as error:
        pass_on(error)
        return ()


def _nvml_boards() -> Hashable:
    """The boards that NVML counts, and their slices; None where it is not in use."""
    if "pynvml" not in sys.modules:
        return None
    from carbontrack.meters.gpu_selection import slices_of
    from carbontrack.meters.nvml_binding import Binding, BindingError  # are loaded

    found: list[Hashable] = []
    try:
        nvml = Binding.load()
        for index in range(int(nvml.number("nvmlDeviceGetCount"))):
            board = nvml.ask("nvmlDeviceGetHandleByIndex", index)
            found.append((nvml.text("nvmlDeviceGetUUID", board), slices_of(nvml, board)))
    except (BindingError, MeterUnavailable) as error:  # a sign as well
        found.append(type(error).__name__)
    return tuple(found)
