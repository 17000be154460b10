"""CPU seconds, which never decrease, and memory of a process and its descendants."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Container, Iterable
from functools import partial
from pathlib import Path

from carbontrack.system.clock import process_cpu_s
from carbontrack.system.files import read_at_once
from carbontrack.system.host import (
    depth_below,
    number_in,
    pid_namespace,
    shows_kernel,
    stat_fields,
)
from carbontrack.system.interrupts import pass_on, suppressed
from carbontrack.values import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_TREE_PERIOD_S = 0.05
"""Children are read this often at most; their use in between is counted at the next read."""

look_for_children: Callable[[], object] = (
    partial(os.waitid, os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if hasattr(os, "waitid")
    else object
)
"""Raises ChildProcessError if this process has no child; does not wait for one."""

_FIRST_PID_NAMESPACE = "4026531836"
ALL_AGAIN_S = 10.0
"""The longest time for which a pid is assumed to be the same foreign process."""
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""Errors that are not about the process that could not be read."""
_SHORT = 1024
"""A shorter piece of a list is the last one."""
_NOBODY = 0.0, 0, 0
_MANY_THREADS = 256
"""Lists of children that are read for one process; the stat of a process costs as much as two."""


class ProcessTree:
    """The CPU seconds of this process, of its living descendants and of those that have ended.

    The time of a child moves from its own count to its parent's when it is waited for, so the sum
    is unaffected by a child's end. The count of a child that is never waited for is lost with it;
    the part that was read before is kept.

    Args:
        procfs: the root of procfs, whose numbers of processes may be those of a host.
        living_cpu_s: counts the living descendants if ticks of 10 ms are too coarse; called with
            procfs and our number there.
    """

    def __init__(
        self,
        procfs: Path = Path("/proc"),
        *,
        living_cpu_s: Callable[[Path, int], float] | None = None,
    ) -> None:
        self._procfs = procfs
        self._living_cpu_s = living_cpu_s
        self._walk: Walk | None = None
        self._group: Path | None = None
        self._leaves_out: LeavesOut | None = None
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
        self._page_bytes = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
        self._live_s = 0.0
        self._live_ram_bytes = 0
        self._live_pids: list[int] | None = None
        self.is_alone = True
        """Whether no descendant had memory at the last scan."""
        self._live_largest_bytes = self.largest_ram_bytes = 0
        """Resident memory of the largest process, as of the last `ram_bytes`."""
        self._live_at_s = float("-inf")
        self._waited_s = 0.0
        self._lost_s = 0.0
        self._highest_s = 0.0
        self._counted_at_s = float("-inf")

    def cpu_s(self, now_s: float) -> float:
        """CPU seconds used so far; never less than at the last call.

        Computed once per instant, for the meter and all ledgers.
        """
        if now_s == self._counted_at_s:
            return self._highest_s
        waited_s = waited_children_cpu_s()
        if now_s - self._live_at_s >= _TREE_PERIOD_S or waited_s != self._waited_s:
            self._read_children(now_s, waited_s)
        total_s = process_cpu_s() + self._waited_s + self._live_s + self._lost_s
        if total_s < self._highest_s:
            # A child may have been waited for between the two reads; then a second read finds it.
            self._read_children(now_s, waited_children_cpu_s())
            total_s = process_cpu_s() + self._waited_s + self._live_s + self._lost_s
        if total_s < self._highest_s:
            # A child is gone and nobody waited for it: keep what was read of it.
            self._lost_s += self._highest_s - total_s
            total_s = self._highest_s
        self._highest_s, self._counted_at_s = total_s, now_s
        return total_s

    def pids(self, *, anew: bool = True) -> list[int]:
        """The living descendants, by the numbers of this procfs; if not `anew`, as last seen."""
        if self._live_pids is None or anew:
            self._live_pids = self._look_for_pids()
        return self._live_pids

    def _look_for_pids(self) -> list[int]:
        number = self._number() if self._has_others() else None
        if number is None:
            return []
        with suppressed(OSError):  # for lack of descriptors: those of the last look
            # who was a stranger then is not read again
            return [facts.pid for facts in self._walk_from(number).look(self._live_at_s)]
        return [] if self._walk is None else self._walk.pids

    def take_in(self, group: Path, leaves_out: LeavesOut) -> None:
        """Include daemons of a control group that only we use (cgroups(7)).

        A daemon has left its parents, but not their group. `leaves_out` returns whether a process,
        by its number and start, has its own rows.
        """
        self._group, self._leaves_out, self._walk = group, leaves_out, None

    def _number(self) -> int | None:
        return number_in(self._procfs) if self._walk is None else self._walk.root_pid

    def _walk_from(self, number: int) -> Walk:
        if self._walk is None:
            outside = () if self._leaves_out is None else (self._of_group, self._leaves_out)
            self._walk = Walk(self._procfs, number, *outside)
        return self._walk

    def _has_others(self) -> bool:
        return self._group is not None or has_children()

    def _of_group(self) -> list[int]:
        """The processes of our control group, whose numbers are those of our own namespace."""
        if self._group is None or depth_below(self._procfs) != 0:
            return []
        found: list[int] = []
        for folder, _, _ in os.walk(self._group, onerror=_pass_gone):
            try:
                found += map(int, _read_all(f"{folder}/cgroup.procs").split())
            except (OSError, ValueError) as error:
                _pass_gone(error)  # it has been removed, or is a group of threads
        return found

    def ram_bytes(self) -> int | None:
        """Resident memory of this process and its living descendants, shared pages repeatedly."""
        try:
            text = read_at_once(f"{self._procfs}/self/statm")
            own_bytes = int(text.split()[1]) * self._page_bytes
        except (OSError, ValueError, IndexError) as error:
            pass_on(error)
            all_bytes = _psutil_rss_bytes()
            self.largest_ram_bytes = all_bytes or 0
            return all_bytes
        self.largest_ram_bytes = max(own_bytes, self._live_largest_bytes)
        return own_bytes + self._live_ram_bytes

    def _read_children(self, now_s: float, waited_s: float) -> None:
        # `waited_s` is of before: a child that is waited for in between is missing once, and not
        # counted twice.
        self._live_at_s, self._live_pids = now_s, None
        try:
            pids, living = self._living(now_s) if self._has_others() else ([], _NOBODY)
        except OSError as error:
            pass_on(error)  # for lack of descriptors: what was read last stays, as a whole
            return
        self._waited_s, self._live_pids = waited_s, pids
        self._live_s, self._live_ram_bytes, self._live_largest_bytes = living
        self.is_alone = not self._live_ram_bytes

    def _living(self, now_s: float) -> tuple[list[int] | None, tuple[float, int, int]]:
        """All descendants, if they are listed; CPU seconds, bytes, and those of the largest one."""
        number = self._number()
        if number is None:
            return None, (*_psutil_descendants(), 0)
        if self._living_cpu_s is not None:
            return None, (self._living_cpu_s(self._procfs, number), 0, 0)
        pids, ticks, pages, most_pages = list[int](), 0, 0, 0
        for pid, cpu_ticks, rss_pages in self._walk_from(number).look(now_s):
            pids.append(pid)
            ticks += cpu_ticks
            pages += rss_pages
            most_pages = max(most_pages, rss_pages)
        sizes = pages * self._page_bytes, most_pages * self._page_bytes
        return pids, (ticks * self._tick_s, *sizes)


