"""The reference metric: the same on a laptop and on every CI runner.

    energy    = CPU seconds of the process tree x speed x watts of a busy core (+ GPU)
    emissions = energy x intensity

All three factors are pinned or calibrated, so a budget depends on the code and on nothing else:
not on neighbours, the grid, or which meters a machine has. It is no measurement of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from carbontrack.budgets import calibration
from carbontrack.budgets.metric import SPREAD, Round
from carbontrack.budgets.tree_time import Ticks, TreeTime, doubt_s
from carbontrack.clock import Clock, SystemClock
from carbontrack.units import JOULES_PER_KWH

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
        speed: Callable[[int], float] = calibration.speed,
        gpu_joules: Callable[[], float] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.watts = watts
        self.g_per_kwh = g_per_kwh
        self.cpu_s = cpu_s or TreeTime()
        self.gpu_joules = gpu_joules
        self.clock = clock or SystemClock()
        self._speed = speed
        self.session_speed = speed(calibration.SESSION_SLICES)

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
        return self._speed(calibration.MOMENT_SLICES)

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
