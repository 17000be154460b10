"""Memory in use by a process tree, its control group and the machine.

The proportional size of the tree is costly to read, so `MemorySurvey` does it seldom, in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from carbontrack.system.clock import Clock
from carbontrack.system.forking import OwnThread
from carbontrack.system.host import own_groups
from carbontrack.system.interrupts import pass_on, suppressed

SURVEY_PERIOD_S = 60.0
"""The kernel walks the page tables for a proportional size, which took 40 ms for each GiB in pages
of 4 KiB on a virtual machine. So it is read once a minute at most, ..."""
SURVEY_COST = 2000.0
"""... and so seldom that reading it takes at most 1/2000 of the time."""
_S_PER_BYTE = 0.04 / 2**30
_FIRST_S = 5.0

Run = Callable[[Callable[[], None]], object]


def in_a_thread(job: Callable[[], None]) -> None:
    """Run a job in the background; one that cannot be started is left for the next time."""
    with suppress(RuntimeError):  # the program ends, or may have no more threads
        OwnThread(job, "carbontrack-memory").start()


class MemorySurvey:
    """Which part of a tree's resident memory is its own; read seldom, in a thread of its own.

    Args:
        procfs: the root of procfs.
        pids: the living descendants.
        run: runs the reading in the background.
    """

    def __init__(
        self, procfs: Path, pids: Callable[[], Iterable[int]], run: Run = in_a_thread
    ) -> None:
        self.part = 1.0
        """Proportional over resident size, as last read; 1.0 before the first time."""
        self._procfs, self._pids, self._run = procfs, pids, run
        self._due_s: float | None = None

    def look(self, clock: Clock, resident_bytes: int | None) -> None:
        """Read it again when it is due; returns at once, and never raises."""
        now_s = clock.monotonic_s()
        if self._due_s is None:  # none in a short program, and later in one with much memory
            cost_s = (resident_bytes or 0) * _S_PER_BYTE
            self._due_s = now_s + max(_FIRST_S, SURVEY_COST * cost_s)
        if now_s >= self._due_s:
            self._due_s = float("inf")
            self._run(lambda: self._look(clock))
            if self._due_s == float("inf"):
                self._due_s = now_s + SURVEY_PERIOD_S  # until its cost is known

    def _look(self, clock: Clock) -> None:
        begun_s = clock.monotonic_s()
        part = proportional_part(self._procfs, own_pids(self._procfs, self._pids()))
        if part is not None:
            self.part = part
        cost_s = clock.monotonic_s() - begun_s
        self._due_s = begun_s + max(SURVEY_PERIOD_S, SURVEY_COST * cost_s)


def proportional_part(procfs: Path, pids: Iterable[int | str]) -> float | None:
    """Proportional over resident size of these processes together (PSS over RSS), 0 to 1.

    Resident size counts a page once for each process that has it mapped, so a data set that workers
    share would count once for each of them; proportional size splits the page among them. A process
    that may not be read is left out of both; None where none may (proc_pid_smaps(5)).
    """
    resident_kib = proportional_kib = 0
    for pid in pids:
        with suppressed(OSError, ValueError, IndexError):
            text = (procfs / str(pid) / "smaps_rollup").read_bytes()
            rss_kib, pss_kib = _field_kib(text, b"\nRss:"), _field_kib(text, b"\nPss:")
            resident_kib += rss_kib
            proportional_kib += min(pss_kib, rss_kib)
    return proportional_kib / resident_kib if resident_kib > 0 else None


def _field_kib(text: bytes, name: bytes) -> int:
    return int(text.split(name, 1)[1].split(None, 1)[0])


def machine_ram_bytes(procfs: Path) -> int | None:
    """Bytes of memory in use on the machine: the total less what is available."""
    try:
        text = (procfs / "meminfo").read_bytes()
        free_kib = int(text.split(b"MemAvailable:", 1)[1].split(None, 1)[0])
        return _total_of(text) - free_kib * 1024
    except (OSError, ValueError, IndexError) as error:
        pass_on(error)
        return _psutil_used_bytes()


def _total_of(meminfo: bytes) -> int:
    return int(meminfo.split(b"MemTotal:", 1)[1].split(None, 1)[0]) * 1024


def cgroup_ram_bytes(procfs: Path, sysfs: Path) -> int | None:
    """Bytes in use in the control group that limits this process's memory; None without a limit.

    Without the file cache that the kernel would reclaim first, as `docker stats` counts.
    """
    try:
        narrowest = _total_of((procfs / "meminfo").read_bytes())
    except (OSError, ValueError, IndexError) as error:
        pass_on(error)
        return None
    found: tuple[Path, int] | None = None
    for directory, version in own_groups(procfs, sysfs, "memory"):
        limit = _number(directory / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if limit is not None and 0 < limit < narrowest:
            narrowest, found = limit, (directory, version)
    if found is None:
        return None
    directory, version = found
    used = _number(directory / ("memory.current" if version == 2 else "memory.usage_in_bytes"))
    if used is None:
        return None
    return max(0, used - _inactive_file_bytes(directory, version))


def _inactive_file_bytes(directory: Path, version: int) -> int:
    name = b"inactive_file" if version == 2 else b"total_inactive_file"
    with suppressed(OSError, ValueError):
        for line in (directory / "memory.stat").read_bytes().splitlines():
            if line.startswith(name + b" "):
                return int(line.split()[1])
    return 0


def _number(path: Path) -> int | None:
    with suppressed(OSError, ValueError):
        return int(path.read_bytes())
    return None


def own_pids(procfs: Path, descendants: Iterable[int]) -> list[int | str]:
    """Our process, as "self" where procfs has that, and the descendants."""
    return ["self" if (procfs / "self").exists() else os.getpid(), *descendants]


def _psutil_used_bytes() -> int | None:
    try:
        import psutil

        memory = psutil.virtual_memory()
    except (ImportError, OSError) as error:
        pass_on(error)
        return None
    return int(memory.total - memory.available)
