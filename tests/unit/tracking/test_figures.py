"""From joules to a record's figures: basis, interval, quality."""

from datetime import datetime, timezone
from math import exp, hypot, log, sqrt

import pytest

from carbontrack.attribution.policy import Attribution
from carbontrack.grid.intensity import GridIntensity
from carbontrack.meters.meter import MeterSet, Refusal
from carbontrack.sampling.counts import Counts
from carbontrack.sampling.ledger import Sums
from carbontrack.testing import FakeMeter
from carbontrack.tracking.part import MeterFacts, Part, interval_j
from carbontrack.tracking.record_builder import (
    Window,
    emission_figures,
    energy_figures,
    parts_of,
    quality_figures,
    weakest,
)
from carbontrack.units import JOULES_PER_KWH
from tests.support.bench import Bench

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
GRID = GridIntensity("FR", 50.0, 40.0, 80.0, "table", 2024, "lifecycle")


def meter(id_="rapl:package-0", component="cpu", basis="measured", resolution_s=0.001,
          uncertainty=0.0, is_substitute=False, share_uncertainty=0.0, ends=None):  # fmt: skip
    return MeterFacts(
        *(id_, component, basis, resolution_s, uncertainty, is_substitute),
        *(share_uncertainty, ends),
    )


def window(
    length_s=10.0,
    machine_j=(1000.0,),
    observed_s=None,
    duration_s=None,
    powers_w=(),
    before=None,
    **end,
):
    width = len(machine_j)
    seen_s = (length_s,) * width if observed_s is None else observed_s
    return Window(
        Counts.of(0.0, observed_s=(0.0,) * width),
        Counts.of(length_s, observed_s=seen_s, **end),
        length_s if duration_s is None else duration_s,
        machine_j,
        1.0,
        NOW,
        None,
        powers_w,
        before,
    )


def part(joules, **facts):
    facts = meter(**facts)
    return Part(facts, joules, facts.basis, joules)


def with_ends(one, low_j, high_j):
    return one._replace(ends_j=(low_j, high_j))


def test_each_meter_contributes_what_it_counted():
    """A measured difference stays a measured difference."""
    (only,) = parts_of(Sums((400.0,)), window(), [meter()])
    assert (only.joules, only.basis) == (400.0, "measured")


def test_an_observed_zero_is_a_zero():
    """An idle GPU that was watched all the time used nothing, and that is known."""
    (only,) = parts_of(Sums((0.0,)), window(machine_j=(0.0,)), [meter()])
    assert only.joules == 0.0


def test_an_unobserved_zero_is_nothing():
    """A meter that never answered contributes no number."""
    assert parts_of(Sums((0.0,)), window(observed_s=(0.0,)), [meter()]) == []


def test_shorter_than_the_refresh_takes_the_last_power():
    """The power times the length, times our share, called modelled."""
    facts = [meter(resolution_s=0.1)]
    short = window(length_s=0.05, machine_j=(8.0,), powers_w=(200.0,))
    (only,) = parts_of(Sums((2.0,)), short, facts)
    assert only.joules == pytest.approx(200.0 * 0.05 * 0.25)
    assert only.basis == "modelled"


def test_shorter_than_the_refresh_takes_the_ratio_of_the_last_ends():
    """The ends of a power times a length are as far off as those of the power."""
    facts = [meter(), meter("model:cpu", resolution_s=0.1, uncertainty=0.5, ends=0)]
    short = {"length_s": 0.05, "machine_j": (9.0, 8.0), "powers_w": (None, 200.0)}
    now = {"energy_j": (900.0, 100.0), "ends_j": (100.0, 300.0)}
    before = Counts.of(0.0, energy_j=(0.0, 60.0), ends_j=(90.0, 200.0))
    sums = Sums((0.0, 2.0), ends_j=(1.0, 3.0))
    _, one = parts_of(sums, window(**short, before=before, **now), facts)
    assert one.joules == pytest.approx(200.0 * 0.05 * 0.25)
    assert one.ends_j == pytest.approx((one.joules / 4.0, one.joules * 2.5))
    still = Counts.of(0.0, energy_j=now["energy_j"], ends_j=before.ends_j)
    for unknown in (None, still):
        _, one = parts_of(sums, window(**short, before=unknown, **now), facts)
        assert one.ends_j is None, "half its energy, then, on either side"
        assert one.distances_j() == (one.joules / 2.0,) * 2


