"""Memory in use by a process tree, its control group and the machine.

A page that several processes have mapped is resident in each of them. The kernel's proportional
size splits it among them, but reading it walks the page tables, so `MemorySurvey` does that in a
thread: soon after a span has opened, and later on a budget. Until the first answer, and
for processes that have come since the last one, our memory is the sum of what is resident, with a
low end (`LowEnd`) below it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from carbontrack.system.clock import Clock
from carbontrack.system.files import read_at_once
from carbontrack.system.forking import OwnThread, is_fork
from carbontrack.system.host import own_groups, stat_fields
from carbontrack.system.interrupts import attempt, pass_on, suppressed
from carbontrack.values import NamedTuple

SURVEY_PERIOD_S = 60.0
"""The kernel walks the page tables for a proportional size, which took 18 to 40 ms for each GiB in
pages of 4 KiB on virtual machines. So it is read once a minute at most, ..."""
SURVEY_COST = 2000.0
"""... and so seldom that reading it takes at most 1/2000 of the time. ..."""
NEWCOMER_COST = 100.0
"""... If processes have started or exited it is read at once, for up to 1/100 of the time, ..."""
FREE_S = 1.0
"""... after a first second that these readings may take in any case."""
SIZES_PERIOD_S = 5.0
"""Resident sizes of several processes are read this often, or when the processes change.

The size of a single process is its memory, which is read in any case.
"""
MATTERS = 0.02
"""Processes with less than this part of the tree's memory are read after the others."""
AWAITED = 0.05
"""If the low end of memory is further down than this, a tick waits for the survey, ..."""
AWAITED_S = 1.0
"""... but not for longer than this."""

Run = Callable[[Callable[[], None]], object]


def in_a_thread(job: Callable[[], None]) -> None:
    """Run a job in the background; a job that cannot be started is tried again next time."""
    with suppressed(RuntimeError):  # the program ends, or may have no more threads
        OwnThread(job, "carbontrack-memory").start()


# -- one process -------------------------------------------------------------------------------


class Resident(NamedTuple):
    """A process, by its name in procfs and its start in clock ticks, and its resident bytes."""

    name: str
    started_ticks: int
    bytes: int

    @property
    def key(self) -> tuple[str, int]:
        """The process; its number alone may be reused later."""
        return self[:2]


class Proportion(NamedTuple):
    """The part of a process's resident memory that is attributed to it.

    Attributes:
        part: its pages, each divided by the number of processes that have it mapped; 0 to 1.
        private: the pages that only it has mapped.
        is_exact: whether the kernel reported it. Otherwise these are the pages that belong neither
            to files nor to shared memory, including those that are shared after a fork.
    """

    part: float
    private: float
    is_exact: bool = True


def resident(procfs: Path, name: int | str) -> Resident | None:
    """A process and its resident size; None if there is none (any more)."""
    try:
        fields = stat_fields(read_at_once(f"{procfs}/{name}/stat"))
        size = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        return Resident(str(name), int(fields[19]), size) if size > 0 else None
    except (OSError, ValueError, IndexError) as error:
        pass_on(error)
        return None


def proportion(procfs: Path, name: str) -> Proportion | None:
    """The part of a process's memory that is attributed to it; None if it cannot be read.

    From smaps_rollup (proc_pid_smaps(5), Linux 4.14); if there is none, from smaps; from statm if
    neither may be read, as for another user's process.
    """
    for file in ("smaps_rollup", "smaps"):
        try:
            found = _from_smaps((procfs / name / file).read_bytes())
        except FileNotFoundError as error:
            pass_on(error)
        except (OSError, ValueError, IndexError) as error:
            pass_on(error)
            break
        else:
            if found is not None:
                return found
    with suppressed(OSError, ValueError, IndexError):
        _, size, shared, *_ = map(int, read_at_once(f"{procfs}/{name}/statm").split())
        own = max(0, size - shared) / size if size > 0 else 0.0
        return Proportion(own, own, is_exact=False) if size > 0 else None
    return None


