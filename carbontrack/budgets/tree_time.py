"""CPU seconds of the process tree, as fine as a short test needs them.

The kernel tells the time of a living child in ticks of 10 ms, and of its user's and system's part
apart. A test of 1 ms beside such a child would be billed nothing or 20 ms. The child's own CPU
clock counts nanoseconds; only what it has of its own ended children is known in ticks alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from carbontrack.attribution.process_tree import ProcessTree, descendants
from carbontrack.clock import Clock, SystemClock, other_process_cpu_s

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


class Ticks(NamedTuple):
    """What of a living descendant's time is known in ticks only.

    Attributes:
        own: its own, where its clock cannot be read; None where it can.
        waited: that of its children that have ended.
    """

    own: int | None
    waited: int


class TreeTime:
    """CPU seconds of this process, its children and those of them that have ended.

    Unlike the tracker, which looks at children now and then, every reading looks: the edge of a
    test must not leave a child's seconds to the next one.

    Args:
        procfs: where the kernel tells of processes.
        clock_s: CPU seconds of a process by its number.
        clock: the time.
    """

    def __init__(
        self,
        procfs: Path = Path("/proc"),
        *,
        clock_s: Callable[[int], float | None] = other_process_cpu_s,
        clock: Clock | None = None,
    ) -> None:
        self.ticks: dict[int, Ticks] = {}
        """Of the living descendants at the last reading, by their numbers."""
        self._clock_s = clock_s
        self._tree = ProcessTree(procfs, living_cpu_s=self._living_cpu_s)
        self._at_s = (clock or SystemClock()).monotonic_s()

    def __call__(self) -> float:
        """CPU seconds so far."""
        self._at_s += 1.0  # more than a look is good for
        self.ticks = {}
        return self._tree.cpu_s(self._at_s)

    def _living_cpu_s(self, procfs: Path, root_pid: int) -> float:
        self.ticks = {}
        cpu_s = 0.0
        for pid, _, _ in descendants(procfs, root_pid):
            try:
                text = (procfs / str(pid) / "stat").read_bytes()
                fields = [int(field) for field in text[text.rindex(b")") + 2 :].split()[11:15]]
            except (OSError, ValueError):
                continue  # it ended while we looked
            own_s, waited = self._clock_s(pid), sum(fields[2:])
            own = sum(fields[:2]) if own_s is None else None
            self.ticks[pid] = Ticks(own, waited)
            cpu_s += (own_s or 0.0) + ((own or 0) + waited) * _TICK_S
        return cpu_s


def doubt_s(before: Mapping[int, Ticks], after: Mapping[int, Ticks]) -> float:
    """How far the difference of two readings may be off: two ticks for each count that is coarse.

    Two, since the user's and the system's part are each cut to whole ticks. What a descendant has
    of ended children is off by the same in both readings, unless it has changed, or the descendant
    has ended and its parent now has all of it to the microsecond.
    """
    nothing = Ticks(None, 0)
    doubtful = 0
    for pid in before.keys() | after.keys():
        first, last = before.get(pid, nothing), after.get(pid, nothing)
        doubtful += first.own is not None or last.own is not None
        doubtful += first.waited != last.waited or pid not in after
    return 2.0 * doubtful * _TICK_S
