"""Reads the CPU time and memory that this process tree and the machine use.

On Linux directly from procfs, at a few microseconds a read; elsewhere through psutil. Processes are
read from a procfs that contains this process, by its numbers; facts of the machine may come from
another procfs, or from sysfs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from carbontrack.attribution.memory import (
    LowEnd,
    MemorySurvey,
    Run,
    in_a_thread,
    machine_ram_bytes,
)
from carbontrack.attribution.policy import Usage
from carbontrack.attribution.process_tree import ProcessTree, driver_numbers
from carbontrack.attribution.reservation import Reservation
from carbontrack.system.clock import Clock, SystemClock, process_cpu_s
from carbontrack.system.files import READING
from carbontrack.system.forking import is_fork
from carbontrack.system.interrupts import pass_on

_MEMORY_PERIOD_S = 5.0
"""Memory is read this often at most: it costs as much as the rest of a tick and changes slowly."""
_NOW_S = 0.001
"""The machine's busy time counts in steps of 10 ms, so a reading this recent is current."""
_LONG_AGO = float("-inf"), None


class UsageReader:
    """Snapshots of usage for attribution, and the machine's busy CPU seconds for the CPU model."""

    unsaid_gpu_part = 1.0
    """Our part of a GPU whose users could not be detected: less if other ranks may use it too."""

    def __init__(
        self,
        procfs: Path = Path("/proc"),
        sysfs: Path = Path("/sys"),
        *,
        run: Run = in_a_thread,
        own_procfs: Path = Path("/proc"),
    ) -> None:
        self._procfs = procfs
        self._sysfs = sysfs
        self._own_procfs = own_procfs
        # a procfs that does not know us, as another container's, shows the machine only
        knows_us = os.path.exists(f"{procfs}/self")  # noqa: PTH110 - no object
        self._processes = procfs if knows_us else own_procfs
        self._proc_stat = _ProcStat.of(procfs) or _ProcStat.of(own_procfs)
        self.hidden: str | None = None
        """Why the machine cannot be observed, and what is used instead; None: it can."""
        self._hidden_used: Callable[[], int | None] | None = None
        self._machine: Callable[[], float | None] = (
            self._hidden_machine() if self._proc_stat is None else self._proc_stat.busy_s
        )
        self._busy: tuple[float, float | None] = _LONG_AGO
        """When a meter has read the machine's busy time, and the value."""
        self._tree = ProcessTree(self._processes)
        self._owner, self._own_cpu_s, self._before_fork_s = os.getpid(), 0.0, 0.0
        self._memory_at_s = self._read_at_s = float("-inf")
        self._ram: tuple[int | None, int | None] = (None, None)
        self.ram_low_end = LowEnd()
        """The distance of the low end below our memory."""
        self._is_early = False
        self._survey = MemorySurvey(
            self._processes,
            lambda: self._tree.pids(anew=self._is_early),  # a fork has a tree of its own
            run,
            low_end=self.ram_low_end,
        )
        self.within_limit = False
        """Whether our memory is compared with that of the control group that limits it instead of
        the machine's: for a meter that counts at most the limit, as the model of memory does."""

    def for_child(self) -> UsageReader:
        """A reader that starts at zero in a child process, after a fork."""
        child = UsageReader(self._procfs, self._sysfs, own_procfs=self._own_procfs)
        child.within_limit = self.within_limit
        child.unsaid_gpu_part = self.unsaid_gpu_part
        return child

    def pids_as_the_driver_counts(self) -> frozenset[int] | None:
        """Our process and its living descendants, by the pids that a GPU's driver reports.

        None if these are unknown: drivers report the pids of the host, and in a container they
        differ (pid_namespaces(7)), so that an equal number may be another process. With the host's
        procfs, at `procfs_path`, they are known there too.
        """
        return driver_numbers(self._procfs)

    def reservation(self) -> Reservation:
        """The processors that are reserved for this process now."""
        return Reservation(self._procfs, self._sysfs)

    def machine_busy_s(self) -> float | None:
        """Busy CPU seconds of all processors since boot, in steps of about 10 ms.

        None if the machine cannot be observed, or not at this moment.
        """
        return self._machine()

    def own_cpu_s(self, now_s: float) -> float:
        """CPU seconds of this process tree so far: the machine was busy for at least as long.

        Meters keep this reader after a fork. The tree is then a different one, and the count goes
        on.
        """
        if self._owner != os.getpid():
            self._owner, self._before_fork_s = os.getpid(), self._own_cpu_s
            self._tree = ProcessTree(self._processes)
        self._own_cpu_s = self._before_fork_s + self._tree.cpu_s(now_s)
        return self._own_cpu_s

    def least_busy_s(self) -> float | None:
        """Like `machine_busy_s`; our own CPU seconds if the machine cannot be observed."""
        if self.busy_is_own:
            return self.own_cpu_s(SystemClock.monotonic_s())
        busy_s = self._machine()
        self._busy = SystemClock.monotonic_s(), busy_s
        return busy_s

    def _busy_now_s(self) -> float | None:
        """Like `machine_busy_s`.

        A value that a meter has just read for the same sample is reused.
        """
        (read_at_s, busy_s), self._busy = self._busy, _LONG_AGO
        is_now = SystemClock.monotonic_s() - read_at_s < _NOW_S
        return busy_s if is_now else self._machine()

    @property
    def busy_is_own(self) -> bool:
        """Whether the machine's busy time is not readable, so that `least_busy_s` is ours only."""
        return self._machine is _unknown

    def _hidden_machine(self) -> Callable[[], float | None]:
        """The source that is used if no procfs has the machine's busy time."""
        if sys.platform != "linux":
            return _psutil_busy_s
        from carbontrack.attribution import hidden_machine  # rarely needed

        self._hidden_used = partial(hidden_machine.used_ram_bytes, self._sysfs)
        busy_s = hidden_machine.busy_reader(self._sysfs)
        instead = "our own CPU time" if busy_s is None else "the root of the control groups"
        self.hidden = (
            f"procfs has no file stat (mounted with subset=pid?); busy time is taken from {instead}"
        )
        return busy_s or _unknown

    def take_in(self, group: Path, leaves_out: Callable[[int, int], bool]) -> None:
        """Include daemons of a control group that only we use, see `ProcessTree.take_in`."""
        self._tree.take_in(group, leaves_out)

    def rest(self) -> None:
        """Hold no descriptor until the next read."""
        if self._proc_stat is not None:
            self._proc_stat.rest()

    def read(self, now_s: float) -> Usage:
        """The usage up to now; unknown parts are None, nothing is raised."""
        cpu_s = self._tree.cpu_s(now_s)
        if now_s - self._memory_at_s >= _MEMORY_PERIOD_S or self._survey.has_changed:
            self._memory_at_s = now_s
            self.rest()  # a file that was put in its place, or mounted over it, is found now
            self._ram = (self._our_bytes(), self._used_bytes())
        self._read_at_s = now_s
        return Usage(now_s, cpu_s, self._busy_now_s(), *self._ram, own_cpu_s=process_cpu_s())

    def _our_bytes(self) -> int | None:
        resident_bytes = self._tree.ram_bytes()
        if resident_bytes is None:
            return None
        return self._survey.take(self._read_at_s, resident_bytes, self._tree.largest_ram_bytes)

    def _used_bytes(self) -> int | None:
        groups = self._sysfs if self.within_limit else None
        used = machine_ram_bytes(self._procfs, groups) if self.hidden is None else None
        if used is None and self._hidden_used is not None:
            used = self._hidden_used()
        return used

    def survey(self, clock: Clock) -> None:
        """Read, when it is due, which part of the resident memory is not shared; never raises.

        Called by the sampler's thread only, not at the start or end of a span.
        """
        self._survey.look(clock, is_alone=self._tree.is_alone)

    @property
    def needs_survey(self) -> bool:
        """Whether there is memory since the last survey that may be shared to a large extent."""
        return self._survey.is_behind and (is_fork() or not self._tree.is_alone)

    def awaits_survey(self, clock: Clock) -> bool:
        """Survey new processes; returns whether a tick should wait for the answer."""
        self._is_early = True  # no sample has just looked at the processes
        try:
            return self._survey.is_awaited(clock)
        finally:
            self._is_early = False


