"""Energy of memory from its installed size, where no counter can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from carbontrack.errors import MeterGone
from carbontrack.interval import Interval
from carbontrack.meters.meter import read_number, read_text
from carbontrack.record import Basis, Component
from carbontrack.system.host import own_groups
from carbontrack.system.interrupts import suppressed

GIB = 2**30
W_PER_GIB = Interval(0.15, 0.045, 0.60)
"""Watts per GiB installed. Published figures, per GB: 0.284 (Boavizta, stress tests), 0.3725 (Green
Algorithms), 0.375 (3 W for 8 GB: Crucial; Eco2AI), 0.392 (Cloud Carbon Footprint), 0.408 (Micron's
power calculator). The median is taken; a GiB is 7 % more than a GB, well within the interval."""
RELATIVE_UNCERTAINTY = 0.5
"""Half-width. Those figures spread by -24 to +9 %, but they are per GB for modules of 8 to 16 GB. A
heuristic of 5 W per DIMM (CodeCarbon's) gives 0.625 W/GB for 8 GB modules and 0.16 for 32 GB ones:
+67 and -58 % around ours, so +-50 % is a rounded middle of that band."""


@dataclass(slots=True)
class RamModel:
    """Watts per GiB x installed GiB x time: memory is refreshed whether it is used or not.

    Attributes:
        gib: memory installed, or allowed by the cgroup this process is in.
        w_per_gib: watts per GiB.
    """

    gib: float
    w_per_gib: float = W_PER_GIB.best
    basis: Basis = "modelled"
    relative_uncertainty: float = RELATIVE_UNCERTAINTY
    id: str = "model:ram"
    component: Component = "ram"
    resolution_s: float = 0.0
    max_period_s: float | None = None
    fault_counts: Mapping[str, int] = field(default_factory=dict)
    _first_s: float | None = None
    _total_j: float = 0.0
    _closed: bool = False

    @property
    def about(self) -> str:
        """Size and power per GiB, in a line for people."""
        return f"{self.gib:.1f} GiB x {self.w_per_gib:g} W"

    @property
    def nominal_w(self) -> float:
        """The power, which is constant."""
        return self.gib * self.w_per_gib

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if self._closed:
            raise MeterGone(f"{self.id} is closed")
        if self._first_s is None:
            self._first_s = now_s
        self._total_j = max(self._total_j, self.nominal_w * (now_s - self._first_s))
        return self._total_j

    def close(self) -> None:
        """Nothing is open."""
        self._closed = True


def installed_gib(procfs: Path = Path("/proc"), sysfs: Path = Path("/sys")) -> float | None:
    """GiB of memory of this process's container or machine; None where it is unknown."""
    total_bytes = _total_bytes(procfs)
    if total_bytes is None:
        return None
    limits_bytes = [limit for limit in _cgroup_limits(procfs, sysfs) if limit > 0]
    return min([total_bytes, *limits_bytes]) / GIB


def _total_bytes(procfs: Path) -> int | None:
    first = (read_text(procfs / "meminfo", 128) or "").split("\n", 1)[0].split()
    if len(first) >= 2 and first[0] == "MemTotal:" and first[1].isdigit():
        return int(first[1]) * 1024
    with suppressed(Exception):
        import psutil

        return int(psutil.virtual_memory().total)
    return None


def _cgroup_limits(procfs: Path, sysfs: Path) -> list[int]:
    """The memory limits of this process's cgroup and of those above it, both cgroup versions."""
    limits = (
        read_number(directory / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        for directory, version in own_groups(procfs, sysfs, "memory")
    )
    return [limit for limit in limits if limit is not None]
