"""Whatever a counter does, no energy is invented, and none is lost without being counted."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from carbontrack.errors import MeterReadError
from carbontrack.meters.counter import Counter

CAP_W = 400.0
RANGE_J = 2_000.0
REFRESH_S = 0.01
SECONDS = st.sampled_from([0.0, 0.001, 0.7, 2.0]) | st.floats(0.0, 3.0)
POWERS = st.sampled_from([0.0, 90.0, CAP_W / 1.5]) | st.floats(0.0, CAP_W / 1.5)


class CounterMachine(RuleBasedStateMachine):
    """A counter beside the truth. The hardware keeps below 2/3 of the cap, as caps are chosen."""

    def __init__(self):
        super().__init__()
        self.counter = Counter(RANGE_J, CAP_W, refresh_s=REFRESH_S)
        self.now_s = 1000.0
        self.begun_s = self.now_s
        self.raw_j = 500.0
        self.true_j = 0.0
        self.since_read_j = 0.0
        self.read_s = self.now_s
        self.exact = True
        self.last_total_j = 0.0
        self.counter.advance(self.raw_j, self.now_s)

    def _use(self, seconds, power_w):
        self.now_s += seconds
        joules = power_w * seconds
        self.true_j += joules
        self.since_read_j += joules
        self.raw_j = (self.raw_j + joules) % RANGE_J

    def _read(self, raw_j=None):
        try:
            total_j = self.counter.advance(self.raw_j if raw_j is None else raw_j, self.now_s)
        except MeterReadError:
            return False
        assert total_j >= self.last_total_j, "a count never goes down"
        self.last_total_j = total_j
        self.since_read_j = 0.0
        self.read_s = self.now_s
        return True

    @rule(seconds=SECONDS, power_w=POWERS)
    def advance_and_read(self, seconds, power_w):
        """Time passes, energy is used, the counter is read, in time for any wrap."""
        if self.now_s + seconds - self.read_s > 0.9 * RANGE_J / CAP_W:
            self.exact = False  # a wrap may have hidden behind another
        self._use(seconds, power_w)
        believed = self._read()
        # a bare 0 is held back: hardly ever what a wrap leaves behind
        assert believed or not self.exact or self.raw_j == 0.0

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.5]), power_w=POWERS)
    def fail(self, seconds, power_w):
        """A read that fails outright leaves the counter alone."""
        self._use(seconds, power_w)

    @rule(garbage_j=st.sampled_from([-1.0, float("nan"), float("inf")]))
    def garbage(self, garbage_j):
        """What no counter can show is refused."""
        assert not self._read(garbage_j)

    @precondition(lambda self: self.true_j > 2 * RANGE_J)
    @rule(power_w=st.floats(100.0, CAP_W / 1.5))
    def double_wrap(self, power_w):
        """Nobody reads for so long that the counter wraps twice."""
        told = self.counter.fault_counts.get("wraps", 0)
        self._use(2.5 * RANGE_J / power_w, power_w)
        self.exact = False
        if self._read():
            assert self.counter.fault_counts["wraps"] == told + 1, "energy is missing, untold"

    @precondition(lambda self: self.true_j > 2 * RANGE_J)
    @rule()
    def reset(self):
        """Suspend, a reloaded driver: the counter starts again."""
        self.raw_j = 0.0
        self.exact = False
        self._read()

    @precondition(lambda self: self.true_j > RANGE_J)
    @rule(seconds=st.floats(0.0, 100.0))
    def suspend(self, seconds):
        """The machine sleeps: monotonic time stands still, and the counter may lose its memory."""
        self.raw_j = min(self.raw_j, 1.0) if seconds > 50.0 else self.raw_j
        self.exact = False

    @precondition(lambda self: self.true_j > RANGE_J)
    @rule(raw_j=st.floats(0.0, RANGE_J - 1.0))
    def replug(self, raw_j):
        """The zone vanishes and another comes in its place."""
        self.raw_j = raw_j
        self.exact = False
        self._read()

    @precondition(lambda self: self.exact)
    @invariant()
    def exact_without_faults(self):
        """As long as nothing went wrong, the count is the truth of the last good reading."""
        assert self.counter.fault_counts == {}
        assert self.counter.total_j == pytest.approx(self.true_j - self.since_read_j, abs=1e-6)

    @invariant()
    def never_more_than_is_possible(self):
        """Energy is between nothing and the cap over all the time there was."""
        most_j = CAP_W * (self.now_s - self.begun_s + REFRESH_S)
        assert 0.0 <= self.counter.total_j <= most_j + 1e-6


TestCounterMachine = CounterMachine.TestCase
TestCounterMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