def waited_children_cpu_s() -> float:
    """CPU seconds of children that have been waited for, with those that they waited for."""
    if resource is None:  # Windows counts no ended children; psutil sees the living ones
        return 0.0
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def has_children() -> bool:
    """Whether this process has any child; True if that cannot be determined."""
    try:
        look_for_children()
    except ChildProcessError:
        return False
    except OSError as error:
        pass_on(error)
        return True
    return True


def driver_numbers(procfs: Path) -> frozenset[int] | None:
    """Our process and its living descendants by their numbers on the host; None: not known here.

    They are known if this mount of procfs is that of the machine's first pid namespace: outside
    containers, and in a container with the host's /proc mounted.
    """
    own = number_in(procfs)
    if own is None or not (_in_first_namespace() or shows_kernel(procfs)):
        return None
    try:
        living = Walk(procfs, own).look() if has_children() else ()
    except OSError as error:
        pass_on(error)
        return None
    return frozenset((own, *(facts.pid for facts in living)))


def _in_first_namespace() -> bool:
    """Whether pids are the same here as on the host, as outside containers.

    The first namespace has a fixed inode (PROC_PID_INIT_INO in the kernel's proc_ns.h), through any
    mount. Every procfs that contains us then has the numbers of the host.
    """
    return os.name == "nt" or pid_namespace() == _FIRST_PID_NAMESPACE


class Descendant(NamedTuple):
    """A descendant of a process, as shown by procfs.

    Attributes:
        pid: its number in the pid namespace of the mount of procfs.
        cpu_ticks: its own time and that of the children it has waited for.
        rss_pages: resident pages.
    """

    pid: int
    cpu_ticks: int
    rss_pages: int


