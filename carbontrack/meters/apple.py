"""Apple silicon without root, through zeus-apple-silicon (extra `apple`).

The library reads IOReport's "Energy Model", Apple's own estimate in millijoules, by a private
interface that has changed between releases of macOS. It has separate counts for processor, memory,
GPU and neural engine; the display and the rest of the machine are not included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from carbontrack.errors import MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.counter import Counter
from carbontrack.meters.meter import Meter
from carbontrack.record import Basis, Component

RELATIVE_UNCERTAINTY = 0.25
"""Half-width, a guess: no published comparison with a meter is known. On an M5 Max the clusters'
totals were 1.5 to 2 times the sum of their cores (public reports on macmon)."""
FROZEN_S = 5.0
"""A running processor always uses some millijoules; a count that does not change for so long is not
maintained, as on a beta of macOS 27 (macmon, issue 76)."""
_CAP_W = 500.0
_PARTS: tuple[tuple[str, Component, tuple[str, ...]], ...] = (
    ("cpu", "cpu", ("cpu_total_mj",)),
    ("dram", "ram", ("dram_mj",)),
    ("gpu", "gpu", ("gpu_mj", "gpu_sram_mj")),
    ("ane", "other", ("ane_mj",)),
)


class AppleCounts:
    """The counts of all parts, read from the library once for each instant."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor
        self._read_at_s = float("-inf")
        self._energy: Any = None

    def joules(self, fields: tuple[str, ...], now_s: float) -> float:
        """The sum of those of these fields that the chip has.

        Raises:
            MeterReadError: the library fails, or the chip has none of them.
        """
        if now_s != self._read_at_s:
            try:
                self._energy = self._monitor.get_cumulative_energy()
            except Exception as error:  # the library's own errors are plain RuntimeErrors
                raise MeterReadError(f"IOReport does not respond: {error}") from error
            self._read_at_s = now_s
        known = [getattr(self._energy, name, None) for name in fields]
        counts_mj = [float(count) for count in known if count is not None]
        if not counts_mj:
            raise MeterReadError(f"this chip has no {' or '.join(fields)}")
        return sum(counts_mj) * 1e-3


class AppleMeter:
    """One part of the chip."""

    basis: Basis = "modelled"
    resolution_s = 0.01
    relative_uncertainty = RELATIVE_UNCERTAINTY
    max_period_s: float | None = None
    nominal_w: float | None = None

    def __init__(
        self, part: str, component: Component, fields: tuple[str, ...], counts: AppleCounts
    ) -> None:
        self.id = f"apple:{part}"
        self.component: Component = component
        self._fields = fields
        self._counts: AppleCounts | None = counts
        self._counter = Counter(None, _CAP_W)
        self.moves_within_s = FROZEN_S if component == "cpu" else None

    @property
    def fault_counts(self) -> Mapping[str, int]:
        """Resets and jumps that were dropped."""
        return self._counter.fault_counts

    def read_joules(self, now_s: float) -> float:
        """Joules since the first read."""
        if self._counts is None:
            raise MeterGone(f"{self.id} is closed")
        return self._counter.advance(self._counts.joules(self._fields, now_s), now_s)

    def close(self) -> None:
        """Stop reading."""
        self._counts = None


def load_monitor() -> Any:
    """The library's monitor.

    Raises:
        MeterUnavailable: it is not installed, or does not run on this machine.
    """
    try:
        from zeus_apple_silicon import AppleEnergyMonitor

        return AppleEnergyMonitor()
    except ImportError as error:
        cure = 'pip install "carbontrack[apple]"'
        raise MeterUnavailable("zeus-apple-silicon is not installed", cure) from error
    except Exception as error:
        raise MeterUnavailable(f"zeus-apple-silicon cannot be started: {error}") from error


def apple_meters(load: Callable[[], Any] = load_monitor) -> tuple[Meter, ...]:
    """A meter for each part of the chip that can be read.

    Raises:
        MeterUnavailable: the library is missing, or does not start.
    """
    counts = AppleCounts(load())
    meters = []
    for part, component, fields in _PARTS:
        try:
            counts.joules(fields, 0.0)
        except MeterReadError:
            continue
        meters.append(AppleMeter(part, component, fields, counts))
    return tuple(meters)
