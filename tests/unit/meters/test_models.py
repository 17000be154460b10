"""Energy of the processors from their load."""

import pytest

from carbontrack.errors import MeterReadError
from carbontrack.meters.cpu_model import CpuModel
from carbontrack.meters.load_curve import LOADS, SINCE_2010, LoadCurve


class Busy:
    """CPU seconds by hand."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def run(model, busy, load, seconds, *, threads=4, begin_s=0.0, step_s=1.0):
    """Let all processors work at this load, reading now and then."""
    joules = model.read_joules(begin_s)
    for number in range(1, round(seconds / step_s) + 1):
        busy.seconds += load * threads * step_s
        joules = model.read_joules(begin_s + number * step_s)
    return joules


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("step_s", [0.05, 1.0, 10.0])
def test_energy_and_its_ends_follow_the_curve(load, step_s):
    """At 0, 10, 50 and 100 % load a 100 W part uses 12, 20, 47 and 82 W, read often or seldom.

    Likewise its ends: 1, 5, 20 and 40 W, and 36, 50, 105 and 140 W.
    """
    busy = Busy()
    model, share = CpuModel(100.0, busy, 4), SINCE_2010.at(load)
    joules = run(model, busy, load, 20.0, step_s=step_s)
    assert (joules, model.low_j, model.high_j) == pytest.approx([2000.0 * part for part in share])


def test_full_load_is_not_billed_at_the_floor():
    """100 W TDP at full load for eight seconds is about 656 J (a public tool gave 76 W x 8 s)."""
    busy = Busy()
    assert run(CpuModel(100.0, busy, 4), busy, 1.0, 8.0) == pytest.approx(656.0)


def test_the_ends_are_as_wide_as_the_load_of_each_moment_makes_them():
    """Idle for ten seconds, then busy: each time at the ends of its own load."""
    busy = Busy()
    model = CpuModel(100.0, busy, 4)
    run(model, busy, 0.0, 10.0)
    run(model, busy, 1.0, 10.0, begin_s=10.0)
    idle, full = SINCE_2010.at(0.0), SINCE_2010.at(1.0)
    assert model.low_j == pytest.approx(1000.0 * (idle.low + full.low))
    assert model.high_j == pytest.approx(1000.0 * (idle.high + full.high))


def test_the_one_number_is_the_wider_side_at_the_nominal_power():
    """For those who ask for one; never more than 1."""
    assert CpuModel(100.0, Busy(), 1).relative_uncertainty == pytest.approx(1.40 / 0.82 - 1.0)
    assert CpuModel(100.0, Busy(), 64).relative_uncertainty == 1.0
    sharp = LoadCurve(SINCE_2010.best, SINCE_2010.best, SINCE_2010.best)
    assert CpuModel(100.0, Busy(), 4, curve=sharp).relative_uncertainty == 0.0


def test_unreadable_load_is_a_missed_read():
    """The next reading carries it."""
    answers = iter([0.0, None, 8.0])
    model = CpuModel(100.0, lambda: next(answers), 4)
    model.read_joules(0.0)
    with pytest.raises(MeterReadError):
        model.read_joules(1.0)
    assert model.read_joules(2.0) == pytest.approx(164.0)
    assert (model.low_j, model.high_j) == pytest.approx((80.0, 280.0))


def test_nominal_power_is_that_of_one_busy_thread():
    """What asks about a span too short to measure is itself running."""
    assert CpuModel(100.0, Busy(), 1).nominal_w == pytest.approx(82.0)
    assert 12.0 < CpuModel(100.0, Busy(), 64).nominal_w < 20.0


class TestOurOwnTime:
    """The processors are never less busy than our own processes."""

    def model(self, busy, own, threads=2):
        return CpuModel(100.0, busy, threads, own_s=own)

    def run(self, busy_per_s, own_per_s, *, seconds=10, threads=2, first_s=1e4):
        clock = [0.0]
        model = self.model(
            lambda: first_s + busy_per_s * clock[0], lambda now_s: own_per_s * now_s, threads
        )
        for now_s in range(seconds + 1):
            clock[0] = float(now_s)
            joules = model.read_joules(float(now_s))
        return model, joules / seconds

    def test_a_busy_time_of_zeros_is_raised_to_our_own(self):
        """As where /proc/stat of a sandbox has zeros; the high end is that of full load."""
        model, power_w = self.run(0.0, 1.0)
        assert power_w == pytest.approx(47.0)
        assert model.fault_counts == {"beside_cpu_time": 1}
        assert model.high_j == pytest.approx(140.0 * 10)
        assert model.low_j < power_w * 10 < model.high_j

    def test_a_busy_time_that_goes_back_is_raised_too(self):
        """A count that falls says nothing of the load."""
        model, power_w = self.run(-5.0, 1.0)
        assert power_w == pytest.approx(47.0)
        assert model.fault_counts == {"beside_cpu_time": 1}

    def test_more_than_all_threads_can_work_is_full_load_and_told(self):
        """As where a container is shown its host's sums beside its own few threads."""
        model, power_w = self.run(40.0, 1.0)
        assert power_w == pytest.approx(82.0)
        assert model.fault_counts == {"beside_cpu_time": 1}

    def test_others_work_is_not_taken_away(self):
        """The system's count holds where it is larger, and nothing is amiss."""
        model, power_w = self.run(2.0, 1.0)
        assert power_w == pytest.approx(82.0)
        assert model.fault_counts == {}

    def test_what_lags_by_a_few_steps_is_no_contradiction(self):
        """The kernel counts in steps of 10 ms on each of many threads."""
        clock = [0.0]
        model = self.model(lambda: max(0.0, clock[0] - 0.04), lambda now_s: now_s, 64)
        for now_s in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5):
            clock[0] = now_s
            model.read_joules(now_s)
        assert model.fault_counts == {}

    def test_what_cannot_be_read_is_our_own_time(self):
        """A model with nothing but our own CPU seconds is better than none."""
        model = self.model(lambda: None, lambda now_s: now_s)
        for now_s in range(11):
            joules = model.read_joules(float(now_s))
        assert joules == pytest.approx(470.0)
        assert model.fault_counts == {"beside_cpu_time": 1}
