"""The ends that some meters count: read, believed, dropped and doubted with the meter's count."""

from __future__ import annotations

import pytest

from carbontrack.meters.meter import MeterSet
from carbontrack.sampling.counts import Counts, Reading, advance
from carbontrack.sampling.meter_bank import MeterBank
from carbontrack.testing import FakeMeter
from carbontrack.units import JOULES_PER_KWH
from tests.support.bench import Bench

NAN = float("nan")


def with_ends(id_="model:cpu", component="cpu", **facts):
    return FakeMeter(id_, component, **({"low": 0.5, "high": 3.0, "basis": "modelled"} | facts))


def begun(*joules, ends):
    """The counts at a first reading of one meter with ends, and others without."""
    return advance(Counts(0.0), reading(0.0, *joules, ends=ends))[0]


def reading(at_s, *joules, ends, **more):
    return Reading(at_s, joules, ends_j=ends, end_meters=(0, 0), **more)


def test_the_bank_reads_them_beside_the_counts():
    """Low and high in turn, for the meters that have them, in the order of the meters."""
    plain, first, second = FakeMeter("rapl:a"), with_ends(), with_ends("model:ram", "ram", low=0.1)
    bank = MeterBank(MeterSet((plain, first, second)))
    bank.read(0.0)
    got, _ = bank.read(2.0)
    assert got.joules == (200.0, 200.0, 200.0)
    assert got.ends_j == (100.0, 600.0, 20.0, 600.0)
    assert got.end_meters == bank.end_meters == (1, 1, 2, 2)


def test_meters_without_ends_leave_the_readings_as_they_are():
    """What is measured by all meters costs nothing more."""
    bank = MeterBank(MeterSet((FakeMeter(), FakeMeter("b", low=0.5))))
    got, _ = bank.read(0.0)
    assert (got.ends_j, got.end_meters) == ((), ())


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), AttributeError("gone")])
def test_a_meter_whose_ends_cannot_be_read_has_not_answered(error):
    """Its count alone would be off by nobody knows what; the next answer brings it all."""

    class Careless(FakeMeter):
        @property
        def high_j(self):
            if self.fails:
                raise error
            return self._high_joules

        @high_j.setter
        def high_j(self, joules):
            pass

        fails = False

    careless = Careless("careless", low=0.5, high=3.0)
    bank = MeterBank(MeterSet((FakeMeter(), careless, with_ends())))
    counts = advance(Counts(0.0), bank.read(0.0)[0])[0]
    Careless.fails = True
    got, _ = bank.read(1.0)
    assert got.joules == (100.0, None, 100.0)
    assert got.ends_j == (None, None, 50.0, 300.0)
    assert got.missed == 1
    counts, steps, ends = advance(counts, got)
    assert (steps, ends) == ((100.0, 0.0, 100.0), (0.0, 0.0, 50.0, 300.0))
    Careless.fails = False
    bank.replace_lost(1.0)
    counts, steps, ends = advance(counts, bank.read(2.0)[0])
    assert (steps, ends) == ((100.0, 200.0, 100.0), (100.0, 600.0, 50.0, 300.0))
    assert counts.ends_j == (100.0, 600.0, 100.0, 600.0)


def test_a_missed_read_brings_its_ends_with_the_next():
    """Nothing is lost at either end."""
    counts = begun(10.0, 0.0, ends=(4.0, 20.0))
    counts, steps, ends = advance(counts, reading(1.0, None, 5.0, ends=(None, None), missed=1))
    assert (steps, ends) == ((0.0, 5.0), (0.0, 0.0))
    counts, steps, ends = advance(counts, reading(2.0, 40.0, 9.0, ends=(14.0, 80.0)))
    assert (steps, ends) == ((30.0, 4.0), (10.0, 60.0))
    assert counts.ends_j == (10.0, 60.0)


def test_a_dropped_step_drops_its_ends():
    """They go on from the new counts."""
    counts = begun(10.0, ends=(4.0, 20.0))
    counts, steps, ends = advance(
        counts, reading(1.0, 900.0, ends=(500.0, 999.0), dropped=frozenset({0}))
    )
    assert (steps, ends) == ((0.0,), (0.0, 0.0))
    counts, steps, ends = advance(counts, reading(2.0, 910.0, ends=(505.0, 1019.0)))
    assert (steps, ends) == ((10.0,), (5.0, 20.0))


