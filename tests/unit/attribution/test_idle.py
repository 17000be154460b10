"""Idle energy told apart: by reservation, or to nobody."""

import pytest

from carbontrack import Attribution, IdlePower
from carbontrack.attribution.policy import LONGEST_DEBT_S, IdleSplit, Shares, Usage
from carbontrack.errors import ConfigError

POWER = IdlePower(cpu=40.0)
SHARES = Shares(cpu=0.5, gpu=1.0, ram=0.25, other=0.5, idle=0.125)


def split(policy, joules, power=POWER, components=("cpu",), elapsed_s=1.0):
    return IdleSplit(policy, power).shares(SHARES, components, joules, elapsed_s)


def test_none_counts_what_is_above_idle():
    """100 J in a second, 40 of them idle: half of the other 60 are ours."""
    assert split("none", (100.0,)).cpu * 100.0 == pytest.approx(30.0)


def test_reserved_adds_the_reserved_part_of_idle():
    """An eighth of the idle 40 J, and half of the other 60."""
    assert split("reserved", (100.0,)).cpu * 100.0 == pytest.approx(5.0 + 30.0)


def test_a_machine_below_its_idle_power_is_all_idle():
    """A step holds no more idle energy than energy."""
    assert split("none", (10.0,)).cpu == 0.0
    assert split("reserved", (10.0,)).cpu == pytest.approx(0.125)


def test_several_packages_are_one_component():
    """The idle power is that of all packages together."""
    shares = split("none", (60.0, 40.0), components=("cpu", "cpu"))
    assert shares.cpu * 100.0 == pytest.approx(30.0)


def test_what_is_not_known_goes_like_the_rest():
    """A GPU of which nobody knows what it draws idling is billed as before."""
    shares = split("none", (100.0, 50.0), components=("cpu", "gpu"))
    assert (shares.gpu, shares.ram) == (1.0, 0.25)
    assert split("none", (50.0,), IdlePower(cpu=0.0, gpu=20.0), ("gpu",)).gpu == pytest.approx(0.6)


def test_memory_and_boards_are_not_split_by_processors():
    """Under "reserved" memory goes by bytes and a board that is ours is whole."""
    power = IdlePower(cpu=0.0, gpu=20.0, ram=5.0)
    shares = split("reserved", (50.0, 5.0), power, ("gpu", "ram"))
    assert (shares.gpu, shares.ram) == (1.0, 0.25)


def test_a_count_that_stood_still_owes_its_idle_energy():
    """A missed read is no gain: the next step carries the idle energy of both."""
    policy = IdleSplit("none", POWER)
    policy.shares(SHARES, ("cpu",), (0.0,), 1.0)
    ours = policy.shares(SHARES, ("cpu",), (200.0,), 1.0).cpu * 200.0
    assert ours == pytest.approx(0.5 * (200.0 - 80.0))
    policy.shares(SHARES, ("cpu",), (0.0,), 1e6)
    owed = 40.0 * (LONGEST_DEBT_S + 1.0)
    ours = policy.shares(SHARES, ("cpu",), (1000.0,), 1.0).cpu * 1000.0
    assert ours == pytest.approx(0.5 * (1000.0 - owed))


def usage(ours_s, all_s, share, here_s):
    return Usage(0.0, ours_s, all_s, None, None, share, here_s)


def test_a_reservation_is_split_among_those_who_work_on_it():
    """Half the machine, of whose work we do three quarters."""
    policy = Attribution("process", "reserved", idle_power=POWER)
    shares = policy.shares(usage(0.0, 0.0, 0.5, 0.0), usage(3.0, 8.0, 0.5, 4.0))
    assert (shares.cpu, shares.idle) == (0.375, 0.375)
    alone = policy.shares(usage(0.0, 0.0, 0.5, 0.0), usage(1.0, 8.0, 0.5, 1.0))
    assert (alone.cpu, alone.idle) == (0.125, 0.5)


def test_without_a_reservation_reserved_is_proportional():
    """Who may use every thread shares the whole machine's idle energy with everybody."""
    policy = Attribution("process", "reserved", idle_power=POWER)
    shares = policy.shares(usage(0.0, 0.0, 1.0, None), usage(2.0, 8.0, 1.0, None))
    assert shares.idle == shares.cpu == 0.25


def test_a_policy_that_needs_the_idle_power_says_so():
    """Before anything starts, and with the way out; the whole machine needs no split."""
    with pytest.raises(ConfigError, match="IdlePower"):
        Attribution("process", "none")
    with pytest.raises(ConfigError, match="idle power of gpu"):
        Attribution("process", "none", idle_power=IdlePower(cpu=1.0, gpu=-1.0))
    assert Attribution("machine", "none").idle_split() is None
    assert Attribution("process").idle_split() is None
