"""Energy of the processors from their load."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.errors import MeterReadError
from carbontrack.meters.cpu_model import LOAD_CURVE, CpuModel, power_share


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


@pytest.mark.parametrize(("load", "share"), LOAD_CURVE)
@pytest.mark.parametrize("step_s", [0.05, 1.0, 10.0])
def test_energy_follows_the_published_curve(load, share, step_s):
    """At 0, 10, 50 and 100 % load a 100 W part uses 12, 32, 75 and 102 W, read often or seldom."""
    busy = Busy()
    model = CpuModel(100.0, busy, 4)
    assert run(model, busy, load, 20.0, step_s=step_s) == pytest.approx(100.0 * share * 20.0)


def test_full_load_is_not_billed_at_the_floor():
    """100 W TDP at full load for eight seconds is about 816 J (a public tool gave 76 W x 8 s)."""
    busy = Busy()
    assert run(CpuModel(100.0, busy, 4), busy, 1.0, 8.0) == pytest.approx(816.0)


def test_the_curve_is_concave_and_rises():
    """Both are needed for a count that never goes down."""
    shares = [power_share(load / 100) for load in range(101)]
    steps = [later - sooner for sooner, later in pairwise(shares)]
    assert all(step > 0 for step in steps)
    assert all(later <= sooner + 1e-9 for sooner, later in pairwise(steps))
    assert power_share(-1.0) == power_share(0.0)
    assert power_share(2.0) == power_share(1.0)


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(-0.1, 20.0)), max_size=50))
def test_the_count_never_goes_down_whatever_is_read(steps):
    """Late readings, coarse CPU seconds, even ones that go back: no energy is taken away."""
    busy, now_s, last_j = Busy(), 0.0, 0.0
    model = CpuModel(100.0, busy, 4)
    for seconds, worked_s in steps:
        now_s += seconds
        busy.seconds += worked_s
        joules = model.read_joules(now_s)
        assert last_j <= joules <= 102.0 * now_s + 1e-6
        last_j = joules


def test_unreadable_load_is_a_missed_read():
    """The next reading carries it."""
    answers = iter([0.0, None, 8.0])
    model = CpuModel(100.0, lambda: next(answers), 4)
    model.read_joules(0.0)
    with pytest.raises(MeterReadError):
        model.read_joules(1.0)
    assert model.read_joules(2.0) == pytest.approx(204.0)


def test_nominal_power_is_that_of_one_busy_thread():
    """What asks about a span too short to measure is itself running."""
    assert CpuModel(100.0, Busy(), 1).nominal_w == pytest.approx(102.0)
    assert 12.0 < CpuModel(100.0, Busy(), 64).nominal_w < 20.0
