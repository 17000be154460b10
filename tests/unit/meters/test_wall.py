"""A wall meter's readings become a line, and the line a meter of what no other meter sees."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.errors import ConfigError, MeterGone
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.wall import WALL_ID, WallFit, WallReading, fit_wall, with_wall
from carbontrack.testing import FakeMeter, build_powercap
from tests.support.bench import Bench, joules

IDS = ("fake:cpu", "fake:gpu")


def line(gain, constant_w, powers_w):
    return [WallReading(power_w, constant_w + gain * power_w) for power_w in powers_w]


@given(
    gain=st.floats(1.0, 3.0),
    constant_w=st.floats(0.0, 500.0),
    powers_w=st.lists(st.floats(5.0, 900.0), min_size=2, max_size=30),
)
def test_a_line_is_found_again(gain, constant_w, powers_w):
    """Readings that lie on a line give that line, however many there are."""
    powers_w = [*powers_w, 1.0, 1000.0]
    fit = fit_wall(line(gain, constant_w, powers_w), IDS)
    assert fit.gain == pytest.approx(gain, rel=1e-6)
    assert fit.constant_w == pytest.approx(constant_w, abs=1e-3)
    assert 0.0 < fit.relative_uncertainty <= 1.0


def test_the_interval_is_the_fits_own():
    """Readings that scatter more are less sure; two say nothing of scatter and take the study's."""
    tight = fit_wall(line(1.2, 50.0, [10, 50, 100, 200]), IDS)
    loose = fit_wall(
        [r._replace(wall_w=r.wall_w + off) for r, off in
         zip(line(1.2, 50.0, [10, 50, 100, 200]), (8, -8, -8, 8), strict=True)],
        IDS,
    )  # fmt: skip
    two = fit_wall(line(1.2, 50.0, [10, 200]), IDS)
    assert tight.relative_uncertainty < loose.relative_uncertainty
    assert two.relative_uncertainty == pytest.approx(0.07 * 290.0 / 90.0)
    # by hand: 2 % of the wall, where the line is exact; the worst reading is the highest
    assert tight.relative_uncertainty == pytest.approx(0.02 * 290.0 / 90.0)


@pytest.mark.parametrize(
    ("readings", "says"),
    [
        ([(45.0, 98.0)], "two readings at different loads"),
        ([], "two readings at different loads"),
        ([(45.0, 98.0), (45.0, 99.0)], "too close together"),
        ([(45.0, 98.0), (45.5, 99.0)], "too close together"),
        ([(200.0, 298.0), (205.0, 305.0)], "too close together"),
        ([(50.0, 100.0), (100.0, 140.0)], "gain of 0.800"),
        ([(50.0, 60.0), (100.0, 130.0)], "constant of -10.0 W"),
        ([(50.0, 60.0), (100.0, math.inf)], "not a valid reading"),
        ([(50.0, 60.0), (0.0, 20.0)], "not a valid reading"),
        ([(50.0, 60.0), (math.nan, 20.0)], "not a valid reading"),
    ],
)
def test_readings_that_give_no_line_are_refused(readings, says):
    """The error says what cannot be and what to do."""
    with pytest.raises(ConfigError, match=says):
        fit_wall([WallReading(*reading) for reading in readings], IDS)


def test_all_components_together_are_the_wall():
    """No joule twice: other is the wall less what is metered, at any load."""
    fit = WallFit(1.2, 50.0, 0.1, IDS, 2)
    cpu, gpu = FakeMeter(watts=100.0), FakeMeter("fake:gpu", "gpu", watts=300.0)
    with Bench(with_wall([cpu, gpu], fit)) as bench, bench.tracker.span("s") as span:
        bench.clock.advance(10.0)
        bench.sampler.sample()
        cpu.watts = 20.0
        bench.clock.advance(10.0)
    wall_j = 10 * (50 + 1.2 * 400) + 10 * (50 + 1.2 * 320)
    assert joules(span.record) == pytest.approx(wall_j)
    assert span.record.other_kwh * 3.6e6 == pytest.approx(wall_j - 4000 - 3200)
    assert span.record.meters == "fake:cpu;fake:gpu;wall:rest"


def test_a_missed_read_and_a_reset_bill_nothing_twice():
    """The rest grows with what its meters count, whatever happens to them."""
    fit = WallFit(1.5, 0.0, 0.1, ("fake:cpu",), 2)
    cpu = FakeMeter(watts=100.0)
    with Bench(with_wall([cpu], fit)) as bench, bench.tracker.span("s") as span:
        bench.clock.advance(5.0)
        cpu.fail(2)
        bench.sampler.sample()
        bench.sampler.sample()
        bench.clock.advance(5.0)
        bench.sampler.sample()
        cpu.reset()
        bench.clock.advance(5.0)
        bench.sampler.sample()
        bench.clock.advance(5.0)
    assert span.record.cpu_kwh * 3.6e6 == pytest.approx(1500.0)
    assert span.record.other_kwh * 3.6e6 == pytest.approx(750.0)
    assert span.record.faults == "reset:1"


def test_the_basis_is_that_of_the_weakest():
    """A calibrated model remains a model; counters and a wall meter are measured."""
    fit = WallFit(1.5, 10.0, 0.1, ("a",), 2)
    assert with_wall([FakeMeter("a")], fit)[-1].basis == "measured"
    assert with_wall([FakeMeter("a", basis="modelled")], fit)[-1].basis == "modelled"


def test_a_closed_meter_is_gone():
    """Like every meter."""
    rest = with_wall([FakeMeter("a")], WallFit(1.5, 10.0, 0.1, ("a",), 2))[-1]
    rest.close()
    with pytest.raises(MeterGone):
        rest.read_joules(1.0)


def test_it_counts_with_the_meters_it_was_calibrated_with_only(tmp_path):
    """With others the line says nothing; the refusal tells which they were and what to do."""
    build_powercap(tmp_path)
    fitting = WallFit(1.2, 50.0, 0.1, ("rapl:package-0", "rapl:dram-0"), 2)
    other = WallFit(1.2, 50.0, 0.1, ("rapl:package-0",), 2)
    found = [
        detect(Host(busy_s=lambda: 0.0, sysfs=tmp_path, gpu_ids=(), wall=fit))
        for fit in (fitting, other)
    ]
    assert [meter.id for meter in found[0]][-1] == WALL_ID
    assert WALL_ID not in [meter.id for meter in found[1]]
    refusal = next(refusal for refusal in found[1].refused if refusal.id == WALL_ID)
    assert "rapl:package-0" in refusal.reason
    assert "--clear" in (refusal.cure or "")