def test_each_meter_contributes_the_ends_that_it_counted():
    """They are where its facts say; a meter without any has none."""
    facts = [meter(ends=2), meter("nvml:0", "gpu"), meter("model:ram", "ram", ends=0)]
    sums = Sums((40.0, 30.0, 20.0), ends_j=(10.0, 50.0, 30.0, 60.0))
    parts = parts_of(sums, window(machine_j=(40.0,) * 3), facts)
    assert [one.ends_j for one in parts] == [(30.0, 60.0), None, (10.0, 50.0)]


def test_an_assumption_stays_an_assumption_when_short():
    """The last known power of an assumed meter is no better than the meter."""
    facts = [meter(resolution_s=0.1, basis="assumed")]
    (only,) = parts_of(Sums((2.0,)), window(length_s=0.05, powers_w=(200.0,)), facts)
    assert only.basis == "assumed"


def test_a_still_counter_over_a_few_refreshes_is_not_believed():
    """Up to three refreshes without a move may be chance; beyond that it is an idle meter."""
    facts = [meter(resolution_s=0.1)]
    (near,) = parts_of(
        Sums((0.0,)), window(length_s=0.29, machine_j=(0.0,), powers_w=(100.0,)), facts
    )
    assert near.basis == "modelled"
    assert near.joules == pytest.approx(29.0)
    (far,) = parts_of(
        Sums((0.0,)), window(length_s=0.31, machine_j=(0.0,), powers_w=(100.0,)), facts
    )
    assert (far.joules, far.basis) == (0.0, "measured")


def test_the_weakest_basis_that_counts_is_the_records():
    """Above 1 % of the energy a weaker basis names the record; at or below it does not."""
    strong = part(990.0)
    assert weakest([strong, part(10.0, basis="assumed")]) == "measured"
    assert weakest([strong, part(10.1, basis="assumed")]) == "assumed"
    assert weakest([strong, part(200.0, basis="modelled")]) == "modelled"
    assert weakest([part(0.0), part(0.0, basis="modelled")]) == "modelled"
    assert weakest([]) is None


def test_small_parts_of_one_basis_add_up():
    """Two parts of 0.6 % of one basis are 1.2 %."""
    small = [part(6.0, basis="modelled", id_=f"m:{n}") for n in range(2)]
    assert weakest([part(988.0), *small]) == "modelled"


def distances_j(parts, length_s=1e9):
    joules, low_j, high_j = interval_j(parts, length_s)
    assert joules == sum(part.joules for part in parts)
    return pytest.approx((joules - low_j, high_j - joules), abs=1e-6)


def test_meters_of_one_kind_err_together():
    """The same model on several devices adds up linearly."""
    gpus = [part(100.0, id_=f"nvml:{n}", component="gpu", uncertainty=0.05) for n in range(4)]
    assert distances_j(gpus) == (20.0, 20.0)


def test_meters_of_different_kinds_err_independently():
    """Different kinds combine in quadrature."""
    parts = [
        part(100.0, uncertainty=0.03),
        part(100.0, id_="nvml:0", component="gpu", uncertainty=0.04),
    ]
    assert distances_j(parts) == (sqrt(3.0**2 + 4.0**2),) * 2


def test_each_side_of_the_interval_is_combined_for_itself():
    """Linear within a kind, in quadrature across kinds, below and above."""
    cpus = [with_ends(part(100.0, id_=f"model:cpu{n}"), 85.0, 190.0) for n in range(2)]
    ram = with_ends(part(50.0, id_="model:ram", component="ram"), 10.0, 70.0)
    gpu = part(100.0, id_="nvml:0", component="gpu", uncertainty=0.3)
    assert distances_j([*cpus, ram, gpu]) == (
        sqrt(30.0**2 + 40.0**2 + 30.0**2),
        sqrt(180.0**2 + 20.0**2 + 30.0**2),
    )


def test_a_share_that_is_not_known_widens_both_sides():
    """Whose energy it is, is independent of what the meter is off by."""
    ours = with_ends(part(100.0, share_uncertainty=0.4), 70.0, 160.0)
    assert distances_j([ours]) == (50.0, sqrt(60.0**2 + 40.0**2))
    ours = part(100.0, uncertainty=0.3, share_uncertainty=0.4)
    assert distances_j([ours]) == (50.0, 50.0)


def test_a_share_that_is_the_most_widens_the_lower_side_only():
    """Memory that processes share, before it is known how much of it they do."""

    def most(one):
        return one._replace(meter=one.meter._replace(share_is_most=True))

    ours = most(part(100.0, uncertainty=0.3, share_uncertainty=0.4))
    assert distances_j([ours]) == (50.0, 30.0)
    ours = most(with_ends(part(100.0, share_uncertainty=0.4), 70.0, 160.0))
    assert distances_j([ours]) == (50.0, 60.0)


