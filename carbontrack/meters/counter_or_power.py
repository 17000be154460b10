"""One board's energy by its counter, or by its power while the counter does not count.

Pure: what the board answered comes in, and joules go out. The counter is left where it fails for
some seconds or stands still while the power says that it cannot; it is tried again each minute.
No time is counted by both, and none by neither as long as one of them answers.
"""

from __future__ import annotations

from carbontrack.errors import MeterError, MeterGone, MeterReadError
from carbontrack.meters.counter import MAX_BRIDGE_S, Counter, Gauge
from carbontrack.meters.meter import STANDS_STILL

Answer = float | MeterError | None
"""What a board answered: a number, the error in its place, or None where it was not asked."""

PATIENCE_S = 3.0
"""A counter that fails for no longer than this is waited for, since its next value has all."""
SUSPECT_S = 0.3
"""After three refreshes without a change the power is asked for as well."""
STILL_S = 1.0
"""A counter that changes every 20 to 100 ms, and has not changed for this long, stands still."""
LEAST_W = 1.0
"""A board that draws less may be switched off, and then its counter has nothing to count."""
RETRY_S = 60.0
"""The time between two trials of a counter that was left."""
TRIAL_S = 0.5
"""For this long at least, counter and power are compared, as Zeus does when it starts."""
AGREES = 2.0
"""The counter is trusted when it is within this factor of the power; a wrong one is far off."""


