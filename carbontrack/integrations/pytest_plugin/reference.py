"""The reference metric: the same on a laptop and on every CI runner.

    energy    = CPU seconds of the process tree x speed x watts of a busy core (+ GPU)
    emissions = energy x intensity

All three factors are pinned or calibrated, so a budget depends on the code and on nothing else:
not on neighbours, the grid, or which meters a machine has. It is no measurement of this machine.

How fast this machine is: a fixed piece of work, in CPU seconds, against a reference machine.

The work is half bytecode (calls, arithmetic, dictionaries, attributes) and half the interpreter's C
(sorting, long integers, text), the mix of an ordinary test. Its CPU time follows the machine and
the interpreter, as the tests' own does, so their quotient is nearly that of the reference machine.

CPU seconds of the process tree, as fine as a short test needs them.

The kernel tells the time of a living child in ticks of 10 ms, and of its user's and system's part
apart. A test of 1 ms beside such a child would be billed nothing or 20 ms. The child's own CPU
clock counts nanoseconds; only what it has of its own ended children is known in ticks alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from carbontrack.attribution.process_tree import ProcessTree, descendants
from carbontrack.integrations.pytest_plugin.metrics import SPREAD, Round
from carbontrack.system.clock import Clock, SystemClock, other_process_cpu_s, process_cpu_s
from carbontrack.units import JOULES_PER_KWH

REFERENCE_SLICE_S = 0.000286
"""CPU seconds of one slice on the reference machine: a core of an AMD EPYC 9005 (Zen 5) at
2.6 GHz, CPython 3.11, Linux in a virtual machine; the least of 1,000 slices, measured in 2026."""
SESSION_SLICES = 100
MOMENT_SLICES = 5
_TURNS = 1000


class _Point:
    __slots__ = ("x", "y")

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


def _step(point: _Point, turn: int) -> int:
    point.x = (point.x * 31 + turn) % 1009
    return point.x


def slice_of_work() -> int:
    """One slice: the same steps every time; the answer only keeps them from being left out."""
    point, total = _Point(7, 11), 0
    counts: dict[int, int] = {}
    for turn in range(_TURNS):
        found = _step(point, turn)
        counts[found] = counts.get(found, 0) + turn
        if found & 1:
            total += found
    ordered = sorted((value * 7919) % 10007 for value in range(1500))
    long = (3**1500 * 7**900) % (10**400 + 7)
    text = ",".join(map(str, ordered[:400])).replace("1", "one").upper()
    return total + len(counts) + long % 97 + len(text)


def least_slice_s(slices: int, cpu_s: Callable[[], float] = process_cpu_s) -> float:
    """The least CPU time of some slices: what the work takes when nothing gets into its way."""
    least = float("inf")
    for _ in range(slices):
        begun = cpu_s()
        slice_of_work()
        least = min(least, cpu_s() - begun)
    return max(least, 1e-9)


def speed(slices: int, cpu_s: Callable[[], float] = process_cpu_s) -> float:
    """How many reference machines this one is worth now; 0.5 is half as fast."""
    return REFERENCE_SLICE_S / least_slice_s(slices, cpu_s)


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


WATTS_PER_BUSY_CORE = 4.2
"""AMD EPYC 9655, of the family that the calibration was made on: 400 W of default TDP over 96 cores
(AMD's product page, 2024; the row `epyc 9655` of cpu_tdp.csv)."""
G_PER_KWH = 458.0
"""The world's average in 2025: Ember Yearly Electricity Data (2026), processed by Our World in
Data; the row WORLD of intensity.csv as of then. Pinned: a new year must not change a verdict."""
RELATIVE_UNCERTAINTY = 0.10
"""What calibration leaves of the difference between two machines; half-width. Assumed, not measured
across processors: see docs/reference/pytest-plugin.md."""
RESOLUTION_S = 50e-6
"""CPU seconds that reading the counts costs itself, and that a test cannot be told from."""


class ReferenceMetric:
    """Counts CPU seconds and weighs them with pins.

    Args:
        watts: of one busy core of the reference machine.
        g_per_kwh: of the reference grid.
        cpu_s: CPU seconds of this process tree so far.
        speed: of this machine, from a number of slices of the calibration.
        gpu_joules: joules of the GPUs so far; None where there are none.
        clock: the time.
    """

    name = "reference"
    same_everywhere = True
    spread = SPREAD

    def __init__(
        self,
        *,
        watts: float = WATTS_PER_BUSY_CORE,
        g_per_kwh: float = G_PER_KWH,
        cpu_s: Callable[[], float] | None = None,
        speed: Callable[[int], float] = speed,
        gpu_joules: Callable[[], float] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.watts = watts
        self.g_per_kwh = g_per_kwh
        self.cpu_s = cpu_s or TreeTime()
        self.gpu_joules = gpu_joules
        self.clock = clock or SystemClock()
        self._speed = speed
        self.session_speed = speed(SESSION_SLICES)

    @staticmethod
    def statistic(figures: Sequence[float], /) -> float:
        """The least: whatever else happens on a machine can only add."""
        return min(figures)

    def open(self, name: str) -> ReferenceWindow:  # noqa: ARG002 - a name is of no use here
        """Begin to count."""
        return ReferenceWindow(self)

    def ticks(self) -> Mapping[int, Ticks]:
        """What of the last count is known in ticks only."""
        return self.cpu_s.ticks if isinstance(self.cpu_s, TreeTime) else {}

    def speed_now(self) -> float:
        """The speed in this moment, from a few slices, about 2 ms."""
        return self._speed(MOMENT_SLICES)

    def describe(self) -> str:
        """The pins, and the speed that was found."""
        gpu = "" if self.gpu_joules is None else ", GPU as measured"
        return (
            f"reference metric, {self.watts:g} W per busy core, {self.g_per_kwh:g} g CO2e/kWh, "
            f"speed {self.session_speed:.2f}{gpu}"
        )

    def close(self) -> None:
        """There is nothing to give up."""


class ReferenceWindow:
    """CPU seconds since it was made."""

    def __init__(self, metric: ReferenceMetric) -> None:
        self._metric = metric
        self._begun_at_s = metric.clock.monotonic_s()
        self._gpu_joules = metric.gpu_joules() if metric.gpu_joules else 0.0
        self._cpu_s = metric.cpu_s()
        self._ticks = metric.ticks()

    def so_far(self) -> Round:
        """What was used up to now, at the speed of the session's calibration."""
        metric = self._metric
        cpu_s = metric.cpu_s() - self._cpu_s
        unsure_s = doubt_s(self._ticks, metric.ticks())
        gpu_joules = metric.gpu_joules() - self._gpu_joules if metric.gpu_joules else 0.0
        g_per_joule = metric.g_per_kwh / JOULES_PER_KWH
        return Round(
            joules=cpu_s * metric.watts + gpu_joules,
            fixed_joules=gpu_joules,
            speed=metric.session_speed,
            low_ratio=1.0 - RELATIVE_UNCERTAINTY,
            high_ratio=1.0 + RELATIVE_UNCERTAINTY,
            g_per_joule=g_per_joule,
            resolution_joules=(RESOLUTION_S + unsure_s) * metric.watts,
            basis="modelled",
            duration_s=metric.clock.monotonic_s() - self._begun_at_s,
        )

    def close(self) -> Round:
        """What was used; a window needs no end of its own."""
        return self.so_far()

    def child(self, name: str) -> ReferenceWindow:  # noqa: ARG002 - as above
        """Counts the same seconds again, for itself."""
        return ReferenceWindow(self._metric)
