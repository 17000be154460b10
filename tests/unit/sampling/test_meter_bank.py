"""The meters in service: silence, loss, substitution and return."""

import logging

import pytest

from carbontrack.errors import MeterUnavailable
from carbontrack.meters.meter import MeterSet
from carbontrack.meters.rapl import powercap_meters
from carbontrack.sampling.counts import Counts, Reading, Returned, advance
from carbontrack.sampling.meter_bank import MeterBank
from carbontrack.testing import FakeMeter, Zone, build_powercap
from tests.support.bench import Bench, joules


def read(bank, now_s):
    reading, faults = bank.read(now_s)
    return reading, dict(faults)


def ticks(bank, *instants_s):
    for now_s in instants_s:
        reading, _ = bank.read(now_s)
        bank.replace_lost(now_s)
    return reading


def test_all_meters_are_read_at_one_instant():
    """A reading holds the count of each meter, in their order."""
    a, b = FakeMeter("a", watts=10.0), FakeMeter("b", watts=20.0)
    bank = MeterBank(MeterSet((a, b)))
    bank.read(0.0)
    reading, faults = read(bank, 2.0)
    assert reading.joules == (20.0, 40.0)
    assert reading.missed == 0
    assert faults == {}


def test_a_failed_read_is_counted_once_and_read_once():
    """One read that fails is one missed read; no meter is asked twice for one instant."""
    a, b, c = FakeMeter("a"), FakeMeter("b"), FakeMeter("c")
    bank = MeterBank(MeterSet((a, b, c)))
    bank.read(0.0)
    b.fail()
    reading, _ = read(bank, 1.0)
    assert reading.joules == (100.0, None, 100.0)
    assert reading.missed == 1
    assert (a.reads, b.reads, c.reads) == (2, 2, 2)
    reading, _ = read(bank, 2.0)
    assert reading.joules == (200.0, 200.0, 200.0)
    assert reading.missed == 0


def test_an_error_of_any_kind_is_a_silence(caplog):
    """A meter of someone else's making may raise what it likes; it is logged, and no more."""

    class Careless(FakeMeter):
        def read_joules(self, now_s):
            if now_s == 1.0:
                raise ZeroDivisionError("oops")
            return super().read_joules(now_s)

    bank = MeterBank(MeterSet((Careless("careless"), FakeMeter("good"))))
    bank.read(0.0)
    with caplog.at_level(logging.ERROR):
        reading, _ = read(bank, 1.0)
        assert caplog.text == ""  # a lock may be held; it is said later
        bank.deferred_log.flush()
    assert reading.joules == (None, 100.0)
    assert "careless" in caplog.text
    reading, _ = read(bank, 2.0)
    assert reading.joules == (200.0, 200.0)


def test_a_rise_of_faults_drops_the_step():
    """A meter that says it met a reset has its step left out, and the fault is named."""
    a, b = FakeMeter("a"), FakeMeter("b")
    bank = MeterBank(MeterSet((a, b)))
    bank.read(0.0)
    a.reset()
    reading, faults = read(bank, 1.0)
    assert reading.dropped == {0}
    assert faults == {"reset": 1}
    reading, faults = read(bank, 2.0)
    assert reading.dropped == frozenset()
    assert faults == {}


def test_faults_from_before_are_not_ours():
    """What a meter met before it came into service is not counted."""
    meter = FakeMeter()
    meter.fault_counts["reset"] = 7
    bank = MeterBank(MeterSet((meter,)))
    _, faults = read(bank, 0.0)
    assert faults == {}


def test_three_silent_ticks_bring_the_substitute():
    """Two silent ticks are bridged; with the third the next best meter takes over."""
    meter, model = FakeMeter("rapl:package-0"), FakeMeter("model:cpu", watts=50.0)
    bank = MeterBank(MeterSet((meter,), {"cpu": lambda: model}))
    bank.read(0.0)
    meter.fail(100)
    ticks(bank, 1.0, 2.0)
    assert len(bank.states) == 1
    bank.read(3.0)
    assert bank.replace_lost(3.0) == {"substituted": 1}
    assert [state.meter.id for state in bank.states] == ["rapl:package-0", "model:cpu"]
    assert bank.states[1].is_substitute


def test_ten_silent_seconds_are_enough():
    """With long ticks the time alone decides."""
    meter = FakeMeter()
    bank = MeterBank(MeterSet((meter,), {"cpu": lambda: FakeMeter("model:cpu")}))
    bank.read(0.0)
    meter.fail(100)
    bank.read(1.0)
    bank.read(11.0)
    assert bank.replace_lost(11.0) == {"substituted": 1}


def test_a_meter_that_says_it_is_gone_is_replaced_at_once_and_not_asked_again():
    """`MeterGone` needs no three ticks."""
    meter = FakeMeter()
    bank = MeterBank(MeterSet((meter,), {"cpu": lambda: FakeMeter("model:cpu")}))
    bank.read(0.0)
    meter.gone()
    ticks(bank, 1.0)
    assert len(bank.states) == 2
    asked = meter.reads
    ticks(bank, 2.0, 3.0)
    assert meter.reads == asked


