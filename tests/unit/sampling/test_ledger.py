"""The running sum: what a reading adds, and among how many it is shared."""

import itertools
from dataclasses import replace
from math import inf, nan

import pytest

from carbontrack.grid.intensity import GridIntensity
from carbontrack.sampling.counts import Counts, Reading, advance, with_fault
from carbontrack.sampling.ledger import (
    NOTHING,
    Account,
    Mark,
    RunningAccount,
    Step,
    Sums,
    Terms,
    add_joules,
    between,
    credit,
    sub_joules,
)

FRANCE = GridIntensity("FR", 50.0, 40.0, 80.0, "a table", 2024, "lifecycle")


def terms(*shares, grid=None, pue=1.0):
    return Terms(shares, grid, pue)


def step(*joules, leaves=1, calls=0, elapsed_s=1.0, cpu_s=0.0):
    return Step(1.0, joules, ("cpu",) * len(joules), leaves, calls, elapsed_s, cpu_s)


def test_the_first_reading_counts_nothing():
    """What a counter held before we came is nobody's."""
    counts, steps, _ = advance(Counts(0.0), Reading(0.0, (5e6, 7.0)))
    assert steps == (0.0, 0.0)
    assert counts.energy_j == (0.0, 0.0)


def test_a_reading_adds_the_difference():
    """Each meter adds what it has counted since it was last read."""
    counts, _, _ = advance(Counts(0.0), Reading(0.0, (100.0, 10.0)))
    counts, steps, _ = advance(counts, Reading(2.0, (150.0, 11.0)))
    assert steps == (50.0, 1.0)
    assert counts.energy_j == (50.0, 1.0)
    assert counts.observed_s == (2.0, 2.0)


def test_a_silent_meter_neither_loses_nor_invents():
    """A missed read adds nothing; the next one carries everything, and the time as well."""
    counts, _, _ = advance(Counts(0.0), Reading(0.0, (0.0, 0.0)))
    counts, steps, _ = advance(counts, Reading(1.0, (None, 5.0), missed=1))
    assert steps == (0.0, 5.0)
    assert counts.observed_s == (0.0, 1.0)
    assert counts.missed == 1
    counts, steps, _ = advance(counts, Reading(2.0, (30.0, 10.0)))
    assert steps == (30.0, 5.0)
    assert counts.observed_s == (2.0, 2.0)


def test_a_dropped_step_is_neither_energy_nor_time():
    """A step that cannot be believed is left out, and the time is not called observed."""
    counts, _, _ = advance(Counts(0.0), Reading(0.0, (0.0,)))
    counts, steps, _ = advance(counts, Reading(5.0, (900.0,), dropped=frozenset({0})))
    assert steps == (0.0,)
    assert counts.observed_s == (0.0,)
    counts, steps, _ = advance(counts, Reading(6.0, (910.0,)))
    assert steps == (10.0,)
    assert counts.observed_s == (1.0,)


def test_a_count_that_falls_beside_a_silent_one_adds_nothing():
    """Whatever a meter does, energy is never taken back."""
    counts, _, _ = advance(Counts(0.0), Reading(0.0, (100.0, 0.0)))
    counts, steps, _ = advance(counts, Reading(1.0, (90.0, None)))
    assert steps == (0.0, 0.0)


def test_a_count_that_falls_adds_nothing():
    """Whatever a meter does, energy is never taken back."""
    counts, _, _ = advance(Counts(0.0), Reading(0.0, (100.0,)))
    counts, steps, _ = advance(counts, Reading(1.0, (90.0,)))
    assert steps == (0.0,)
    assert counts.energy_j == (0.0,)


@pytest.mark.parametrize("garbage", [None, nan, inf, -inf, -1.0, 0.0, "12", b"", 1e300, []])
@pytest.mark.parametrize("beside", [(), (5.0,)], ids=["alone", "beside another"])
def test_garbage_is_a_silence(garbage, beside):
    """One answer that makes no sense neither counts nor costs: the next carries what it missed."""
    counts, _, _ = advance(Counts(0.0), Reading(0.0, (100.0, *beside)))
    counts, steps, _ = advance(counts, Reading(1.0, (garbage, *beside)))
    assert not any(steps)
    counts, steps, _ = advance(counts, Reading(2.0, (130.0, *beside)))
    assert steps[0] == 30.0
    assert counts.energy_j[0] == 30.0
    assert counts.observed_s[0] == 2.0
    assert counts.missed == (garbage is not None)  # a None is counted by whoever read it
    assert not counts.faults


@pytest.mark.parametrize("start_j", [3.0, 1e15])
def test_a_count_that_stays_elsewhere_was_reset(start_j):
    """The step is left out, said, and the count goes on from where it is now."""
    counts, _, _ = advance(Counts(0.0), Reading(0.0, (100.0,)))
    counts, _, _ = advance(counts, Reading(1.0, (start_j,)))
    counts, steps, _ = advance(counts, Reading(2.0, (start_j + 1.0,)))
    assert steps == (0.0,)
    counts, steps, _ = advance(counts, Reading(3.0, (start_j + 5.0,)))
    assert steps == (4.0,)
    assert counts.observed_s == (1.0,)
    assert dict(counts.faults) == {"reset": 1}