def test_ends_on_the_wrong_side_of_the_energy_count_as_none():
    """Within a second the step of a low count may be larger than that of the best one."""
    assert distances_j([with_ends(part(100.0), 101.0, 99.0)]) == (0.0, 0.0)


def test_the_edges_of_a_short_span_widen_the_interval():
    """One refresh's energy may be missing or too much; over the whole of it that is everything."""
    exact = [part(100.0)]
    assert distances_j(exact, 0.01) == (10.0, 10.0)
    assert distances_j(exact, 0.0001) == (100.0, 100.0)
    ends = with_ends(part(100.0), 100.0 - sqrt(300.0), 100.0 + sqrt(800.0))
    assert distances_j([ends], 0.01) == (20.0, 30.0)


def test_energy_is_times_pue_and_components_are_before_it():
    """`energy_kwh` is what the building drew; a component is what the component drew."""
    facts = [meter(uncertainty=0.1), meter("model:ram", "ram", "modelled")]
    parts = [Part(facts[0], 3.6e6, "measured", 7.2e6), Part(facts[1], 3.6e6, "modelled", 3.6e6)]
    got = energy_figures(parts, window(), Attribution(pue=1.5))
    assert got["cpu_kwh"] == 1.0
    assert got["ram_kwh"] == 1.0
    assert got["energy_kwh"] == pytest.approx(3.0)
    assert got["energy_low_kwh"] == pytest.approx(1.9 * 1.5, rel=1e-4)
    assert got["energy_high_kwh"] == pytest.approx(2.1 * 1.5, rel=1e-4)
    assert got["machine_kwh"] == pytest.approx(3.0)
    assert got["cpu_share"] == pytest.approx(0.5)
    assert got["cpu_basis"] == "measured"
    assert got["ram_basis"] == "modelled"
    assert got["meters"] == "rapl:package-0;model:ram"
    assert "gpu_kwh" not in got


def test_no_interval_goes_below_zero():
    """A wide interval ends at nothing."""
    facts = [meter(uncertainty=2.0)]
    got = energy_figures([Part(facts[0], 10.0, "assumed", 10.0)], window(), Attribution())
    assert got["energy_low_kwh"] == 0.0


def test_nothing_known_is_no_figure():
    """Without a part there is no energy, and without a grid no emissions."""
    assert energy_figures([], window(), Attribution())["basis"] is None
    assert "energy_kwh" not in energy_figures([], window(), Attribution())
    assert emission_figures(Sums(), {"energy_kwh": 1.0}, None, 1.0) == {}


def test_emissions_are_energy_times_the_mean_of_the_grid():
    """Grams were summed at each moment's intensity; the record's is their mean."""
    energy = {"energy_kwh": 2.0, "energy_low_kwh": 1.0, "energy_high_kwh": 3.0}
    sums = Sums((2 * JOULES_PER_KWH,), (300.0, 200.0, 400.0))
    got = emission_figures(sums, energy, GRID, 1.0)
    assert got["intensity_g_per_kwh"] == pytest.approx(150.0)
    assert got["emissions_g"] == pytest.approx(300.0)
    below = hypot(log(2.0 / 1.0), log(150.0 / 100.0))
    above = hypot(log(3.0 / 2.0), log(200.0 / 150.0))
    assert got["emissions_low_g"] == pytest.approx(300.0 * exp(-below))
    assert got["emissions_high_g"] == pytest.approx(300.0 * exp(above))


def test_an_energy_that_may_be_nothing_has_emissions_that_may_be_nothing():
    """A low end of 0 stays one; and with no energy at all the ends are those of the energy."""
    sums = Sums((JOULES_PER_KWH,), (50.0, 40.0, 80.0))
    energy = {"energy_kwh": 1.0, "energy_low_kwh": 0.0, "energy_high_kwh": 2.0}
    got = emission_figures(sums, energy, GRID, 1.0)
    assert got["emissions_low_g"] == 0.0
    nothing = {"energy_kwh": 0.0, "energy_low_kwh": 0.0, "energy_high_kwh": 1.0}
    got = emission_figures(Sums((0.0,)), nothing, GRID, 1.0)
    assert (got["emissions_g"], got["emissions_low_g"]) == (0.0, 0.0)
    assert got["emissions_high_g"] == 80.0


