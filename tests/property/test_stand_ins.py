"""Stand-ins and their meters: over any outage the sum is what the meter counted, and none falls."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.meters.meter import MeterSet
from carbontrack.sampling.counts import Counts, advance
from carbontrack.sampling.meter_bank import MeterBank
from carbontrack.testing import FakeMeter
from tests.support.bench import Bench

POWERS_W = st.integers(0, 400)
SECONDS = st.lists(st.tuples(POWERS_W, st.booleans(), st.integers(1, 4)), min_size=1, max_size=60)
"""Per stretch: the power, whether the meter answers, and how many seconds it lasts."""


def run_bank(stretches, meters, model):
    """All counts, one after each second; the meters answer at the end."""
    bank, counts = MeterBank(MeterSet(tuple(meters), {"cpu": lambda: model})), Counts(0.0)
    seen, now_s = [counts], 0.0
    for power_w, answers, seconds in [(100, True, 1), *stretches, (1_000_000, True, 3)]:
        for meter, factor in zip(meters, (1.0, 0.5), strict=False):
            meter.watts = power_w * factor
            meter.back()
            if not answers:
                meter.fail(10_000)
        for _ in range(seconds):
            now_s += 1.0
            reading, _ = bank.read(now_s)
            counts, _, _ = advance(counts, reading)
            bank.replace_lost(now_s, counts)
            seen.append(counts)
    return seen


@given(SECONDS, st.integers(0, 400), st.integers(1, 2))
def test_over_any_outages_the_sum_is_what_the_meters_have_counted(stretches, model_w, count):
    """Whether the stand-in is too low or too high; as soon as what is owed has been made up."""
    meters = [FakeMeter(f"rapl:{n}") for n in range(count)]
    model = FakeMeter("model:cpu", watts=float(model_w), basis="modelled")
    end = run_bank(stretches, meters, model)[-1]
    counted_j = sum(meter.read_joules(end.at_s) for meter in meters)
    assert end.owed_j == {}
    assert sum(end.energy_j) == pytest.approx(counted_j)


@given(SECONDS, st.integers(0, 400))
def test_no_count_ever_falls(stretches, model_w):
    """So no open span loses energy that it has, and no closed row changes."""
    meters = [FakeMeter("rapl:a"), FakeMeter("rapl:b")]
    model = FakeMeter("model:cpu", watts=float(model_w), basis="modelled")
    seen = run_bank(stretches, meters, model)
    for before, after in pairwise(seen):
        assert all(b <= a for b, a in zip(before.energy_j, after.energy_j, strict=False))
        assert all(owed_j > 0.0 for owed_j in after.owed_j.values())


def counter_and_model(watts, model_w):
    """A counter that must move within half a second, on a machine that works all the time."""
    counter = FakeMeter("rapl:a", watts=watts)
    counter.moves_within_s = 0.5
    model = FakeMeter("model:cpu", watts=float(model_w), basis="modelled")
    work = iter(range(10_000_000))
    return counter, MeterSet((counter,), {"cpu": lambda: model}, busy_s=lambda: float(next(work)))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 400),
)
def test_counters_that_freeze_and_thaw_keep_the_sum(steps, model_w):
    """A counter that moves only now and then, whatever stands in for it meanwhile."""
    counter, meters = counter_and_model(0.0, model_w)
    with Bench(meters) as bench, bench.tracker.span("root") as root:
        rows = []
        for seconds, moves in steps:
            with root.span("step") as step:
                if moves:
                    counter.add_joules(100.0 * seconds)
                bench.run(float(seconds), ticks=max(1, seconds))
            rows.append(step)
        for _ in range(3):
            counter.add_joules(1e6)
            bench.run(1.0)
        counted_j = counter.read_joules(bench.clock.monotonic_s())
        assert bench.sampler.counts.owed_j == {}
        assert sum(bench.sampler.counts.energy_j) == pytest.approx(counted_j)
    assert all((row.record.energy_kwh or 0.0) >= 0.0 for row in rows)
    assert root.record.energy_kwh * 3.6e6 == pytest.approx(counted_j)


OUTAGES = st.lists(
    st.tuples(st.sampled_from(["runs", "stands", "fails"]), st.integers(1, 6)),
    min_size=1,
    max_size=30,
)


@given(OUTAGES, st.integers(1, 400))
def test_no_time_is_billed_by_two(outages, model_w):
    """Silent, standing still, one after the other: never more than the higher of both powers."""
    counter, meters = counter_and_model(100.0, model_w)
    with Bench(meters) as bench, bench.tracker.span("root"):
        passed_s = 0
        for state, seconds in outages:
            counter.back()
            counter.watts = 0.0 if state == "stands" else 100.0
            if state == "fails":
                counter.fail(10_000)
            for _ in range(seconds):
                bench.run(1.0)
                passed_s += 1
                billed_j = sum(bench.sampler.counts.energy_j)
                assert billed_j <= max(model_w, 100.0) * passed_s + 1e-6


@given(SECONDS, st.integers(0, 400))
def test_spans_share_what_is_given_back(stretches, model_w):
    """Open spans have the sum of the meter and its stand-in between them, at each instant."""
    meter = FakeMeter("rapl:a")
    model = FakeMeter("model:cpu", watts=float(model_w), basis="modelled")
    with Bench(MeterSet((meter,), {"cpu": lambda: model})) as bench:
        first, second = bench.tracker.span("a"), None
        first.open()
        for place, (power_w, answers, seconds) in enumerate(stretches):
            meter.watts = float(power_w)
            meter.back()
            if not answers:
                meter.fail(10_000)
            if place == len(stretches) // 2:
                second = bench.tracker.span("b").open()
            bench.run(float(seconds), ticks=seconds)
        rows = [span.close() or span.record for span in (first, second) if span is not None]
        counted_j = sum(bench.sampler.counts.energy_j)
    billed_j = sum((row.energy_kwh or 0.0) * 3.6e6 for row in rows)
    assert billed_j == pytest.approx(counted_j)
