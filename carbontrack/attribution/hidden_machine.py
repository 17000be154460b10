"""The use of the machine if procfs does not show it, as with `subset=pid` (systemd's ProcSubset).

Such a procfs contains only processes. The root of the control groups counts the CPU time of all
processes, and each memory node has a meminfo in sysfs; neither needs privileges.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from carbontrack.system.host import group_cpu_s
from carbontrack.system.interrupts import suppressed

_ROOT_ONLY = "release_agent"
"""A file that only the root of a hierarchy of version 1 has (cgroups(7))."""
_NOT_OF_ROOT = "cgroup.events"
"""A file that every group of version 2 except the root has."""


def busy_reader(sysfs: Path) -> Callable[[], float | None] | None:
    """Reads the CPU seconds that all processes have used since boot.

    None if there is no source for it.

    In a container the root of the mount may be a group of the host, which is not the machine; such
    a group does not count.
    """
    top = sysfs / "fs" / "cgroup"
    for version, names in ((2, ("", "unified")), (1, ("cpuacct", "cpu,cpuacct"))):
        for group in (top / name for name in names):
            if _is_root(group, version) and group_cpu_s(group, version) is not None:
                return partial(group_cpu_s, group, version)
    return None


def _is_root(group: Path, version: int) -> bool:
    if version == 2:
        return not os.path.exists(group / _NOT_OF_ROOT)  # noqa: PTH110 - Path's may raise
    return os.path.exists(group / _ROOT_ONLY)  # noqa: PTH110 - as above


def used_ram_bytes(sysfs: Path) -> int | None:
    """Bytes of memory in use on the machine, by its memory nodes; None if they do not show it.

    File caches and memory that the kernel can reclaim count as available, as in `MemAvailable` of
    proc_meminfo(5).
    """
    used_kib = nodes = 0
    with suppressed(OSError):
        for node in sorted((sysfs / "devices/system/node").glob("node[0-9]*")):
            with suppressed(OSError, ValueError, IndexError):
                text = (node / "meminfo").read_bytes()
                available = (b"MemFree", b"Active(file)", b"Inactive(file)", b"SReclaimable")
                free_kib = sum(_kib(text, name) for name in available)
                used_kib += max(0, _kib(text, b"MemTotal") - free_kib)
                nodes += 1
    return used_kib * 1024 if nodes else None


def _kib(text: bytes, name: bytes) -> int:
    return int(text.split(b" %b:" % name, 1)[1].split(None, 1)[0])