class _Stat(NamedTuple):
    facts: Descendant
    parent: int
    started: int
    has_one_thread: bool

    @property
    def pid(self) -> int:
        return self.facts.pid


LeavesOut = Callable[[int, int], bool]


def _is_daemon(one: _Stat, members: Container[int]) -> bool:
    """Whether a member of a group was adopted by another process after its parent exited.

    A process that came from outside a container has no parent in it (`docker exec`).
    """
    return one.parent > 0 and one.parent not in members


class Walk:
    """Finds the descendants of a process in procfs, at a cost in proportion to their number.

    Zombies are among them: their time is not in their parent's until they are waited for.

    A process's children are listed by the kernel (`task/TID/children` in proc_pid(5)), so that
    other processes are not read. A list may miss a child while another one is being waited for, so
    processes found at the last scan are checked again.

    Where the kernel has no such lists (CONFIG_PROC_CHILDREN), or a process of the tree has many
    threads, each with a list, all processes are listed, and those that were not there at the last
    scan are read: a process that was no descendant then can hardly become one. All of them are read
    every `ALL_AGAIN_S`, because a number may have been reused.

    Args:
        procfs: the root of procfs.
        root_pid: the process, by its number there.
        members: the processes of our own group. The tree also includes those that have left their
            parents, as daemons do, but not those that came from outside.
        leaves_out: whether such a process, by its number and its start, is not to be included.

    Attributes:
        root_pid: as given.
    """

    def __init__(
        self,
        procfs: Path,
        root_pid: int,
        members: Callable[[], Iterable[int]] = tuple,
        leaves_out: LeavesOut = lambda _pid, _started: False,
    ) -> None:
        self._procfs, self.root_pid, self._members = str(procfs), root_pid, members
        self._leaves_out = leaves_out
        is_ours = number_in(procfs) == root_pid
        self._root_folder = f"{procfs}/self" if is_ours else f"{procfs}/{root_pid}"
        self._known: dict[int, _Stat] = {}
        """The processes found at the last scan, parents first."""
        self._others: set[str] = set()
        """Entries that were no descendants at the last scan of all processes, or no processes."""
        self._all_at_s = float("-inf")
        tasks = f"{self._root_folder}/task"
        self._has_lists = any(
            os.path.exists(f"{tasks}/{thread}/children")  # noqa: PTH110 - as below
            for thread in _names_in(tasks)
        )

    def look(self, now_s: float = float("inf")) -> list[Descendant]:
        """The current descendants, each once.

        Raises:
            OSError: no file descriptor was available for the scan.
        """
        found: dict[int, _Stat] | None = None
        if self._has_lists:
            found = self._by_lists()
        if found is None:
            found = self._by_reading(now_s)
        self._known = found
        return [stat.facts for stat in found.values()]

    @property
    def pids(self) -> list[int]:
        """The processes found at the last scan."""
        return list(self._known)

    def _by_lists(self) -> dict[int, _Stat] | None:
        """By the kernel's lists; None if these would cost more than reading all processes."""
        found: dict[int, _Stat] = {}
        if not self._follow([self.root_pid], found):
            return None
        for pid, before in self._known.items():
            if pid in found or (stat := self._stat(pid)) is None or stat.started != before.started:
                continue
            if stat.parent == self.root_pid or stat.parent in found:
                found[pid] = stat
                if not self._follow([pid], found):
                    return None
        members = set(self._members())
        if not members:
            return found
        stats = (self._stat(pid) for pid in members - found.keys() - {self.root_pid})
        daemons = [one for one in stats if one is not None and _is_daemon(one, members)]
        theirs = {one.pid: one for one in daemons if not self._leaves_out(one.pid, one.started)}
        if not self._follow(list(theirs), theirs, self._leaves_out):
            return None
        return {**theirs, **found}

    def _follow(
        self, ahead: list[int], found: dict[int, _Stat], leaves_out: LeavesOut | None = None
    ) -> bool:
        """Add the descendants of processes; False if a process has too many threads."""
        while ahead:
            pid = ahead.pop()
            children = self._children_of(pid, found.get(pid))
            if children is None:
                return False
            for child in children:
                if child in found or (stat := self._stat(child)) is None:
                    continue
                if leaves_out is None or not leaves_out(child, stat.started):
                    found[child] = stat
                    ahead.append(child)
        return True

    def _children_of(self, pid: int, stat: _Stat | None) -> list[int] | None:
        """The children of all its threads; none if it has ended, None if the threads are many."""
        folder = self._root_folder if pid == self.root_pid else f"{self._procfs}/{pid}"
        is_single = stat is not None and stat.has_one_thread  # whose number is the process's
        threads = [str(pid)] if is_single else _names_in(f"{folder}/task")
        if len(threads) > _MANY_THREADS:
            return None
        children: list[int] = []
        for thread in threads:
            try:
                children += map(int, _read_all(f"{folder}/task/{thread}/children").split())
            except (OSError, ValueError) as error:
                _pass_gone(error)  # the thread has just ended
        return children

    def _by_reading(self, now_s: float) -> dict[int, _Stat]:
        """By the parent that each process names."""
        if now_s - self._all_at_s >= ALL_AGAIN_S:
            self._others, self._all_at_s = set(), now_s
        names = _names_in(self._procfs)
        members, children = set(self._members()), dict[int, list[_Stat]]()
        unknown = {int(name) for name in set(names) - self._others if name.isdigit()}
        for pid in sorted(unknown | members):
            if (stat := self._stat(pid)) is not None:
                children.setdefault(stat.parent, []).append(stat)
        found: dict[int, _Stat] = {}
        self._descend(children.pop(self.root_pid, []), children, found)
        rest = [one for ones in children.values() for one in ones if one.pid in members]
        daemons = [one for one in rest if one.pid != self.root_pid and _is_daemon(one, members)]
        self._descend(daemons, children, found, self._leaves_out)
        self._others = set(names).difference(map(str, found))
        return found

    def _descend(
        self,
        ahead: list[_Stat],
        children: dict[int, list[_Stat]],
        found: dict[int, _Stat],
        leaves_out: LeavesOut | None = None,
    ) -> None:
        """Add processes and their descendants, which were read in the order of their numbers.

        A child may have been read before its parent, and waited for in between: its time is in its
        parent's then. So it is read again, and is missing once if it has gone.
        """
        again: set[int] = set()
        while ahead:
            stat = ahead.pop()
            if stat.pid in found or (leaves_out is not None and leaves_out(stat.pid, stat.started)):
                continue
            found[stat.pid] = stat
            for child in children.pop(stat.pid, ()):
                now: _Stat | None = child
                if child.pid < stat.pid or stat.pid in again:
                    again.add(child.pid)
                    now = self._stat(child.pid)
                if now is not None and now.started == child.started:
                    ahead.append(now)

    def _stat(self, pid: int) -> _Stat | None:
        try:
            fields = stat_fields(read_at_once(f"{self._procfs}/{pid}/stat"))
            facts = Descendant(pid, sum(map(int, fields[11:15])), max(0, int(fields[21])))
            return _Stat(facts, int(fields[1]), int(fields[19]), fields[17] == b"1")
        except (OSError, ValueError, IndexError) as error:
            _pass_gone(error)
            return None  # it has just ended, or may not be seen