def _from_smaps(text: bytes) -> Proportion | None:
    """Of one line for each field, or of one for each mapping and field."""
    resident_kib = _sum_kib(text, b"\nRss:")
    if resident_kib <= 0:
        return None
    private_kib = _sum_kib(text, b"\nPrivate_Clean:") + _sum_kib(text, b"\nPrivate_Dirty:")
    part = min(1.0, _sum_kib(text, b"\nPss:") / resident_kib)
    return Proportion(part, min(part, private_kib / resident_kib))


def _sum_kib(text: bytes, name: bytes) -> int:
    return sum(int(line.split(None, 1)[0]) for line in text.split(name)[1:])


# -- the process tree --------------------------------------------------------------------------


_MOST_STEPS = 1000
"""The most changes that are kept; one a tick if processes start and exit all the time."""


class LowEnd:
    """The distance of the low end below our memory, as a part of it, over time."""

    was_below = False
    """Whether the low end was ever below, in this process; if not, records need not ask."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, float]] = [(float("-inf"), 0.0)]

    def set(self, since_s: float, below: float) -> None:
        """Set the value from that instant on."""
        if below != self._steps[-1][1] or since_s < self._steps[-1][0]:
            kept = [step for step in self._steps[-_MOST_STEPS:] if step[0] < since_s]
            self._steps = [*kept, (since_s, below)]
            LowEnd.was_below = LowEnd.was_below or below > 0.0

    def mean(self, since_s: float, until_s: float) -> float:
        """The mean over some time."""
        steps = self._steps
        if since_s >= steps[-1][0] or until_s <= since_s:
            return steps[-1][1]
        sum_s, end_s = 0.0, until_s
        for begin_s, below in reversed(steps):
            if begin_s < end_s:
                sum_s += below * (end_s - max(begin_s, since_s))
                end_s = begin_s
            if end_s <= since_s:
                break
        return sum_s / (until_s - since_s)


class Sum(NamedTuple):
    """Bytes of a process tree: resident ones, our memory, and its low end."""

    resident: float = 0.0
    best: float = 0.0
    low: float = 0.0


class MemorySurvey:
    """The part of a tree's resident memory that is attributed to it; read in a separate thread.

    The value of a process stays valid until the next reading, whichever other processes start or
    exit. With P the sum of the proportional sizes of known processes, and S that of the shared
    pages of those that have ended since (only the others use them now), our memory is P + S plus
    the resident sizes of unknown processes, and never more than the sum of all resident sizes. Its
    low end is P, or the largest unknown process if that is more: the others may share all of their
    pages with it.

    Args:
        procfs: the root of procfs.
        pids: the living descendants.
        run: runs the reading in the background.
        low_end: follows the low end.
        is_forked: whether this is a fork of another process, which may share everything with it; by
            default, whether it was forked since carbontrack was loaded.
    """

    def __init__(
        self,
        procfs: Path,
        pids: Callable[[], Iterable[int]],
        run: Run = in_a_thread,
        *,
        low_end: LowEnd | None = None,
        is_forked: bool | None = None,
    ) -> None:
        self.has_changed = False
        """Whether there is new information since our memory was last read."""
        self.is_behind = True
        """Whether a part of the resident memory was not there at the last scan."""
        self.low_end = low_end or LowEnd()
        self._is_forked = is_fork() if is_forked is None else is_forked
        self._procfs, self._pids, self._run = procfs, pids, run
        self._known: dict[tuple[str, int], Proportion] = {}
        self._sizes: dict[tuple[str, int], int] = {}
        self._names: set[int | str] = set()
        self._sized_at_s = self._reading_until_s = self._next_s = float("-inf")
        self._sum = Sum()
        self._returned_bytes = 0.0
        self._begun_s: float | None = None
        self._misses = self._answered = False
        self._reading_since_s = self._due_s = self._spent_s = 0.0

    def take(self, since_s: float, resident_bytes: int, largest_bytes: int) -> int:
        """Our memory, from the resident sizes of all processes and of the largest one.

        The value counts from `since_s` on.
        """
        self.has_changed = False
        resident, best, low = self._sum
        more = max(0.0, resident_bytes - resident)
        if more > MATTERS * resident_bytes:
            self.is_behind, self._next_s = True, self._reading_until_s
            best += more
            # one process alone has grown, or others have come
            low = (
                low + more
                if largest_bytes >= resident_bytes
                else max(low, min(largest_bytes, more))
            )
            low = 0.0 if self._is_fork_unread else low
        below = 1.0 - low / best if best > 0.0 else 0.0
        self.low_end.set(since_s, below)
        if resident > 0.0 and best <= resident:
            best *= resident_bytes / resident
        return round(best)

    @property
    def _is_fork_unread(self) -> bool:
        return self._is_forked and not self._answered

    def look(self, clock: Clock, *, is_alone: bool = False) -> None:
        """Read sizes again when that is due; returns soon, and never raises.

        If our process `is_alone`, and was before, that is rare.
        """
        now_s = clock.monotonic_s()
        if now_s < (self._next_s if is_alone else self._reading_until_s):
            return
        names: set[int | str] = set(own_pids(self._procfs, self._pids()))
        if names != self._names or now_s - self._sized_at_s >= SIZES_PERIOD_S:
            self._names, self._sized_at_s = names, now_s
            self._settle(_residents(self._procfs, names))
        if self._is_due(now_s):
            self._begun_s = now_s if self._begun_s is None else self._begun_s
            self._reading_since_s = now_s
            self._reading_until_s = now_s + SURVEY_PERIOD_S  # should it never begin, or never end
            self._run(partial(self._try_to_read, clock))
        self.is_behind = False
        is_settled = is_alone and len(names) == 1 and not self._misses
        self._next_s = self._due_s if is_settled else now_s

    def is_awaited(self, clock: Clock) -> bool:
        """Scan if we are behind.

        Returns whether to wait for an answer that may be much less than the sum.

        The wait is at most a second.
        """
        if self.is_behind:
            self.look(clock)
        now_s = clock.monotonic_s()
        if now_s >= min(self._reading_until_s, self._reading_since_s + AWAITED_S):
            return False
        return self._sum.low < (1.0 - AWAITED) * self._sum.best

    def _is_due(self, now_s: float) -> bool:
        if self._begun_s is None or now_s >= self._due_s:
            return True
        may_s = FREE_S + (now_s - self._begun_s) / NEWCOMER_COST
        return self._misses and self._spent_s <= may_s

    def _try_to_read(self, clock: Clock) -> None:
        """In a separate thread; after a failure the last answer stays valid."""
        attempt(self._read, clock)

    def _read(self, clock: Clock) -> None:
        begun_s = clock.monotonic_s()
        processes = _residents(self._procfs, own_pids(self._procfs, self._pids()))
        self._known = _proportions(self._procfs, processes)
        self._returned_bytes, self._answered = 0.0, True
        ended_s = clock.monotonic_s()
        self._settle(processes)
        cost_s = ended_s - begun_s
        self._spent_s += cost_s
        self._due_s = begun_s + max(SURVEY_PERIOD_S, SURVEY_COST * cost_s)
        self._reading_until_s = float("-inf")

    def _settle(self, processes: Sequence[Resident]) -> None:
        """Update to the current processes."""
        sizes = {one.key: one.bytes for one in processes}
        for key in self._known.keys() - sizes.keys():
            one = self._known.pop(key)
            self._returned_bytes += (one.part - one.private) * self._sizes.get(key, 0)
        self._sizes = sizes
        all_bytes = sum(sizes.values())
        known_bytes = exact_bytes = unknown_bytes = largest_bytes = 0.0
        for key, size in sizes.items():
            found = self._known.get(key)
            known_bytes += size * found.part if found is not None else 0.0
            unknown_bytes += size if found is None else 0.0
            if found is not None and found.is_exact:
                exact_bytes += size * found.part
            else:
                largest_bytes = max(largest_bytes, size * (found.part if found else 1.0))
        best = min(all_bytes, known_bytes + self._returned_bytes + unknown_bytes)
        low = 0.0 if self._is_fork_unread else min(best, max(exact_bytes, largest_bytes))
        self._misses = unknown_bytes + self._returned_bytes > MATTERS * all_bytes
        self._sum = Sum(all_bytes, best, low)
        self.has_changed = True


def _residents(procfs: Path, names: Iterable[int | str]) -> list[Resident]:
    return [one for name in names if (one := resident(procfs, name)) is not None]


def _proportions(procfs: Path, processes: Sequence[Resident]) -> dict[tuple[str, int], Proportion]:
    """By process; pages that all share are counted once if no process's part can be read."""
    known = {
        one.key: found for one in processes if (found := proportion(procfs, one.name)) is not None
    }
    if known and not any(found.is_exact for found in known.values()):
        sizes = {one.key: one.bytes for one in processes}
        most = max(known, key=lambda key: sizes[key] * (1.0 - known[key].part))
        known[most] = known[most]._replace(part=1.0)
    return known