def test_a_meter_that_joins_later_begins_at_zero():
    """A substitute takes a new place and counts from its own first reading."""
    counts, _, _ = advance(Counts(0.0), Reading(0.0, (0.0,)))
    counts, _, _ = advance(counts, Reading(3.0, (30.0, 500.0)))
    counts, steps, _ = advance(counts, Reading(4.0, (30.0, 510.0)))
    assert steps == (0.0, 10.0)
    assert counts.energy_j == (30.0, 10.0)
    assert counts.observed_s == (4.0, 1.0)


def test_faults_are_counted_by_code():
    """Old sums are never changed by a new fault."""
    before = Counts(0.0)
    after = with_fault(with_fault(before, "reset"), "reset", 2)
    assert dict(after.faults) == {"reset": 3}
    assert dict(before.faults) == {}


def test_a_single_leaf_gets_our_share_of_everything():
    """Each meter's energy is weighed with the share of its component."""
    account = credit(Account(), step(80.0, 10.0), terms(0.25, 1.0))
    assert account.leaf_j == (20.0, 10.0)


@pytest.mark.parametrize("leaves", [1, 2, 3, 7])
def test_open_leaves_share_evenly(leaves):
    """At each instant the energy is split evenly among the open leaves."""
    account = credit(Account(), step(84.0, leaves=leaves), terms(1.0))
    assert account.leaf_j[0] * leaves == pytest.approx(84.0, rel=1e-12)


def test_calls_under_way_count_as_leaves():
    """What calls would have got is set aside for them, for all of their time; it is the whole."""
    account = credit(
        Account(), step(100.0, leaves=3, calls=2, elapsed_s=5.0, cpu_s=1.0), terms(1.0)
    )
    assert account.leaf_j == (20.0,)
    assert account.calls_j == (40.0,)
    assert account.calls_s == 10.0
    assert account.calls_cpu_s == 1.0


def test_without_leaves_everything_is_set_aside():
    """Where only calls may have run, the pool takes the whole step."""
    account = credit(Account(), step(100.0, leaves=0, calls=0), terms(1.0))
    assert account.leaf_j == ()
    assert account.calls_j == (100.0,)


def test_grams_follow_the_grid_of_the_moment():
    """Each joule is weighed with the intensity that holds when it is used, times PUE."""
    account = credit(Account(), step(3.6e6), terms(1.0, grid=FRANCE, pue=2.0))
    assert account.leaf_g == (100.0, 80.0, 160.0)
    dearer = replace(FRANCE, g_per_kwh=500.0, low_g_per_kwh=400.0, high_g_per_kwh=800.0)
    account = credit(account, step(3.6e6), terms(1.0, grid=dearer))
    assert account.leaf_g == (600.0, 480.0, 960.0)


def test_without_a_grid_there_are_no_grams():
    """Energy is known where emissions are not."""
    account = credit(Account(), step(100.0), terms(1.0))
    assert account.leaf_g == (0.0, 0.0, 0.0)


def test_between_is_additive_over_any_cut():
    """What lies between two marks is the same however many lie in between."""
    accounts = [Account()]
    for energy in (1.25, 7.5, 0.0, 3.0):
        accounts.append(credit(accounts[-1], step(energy), terms(1.0, grid=FRANCE)))
    marks = [Mark(Counts(0.0), RunningAccount(account)) for account in accounts]
    parts = NOTHING
    for a, b in itertools.pairwise(marks):
        parts = parts.plus(between(a, b))
    whole = between(marks[0], marks[-1])
    assert parts.ours_j == pytest.approx(whole.ours_j)
    assert parts.grams == pytest.approx(whole.grams)


def test_sums_add_up_and_multiply():
    """Nothing is neutral; twice as much is the same as both together."""
    a, b = Sums((3.0, 1.0), (1.0, 1.0, 1.0)), Sums((1.0, 1.0), (0.5, 0.5, 0.5))
    assert a.plus(NOTHING) == a == NOTHING.plus(a)
    assert a.plus(b) == Sums((4.0, 2.0), (1.5, 1.5, 1.5))
    assert a.times(2) == a.plus(a)
    assert a.times(1) is a


def test_joules_of_different_width_line_up_from_the_left():
    """A meter that one side does not know yet has counted nothing there."""
    assert add_joules((1.0,), (2.0, 3.0)) == (3.0, 3.0)
    assert add_joules((2.0, 3.0), (1.0,)) == (3.0, 3.0)
    assert sub_joules((2.0, 3.0), (1.0,)) == (1.0, 3.0)
    assert sub_joules((2.0, 3.0), ()) == (2.0, 3.0)
