"""Counters unwrapped and gauges integrated, by what is physically possible."""

import math

import pytest

from carbontrack.errors import MeterReadError
from carbontrack.meters.counter import Counter, Gauge, Stuck

RANGE_J = 262_143.328_85


def test_counts_from_the_first_reading():
    """A counter begins at zero, wherever the hardware stands."""
    counter = Counter(RANGE_J, 300.0)
    assert counter.advance(123_456.0, 0.0) == 0.0
    assert counter.advance(123_556.0, 1.0) == pytest.approx(100.0)


def test_first_reading_may_be_zero():
    """A counter that was never used stands at 0, and what follows is counted."""
    counter = Counter(RANGE_J, 300.0)
    counter.advance(0.0, 0.0)
    assert counter.advance(0.0, 1.0) == 0.0
    assert counter.advance(100.0, 2.0) == 100.0


def test_a_wrap_is_exact():
    """A wrap costs nothing when the range is known."""
    counter = Counter(RANGE_J, 300.0)
    counter.advance(RANGE_J - 40.0, 0.0)
    assert counter.advance(60.0, 1.0) == pytest.approx(100.0)
    assert counter.fault_counts == {}


def test_a_failed_read_changes_nothing():
    """The reading after a failed one carries what was missed."""
    counter = Counter(RANGE_J, 300.0)
    counter.advance(1000.0, 0.0)
    for garbage in (-1.0, math.nan, math.inf, 0.0):
        with pytest.raises(MeterReadError):
            counter.advance(garbage, 0.5)
    assert counter.advance(1200.0, 1.0) == pytest.approx(200.0)
    assert counter.fault_counts == {}


@pytest.mark.parametrize("garbage_j", [0.0, 3.0, 500.0, 9e9])
def test_a_transient_value_loses_and_invents_nothing(garbage_j):
    """One strange reading, high or low, is a missed read and nothing more."""
    counter = Counter(RANGE_J, 300.0)
    counter.advance(100_000.0, 0.0)
    with pytest.raises(MeterReadError):
        counter.advance(garbage_j, 1.0)
    assert counter.advance(100_200.0, 2.0) == pytest.approx(200.0)
    assert counter.fault_counts == {}


def test_the_same_strange_reading_twice_at_one_instant_proves_nothing():
    """A reading that is repeated at once does not confirm itself."""
    counter = Counter(RANGE_J, 300.0)
    counter.advance(100_000.0, 0.0)
    for _ in range(3):
        with pytest.raises(MeterReadError):
            counter.advance(5.0, 1.0)
    assert counter.advance(100_100.0, 2.0) == pytest.approx(100.0)


def test_a_reset_drops_one_step_and_is_counted():
    """A counter that starts again is not taken for a wrap; what comes after it is counted."""
    counter = Counter(RANGE_J, 300.0)
    counter.advance(100_000.0, 0.0)
    counter.advance(100_100.0, 1.0)
    with pytest.raises(MeterReadError):
        counter.advance(10.0, 2.0)
    assert counter.advance(110.0, 3.0) == pytest.approx(100.0), "this step is dropped"
    assert counter.fault_counts == {"reset": 1}
    assert counter.advance(210.0, 4.0) == pytest.approx(300.0), "and this one carries its end"
    assert counter.fault_counts == {"reset": 1}


def test_a_reset_to_zero_goes_on_from_its_first_positive_value():
    """Zeros are held back as long as they last; the count continues from what follows."""
    counter = Counter(None, 300.0)
    counter.advance(100_000.0, 0.0)
    for at_s in (1.0, 2.0):
        with pytest.raises(MeterReadError):
            counter.advance(0.0, at_s)
    counter.advance(50.0, 3.0)
    assert counter.advance(60.0, 4.0) == pytest.approx(60.0)
    assert counter.fault_counts == {"reset": 1}


def test_a_drop_without_a_known_range_is_never_a_wrap():
    """Where the range is unknown, no wrap is believed and nothing goes negative."""
    counter = Counter(None, 1e6)
    counter.advance(RANGE_J - 40.0, 0.0)
    with pytest.raises(MeterReadError):
        counter.advance(60.0, 1.0)
    counter.advance(160.0, 2.0)
    assert counter.advance(170.0, 3.0) == pytest.approx(110.0)
    assert counter.max_period_s is None


def test_a_jump_that_no_hardware_can_make_is_dropped():
    """A step of more than the cap is dropped and counted, and the count goes on from there."""
    counter = Counter(RANGE_J, 300.0)
    counter.advance(1000.0, 0.0)
    with pytest.raises(MeterReadError):
        counter.advance(51_000.0, 1.0)
    counter.advance(51_100.0, 2.0)
    assert counter.advance(51_200.0, 3.0) == pytest.approx(200.0)
    assert counter.fault_counts == {"implausible": 1}