class CounterOrPower:
    """The joules of one board.

    Args:
        cap_w: a power that the board cannot exceed.
        refresh_s: the time between two changes of the counter, with its jitter.
        counter_first: begin with the counter; otherwise with the power, and try the counter.
        retry_s: the time to the first trial.
    """

    def __init__(
        self, cap_w: float, refresh_s: float, *, counter_first: bool, retry_s: float = RETRY_S
    ) -> None:
        self.cap_w, self._refresh_s = cap_w, refresh_s
        self.fault_counts: dict[str, int] = {}
        """Resets and jumps of the counter, gaps of the power, counters found to stand still."""
        self.total_j = 0.0
        """The joules counted so far."""
        self.by_power = not counter_first
        """Whether the power is integrated now, so that it must be read often."""
        self.used_power = self.by_power
        """Whether it ever was."""
        self.asks_counter = True
        """Whether the next answer should have the counter's value."""
        self.asks_power = self.by_power
        """Whether it should have the power in any case, not only where the counter fails."""
        self._retry_s = retry_s
        self._begin_counter(0.0)
        self._gauge: Gauge | None = None
        self._read_at_s: float | None = None
        self._failed_at_s: float | None = None
        self._try_at_s: float | None = None
        self._trial: tuple[float, float, float] | None = None

    def _begin_counter(self, base_j: float) -> None:
        self._counter = Counter(None, self.cap_w, refresh_s=self._refresh_s)
        self._counter.fault_counts = self.fault_counts
        self._base_j = base_j
        self._raw_j: float | None = None
        self._still_since_s: float | None = None

    def advance(self, counter_j: Answer, power_w: Answer, now_s: float) -> float:
        """Take what the board answered; return the joules since the first time.

        Raises:
            MeterReadError, MeterGone: nothing is known at this instant.
        """
        step = self._by_power if self.by_power else self._by_counter
        self.total_j = max(self.total_j, step(counter_j, power_w, now_s))
        self._read_at_s = now_s
        return self.total_j

    # -- by the counter ------------------------------------------------------------------------

    def _by_counter(self, counter_j: Answer, power_w: Answer, now_s: float) -> float:
        if not isinstance(counter_j, float):
            return self._without_counter(counter_j, power_w, now_s)
        try:
            total_j = self._base_j + self._counter.advance(counter_j, now_s)
        except MeterReadError as error:
            self.asks_power = True  # a counter that shows nonsense for long is left as well
            return self._without_counter(error, power_w, now_s)
        self._failed_at_s = None
        if counter_j != self._raw_j:
            self._raw_j, self._still_since_s, self._gauge = counter_j, None, None
            self.asks_power = False
            return total_j
        return total_j if not self._is_still(power_w, now_s) else self._leave(now_s, stands=True)

    def _is_still(self, power_w: Answer, now_s: float) -> bool:
        """Whether a counter that shows the same value again should have moved."""
        if self._still_since_s is None:
            self._still_since_s = self._last_s(now_s)
        still_s = now_s - self._still_since_s
        self.asks_power = still_s >= SUSPECT_S
        if not self._bridge(power_w, self._still_since_s, now_s):
            return False
        assert self._gauge is not None
        return still_s >= STILL_S and self._gauge.total_j >= LEAST_W * still_s

    def _without_counter(self, error: Answer, power_w: Answer, now_s: float) -> float:
        """Integrate from the last value on; leave the counter when it has failed for too long."""
        missing = error if isinstance(error, MeterError) else MeterReadError("no value")
        if self._failed_at_s is None:
            self._failed_at_s = now_s
        if not self._bridge(power_w, self._last_s(now_s), now_s):
            raise missing
        if not isinstance(missing, MeterGone) and now_s - self._failed_at_s < PATIENCE_S:
            raise missing
        return self._leave(now_s, stands=False)

    def _last_s(self, now_s: float) -> float:
        """When there was a value before; now, where that is so long ago that it says nothing."""
        last_s = now_s if self._read_at_s is None else self._read_at_s
        return last_s if 0.0 <= now_s - last_s < MAX_BRIDGE_S else now_s

    def _bridge(self, power_w: Answer, since_s: float, now_s: float) -> bool:
        """Integrate beside the counter, from `since_s` on; whether the power can be one."""
        if not isinstance(power_w, float) or not 0.0 <= power_w <= self.cap_w:
            return False
        if self._gauge is None:
            self._gauge = Gauge(self.cap_w)
            self._gauge.advance(power_w, since_s)
        self._gauge.advance(power_w, now_s)
        return True

    def _leave(self, now_s: float, *, stands: bool) -> float:
        """Go on by the power: what was integrated beside the counter counts from here on."""
        assert self._gauge is not None
        if stands:
            self.fault_counts[STANDS_STILL] = self.fault_counts.get(STANDS_STILL, 0) + 1
        self.by_power = self.used_power = self.asks_power = True
        self.asks_counter = False
        self._gauge.fault_counts = self.fault_counts
        self._base_j = self.total_j
        self._try_at_s = now_s + RETRY_S
        return self._base_j + self._gauge.total_j

    # -- by the power --------------------------------------------------------------------------

    def _by_power(self, counter_j: Answer, power_w: Answer, now_s: float) -> float:
        if not isinstance(power_w, float) or not 0.0 <= power_w <= self.cap_w:
            self._try_at_s, self.asks_counter = now_s, True
            if isinstance(counter_j, float):
                return self._return(counter_j, now_s, self.total_j)
            impossible = MeterReadError(f"{power_w!r} W is not possible here")
            raise power_w if isinstance(power_w, MeterError) else impossible
        if self._gauge is None:
            self._gauge = Gauge(self.cap_w)
            self._gauge.fault_counts = self.fault_counts
        total_j = self._base_j + self._gauge.advance(power_w, now_s)
        if self._try(counter_j, self._gauge.total_j, now_s):
            assert isinstance(counter_j, float)
            return self._return(counter_j, now_s, total_j)
        return total_j

    def _try(self, counter_j: Answer, power_j: float, now_s: float) -> bool:
        """Compare counter and power, now and then; whether the counter can be believed."""
        if self._try_at_s is None:
            self._try_at_s = now_s + self._retry_s
        self.asks_counter = self._trial is not None or now_s >= self._try_at_s
        if counter_j is None or not self.asks_counter:
            return False
        if isinstance(counter_j, float):
            begun_j, begun_s, begun_power_j = self._trial or (counter_j, now_s, power_j)
            self._trial = begun_j, begun_s, begun_power_j
            counted_j, integrated_j = counter_j - begun_j, power_j - begun_power_j
            if now_s - begun_s < TRIAL_S or integrated_j <= 0.0:
                return False
            if integrated_j / AGREES <= counted_j <= integrated_j * AGREES:
                return True
        self._trial, self._try_at_s, self.asks_counter = None, now_s + RETRY_S, False
        return False

    def _return(self, counter_j: float, now_s: float, total_j: float) -> float:
        """Go on by the counter: it counts from here on, and nothing of the time before."""
        self._begin_counter(total_j)
        self._counter.advance(counter_j, now_s)
        self._raw_j = counter_j
        self.by_power = self.asks_power = False
        self.asks_counter = True
        self._gauge = self._trial = self._failed_at_s = None
        return total_j