def test_a_constant_intensity_comes_back_without_rounding():
    """What went in as 50 comes out as 50."""
    joules = 123.456
    kwh = joules / JOULES_PER_KWH
    sums = Sums((joules,), (kwh * 50.0, kwh * 40.0, kwh * 80.0))
    energy = {"energy_kwh": kwh, "energy_low_kwh": kwh, "energy_high_kwh": kwh}
    assert emission_figures(sums, energy, GRID, 1.0)["intensity_g_per_kwh"] == 50.0


def test_unknown_energy_has_no_emissions_but_a_grid():
    """The intensity of the place is known even where the energy is not."""
    got = emission_figures(Sums(), {}, GRID, 1.0)
    assert got["intensity_g_per_kwh"] == 50.0
    assert "emissions_g" not in got


def test_coverage_is_the_least_observed_meter():
    """One blind meter lowers the coverage of all."""
    got = quality_figures(
        window(machine_j=(1.0, 1.0), observed_s=(10.0, 6.0)), [meter(), meter("nvml:0", "gpu")]
    )
    assert got["coverage"] == pytest.approx(0.6)


def test_a_substitute_covers_for_its_component():
    """Lost and stood in for are together one observation."""
    facts = [meter(), meter("model:cpu", basis="modelled", is_substitute=True)]
    got = quality_figures(window(machine_j=(1.0, 1.0), observed_s=(4.0, 5.0)), facts)
    assert got["coverage"] == pytest.approx(0.9)


def test_sleep_lowers_the_coverage():
    """Time asleep is not in the duration and is not observed."""
    got = quality_figures(window(suspended_s=30.0), [meter()])
    assert got["coverage"] == pytest.approx(0.25)


def test_faults_are_those_of_the_span():
    """Counts from before the span are taken off; codes stand in order."""
    before = Counts.of(0.0, observed_s=(0.0,), missed=2, faults={"reset": 3, "old": 1})
    after = Counts.of(
        10.0, observed_s=(10.0,), missed=5, faults={"reset": 4, "old": 1, "implausible": 2}
    )
    got = quality_figures(Window(before, after, 10.0, (1.0,), 2.5, NOW, None, ()), [meter()])
    assert got["faults"] == "implausible:2;reset:1"
    assert got["missed_reads"] == 3
    assert got["max_gap_s"] == 2.5


def test_a_gap_is_never_longer_than_the_span():
    """A reading before the span does not make a gap in it."""
    got = quality_figures(window(length_s=0.5), [meter()])
    assert got["max_gap_s"] == 0.5


def test_what_is_not_measured_is_said_in_every_record():
    """A fault that stands since the start of the meters is in the record beside those met."""
    got = quality_figures(window(), [meter()], {"gpu_unmeasured": 2})
    assert got["faults"] == "gpu_unmeasured:2"
    after = Counts.of(10.0, observed_s=(10.0,), faults={"reset": 1})
    met = Window(Counts(0.0), after, 10.0, (1.0,), 2.5, NOW, None, ())
    assert quality_figures(met, [meter()], {"zones_closed": 1})["faults"] == (
        "reset:1;zones_closed:1"
    )


def test_what_no_meter_counts_is_within_the_interval():
    """A board of 300 W that is not measured may have used nothing, or all of that, for 10 s."""
    policy, seen = Attribution(pue=1.5), [part(1000.0)]
    whole = energy_figures(seen, window(), policy)
    lacking = energy_figures(seen, window(), policy, 300.0)
    more_kwh = lacking["energy_high_kwh"] - whole["energy_high_kwh"]
    assert more_kwh * JOULES_PER_KWH == pytest.approx(3000.0 * 1.5)
    same = lacking | {"energy_high_kwh": whole["energy_high_kwh"]}
    assert same == whole


@pytest.mark.parametrize(("fault", "uncounted_w"), [("gpu_unmeasured", 300.0), (None, 0.0)])
def test_a_records_interval_holds_a_refused_board(fault, uncounted_w):
    """From the refusal to the record; one without a fault is nobody's energy."""
    refused = (Refusal("nvml:GPU-1", "it answers nothing", fault=fault, most_w=300.0),)
    whole, lacking = (
        Bench(MeterSet((FakeMeter(watts=100.0),), refused=those)) for those in ((), refused)
    )
    for bench in (whole, lacking):
        with bench, bench.tracker.span("s"):
            bench.clock.advance(10.0)
    before, after = whole.records[0], lacking.records[0]
    more_j = (after.energy_high_kwh - before.energy_high_kwh) * JOULES_PER_KWH
    assert more_j == pytest.approx(10.0 * uncounted_w)
    assert after.energy_kwh == before.energy_kwh
    assert after.faults == (fault and f"{fault}:1")
