"""Comparing with a baseline: ratio and interval, over processes and rounds."""

from __future__ import annotations

import math
import random

import pytest

from carbontrack.api.forecast import student_t
from carbontrack.integrations.pytest_plugin.baseline import (
    PRIOR_DEGREES,
    BaselineComparison,
    change_text,
    compare,
)
from carbontrack.integrations.pytest_plugin.metrics import SPREAD
from carbontrack.integrations.pytest_plugin.reference import RELATIVE_UNCERTAINTY


def compared(
    now: list[list[float]],
    then: list[list[float]],
    *,
    spread: float = 0.0,
    machines_differ_by: float = 0.0,
) -> BaselineComparison:
    """By the least of the rounds."""
    return compare(
        now,
        then,
        statistic=min,
        seed="a test",
        spread=spread,
        machines_differ_by=machines_differ_by,
    )


def test_the_ratio_is_that_of_the_figures() -> None:
    """The least of five rounds of each side."""
    found = compared([[1.3, 1.2, 1.25, 1.21, 1.4]], [[1.0, 1.1, 1.05, 1.2, 1.01]])
    assert found.ratio == pytest.approx(1.2)


def test_rounds_that_are_alike_leave_no_doubt_where_processes_are_alike() -> None:
    """A metric that is exact is compared exactly."""
    found = compared([[1.2] * 3], [[1.0] * 3])
    assert (found.low, found.high) == pytest.approx((1.2, 1.2))
    assert found.text == "+20.0 % (+20.0 to +20.0)"


def test_one_process_on_either_side_knows_the_recorded_spread_only() -> None:
    """The half-width is t s sqrt(2), with the recorded s and its degrees of freedom."""
    found = compared([[1.2] * 5], [[1.0] * 5], spread=0.03)
    half = student_t(PRIOR_DEGREES) * 0.03 * math.sqrt(2.0)
    assert found.low == pytest.approx(1.2 * math.exp(-half))
    assert found.high == pytest.approx(1.2 * math.exp(half))


def test_more_processes_know_better() -> None:
    """Five on either side, as far apart as was recorded, shrink the interval as sqrt(1/5)."""
    apart = [0.97, 0.985, 1.0, 1.015, 1.03]
    spread = math.sqrt(sum((one - 1.0) ** 2 for one in apart) / 4)
    found = compared([[one] * 3 for one in apart], [[one] * 3 for one in apart], spread=spread)
    half = student_t(PRIOR_DEGREES + 8) * spread * math.sqrt(2.0 / 5.0)
    assert found.high == pytest.approx(math.exp(half))
    assert found.low == pytest.approx(math.exp(-half))


def test_processes_that_differ_more_than_recorded_widen_it() -> None:
    """The observed spread counts as well as the recorded one."""
    calm = compared([[1.0] * 3, [1.01] * 3], [[1.0] * 3, [0.99] * 3], spread=0.03)
    wild = compared([[0.8] * 3, [1.2] * 3], [[1.2] * 3, [0.8] * 3], spread=0.03)
    assert wild.high - wild.low > 2.0 * (calm.high - calm.low)


def test_rounds_count_for_a_side_that_has_one_process_only() -> None:
    """The spread of rounds widens the interval of one process; with two, that of processes does."""
    rounds = [1.0, 1.3, 1.6, 1.9, 2.2]
    alone = compared([rounds], [[1.0] * 5], spread=0.0)
    assert alone.low == pytest.approx(1.0)
    assert alone.high > 1.25
    two = compared([rounds, rounds], [[1.0] * 5, [1.0] * 5], spread=0.0)
    assert (two.low, two.high) == pytest.approx((1.0, 1.0))


def test_two_machines_add_what_they_differ_by() -> None:
    """In quadrature, as a logarithm."""
    found = compared([[1.2] * 3], [[1.0] * 3], machines_differ_by=0.14)
    assert (found.low, found.high) == pytest.approx((1.2 * math.exp(-0.14), 1.2 * math.exp(0.14)))


