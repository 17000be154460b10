"""The reference metric: the same figures on a laptop and on every CI runner.

    energy    = CPU seconds of the process tree x speed x watts of a busy core (+ GPU)
    emissions = energy x intensity

Speed is calibrated, watts and intensity are pinned, so a budget depends on the code and on nothing
else: not on other load, the grid, or the meters that a machine has. It does not measure this
machine.

Speed: the CPU time of a fixed workload, relative to that on a reference machine. Half of the
workload is bytecode (calls, arithmetic, dictionaries, attributes), half is C code of the
interpreter (sorting, long integers, text), the mix of an ordinary test. Its CPU time depends on
machine and interpreter as that of the tests does, so their quotient is nearly the same everywhere.

CPU seconds: the kernel reports the CPU time of a live child in ticks of 10 ms, user and system time
apart, so a test of 1 ms with such a child would be charged nothing or 20 ms. The child's own CPU
clock counts nanoseconds; only the time of its own ended children is known in ticks alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from carbontrack.attribution.process_tree import ProcessTree, descendants
from carbontrack.integrations.pytest_plugin.metrics import SPREAD, Round
from carbontrack.system.clock import Clock, SystemClock, other_process_cpu_s, process_cpu_s
from carbontrack.system.host import depth_below, stat_fields
from carbontrack.system.interrupts import pass_on
from carbontrack.units import JOULES_PER_KWH
from carbontrack.values import NamedTuple

REFERENCE_SLICE_S = 0.000286
"""CPU seconds of one slice on the reference machine: a core of an AMD EPYC 9005 (Zen 5) at
2.6 GHz, CPython 3.11, Linux in a virtual machine; the minimum of 1,000 slices, measured in 2026."""
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
    """One slice of the workload: the same steps every time; the result is of no use."""
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
    """The minimum CPU time of some slices: what the work takes when nothing disturbs it."""
    least = float("inf")
    for _ in range(slices):
        begun = cpu_s()
        slice_of_work()
        least = min(least, cpu_s() - begun)
    return max(least, 1e-9)


def speed(slices: int, cpu_s: Callable[[], float] = process_cpu_s) -> float:
    """The machine's speed now, as a multiple of the reference machine's; 0.5 is half as fast."""
    return REFERENCE_SLICE_S / least_slice_s(slices, cpu_s)


_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


class Ticks(NamedTuple):
    """The part of a live descendant's CPU time that is known in ticks only.

    Attributes:
        own: its own time, where its clock cannot be read; None where it can.
        waited: the time of its children that have ended.
    """

    own: int | None
    waited: int


class TreeTime:
    """CPU seconds of this process, its children and those of them that have ended.

    Unlike a tracker, which looks at children now and then, it looks at every reading: no test may
    be charged with the seconds that a child used during the test before.

    Args:
        procfs: the directory of processes.
        clock_s: CPU seconds of a process by its pid; None where its clock cannot be read.
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
        """Of the live descendants at the last reading, by pid."""
        self._clock_s = clock_s
        self._tree = ProcessTree(procfs, living_cpu_s=self._living_cpu_s)
        self._at_s = (clock or SystemClock()).monotonic_s()

    def __call__(self) -> float:
        """CPU seconds so far."""
        self._at_s += 1.0  # longer than the tree keeps an earlier look
        self.ticks = {}
        return self._tree.cpu_s(self._at_s)

    def _living_cpu_s(self, procfs: Path, root_pid: int) -> float:
        self.ticks = {}
        cpu_s = 0.0
        has_clocks = depth_below(procfs) == 0  # a clock is asked for by our namespace's number
        for pid, _, _ in descendants(procfs, root_pid):
            try:
                text = (procfs / str(pid) / "stat").read_bytes()
                fields = list(map(int, stat_fields(text)[11:15]))
            except (OSError, ValueError) as error:
                pass_on(error)
                continue  # it has ended meanwhile
            own_s, waited = self._clock_s(pid) if has_clocks else None, sum(fields[2:])
            own = sum(fields[:2]) if own_s is None else None
            self.ticks[pid] = Ticks(own, waited)
            cpu_s += (own_s or 0.0) + ((own or 0) + waited) * _TICK_S
        return cpu_s


