"""From hardware readings to a count that never goes down: counters unwrapped, gauges integrated.

Pure: no files, no clocks, no threads. A reading is judged by what is physically possible, a cap on
the power, and never by the sign of a difference alone.
"""

from __future__ import annotations

from math import isnan

from carbontrack.errors import MeterReadError

CONFIRM_S = 0.01
"""A doubtful reading is accepted when one at least this much later continues from it."""
MAX_BRIDGE_S = 10.0
"""A longer gap between two readings of a gauge is not interpolated."""


class Counter:
    """Unwraps a cumulative counter of joules.

    A step is accepted when its power is possible: at most `cap_w` on average since the last good
    reading, plus `refresh_s` because a reading may be one refresh old. A reading that fits neither
    a step nor a wrap is rejected for now (MeterReadError): it may be a transient 0, -1 or other
    invalid value, and then the next reading fits the old one again and includes all the energy.
    Where the next reading continues from the doubtful one instead, the counter was reset, or has
    jumped: the step between is dropped and counted in `fault_counts` as "reset" (downwards) or
    "implausible" (upwards); the energy since the doubtful reading is counted at the one after.

    A wrap is accepted only if the range is known and its power is possible. Two wraps between two
    reads look like one; `max_period_s` is the period at which that cannot happen. After a gap so
    long that the domain could have used a whole range more, the visible step is counted as a lower
    bound, and `fault_counts` has a "wraps" more.

    Args:
        range_j: where the counter wraps to 0; None where that is not known.
        cap_w: a power that the domain cannot exceed; may be raised at any time.
        refresh_s: the time between two changes of the counter, with its jitter.
    """

    __slots__ = (
        "_credit_j", "_doubtful", "_least_j", "_unsure_j", "at_s", "base_j", "cap_w",
        "fault_counts", "last_j", "plain_j", "range_j", "refresh_s",
    )  # fmt: skip

    def __init__(self, range_j: float | None, cap_w: float, *, refresh_s: float = 0.01) -> None:
        self.range_j = range_j
        self._unsure_j = range_j or float("inf")
        self.cap_w = cap_w
        self.refresh_s = refresh_s
        self.fault_counts: dict[str, int] = {}
        self.base_j = 0.0
        """Added to a raw reading; only wraps and faults change it, so rounding does not add up."""
        self._least_j = 0.0
        """The joules counted when the base was chosen: rounding in it may not show as a loss."""
        self.last_j = float("nan")
        """The last good reading; with none, no step is a number."""
        self.at_s = 0.0
        """When that was."""
        self._credit_j = 0.0
        self.plain_j = -1.0
        """A step is plain if it is possible, and less than this is: nothing but the last reading
        changes. Below 0 where none is, as after a doubtful reading."""
        self._doubtful: tuple[float, float] | None = None

    @property
    def total_j(self) -> float:
        """The joules counted so far."""
        counted_j = self.base_j + self.last_j
        return counted_j if counted_j > self._least_j else self._least_j

    @property
    def max_period_s(self) -> float | None:
        """How far apart two reads may be: 0.4 of the shortest time in which it can wrap."""
        return 0.4 * self.range_j / self.cap_w if self.range_j else None

    def advance(self, raw_joules: float, now_s: float) -> float:
        """Take a reading; return the joules counted since the first one.

        Raises:
            MeterReadError: the reading is impossible, or not yet confirmed.
        """
        step_j, possible_j = raw_joules - self.last_j, self.cap_w * (now_s - self.at_s)
        if 0.0 <= step_j <= possible_j < self.plain_j:
            self.last_j, self.at_s = raw_joules, now_s
            return self.base_j + raw_joules
        return self._judge(raw_joules, now_s, step_j)

    def _judge(self, raw_joules: float, now_s: float, step_j: float) -> float:
        last_j = self.last_j
        if isnan(last_j):
            return self._begin(raw_joules, now_s)
        allowed_j = self._credit_j + self.cap_w * max(0.0, now_s - self.at_s)
        base_j, left_j = self.base_j, allowed_j - step_j
        # 0 is what a failing driver shows and very rarely the value after a wrap (1 in 2^32)
        if self.range_j is not None and 0.0 < raw_joules < last_j <= self.range_j:
            base_j, left_j = base_j + self.range_j, left_j - self.range_j
        elif not step_j >= 0.0:
            return self._doubt(raw_joules, now_s)
        if not left_j >= 0.0:
            return self._doubt(raw_joules, now_s)
        if left_j >= self._unsure_j:
            self._note("wraps")
        return self._accept(raw_joules, now_s, base_j, left_j)

    def _begin(self, raw_joules: float, now_s: float) -> float:
        if not 0.0 <= raw_joules < float("inf"):
            raise MeterReadError(f"a counter cannot be at {raw_joules!r} J")
        return self._accept(raw_joules, now_s, -raw_joules, self.cap_w * self.refresh_s)

    def _accept(self, raw_joules: float, now_s: float, base_j: float, left_j: float) -> float:
        """Count from `base_j`, where `left_j` more would have been possible."""
        full_j, least_j = self.cap_w * self.refresh_s, self.total_j
        is_plain = left_j >= full_j and base_j + raw_joules >= least_j
        plain_j, credit_j = self._unsure_j - full_j if is_plain else -1.0, min(left_j, full_j)
        # in one statement, see docs/decisions/0009
        (
            self.base_j, self._least_j, self.last_j, self.at_s,
            self._credit_j, self.plain_j, self._doubtful,
        ) = base_j, least_j, raw_joules, now_s, credit_j, plain_j, None  # fmt: skip
        return self.total_j

    def _doubt(self, raw_joules: float, now_s: float) -> float:
        if not 0.0 <= raw_joules < float("inf"):
            raise MeterReadError(f"a counter cannot be at {raw_joules!r} J")
        self.plain_j = -1.0
        if self._doubtful is None:
            self._doubtful = (raw_joules, now_s)
        doubtful_j, doubtful_s = self._doubtful
        step_j, since_s = raw_joules - doubtful_j, now_s - doubtful_s
        if not 0.0 <= step_j <= self.cap_w * (since_s + self.refresh_s):
            self._doubtful = (raw_joules, now_s)
        elif since_s >= CONFIRM_S and raw_joules > 0.0:
            return self._rebase(raw_joules, now_s, step_j)
        raise MeterReadError(
            f"{raw_joules:.6g} J after {self.last_j:.6g} J is neither a step nor a wrap; the next "
            "reading decides which it was"
        )

    def _rebase(self, raw_joules: float, now_s: float, step_j: float) -> float:
        fault = "reset" if raw_joules < self.last_j else "implausible"
        self._note(fault)
        # The energy after the doubtful reading is real, and capped. It is visible from the next
        # reading on: a rise of the fault counts means that the step up to here is dropped.
        step_j = min(step_j, self.cap_w * max(0.0, now_s - self.at_s))
        total_j = self.total_j
        self.base_j, self._least_j = total_j + step_j - raw_joules, total_j
        self.last_j, self.at_s, self._credit_j = raw_joules, now_s, 0.0
        self._doubtful = None
        return total_j

    def _note(self, fault: str) -> None:
        self.fault_counts[fault] = self.fault_counts.get(fault, 0) + 1