@pytest.mark.parametrize(("processes", "change"), [(1, 1.28), (10, 1.22)])
def test_what_a_threshold_of_5_percent_finds_between_machines(
    processes: int, change: float
) -> None:
    """From these changes on, as the how-to says, the lower end of the interval is above it."""
    now, then = [[change] * 3] * processes, [[1.0] * 3] * processes
    differ = RELATIVE_UNCERTAINTY * math.sqrt(2.0)
    found = compared(now, then, spread=_recorded(processes), machines_differ_by=differ)
    assert found.low == pytest.approx(1.05, abs=0.006)


def _recorded(processes: int) -> float:
    """The spread for which alike processes are as uncertain as ones that scatter as recorded."""
    return SPREAD * math.sqrt((PRIOR_DEGREES + 2 * processes - 2) / PRIOR_DEGREES)


@pytest.mark.parametrize(("now", "then"), [([[1.0, 1.0]], [[1.0] * 3]), ([[1.0] * 3], [[1.0]])])
def test_with_fewer_than_three_rounds_there_is_no_interval(
    now: list[list[float]], then: list[list[float]]
) -> None:
    """There is a ratio, and no test can fail by it."""
    found = compared(now, then)
    assert found.ratio == 1.0
    assert found.low is None
    assert found.text == "+0.0 % (no interval with fewer than 3 rounds)"


def test_three_processes_of_one_round_have_an_interval() -> None:
    """It is rounds in all that are counted."""
    found = compared([[1.0], [1.0], [1.0]], [[1.0], [1.0], [1.0]], spread=0.03)
    assert found.low is not None


def test_a_baseline_of_zero_has_no_ratio() -> None:
    """And says so."""
    assert compared([[1.0] * 3], [[0.0] * 3]).text == "the baseline is zero"


def test_a_test_that_uses_nothing_any_more_is_compared() -> None:
    """It is 100 % less."""
    found = compared([[0.0] * 3], [[1.0] * 3], spread=0.03)
    assert (found.ratio, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_verdict_can_be_repeated() -> None:
    """The draws have a seed."""
    now, then = [[1.0, 1.2, 1.4, 1.1]], [[1.0, 1.1, 1.3, 1.2]]
    assert compared(now, then, spread=0.02) == compared(now, then, spread=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 5])
def test_it_holds_as_often_as_it_says(processes: int) -> None:
    """95 % of the intervals hold the truth where processes differ as recorded; 93.5 % are asked."""
    draw = random.Random(processes)

    def side(truth: float) -> list[list[float]]:
        found = []
        for _ in range(processes):
            level = truth * math.exp(draw.gauss(0.0, 0.04))
            found.append([level] * 3)
        return found

    held = 0
    for _ in range(2000):
        # a process's rounds are alike here, so their least is their median, and found sooner
        found = compare(side(1.2), side(1.0), statistic=min, seed="", spread=0.04)
        held += found.low <= 1.2 <= found.high
    assert held >= 0.935 * 2000


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        ((1.213, 1.189, 1.24), "+21.3 % (+18.9 to +24.0)"),
        ((2.0, 1.9, 2.1), "+100.0 % (+90.0 to +110.0)"),
        ((2.1, 1.894, 2.3), "x2.10 (x1.89 to x2.30)"),
        ((445.4, 388.7, 511.2), "x445 (x389 to x511)"),
        ((1234.5, 99.97, 12345.6), "x1,234 (x100 to x12,346)"),
        ((37.12,), "x37.1"),
        ((0.2, 0.1, 0.3), "-80.0 % (-90.0 to -70.0)"),
    ],
)
def test_a_change_above_100_percent_is_a_factor(ratio: tuple[float, ...], shown: str) -> None:
    """A percentage of five digits would have to be computed back into a factor."""
    assert change_text(*ratio) == shown
