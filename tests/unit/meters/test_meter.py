"""What a meter may offer beyond the protocol, and that it need not."""

from __future__ import annotations

import pytest

from carbontrack.meters.meter import (
    about,
    counts_ends,
    counts_faults,
    is_shared,
    max_period_s,
    nominal_w,
)
from carbontrack.sampling.sampler import Sampler
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.tracker import Tracker
from carbontrack.units import JOULES_PER_KWH


class LeastMeter:
    """A wall plug of 50 W by somebody who has read the protocol and no more."""

    __slots__ = ("closed",)  # so that nothing can be set on it either

    id = "plug:desk"
    component = "other"
    basis = "measured"
    resolution_s = 1.0
    relative_uncertainty = 0.02

    def __init__(self):
        self.closed = False

    def read_joules(self, now_s):
        return 50.0 * now_s

    def close(self):
        self.closed = True


def test_a_meter_need_not_offer_anything_in_addition():
    """Without the optional attributes: no faults, no limit, no known power, nothing shared."""
    meter = LeastMeter()
    assert not counts_faults(meter)
    assert not counts_ends(meter)
    assert not is_shared(meter)
    assert (max_period_s(meter), nominal_w(meter), about(meter)) == (None, None, None)


@pytest.mark.parametrize("scope", ["machine", "process"])
def test_a_tracker_measures_with_the_protocol_alone(scope):
    """Spans, ticks and the end of a meter that has nothing else."""
    meter, clock = LeastMeter(), FakeClock()
    sampler = Sampler([meter], clock=clock)
    with Tracker(meters=sampler, attribution=scope, clock=clock, grid=100.0) as tracker:
        with tracker.span("work") as span:
            clock.advance(10.0)
            sampler.tick()
            clock.advance(10.0)
        assert span.record.machine_kwh * JOULES_PER_KWH == pytest.approx(1000.0)
        assert span.record.faults is None
    sampler.close()
    assert meter.closed


def test_what_a_meter_offers_is_found():
    """The fake offers faults, a limit and a power, and is not shared."""
    meter = FakeMeter(max_period_s=2.0, nominal_w=7.0)
    assert counts_faults(meter)
    assert not is_shared(meter)
    assert (max_period_s(meter), nominal_w(meter)) == (2.0, 7.0)


def test_only_both_ends_are_ends():
    """A meter with one of them keeps its relative uncertainty."""
    assert not counts_ends(FakeMeter())
    assert not counts_ends(FakeMeter(low=0.5))
    assert not counts_ends(FakeMeter(high=2.0))
    assert counts_ends(FakeMeter(low=0.5, high=2.0))