class Gauge:
    """Integrates watts into joules: trapezoids over the time between readings.

    After more than MAX_BRIDGE_S without a reading the step is dropped and counted in `fault_counts`
    as "gap", since nothing is known of the time between.

    Args:
        cap_w: a power that the domain cannot exceed.
    """

    __slots__ = ("_at_s", "_power_w", "cap_w", "fault_counts", "total_j")

    def __init__(self, cap_w: float) -> None:
        self.cap_w = cap_w
        self.fault_counts: dict[str, int] = {}
        self.total_j = 0.0
        """The joules counted so far."""
        self._at_s: float | None = None
        self._power_w = 0.0

    def advance(self, power_w: float, now_s: float) -> float:
        """Take a reading; return the joules since the first one.

        Raises:
            MeterReadError: the power is negative, not a number, or more than is possible.
        """
        if not 0.0 <= power_w <= self.cap_w:
            raise MeterReadError(f"{power_w!r} W is not possible here (0 to {self.cap_w:g} W)")
        if self._at_s is None:
            self._at_s, self._power_w = now_s, power_w
        elapsed_s = now_s - self._at_s
        if elapsed_s > MAX_BRIDGE_S:
            self.fault_counts["gap"] = self.fault_counts.get("gap", 0) + 1
        elif elapsed_s > 0.0:
            self.total_j += 0.5 * (self._power_w + power_w) * elapsed_s
        if elapsed_s >= 0.0:
            self._at_s, self._power_w = now_s, power_w
        return self.total_j


STUCK_S = 60.0
"""A power that is exactly the same for so long, however the load changes, is not measured."""
STUCK_LOAD = 0.5
"""How much the load must have changed meanwhile, in CPU seconds per second."""
_LOAD_OVER_S = 5.0


class Stuck:
    """Detects whether a sensor of a processor's power shows one value forever.

    Real powers differ from reading to reading by the sensor's last digit, at steady load as well;
    here the load must have changed by half a processor, too. It is that of this process.
    """

    __slots__ = ("_loads", "_noted", "_power_w", "_since_s")

    def __init__(self) -> None:
        self._power_w = float("nan")
        self._since_s = 0.0
        self._noted = (0.0, 0.0)
        self._loads: tuple[float, float] | None = None

    def is_stuck(self, power_w: float, now_s: float, cpu_s: float) -> bool:
        """Whether it is, with this reading and our CPU seconds up to it."""
        if power_w != self._power_w:
            self._power_w, self._since_s = power_w, now_s
            self._noted, self._loads = (now_s, cpu_s), None
            return False
        at_s, then_s = self._noted
        if now_s - at_s >= _LOAD_OVER_S:
            load = (cpu_s - then_s) / (now_s - at_s)
            least, most = self._loads or (load, load)
            self._noted, self._loads = (now_s, cpu_s), (min(least, load), max(most, load))
        if self._loads is None or now_s - self._since_s < STUCK_S:
            return False
        return self._loads[1] - self._loads[0] >= STUCK_LOAD