# -- the machine and the control group ---------------------------------------------------------


def machine_ram_bytes(procfs: Path, groups: Path | None = None) -> int | None:
    """Bytes of memory in use on the machine: the total less what is available.

    With `groups`, the root of sysfs: in the control group that limits this process's memory, if
    there is one.
    """
    try:
        text = read_at_once(f"{procfs}/meminfo")
        total, free = (_bytes_of(text, name) for name in (b"MemTotal:", b"MemAvailable:"))
    except (OSError, ValueError, IndexError) as error:
        pass_on(error)
        return _psutil_used_bytes()
    limited = None if groups is None else _cgroup_ram_bytes(procfs, groups, total)
    return total - free if limited is None else limited


def _bytes_of(meminfo: bytes, name: bytes) -> int:
    return int(meminfo.split(name, 1)[1].split(None, 1)[0]) * 1024


def _cgroup_ram_bytes(procfs: Path, sysfs: Path, narrowest: int) -> int | None:
    """Bytes in use in the group whose limit is narrower than any other; None without a limit.

    Without the file cache that the kernel would reclaim first, as `docker stats` counts.
    """
    found: tuple[Path, int] | None = None
    for directory, version in own_groups(procfs, sysfs, "memory"):
        limit = _number(directory, "memory.max" if version == 2 else "memory.limit_in_bytes")
        if limit is not None and 0 < limit < narrowest:
            narrowest, found = limit, (directory, version)
    if found is None:
        return None
    directory, version = found
    used = _number(directory, "memory.current" if version == 2 else "memory.usage_in_bytes")
    if used is None:
        return None
    return max(0, used - _inactive_file_bytes(directory, version))


def _inactive_file_bytes(directory: Path, version: int) -> int:
    name = b"inactive_file" if version == 2 else b"total_inactive_file"
    with suppressed(OSError, ValueError):
        for line in read_at_once(f"{directory}/memory.stat").splitlines():
            if line.startswith(name + b" "):
                return int(line.split()[1])
    return 0


def _number(directory: Path, name: str) -> int | None:
    path = f"{directory}/{name}"
    if os.access(path, os.R_OK):  # the root of all groups has no limit, which is no exception
        with suppressed(OSError, ValueError):
            return int(read_at_once(path))
    return None


def own_pids(procfs: Path, descendants: Iterable[int]) -> list[int | str]:
    """Our process, as "self" where procfs has that, and the descendants."""
    has_self = os.path.exists(f"{procfs}/self")  # noqa: PTH110 - Path's may raise
    return ["self" if has_self else os.getpid(), *descendants]


def _psutil_used_bytes() -> int | None:
    try:
        import psutil

        memory = psutil.virtual_memory()
    except (ImportError, OSError) as error:
        pass_on(error)
        return None
    return int(memory.total - memory.available)
