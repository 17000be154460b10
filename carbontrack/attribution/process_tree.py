"""CPU seconds, which never decrease, and memory of a process and its descendants."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from carbontrack.system.clock import process_cpu_s
from carbontrack.system.interrupts import pass_on

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_TREE_PERIOD_S = 0.05
"""Children are read this often at most; what they use in between is counted at the next read."""

look_for_children: Callable[[], object] = (
    partial(os.waitid, os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if hasattr(os, "waitid")
    else object
)
"""Raises a ChildProcessError if this process has no child; waits for none."""

_FIRST_PID_NAMESPACE = "pid:[4026531836]"


class ProcessTree:
    """The CPU seconds of this process, of its living descendants and of those that have ended.

    The time of a child moves from its own count to its parent's when it is waited for, so the sum
    is unaffected by a child's end. The count of a child that nobody waits for is gone with it; what
    was read of it before is kept.

    Args:
        procfs: the root of procfs.
        pid: the root of the tree; this process by default.
        living_cpu_s: counts the living descendants where ticks of 10 ms are too coarse; called with
            procfs and the root.
    """

    def __init__(
        self,
        procfs: Path = Path("/proc"),
        *,
        pid: int | None = None,
        living_cpu_s: Callable[[Path, int], float] | None = None,
    ) -> None:
        self._procfs = procfs
        self._living_cpu_s = living_cpu_s
        self._pid = os.getpid() if pid is None else pid
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
        self._page_bytes = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
        self._live_s = 0.0
        self._live_ram_bytes = 0
        self.is_alone = True
        """Whether nothing of a descendant was in memory at the last look."""
        self._live_largest_bytes = self.largest_ram_bytes = 0
        """Resident memory of the largest process, as of the last `ram_bytes`."""
        self._live_at_s = float("-inf")
        self._waited_s = 0.0
        self._lost_s = 0.0
        self._highest_s = 0.0

    def cpu_s(self, now_s: float) -> float:
        """CPU seconds used so far; never less than at the last call."""
        waited_s = waited_children_cpu_s()
        if now_s - self._live_at_s >= _TREE_PERIOD_S or waited_s != self._waited_s:
            self._read_children(now_s)
        total_s = process_cpu_s() + self._waited_s + self._live_s + self._lost_s
        if total_s < self._highest_s:
            # A child may have been waited for between the two reads; then a second read finds it.
            self._read_children(now_s)
            total_s = process_cpu_s() + self._waited_s + self._live_s + self._lost_s
        if total_s < self._highest_s:
            # A child is gone and nobody waited for it: keep what was read of it.
            self._lost_s += self._highest_s - total_s
            total_s = self._highest_s
        self._highest_s = total_s
        return total_s

    def pids(self) -> list[int]:
        """The living descendants."""
        return [pid for pid, _, _ in descendants(self._procfs, self._pid)] if has_children() else []

    def ram_bytes(self) -> int | None:
        """Resident memory of this process and its living descendants, shared pages repeatedly."""
        try:
            text = _read_bytes(f"{self._procfs}/self/statm")
            own_bytes = int(text.split()[1]) * self._page_bytes
        except (OSError, ValueError, IndexError) as error:
            pass_on(error)
            all_bytes = _psutil_rss_bytes()
            self.largest_ram_bytes = all_bytes or 0
            return all_bytes
        self.largest_ram_bytes = max(own_bytes, self._live_largest_bytes)
        return own_bytes + self._live_ram_bytes

    def _read_children(self, now_s: float) -> None:
        # Waited first: a child that is waited for in between is missing once, not counted twice.
        waited_s = waited_children_cpu_s()
        self._live_largest_bytes = 0
        live_s, ram_bytes = self._living() if has_children() else (0.0, 0)
        self._waited_s, self._live_at_s, self._live_s = waited_s, now_s, live_s
        self._live_ram_bytes, self.is_alone = ram_bytes, not ram_bytes

    def _living(self) -> tuple[float, int]:
        if not (self._procfs / "self" / "stat").exists():
            return _psutil_descendants()
        if self._living_cpu_s is not None:
            return self._living_cpu_s(self._procfs, self._pid), 0
        ticks, pages, most_pages = 0, 0, 0
        for _, cpu_ticks, rss_pages in descendants(self._procfs, self._pid):
            ticks += cpu_ticks
            pages += rss_pages
            most_pages = max(most_pages, rss_pages)
        self._live_largest_bytes = most_pages * self._page_bytes
        return ticks * self._tick_s, pages * self._page_bytes


def waited_children_cpu_s() -> float:
    """CPU seconds of children that have been waited for, with those that they waited for."""
    if resource is None:  # Windows counts no ended children; psutil sees the living ones
        return 0.0
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def has_children() -> bool:
    """Whether this process has any child; True where that cannot be found out."""
    try:
        look_for_children()
    except ChildProcessError:
        return False
    except OSError as error:
        pass_on(error)
        return True
    return True


def in_first_namespace(procfs: Path) -> bool:
    """Whether pids are the same here as on the host, as outside containers.

    The first namespace has a fixed inode (PROC_PID_INIT_INO in the kernel's proc_ns.h).
    """
    if os.name == "nt":
        return True
    return str((procfs / "self" / "ns" / "pid").readlink()) == _FIRST_PID_NAMESPACE


def descendants(procfs: Path, root_pid: int) -> list[tuple[int, int, int]]:
    """Pid, CPU ticks (its own and its waited children's) and resident pages of each descendant.

    Zombies count: their time is not in their parent's until they are waited for.
    """
    children: dict[int, list[tuple[int, int, int]]] = {}
    for entry in os.listdir(procfs):  # noqa: PTH208 - Path objects cost as much as the reads
        if not entry.isdigit():
            continue
        try:
            text = _read_bytes(f"{procfs}/{entry}/stat")
            # "pid (name, which may hold spaces and brackets) state ppid …", proc_pid_stat(5)
            fields = text[text.rindex(b")") + 2 :].split()
            facts = (int(entry), sum(map(int, fields[11:15])), max(0, int(fields[21])))
        except (OSError, ValueError, IndexError) as error:
            pass_on(error)
            continue  # it has just ended
        children.setdefault(int(fields[1]), []).append(facts)
    found: list[tuple[int, int, int]] = []
    ahead = list(children.get(root_pid, ()))
    while ahead:
        facts = ahead.pop()
        found.append(facts)
        ahead.extend(children.pop(facts[0], ()))
    return found


def _read_bytes(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _psutil_rss_bytes() -> int | None:
    try:
        import psutil

        process = psutil.Process()
        return int(process.memory_info().rss) + _psutil_descendants()[1]
    except (ImportError, OSError, RuntimeError) as error:
        pass_on(error)
        return None


def _psutil_descendants() -> tuple[float, int]:
    try:
        import psutil
    except ImportError:
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