def test_the_return_of_a_meter_is_not_counted_again():
    """Its step says whose count is to be kept back from it, and the substitute retires."""
    meter, model = FakeMeter("m"), FakeMeter("model:cpu")
    bank = MeterBank(MeterSet((meter,), {"cpu": lambda: model}))
    bank.read(0.0)
    meter.fail(3)
    ticks(bank, 1.0, 2.0, 3.0)
    reading = ticks(bank, 4.0)
    assert reading.joules == (400.0, None)
    assert reading.returned == {0: Returned((1,), meters=1)}
    reading = ticks(bank, 5.0)
    assert reading.returned == {}
    assert reading.joules[1] is None
    assert reading.missed == 0


def test_a_substitute_stands_in_again():
    """A meter may be lost, return, and be lost again; each outage is covered."""
    meter, model = FakeMeter("m"), FakeMeter("model:cpu")
    bank = MeterBank(MeterSet((meter,), {"cpu": lambda: model}))
    bank.read(0.0)
    now_s = 0.0
    for _ in range(3):
        meter.fail(3)
        for _ in range(6):
            now_s += 1.0
            bank.read(now_s)
            bank.replace_lost(now_s)
    faults = 0
    meter.fail(100)
    for _ in range(3):
        now_s += 1.0
        bank.read(now_s)
        faults += sum(bank.replace_lost(now_s).values())
    assert faults == 1
    assert [s.is_substitute and not s.gone for s in bank.states].count(True) == 1


def test_a_meter_that_was_not_back_owes_for_each_time():
    """Its neighbour was, and was lost again: two stand-ins have counted since its last answer."""
    a, b = FakeMeter("plugin:0"), FakeMeter("plugin:1")
    model = FakeMeter("model:cpu", watts=300.0, basis="modelled")
    with Bench(MeterSet((a, b), {"cpu": lambda: model})) as bench, bench.tracker.span("root"):
        for _ in range(2):
            for meter in (a, b):
                meter.fail(10_000)
            bench.run(5.0, ticks=5)
            a.back()
            bench.run(1.0)
        for meter in (a, b):
            meter.back()
        bench.run(20.0, ticks=20)
        counted_j = sum(meter.read_joules(bench.clock.monotonic_s()) for meter in (a, b))
        assert bench.sampler.counts.owed_j == {}
        assert sum(bench.sampler.counts.energy_j) == pytest.approx(counted_j)


@pytest.mark.parametrize("first", [float("nan"), -1.0, 0.0])
def test_a_meter_whose_first_answer_is_not_believed_owes_all_the_same(first):
    """The next one covers the outage, which its stand-in has billed."""
    counts = advance(Counts(0.0), Reading(0.0, (50.0, None)))[0]
    counts = advance(counts, Reading(1.0, (None, 0.0)))[0]
    counts = advance(counts, Reading(2.0, (None, 80.0)))[0]
    counts = advance(counts, Reading(3.0, (first, None), returned={0: Returned((1,))}))[0]
    counts, steps, _ = advance(counts, Reading(4.0, (150.0, None)))
    assert steps == (20.0, 0.0)
    assert (counts.owed_j, counts.anchor.returning) == ({}, {})
    assert counts.observed_s == (3.0, 1.0)


def test_a_counter_that_began_anew_owes_nothing():
    """Its step is dropped, so that what the stand-in billed stays."""
    counts = advance(Counts(0.0), Reading(0.0, (50.0, None)))[0]
    counts = advance(counts, Reading(1.0, (None, 0.0)))[0]
    counts = advance(counts, Reading(2.0, (None, 80.0)))[0]
    counts = advance(counts, Reading(3.0, (1.0, None), returned={0: Returned((1,))}))[0]
    counts = advance(counts, Reading(4.0, (2.0, None)))[0]
    counts, steps, _ = advance(counts, Reading(5.0, (12.0, None)))
    assert (steps, counts.faults) == ((10.0, 0.0), {"reset": 1})


def test_what_is_owed_ends_with_the_last_open_span():
    """A block of another time, or of a child process, is not short of it."""
    meter = FakeMeter("rapl:0", watts=10.0)
    model = FakeMeter("model:cpu", watts=1000.0, basis="modelled")
    with Bench(MeterSet((meter,), {"cpu": lambda: model})) as bench:
        with bench.tracker.span("before"):
            meter.fail(10_000)
            bench.run(10.0, ticks=10)
            meter.back()
            bench.run(1.0)
            assert bench.sampler.counts.owed_j
        bench.clock.advance(3600.0)
        with bench.tracker.span("after") as after:
            bench.run(2.0, ticks=2)
    assert joules(after.record) == pytest.approx(20.0)


