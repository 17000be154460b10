"""The part of the machine's processors that is reserved for this process.

A reservation limits the process to some of the machine's hardware threads: by a set of threads that
it may run on (its affinity, which a cpuset also restricts), or by a quota of CPU time (`cpu.max`,
or `cpu.cfs_quota_us` in version 1 of the tree). A process without such a limit has the whole
machine, together with all others.

All threads count the same, whatever the type of their core: on a hybrid processor a quota of four
threads is four of all threads, and eight threads of efficiency cores are eight of all. Reservations
are not in watts, and no file shows which cores a quota will be used on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from carbontrack.system.files import read_file
from carbontrack.system.host import group_cpu_s, own_groups
from carbontrack.system.interrupts import pass_on

_Group = tuple[Path, int]
"""The directory of a control group, and the version of its tree."""


def own_affinity() -> Collection[int] | None:
    """The hardware threads that this process may run on; None if the system has no such call."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


class Reservation:
    """The reserved part of the machine's threads, and the CPU time of all processes that use it.

    Args:
        procfs, sysfs: the roots of these file systems.
        affinity: the threads that this process may run on.

    Attributes:
        share: the reserved part of the machine's threads, 1.0 if nothing limits the process.
    """

    def __init__(
        self,
        procfs: Path = Path("/proc"),
        sysfs: Path = Path("/sys"),
        affinity: Callable[[], Collection[int] | None] = own_affinity,
    ) -> None:
        self._stat = procfs / "stat"
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
        self.share = 1.0
        self._threads: Collection[int] | None = None
        self._group: _Group | None = None
        online = self._busy_by_thread()
        if not online:
            return
        allowed = set(affinity() or online)
        cores = float(min(len(allowed), len(online)))
        quota, group = _quota(procfs, sysfs)
        if quota is not None and quota < cores:
            self.share, self._group = quota / len(online), group
        elif cores < len(online):
            self.share = cores / len(online)
            # lxcfs gives the threads of a container new numbers, from 0: then nobody knows which
            self._threads = allowed if allowed <= set(online) else None

    def cpu_s(self) -> float | None:
        """CPU seconds of all users of the reservation; None: unknown, or the whole machine."""
        if self._group is not None:
            return group_cpu_s(*self._group)
        if self._threads is None:
            return None
        by_thread = self._busy_by_thread()
        return sum(by_thread.get(thread, 0.0) for thread in self._threads) if by_thread else None

    def _busy_by_thread(self) -> dict[int, float]:
        busy_s = {}
        try:
            for line in self._stat.read_bytes().splitlines()[1:]:
                if not line.startswith(b"cpu"):
                    break
                name, *fields = line.split()
                ticks = sum(map(int, fields[0:3])) + sum(map(int, fields[5:7]))
                busy_s[int(name[3:])] = ticks * self._tick_s
        except (OSError, ValueError) as error:
            pass_on(error)
            return {}
        return busy_s


def _quota(procfs: Path, sysfs: Path) -> tuple[float | None, _Group | None]:
    """The lowest quota of the groups of this process, in threads, and the group that has it."""
    narrowest: tuple[float | None, _Group | None] = (None, None)
    for directory, version in own_groups(procfs, sysfs, "cpu"):
        threads = _quota_of(directory, version)
        if threads is not None and (narrowest[0] is None or threads < narrowest[0]):
            narrowest = threads, (directory, version)
    if narrowest[1] is not None and narrowest[1][1] == 1:
        narrowest = narrowest[0], _that_counts(narrowest[1][0], procfs, sysfs)
    return narrowest


def _quota_of(directory: Path, version: int) -> float | None:
    """The quota of a group, in threads; None if it has none: "max", or -1 in version 1."""
    try:
        if version == 2:
            quota, period = read_file(directory / "cpu.max").decode().split()
        else:
            quota = read_file(directory / "cpu.cfs_quota_us").decode()
            period = read_file(directory / "cpu.cfs_period_us").decode()
        threads = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError) as error:
        pass_on(error)
        return None
    return threads if threads > 0.0 else None


def _that_counts(directory: Path, procfs: Path, sysfs: Path) -> _Group | None:
    """The group of the controller cpuacct with the same processes; None if there is none.

    In version 1 each controller may have a separate tree. Usually they share one; if not, a group
    with the same path has the same processes only if it is our group too.
    """
    if os.path.exists(directory / "cpuacct.usage"):  # noqa: PTH110 - Path's may raise
        return directory, 1
    path = directory.relative_to(sysfs / "fs" / "cgroup" / "cpu")
    twin = sysfs / "fs" / "cgroup" / "cpuacct" / path
    ours = (group for group, version in own_groups(procfs, sysfs, "cpuacct") if version == 1)
    return (twin, 1) if twin in ours and os.path.isdir(twin) else None  # noqa: PTH112