def descendants(procfs: Path, root_pid: int) -> list[Descendant]:
    """The living descendants of a process and its zombies, by the numbers of this procfs."""
    return Walk(procfs, root_pid).look()


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - Path objects cost as much as the reads
    except OSError as error:
        _pass_gone(error)
        return []


def _pass_gone(error: Exception) -> None:
    """Go on after an error that means a process has exited; raise any other."""
    pass_on(error)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        raise error


def _read_all(path: str) -> bytes:
    """A list of many children comes in pieces, of a page each."""
    descriptor, text = os.open(path, os.O_RDONLY), b""
    try:
        while piece := os.read(descriptor, 65536):
            text += piece
            if len(piece) < _SHORT:
                break
        return text
    finally:
        os.close(descriptor)


def _psutil_rss_bytes() -> int | None:
    if not _psutil_knows_us():
        return None
    try:
        import psutil

        process = psutil.Process()
        return int(process.memory_info().rss) + _psutil_descendants()[1]
    except (ImportError, OSError, RuntimeError) as error:
        pass_on(error)
        return None


def _psutil_knows_us() -> bool:
    """Whether psutil's processes are numbered as we are: on Linux it reads /proc."""
    return sys.platform != "linux" or depth_below(Path("/proc")) == 0


def _psutil_descendants() -> tuple[float, int]:
    try:
        import psutil
    except ImportError:
        return 0.0, 0
    if not _psutil_knows_us():
        return 0.0, 0
    cpu_s, ram_bytes = 0.0, 0
    try:
        for child in psutil.Process().children(recursive=True):
            try:
                times = child.cpu_times()
                cpu_s += times.user + times.system
                ram_bytes += int(child.memory_info().rss)
            except psutil.Error:
                continue  # it has just ended
    except psutil.Error:
        return 0.0, 0
    return cpu_s, ram_bytes