def test_one_of_two_sockets_lost_is_not_modelled_twice():
    """A substitute speaks for the whole component, so it waits until all of it is lost."""
    a, b = FakeMeter("rapl:package-0"), FakeMeter("rapl:package-1")
    bank = MeterBank(MeterSet((a, b), {"cpu": lambda: FakeMeter("model:cpu")}))
    bank.read(0.0)
    a.gone()
    ticks(bank, 1.0, 2.0, 3.0, 4.0)
    assert len(bank.states) == 2
    b.gone()
    ticks(bank, 5.0)
    assert len(bank.states) == 3


def test_a_substitute_that_cannot_be_made_is_said(caplog):
    """Where nothing can stand in, the measurement goes on without."""

    def none():
        raise MeterUnavailable("no model for this machine")

    meter = FakeMeter()
    bank = MeterBank(MeterSet((meter,), {"cpu": none}))
    bank.read(0.0)
    meter.gone()
    with caplog.at_level(logging.WARNING):
        ticks(bank, 1.0)
        bank.deferred_log.flush()
    assert "no model for this machine" in caplog.text
    assert len(bank.states) == 1


def test_the_shortest_period_holds():
    """The most demanding meter decides how often all are read; without demands there is none."""
    assert MeterBank(MeterSet(())).max_period_s == float("inf")
    meters = (FakeMeter("a"), FakeMeter("b", max_period_s=30.0), FakeMeter("c", max_period_s=60.0))
    assert MeterBank(MeterSet(meters)).max_period_s == 30.0


def test_closing_closes_all_even_past_an_error(caplog):
    """A meter that cannot be closed does not keep the others open."""

    class Stuck(FakeMeter):
        def close(self):
            raise OSError("stuck")

    last = FakeMeter("last")
    MeterBank(MeterSet((Stuck("stuck"), last))).close()
    assert last.closed
    assert "stuck" in caplog.text


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_outages_too_short_for_a_substitute_lose_nothing(silent):
    """The meter's own count carries a short outage: no step is dropped."""
    meter = FakeMeter()
    bank = MeterBank(MeterSet((meter,), {"cpu": lambda: FakeMeter("model:cpu")}))
    bank.read(0.0)
    meter.fail(silent)
    dropped = set()
    for now_s in (1.0, 2.0, 3.0, 4.0):
        reading, _ = bank.read(now_s)
        bank.replace_lost(now_s)
        dropped |= reading.dropped
    assert dropped == set()
    assert reading.joules == (400.0,)


def test_a_gap_that_may_hide_a_wrap_counts_and_is_not_observed(tmp_path):
    """Energy is what was seen at least; that time was not watched, as when a process is stopped."""
    tree = build_powercap(tmp_path, [Zone("package-0", "intel-rapl:0", 1_000_000, limit_w=200.0)])
    bank, counts = MeterBank(MeterSet(powercap_meters(tmp_path)[0])), Counts(0.0)
    told = {}
    # at 1.5 x 200 W the counter may have wrapped in 1,200 s, and not in 800
    for at_s, used_j in ((0.0, 0.0), (10.0, 1000.0), (1210.0, 5000.0), (2010.0, 7000.0)):
        tree.add_joules("package-0", used_j)
        reading, faults = bank.read(at_s)
        counts, _, _ = advance(counts, reading)
        told[at_s] = dict(faults)
    assert counts.energy_j == pytest.approx((13_000.0,))
    assert told == {0.0: {}, 10.0: {}, 1210.0: {"wraps": 1}, 2010.0: {}}
    assert counts.observed_s == (810.0,)


def test_the_sampler_reads_often_enough_for_every_wrap(tmp_path):
    """While something is open no gap is so long, whatever the interval."""
    tree = build_powercap(tmp_path, [Zone("package-0", "intel-rapl:0", 1_000_000, limit_w=200.0)])
    bench = Bench(MeterSet(powercap_meters(tmp_path)[0]))
    with bench, bench.tracker.span("s") as span:
        for _ in range(24):
            bench.clock.advance(50.0)
            tree.add_joules("package-0", 200.0)
    assert joules(span.record) == pytest.approx(4800.0)
    assert (span.record.faults, span.record.coverage) == (None, 1.0)


def test_what_nobody_watched_is_nobodys_fault(tmp_path):
    """A counter that wrapped while nothing was open is no fault of the span that comes then."""
    tree = build_powercap(tmp_path, [Zone("package-0", "intel-rapl:0", 1_000_000, limit_w=200.0)])
    with Bench(MeterSet(powercap_meters(tmp_path)[0])) as bench:
        with bench.tracker.span("first"):
            bench.clock.advance(1.0)
            tree.add_joules("package-0", 10.0)
        bench.clock.advance(1e6)
        with bench.tracker.span("second") as second:
            bench.clock.advance(10.0)
            tree.add_joules("package-0", 10.0)
    assert (second.record.faults, second.record.coverage) == (None, 1.0)
