"""What a process and all its descendants use, from /proc."""

import os
import resource
import time
from pathlib import Path

PROC = Path("/proc")


def memory_mib() -> float:
    """What is resident of this process now."""
    pages = int((PROC / "self" / "statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def descendants() -> list[int]:
    """The processes that this one, or one of its children, has started and that live."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # it has just ended
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    family, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family |= more
        grown = bool(more)
    return sorted(family - {os.getpid()})


def tree_memory_mib() -> float:
    """Resident memory of this process, and what its descendants have that is not shared."""
    total = memory_mib()
    for pid in descendants():
        try:
            rollup = (PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        kib = [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")]
        total += sum(kib) / 1024
    return total


def children_cpu_s() -> float:
    """CPU seconds of the descendants of this process, and of children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    for pid in descendants():
        for task in (PROC / str(pid) / "task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0]) / 1e9
            except OSError:
                continue
    return total


class CpuWatch:
    """CPU seconds of this process and its descendants from now on; its own looking left out."""

    def __init__(self) -> None:
        self._children_s = children_cpu_s()
        self._own_s = time.process_time()

    def used_s(self) -> float:
        """So many by now."""
        own_s = time.process_time() - self._own_s
        return own_s + children_cpu_s() - self._children_s
