"""Energy of the processors from their load and design power, where no counter can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from carbontrack.errors import MeterGone, MeterReadError
from carbontrack.record import Basis, Component

LOAD_CURVE: tuple[tuple[float, float], ...] = ((0.0, 0.12), (0.1, 0.32), (0.5, 0.75), (1.0, 1.02))
"""Load and power as a share of TDP, linear in between: the mean of servers under a stress test, as
published by Teads (2021), used by Boavizta. Concave: the first busy core wakes the uncore too."""
ANCHOR_S = 1.0
"""Load is averaged over at least this long; busy time moves in steps of about 10 ms."""


def power_share(load: float) -> float:
    """Power as a share of TDP at a load between 0 and 1."""
    load = min(1.0, max(0.0, load))
    for (low, at_low), (high, at_high) in pairwise(LOAD_CURVE):
        if load <= high:
            return at_low + (at_high - at_low) * (load - low) / (high - low)
    return LOAD_CURVE[-1][1]


@dataclass(slots=True)
class CpuModel:
    """TDP x load curve over CPU seconds, as a count of joules.

    The energy since an anchor is E = P(u) x t with u the mean load over the time t since then. For
    a concave P this is the perspective of P, which grows with busy time and with time, so the count
    never goes down, however coarse or late the readings are. The anchor moves every second.

    Attributes:
        tdp_w: design power of this machine's threads together, in watts.
        busy_s: CPU seconds that all processors have worked since some instant; None is unknown.
        threads: hardware threads that `busy_s` counts.
        basis, relative_uncertainty: as `cpu_power` has them.
        about: the part, its TDP and the share of it, in a line for people.
    """

    tdp_w: float
    busy_s: Callable[[], float | None]
    threads: int
    basis: Basis = "modelled"
    relative_uncertainty: float = 0.40
    about: str = ""
    id: str = "model:cpu"
    component: Component = "cpu"
    resolution_s: float = 0.01
    max_period_s: float | None = None
    fault_counts: Mapping[str, int] = field(default_factory=dict)
    _anchor: tuple[float, float, float] | None = None
    """Instant, busy seconds and joules from which the present energy is counted."""
    _total_j: float = 0.0
    _closed: bool = False

    @property
    def nominal_w(self) -> float:
        """The power at the load of one busy thread, that of the caller."""
        return self.tdp_w * power_share(1.0 / self.threads)

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read.

        Raises:
            MeterReadError: the load of the machine cannot be read.
        """
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        busy_s = self.busy_s()
        if busy_s is None:
            raise MeterReadError("how busy the processors are cannot be read")
        if self._anchor is None:
            self._anchor = (now_s, busy_s, 0.0)
        since_s, busy_then_s, energy_j = self._anchor
        elapsed_s = now_s - since_s
        if elapsed_s > 0.0:
            load = (busy_s - busy_then_s) / (self.threads * elapsed_s)
            energy_j += self.tdp_w * power_share(load) * elapsed_s
            self._total_j = max(self._total_j, energy_j)
            if elapsed_s >= ANCHOR_S:
                self._anchor = (now_s, busy_s, self._total_j)
        return self._total_j

    def close(self) -> None:
        """Nothing is open."""
        self._closed = True