@pytest.mark.parametrize("ends", [(3.0, 30.0), (5.0, 10.0), (5.0, 1e14)])
def test_an_end_that_fell_or_jumped_is_doubted_with_its_meter(ends):
    """Once is a missed read; twice is a reset, whose step counts at neither end nor in between."""
    counts = begun(10.0, 1.0, ends=(4.0, 20.0))
    counts, steps, found = advance(counts, reading(1.0, 12.0, 2.0, ends=ends))
    assert (steps, found) == ((0.0, 1.0), (0.0, 0.0))
    assert counts.missed == 1
    back, steps, found = advance(counts, reading(2.0, 20.0, 3.0, ends=(9.0, 40.0)))
    assert (steps, found) == ((10.0, 1.0), (5.0, 20.0)), "it was a transient"
    assert back.faults == {}
    again, steps, found = advance(counts, reading(2.0, 14.0, 3.0, ends=ends))
    assert (steps, found) == ((0.0, 1.0), (0.0, 0.0))
    assert again.faults == {"reset": 1}
    assert again.observed_s == (0.0, 2.0)


@pytest.mark.parametrize("garbage", [NAN, float("inf"), -1.0, "many"])
def test_an_end_that_is_no_count_is_no_answer(garbage):
    """As for the count itself."""
    counts = begun(10.0, 1.0, ends=(4.0, 20.0))
    counts, steps, ends = advance(counts, reading(1.0, 12.0, 2.0, ends=(5.0, garbage)))
    assert (steps, ends) == ((0.0, 1.0), (0.0, 0.0))
    _, steps, ends = advance(counts, reading(2.0, 20.0, 3.0, ends=(9.0, 40.0)))
    assert (steps, ends) == ((10.0, 1.0), (5.0, 20.0))


def test_a_substitute_brings_its_ends_with_it():
    """A lost meter's model counts them from its last answer on; the record has both."""
    lost = FakeMeter("rapl:a", watts=100.0, relative_uncertainty=0.1)
    stand_in = with_ends(watts=200.0)
    with Bench(MeterSet((lost,), {"cpu": lambda: stand_in})) as bench:
        with bench.tracker.span("work") as span:
            bench.run(10.0)
            lost.gone()
            bench.run(1.0, ticks=1)  # it is told that it is gone, and replaced
            bench.run(10.0)
        counts = bench.sampler.counts
    assert counts.energy_j == pytest.approx((1000.0, 2200.0))
    assert counts.ends_j == pytest.approx((1100.0, 6600.0))
    record = span.record
    below_j = (1000.0 - record.energy_low_kwh * JOULES_PER_KWH) + 2200.0
    assert below_j == pytest.approx((100.0**2 + 1100.0**2) ** 0.5)
    above_j = record.energy_high_kwh * JOULES_PER_KWH - 3200.0
    assert above_j == pytest.approx((100.0**2 + 4400.0**2) ** 0.5)


def test_a_record_has_the_ends_of_its_own_time():
    """Idle, a model may be off by more than at work: each span gets what was counted in it."""
    model = with_ends(watts=10.0, low=0.1, high=3.0)
    with Bench([model]) as bench:
        with bench.tracker.span("idle") as idle:
            bench.run(10.0)
        model.watts, model.low, model.high = 100.0, 0.5, 1.5
        with bench.tracker.span("busy") as busy:
            bench.run(10.0)
    found = [
        tuple(
            kwh * JOULES_PER_KWH
            for kwh in (record.energy_low_kwh, record.energy_kwh, record.energy_high_kwh)
        )
        for record in (idle.record, busy.record)
    ]
    assert found == [pytest.approx((10.0, 100.0, 300.0)), pytest.approx((500.0, 1000.0, 1500.0))]


@pytest.mark.parametrize("waits_s", [0.0, 30.0])
def test_a_span_too_short_to_measure_has_the_ends_of_just_before(waits_s):
    """Not those of long ago."""
    model = with_ends(watts=10.0, low=0.1, high=3.0, resolution_s=0.01)
    with Bench([model], interval_s=1.0) as bench, bench.tracker.span("outer") as outer:
        bench.run(100.0, ticks=100)
        model.watts, model.low, model.high = 100.0, 0.5, 1.5
        bench.run(3.0 + waits_s, ticks=3)
        with outer.span("short") as short:
            bench.clock.advance(0.001)
    record = short.record
    assert record.energy_kwh * JOULES_PER_KWH == pytest.approx(0.1)
    # the edge of a count that is one refresh old is all of it, on either side
    assert record.energy_high_kwh * JOULES_PER_KWH == pytest.approx(0.1 + (0.05**2 + 0.1**2) ** 0.5)
    assert record.energy_low_kwh == 0.0


def test_the_account_and_the_counts_have_the_ends_of_the_same_steps():
    """They are published with the energy, never apart from it."""
    model = with_ends(watts=100.0)
    with Bench([model]) as bench, bench.tracker.span("work"):
        bench.run(1.0)
        counts = bench.sampler.counts
        account = bench.session.ledger.account.at(counts)
        assert account.leaf_ends_j == counts.ends_j == (50.0, 300.0)