def test_a_refresh_late_is_not_implausible():
    """A tick of the counter seen a microsecond after a read is believed: the read was early."""
    counter = Counter(RANGE_J, 300.0, refresh_s=0.001)
    counter.advance(1000.0, 0.0)
    assert counter.advance(1000.2, 0.000_001) == pytest.approx(0.2)


def test_poll_period_leaves_no_room_for_a_second_wrap():
    """Reading every `max_period_s` at the cap moves the counter by 0.4 of its range."""
    counter = Counter(RANGE_J, 1000.0)
    assert counter.max_period_s == pytest.approx(0.4 * RANGE_J / 1000.0)


def test_a_gap_that_may_hide_a_wrap_is_a_lower_bound_and_told():
    """What is seen counts; that a whole range more was possible is counted as a fault."""
    for first_j in (1000.0, RANGE_J - 40.0):
        counter = Counter(RANGE_J, 300.0)
        counter.advance(first_j, 0.0)
        just_j = (100.0 + RANGE_J) / 300.0
        assert counter.advance((first_j + 100.0) % RANGE_J, just_j + 0.1) == pytest.approx(100.0)
        assert counter.fault_counts == {"wraps": 1}
        counter.advance((first_j + 200.0) % RANGE_J, just_j + 1.1)
        assert counter.fault_counts == {"wraps": 1}


def test_a_gap_too_short_for_another_wrap_is_exact():
    """Up to the time that a range takes at the cap nothing can hide."""
    counter = Counter(RANGE_J, 300.0)
    counter.advance(1000.0, 0.0)
    assert counter.advance(1100.0, RANGE_J / 300.0) == pytest.approx(100.0)
    assert counter.fault_counts == {}
    endless = Counter(None, 300.0)
    endless.advance(1000.0, 0.0)
    endless.advance(1100.0, 1e9)
    assert endless.fault_counts == {}


def test_gauge_integrates_with_the_true_time_between_readings():
    """A late reading is a longer trapezoid, not another sample."""
    gauge = Gauge(500.0)
    gauge.advance(100.0, 0.0)
    assert gauge.advance(200.0, 1.0) == pytest.approx(150.0)
    assert gauge.advance(200.0, 4.0) == pytest.approx(750.0)


def test_gauge_bridges_nothing_longer_than_ten_seconds():
    """After a long silence nothing is invented, and the silence is counted."""
    gauge = Gauge(500.0)
    gauge.advance(100.0, 0.0)
    assert gauge.advance(100.0, 60.0) == 0.0
    assert gauge.advance(100.0, 61.0) == pytest.approx(100.0)
    assert gauge.fault_counts == {"gap": 1}


@pytest.mark.parametrize("power_w", [-1.0, 501.0, math.nan, math.inf])
def test_gauge_refuses_a_power_that_cannot_be(power_w):
    """An impossible power is a missed reading; the next one bridges it."""
    gauge = Gauge(500.0)
    gauge.advance(100.0, 0.0)
    with pytest.raises(MeterReadError):
        gauge.advance(power_w, 1.0)
    assert gauge.advance(100.0, 2.0) == pytest.approx(200.0)


def test_gauge_survives_a_clock_that_hands_in_an_older_instant():
    """Two callers that race may hand in instants out of order; the count stays."""
    gauge = Gauge(500.0)
    gauge.advance(100.0, 1.0)
    gauge.advance(100.0, 2.0)
    assert gauge.advance(100.0, 1.5) == pytest.approx(100.0)
    assert gauge.advance(100.0, 3.0) == pytest.approx(200.0)


def shown(powers_w, loads, *, every_s=1.0):
    """Whether the last of these powers is taken for stuck, at these loads of this process."""
    stuck, cpu_s = Stuck(), 0.0
    for second, (power_w, load) in enumerate(zip(powers_w, loads, strict=True)):
        cpu_s += load * every_s
        found = stuck.is_stuck(power_w, second * every_s, cpu_s)
    return found


BUSY_AND_IDLE = [1.0] * 20 + [0.0] * 80


def test_one_power_whatever_the_load_is_stuck():
    """A minute at exactly one value, in which this process worked and then did nothing."""
    assert shown([35.0] * 100, BUSY_AND_IDLE)


def test_a_steady_load_may_have_a_steady_power():
    """Nothing tells a stuck sensor from a coarse one while the load stays the same."""
    assert not shown([35.0] * 100, [1.0] * 100)


def test_a_power_that_changes_at_all_is_not_stuck():
    """The last digit of a real sensor moves."""
    assert not shown([35.0, 35.001] * 50, BUSY_AND_IDLE)


def test_less_than_a_minute_is_too_short():
    """A coarse sensor may show one value for a while."""
    assert not shown([35.0] * 50, BUSY_AND_IDLE[:50])


def test_a_power_that_moves_again_is_a_power():
    """It is believed from there on."""
    assert not shown([35.0] * 99 + [36.0], BUSY_AND_IDLE)
