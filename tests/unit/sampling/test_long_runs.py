"""A week on a fake clock, with a span a second: nothing grows, and nothing is rounded away."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest

from carbontrack.attribution.policy import Attribution
from carbontrack.grid.intensity import Fixed
from carbontrack.sampling.counts import Counts, Reading, advance
from carbontrack.sampling.ledger import Ledger, Mark, Sharing, between
from carbontrack.testing import FakeClock, FakeMeter
from tests.support.bench import Bench

WEEK_S = 7 * 24 * 3600
POWERS_W = (Fraction(137, 3), Fraction(61, 7))
"""No sum of these is a number that a float holds exactly."""
ONE = Sharing(("cpu", "ram"), 1)


def shown(half_seconds: int) -> tuple[float, ...]:
    """What the meters show by then, each as close as a float can be: a quotient of integers."""
    return (
        137 * half_seconds / (3 * 2),
        61 * half_seconds / (7 * 2),
    )


def test_after_a_week_of_spans_the_energy_is_right_to_the_last_bits() -> None:
    """Two readings a second are more than a million; the sums do not depend on their number."""
    ledger, clock = Ledger(Attribution(), Fixed.of(50.0)), FakeClock(0.0)
    ledger.begin(None, 0.0, clock.now_utc())
    counts = advance(Counts(0.0), Reading(0.0, shown(0)))[0]
    counts = advance(counts, Reading(0.0, shown(0)))[0]
    ledger.account = ledger.after(counts, counts, ONE, clock)
    begun, spans_j, base = Mark(counts, ledger.account), Fraction(0), counts.anchor
    for second in range(1, WEEK_S + 1):
        start = counts.after(second - 0.5, shown(2 * second - 1), ())
        counts = start.after(float(second), shown(2 * second), ())
        if second % 600 == 0:
            got = between(Mark(start, ledger.account), Mark(counts, ledger.account))
            spans_j += sum(map(Fraction, got.ours_j))
    week = between(begun, Mark(counts, ledger.account))
    for joules, power_w in zip(week.ours_j, POWERS_W, strict=True):
        assert abs(Fraction(joules) / (power_w * WEEK_S) - 1) <= Fraction(sys.float_info.epsilon)
    true_j = sum(POWERS_W) * Fraction(WEEK_S, 1200)
    # each span is a difference of counts that are rounded to a few nanojoules
    assert abs(spans_j / true_j - 1) <= Fraction(1, 10**9)
    kwh = float(sum(POWERS_W) * WEEK_S) / 3.6e6
    assert week.grams[0] == pytest.approx(50.0 * kwh, rel=1e-15)
    assert counts.observed_s == (float(WEEK_S),) * 2
    assert counts.anchor is base, "as many tuples as at the beginning"


@pytest.mark.parametrize("scope", ["machine", "process"])
def test_nothing_is_kept_of_the_readings_of_an_hour(scope: str) -> None:
    """A span a second in one that stays open: what the sampler holds does not grow with them."""
    meter = FakeMeter(watts=100.0)
    with Bench([meter], attribution=scope) as bench, bench.tracker.span("hour") as hour:
        sizes = []
        for quarter in range(4):
            for _ in range(900):
                with hour.span("second"):
                    bench.clock.advance(0.4)
                bench.clock.advance(0.6)
            bench.sampler.tick()
            sizes.append(len(bench.sampler.history._gaps._gaps))
            assert bench.sampler.counts.energy_j == pytest.approx((9e4 * (quarter + 1),), rel=1e-15)
        assert max(sizes[1:]) <= sizes[0] + 1
    assert hour.record.coverage == 1.0