def uncertainty_s(before: Mapping[int, Ticks], after: Mapping[int, Ticks]) -> float:
    """How far the difference of two readings may be off: two ticks for each count in ticks.

    Two, since user and system time are each rounded down to whole ticks. The time of a descendant's
    ended children is off by the same amount in both readings, unless it has changed, or the
    descendant has ended and its parent now has its time to the microsecond.
    """
    nothing = Ticks(None, 0)
    coarse_counts = 0
    for pid in before.keys() | after.keys():
        first, last = before.get(pid, nothing), after.get(pid, nothing)
        coarse_counts += first.own is not None or last.own is not None
        coarse_counts += first.waited != last.waited or pid not in after
    return 2.0 * coarse_counts * _TICK_S


WATTS_PER_BUSY_CORE = 4.2
"""AMD EPYC 9655, of the family that the calibration was made on: 400 W of default TDP over 96 cores
(AMD's product page, 2024; the row `epyc 9655` of cpu_tdp.csv)."""
G_PER_KWH = 458.0
"""The world's average in 2025: Ember Yearly Electricity Data (2026), processed by Our World in
Data; the row WORLD of intensity.csv as of then. Pinned: a new year must not change a verdict."""
RELATIVE_UNCERTAINTY = 0.10
"""Half-width of the difference between two machines that remains after calibration. Assumed, not
measured across processors: see docs/reference/pytest-plugin.md."""
RESOLUTION_S = 50e-6
"""CPU seconds that a reading itself costs; less cannot be told from zero."""


class ReferenceMetric:
    """CPU seconds, weighted with pinned factors.

    Args:
        watts: of one busy core of the reference machine.
        g_per_kwh: of the reference grid.
        cpu_s: CPU seconds of this process tree so far.
        speed: of this machine, from a number of slices of the workload.
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
        """The minimum: other load on a machine can only add to it."""
        return min(figures)

    def open(self, name: str) -> ReferenceWindow:  # noqa: ARG002 - a window has no name here
        """Open a window."""
        return ReferenceWindow(self)

    def ticks(self) -> Mapping[int, Ticks]:
        """The part of the last reading that is known in ticks only."""
        return self.cpu_s.ticks if isinstance(self.cpu_s, TreeTime) else {}

    def speed_now(self) -> float:
        """The speed now, from a few slices, which take about 2 ms."""
        return self._speed(MOMENT_SLICES)

    def describe(self) -> str:
        """The pins and the calibrated speed."""
        gpu = "" if self.gpu_joules is None else ", GPU as measured"
        return (
            f"reference metric, {self.watts:g} W per busy core, {self.g_per_kwh:g} g CO2e/kWh, "
            f"speed {self.session_speed:.2f}{gpu}"
        )

    def close(self) -> None:
        """There is nothing to release."""


class ReferenceWindow:
    """CPU seconds since the window was opened."""

    def __init__(self, metric: ReferenceMetric) -> None:
        self._metric = metric
        self._begun_at_s = metric.clock.monotonic_s()
        self._gpu_joules = metric.gpu_joules() if metric.gpu_joules else 0.0
        self._cpu_s = metric.cpu_s()
        self._ticks = metric.ticks()

    def so_far(self) -> Round:
        """What has been used since then, at the speed of the session's calibration."""
        metric = self._metric
        cpu_s = metric.cpu_s() - self._cpu_s
        uncertain_s = uncertainty_s(self._ticks, metric.ticks())
        gpu_joules = metric.gpu_joules() - self._gpu_joules if metric.gpu_joules else 0.0
        g_per_joule = metric.g_per_kwh / JOULES_PER_KWH
        return Round(
            joules=cpu_s * metric.watts + gpu_joules,
            fixed_joules=gpu_joules,
            speed=metric.session_speed,
            low_ratio=1.0 - RELATIVE_UNCERTAINTY,
            high_ratio=1.0 + RELATIVE_UNCERTAINTY,
            g_per_joule=g_per_joule,
            resolution_joules=(RESOLUTION_S + uncertain_s) * metric.watts,
            basis="modelled",
            duration_s=metric.clock.monotonic_s() - self._begun_at_s,
        )

    def close(self) -> Round:
        """What has been used; nothing needs to be closed."""
        return self.so_far()

    def child(self, name: str) -> ReferenceWindow:  # noqa: ARG002 - as above
        """A window of its own: it counts the same seconds."""
        return ReferenceWindow(self._metric)
