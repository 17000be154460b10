"""A meter whose power is set by a test."""

from __future__ import annotations

from collections.abc import Callable

from carbontrack.errors import MeterGone, MeterReadError
from carbontrack.record import Basis, Component


class FakeMeter:
    """A `carbontrack.meters.meter.Meter` that counts from its first read.

    Args:
        id: the meter's address.
        component: the component whose energy it counts.
        watts: constant power; it can be changed at any time, and the new value applies from the
            last read on, so it is exact with a read at the change (a span's start, `snapshot()`).
        joules: instead of watts, the energy as a function of the monotonic instant.
        basis: see the meter protocol.
        resolution_s: see the meter protocol.
        relative_uncertainty: see the meter protocol.
        max_period_s: an optional attribute of a meter; see the meter protocol.
        nominal_w: an optional attribute of a meter; see the meter protocol.
        low: the low end as a multiple of the energy, such as 0.4: the meter then has the optional
            attributes `low_j` and `high_j`. Only together with `high`; can be changed like `watts`.
        high: the high end as a multiple of the energy, such as 2.5.
    """

    low_j: float
    high_j: float

    def __init__(  # noqa: PLR0913 - one parameter for each attribute of the protocol
        self,
        id: str = "fake:cpu",  # noqa: A002 - the protocol's name
        component: Component = "cpu",
        *,
        watts: float = 100.0,
        joules: Callable[[float], float] | None = None,
        basis: Basis = "measured",
        resolution_s: float = 0.0,
        relative_uncertainty: float = 0.0,
        max_period_s: float | None = None,
        nominal_w: float | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        self.id = id
        self.component: Component = component
        self.basis: Basis = basis
        self.resolution_s = resolution_s
        self.relative_uncertainty = relative_uncertainty
        self.max_period_s = max_period_s
        self.nominal_w = nominal_w
        self.watts = watts
        self.fault_counts: dict[str, int] = {}
        self.reads = 0
        """The number of reads, including failed ones."""
        self.closed = False
        self._curve = joules
        self._at_s: float | None = None
        self._curve_joules = 0.0
        self._total_joules = 0.0
        self._failures = 0
        self._gone = False
        self._drop_next = False
        self.low, self.high = low, high
        self._low_joules = self._high_joules = 0.0
        self._show_ends()

    def read_joules(self, now_s: float) -> float:
        """The energy since the first read.

        Raises:
            MeterReadError: after `fail`.
            MeterGone: after `gone`.
        """
        self.reads += 1
        if self._gone:
            raise MeterGone(f"{self.id} is gone")
        if self._failures > 0:
            self._failures -= 1
            raise MeterReadError(f"{self.id} did not answer")
        step_joules = self._step_to(now_s)
        if self._drop_next:
            self._drop_next = False
        else:
            self.add_joules(step_joules)
        self._show_ends()
        return self._total_joules

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True

    def add_joules(self, joules: float) -> None:
        """Add this much energy at once."""
        self._total_joules += joules
        self._low_joules += joules * (self.low or 0.0)
        self._high_joules += joules * (self.high or 0.0)

    def _show_ends(self) -> None:
        if self.low is not None:
            self.low_j = self._low_joules
        if self.high is not None:
            self.high_j = self._high_joules

    def fail(self, times: int = 1) -> None:
        """Make the next reads fail; the first read after them includes the energy of that time."""
        self._failures += times

    def gone(self) -> None:
        """Make every read from now on raise MeterGone."""
        self._gone = True

    def back(self) -> None:
        """Undo `gone` and `fail`."""
        self._gone = False
        self._failures = 0

    def reset(self) -> None:
        """Reset the counter before the next read, whose step is dropped and counted."""
        self._drop_next = True
        self.fault_counts["reset"] = self.fault_counts.get("reset", 0) + 1

    def _step_to(self, now_s: float) -> float:
        last_s = self._at_s if self._at_s is not None else now_s
        self._at_s = now_s
        if self._curve is None:
            return self.watts * max(0.0, now_s - last_s)
        curve_joules = self._curve(now_s)
        step_joules = curve_joules - (self._curve_joules if last_s != now_s else curve_joules)
        self._curve_joules = curve_joules
        return max(0.0, step_joules)