class _ProcStat:
    """The first line of /proc/stat, through a descriptor that stays open from read to read.

    See proc_stat(5).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, READING)
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")

    @classmethod
    def of(cls, procfs: Path) -> _ProcStat | None:
        """The reader for a procfs tree; None if there is none."""
        try:
            return cls(procfs / "stat")
        except OSError as error:
            pass_on(error)
            return None

    def busy_s(self, *, again: bool = True) -> float | None:
        """CPU seconds so far; after a failed read it is read once more, at once and by the path."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, READING)
            fields = os.pread(self._descriptor, 256, 0).split(b"\n", 1)[0].split()
            if fields[0] == b"cpu" and len(fields) >= 5:
                # user nice system, then irq softirq; not idle, iowait, steal. Guests are in user.
                return sum(map(int, fields[1:4] + fields[6:8])) * self._tick_s
        except (OSError, ValueError, IndexError) as error:
            pass_on(error)
        self.rest()
        return self.busy_s(again=False) if again else None  # unknown, which is not a count of 0

    def rest(self) -> None:
        """Close the descriptor until the next read."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        try:
            self.rest()
        except OSError as error:
            pass_on(error)
        except AttributeError:  # `os` may be unloaded at interpreter exit
            pass


def _unknown() -> None:
    return None


def _psutil_busy_s() -> float | None:
    try:
        import psutil

        times = psutil.cpu_times()
    except (ImportError, OSError) as error:
        pass_on(error)
        return None
    parts = ("user", "nice", "system", "irq", "softirq", "interrupt", "dpc")
    return float(sum(getattr(times, part, 0.0) for part in parts))
