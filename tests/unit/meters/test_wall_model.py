"""What a server draws beside processors and memory, by published wall power."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.api.idle_power import idle_power
from carbontrack.config.settings import Settings
from carbontrack.errors import MeterGone, MeterReadError
from carbontrack.meters.calibration import Calibration
from carbontrack.meters.cpu_model import CpuModel
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.meter import Hardware, MeterSet
from carbontrack.meters.ram_model import RamModel
from carbontrack.meters.wall import WALL_ID, WallFit
from carbontrack.meters.wall_model import (
    MODEL_ID,
    WALL_SHARES,
    Server,
    WallModel,
    wall_share,
    with_wall_model,
)
from carbontrack.testing import FakeMeter, build_powercap
from tests.support.bench import Bench, joules

TDP_W, THREADS = 200.0, 4


class Busy:
    """CPU seconds by hand."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def server(busy=None, tdp_w=TDP_W):
    return Server(tdp_w, busy or Busy(), THREADS)


def read(meters, now_s):
    """Read the meters in their order, as the bank does; what the last one counts, at three levels.

    None for a meter that fails.
    """
    for meter in meters:
        try:
            best_j = meter.read_joules(now_s)
        except MeterReadError:
            best_j = None
    return None if best_j is None else (meter.low_j, best_j, meter.high_j)


@pytest.mark.parametrize(
    ("load", "middle", "low", "high"),
    [
        (0.0, 0.19, 0.11, 0.47),
        (0.1, 0.34, 0.22, 0.60),
        (0.5, 0.55, 0.36, 0.89),
        (0.8, 0.80, 0.53, 1.25),
        (1.0, 1.03, 0.73, 1.49),
        (0.3, 0.445, 0.29, 0.745),
        (-1.0, 0.19, 0.11, 0.47),
        (7.0, 1.03, 0.73, 1.49),
    ],
)
def test_the_wall_by_load_is_that_of_published_servers(load, middle, low, high):
    """Median, 3rd and 97th percentile of the wall over design power, straight between."""
    assert wall_share(load) == pytest.approx((middle, low, high))


@pytest.mark.parametrize("load", [load for load, _ in WALL_SHARES])
@pytest.mark.parametrize("step_s", [0.25, 1.0, 10.0])
def test_all_components_together_are_the_wall(load, step_s):
    """With both models, at any load and however often it is read."""
    busy = Busy()
    meters = list(
        with_wall_model(MeterSet((CpuModel(TDP_W, busy, THREADS), RamModel(16.0))), server(busy))
    )
    assert [meter.id for meter in meters] == ["model:cpu", "model:ram", MODEL_ID]
    read(meters, 0.0)
    for number in range(1, round(20.0 / step_s) + 1):
        busy.seconds += load * THREADS * step_s
        rest_j = read(meters, number * step_s)
    inside_j = sum(meter.grown_j for meter in meters[:2])
    share = wall_share(load)
    walls_j = [TDP_W * part * 20.0 for part in (share.low, share.best, share.high)]
    assert rest_j == pytest.approx([max(0.0, wall_j - inside_j) for wall_j in walls_j])


@given(
    st.lists(
        st.tuples(st.floats(0.0, 5.0), st.floats(-0.5, 30.0), st.floats(0.0, 900.0), st.booleans()),
        max_size=40,
    )
)
def test_nothing_falls_whatever_the_others_count(steps):
    """Bursts, idle times, a meter above the wall, one that is silent now and then."""
    busy, cpu = Busy(), FakeMeter(watts=0.0)
    meters = list(with_wall_model(MeterSet((cpu,)), server(busy)))
    now_s, last_j = 0.0, (0.0, 0.0, 0.0)
    for seconds, worked_s, used_j, fails in steps:
        now_s += seconds
        busy.seconds += worked_s
        cpu.add_joules(used_j)
        if fails:
            cpu.fail()
        counts_j = read(meters, now_s)
        if counts_j is None:
            continue
        assert all(now >= then for now, then in zip(counts_j, last_j, strict=True))
        assert list(counts_j) == sorted(counts_j)
        assert counts_j[2] <= TDP_W * 1.49 * now_s + 1e-6
        last_j = counts_j


def test_a_meter_above_the_wall_leaves_nothing_and_no_debt():
    """An hour in which the processors use more than the curve says is not owed by the next."""
    cpu = FakeMeter(watts=0.0)
    meters = list(with_wall_model(MeterSet((cpu,)), server()))
    read(meters, 0.0)
    for second in range(1, 3601):
        cpu.add_joules(500.0)
        counts_j = read(meters, float(second))
    assert counts_j == (0.0, 0.0, 0.0)
    for second in range(3601, 3611):
        cpu.add_joules(10.0)
        counts_j = read(meters, float(second))
    assert counts_j == pytest.approx([10 * (TDP_W * s - 10.0) for s in (0.11, 0.19, 0.47)])


def test_bursts_between_two_anchors_do_not_add_up():
    """The wall's low end is no perspective that only grows; what it clips is not kept."""
    busy, cpu = Busy(), FakeMeter(watts=0.0)
    meters = list(with_wall_model(MeterSet((cpu,)), server(busy)))
    read(meters, 0.0)
    for quarter in range(1, 401):
        busy.seconds += 0.25 * THREADS if quarter % 4 in (1, 2, 3) else 0.0
        counts_j = read(meters, quarter * 0.25)
    share = wall_share(0.75)
    # two anchors at most are not over yet
    assert counts_j == pytest.approx(
        [100.0 * TDP_W * s for s in (share.low, share.best, share.high)], rel=0.02
    )


def test_a_silent_meter_is_not_taken_for_the_rest():
    """While the processors' meter is silent the rest is as well; then both carry everything."""
    cpu = FakeMeter(watts=0.0)
    meters = list(with_wall_model(MeterSet((cpu, FakeMeter("g", "gpu"))), server()))
    read(meters, 0.0)
    for second, fails in ((1, False), (2, True), (3, True), (4, False)):
        cpu.add_joules(20.0)
        if fails:
            cpu.fail()
        counts_j = read(meters, float(second))
        assert (counts_j is None) == fails
    assert counts_j[1] == pytest.approx(4 * TDP_W * 0.19 - 80.0)


def test_what_stands_in_for_a_lost_meter_is_subtracted_as_well():
    """Processors on a counter that is lost for a minute: the whole stays that of the wall."""
    cpu = FakeMeter(watts=20.0)
    spare = FakeMeter("spare:cpu", watts=20.0, basis="modelled")
    meters = MeterSet((cpu,), {"cpu": lambda: spare})
    with Bench(with_wall_model(meters, server())) as bench, bench.tracker.span("s") as span:
        bench.clock.advance(10.0)
        bench.sampler.tick()
        cpu.fail(60)
        for _ in range(60):
            bench.clock.advance(1.0)
            bench.sampler.tick()
        bench.clock.advance(10.0)
    wall_j = 80.0 * TDP_W * 0.19
    assert span.record.meters == f"fake:cpu;{MODEL_ID};spare:cpu"
    assert joules(span.record) == pytest.approx(wall_j, rel=0.05)
    assert joules(span.record) <= wall_j * (1 + 1e-9)


def test_a_load_that_cannot_be_read_is_a_missed_read():
    """And a closed meter is gone."""
    meters = list(with_wall_model(MeterSet((FakeMeter(),)), server(busy=lambda: None)))
    assert read(meters, 0.0) is None
    meters[-1].close()
    with pytest.raises(MeterGone):
        meters[-1].read_joules(1.0)


def test_a_record_has_it_as_a_component_that_is_assumed():
    """The id tells which it was, the basis that nobody measured it here."""
    meters = with_wall_model(MeterSet((FakeMeter(watts=20.0),)), server())
    with Bench(meters) as bench, bench.tracker.span("s") as span:
        bench.clock.advance(10.0)
    assert span.record.meters == f"fake:cpu;{MODEL_ID}"
    assert (span.record.basis, span.record.cpu_basis) == ("assumed", "measured")
    assert span.record.other_kwh * 3.6e6 == pytest.approx(10 * (TDP_W * 0.19 - 20.0))
    assert "other" in span.record._repr_html_()


@pytest.mark.parametrize(("load", "share"), WALL_SHARES)
def test_the_interval_of_the_sum_contains_that_of_the_wall(load, share):
    """What a model of the processors misses is in the rest; taken as independent, it is wider."""
    busy = Busy()
    models = MeterSet((CpuModel(TDP_W, busy, THREADS), RamModel(16.0)))
    with (
        Bench(with_wall_model(models, server(busy))) as bench,
        bench.tracker.span("s") as span,
    ):
        for _ in range(60):
            bench.clock.advance(1.0)
            busy.seconds += load * THREADS
            bench.sampler.tick()
    low, best, high = (
        getattr(span.record, f"energy_{end}kwh") * 3.6e6 / 60.0 / TDP_W
        for end in ("low_", "", "high_")
    )
    assert best == pytest.approx(share.best, rel=0.01)
    assert low < share.low
    assert share.high < high < 1.5 * share.high


def test_it_tells_a_nominal_power_and_the_power_of_the_idle_machine():
    """For spans too short to measure, and for the policies that bill idle energy otherwise."""
    meters = with_wall_model(
        MeterSet((CpuModel(TDP_W, Busy(), THREADS), RamModel(8.0)), hardware=Hardware()), server()
    )
    rest = meters.meters[-1]
    assert isinstance(rest, WallModel)
    inside_w = sum(meter.nominal_w for meter in meters.meters[:2])
    assert rest.nominal_w == (rest.rest_w(0.25, inside_w) or None)
    idle = idle_power(Settings(idle_w=5.0), meters, Calibration())
    assert idle.other == pytest.approx(TDP_W * 0.19 - 5.0 - 8 * 0.15)
    assert 0.0 <= rest.relative_uncertainty <= 1.0
    assert not rest.fault_counts


# -- when it is there -----------------------------------------------------------------------------


def find(tmp_path, procfs, **options):
    sysfs = options.pop("sysfs", tmp_path / "sys")
    return detect(Host(busy_s=lambda: 0.0, sysfs=sysfs, procfs=procfs, gpu_ids=(), **options))


def test_it_is_there_only_if_asked_for(tmp_path, procfs):
    """Otherwise what is counted would change in silence."""
    plain = find(tmp_path, procfs)
    asked = find(tmp_path, procfs, models_wall=True)
    assert [meter.id for meter in asked] == [*(meter.id for meter in plain), MODEL_ID]
    rest = asked.meters[-1]
    assert (rest.component, rest.basis) == ("other", "assumed")
    assert "x 225 W of design power, less what is metered" in rest.about


def test_it_stands_beside_measured_components_as_well(tmp_path, procfs):
    """Counters say what is inside, and the rest is what is left of the wall."""
    sysfs = build_powercap(tmp_path / "sys").sysfs
    found = find(tmp_path, procfs, sysfs=sysfs, models_wall=True)
    assert [meter.id for meter in found] == ["rapl:package-0", "rapl:dram-0", MODEL_ID]
    assert {name: make().id for name, make in found.substitutes.items()} == {
        "cpu": "model:cpu",
        "ram": "model:ram",
    }


def test_a_calibrated_wall_wins(tmp_path, procfs):
    """What was measured here is better; where the calibration does not fit, the model counts."""
    fits, differs = (
        WallFit(1.2, 50.0, 0.1, ids, 2) for ids in (("model:cpu", "model:ram"), ("rapl:package-0",))
    )
    found = find(tmp_path, procfs, models_wall=True, wall=fits)
    assert [meter.id for meter in found] == ["model:cpu", "model:ram", WALL_ID]
    found = find(tmp_path, procfs, models_wall=True, wall=differs)
    assert [meter.id for meter in found] == ["model:cpu", "model:ram", MODEL_ID]


def mystery(procfs, *, flags):
    (procfs / "cpuinfo").write_text(
        f"model name\t: Mystery 9000\nsiblings\t: 2\nflags\t: {flags}\n"
    )


def refusal_of(found):
    return next(refusal for refusal in found.refused if refusal.id == MODEL_ID)


def test_an_unknown_design_power_is_refused_with_what_to_do(tmp_path, procfs, recwarn):
    """The user asked for it, so it is said; a given design power is enough."""
    mystery(procfs, flags="ht")
    found = find(tmp_path, procfs, models_wall=True)
    assert MODEL_ID not in [meter.id for meter in found]
    refusal = refusal_of(found)
    assert "design power of this machine's processors is not known" in refusal.reason
    assert "CARBONTRACK_CPU_TDP_W" in refusal.cure
    assert "calibrate" in refusal.cure
    assert any('boundary="wall" is not counted' in str(one.message) for one in recwarn)
    given = find(tmp_path, procfs, models_wall=True, cpu_tdp_w=100.0)
    assert [meter.id for meter in given][-1] == MODEL_ID


def test_a_guest_is_not_advised_what_cannot_help_it(tmp_path, procfs, recwarn):
    """A package's design power does not tell its share, and its host's plug is elsewhere."""
    mystery(procfs, flags="hypervisor")
    for given_w in (None, 100.0):
        refusal = refusal_of(find(tmp_path, procfs, models_wall=True, cpu_tdp_w=given_w))
        assert "a virtual machine does not see" in refusal.reason
        assert "CARBONTRACK_CPU_TDP_W" not in refusal.cure
        assert "calibrate" not in refusal.cure
    assert recwarn


def test_a_guest_of_a_known_family_may_give_the_design_power(tmp_path, procfs):
    """The user vouches for the server; the guest has its threads' part of it, and not the whole."""
    (procfs / "cpuinfo").write_text(
        "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t: 2\nmodel name\t: AMD EPYC\n"
        "siblings\t: 2\nflags\t: hypervisor\n"
    )
    found = find(tmp_path, procfs, models_wall=True, cpu_tdp_w=225.0)
    assert "x 3.22 W of design power, less what is metered" in found.meters[-1].about


@pytest.mark.parametrize(("flags", "helps"), [("ht", True), ("hypervisor", False)])
def test_a_guest_is_not_told_to_load_a_module(tmp_path, procfs, flags, helps):
    """Where no zone of RAPL is, on real hardware one may be had."""
    (tmp_path / "sys" / "module").mkdir(parents=True)
    mystery(procfs, flags=flags)
    found = find(tmp_path, procfs)
    refusal = next(refusal for refusal in found.refused if refusal.id == "rapl")
    assert ("modprobe" in (refusal.cure or "")) is helps
    assert ("not visible inside a virtual machine" in refusal.reason) is not helps
    assert found.hardware.is_guest is not helps


CLIENTS = [
    "Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz",
    "12th Gen Intel(R) Core(TM) i7-12700K",
    "AMD Ryzen 9 5950X 16-Core Processor",
    "Intel(R) Pentium(R) Gold G5400 CPU @ 3.70GHz",
]


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("flags", ["fpu", "fpu hypervisor"])
def test_a_desktop_or_laptop_is_refused(tmp_path, procfs, name, flags):
    """No such machine is among the published walls; a given design power changes nothing."""
    (procfs / "cpuinfo").write_text(f"model name\t: {name}\nsiblings\t: 2\nflags\t: {flags}\n")
    for tdp_w in (None, 95.0):
        with pytest.warns(
            UserWarning, match="desktop or laptop processor, and the model is for servers"
        ):
            found = find(tmp_path, procfs, models_wall=True, cpu_tdp_w=tdp_w)
        assert MODEL_ID not in [meter.id for meter in found]
        refusal = next(refusal for refusal in found.refused if refusal.id == MODEL_ID)
        # a guest sees no wall meter
        assert ("calibrate" in (refusal.cure or "")) is (flags == "fpu")


def test_a_guest_has_its_share_of_its_hosts_wall(tmp_path, procfs):
    """Two of the 64 threads of a part of 225 W; the line says whose wall it is."""
    text = (procfs / "cpuinfo").read_text()
    alone = find(tmp_path, procfs, models_wall=True).meters[-1]
    (procfs / "cpuinfo").write_text(f"{text}flags\t: fpu hypervisor\n")
    guest = find(tmp_path, procfs, models_wall=True).meters[-1]
    assert "x 7.031 W of design power" in guest.about
    assert (
        "of the host's wall power, this guest's share in proportion to its part of the design power"
        in guest.about
    )
    assert "host" not in alone.about


def test_a_design_power_that_is_known_by_family_is_called_so(tmp_path, procfs):
    """What a family tells is not nothing, and is not enough either."""
    (procfs / "cpuinfo").write_text(
        "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n"
        "flags\t: fpu hypervisor\n"
    )
    with pytest.warns(UserWarning, match="is known by family only"):
        found = find(tmp_path, procfs, models_wall=True)
    assert found.hardware.cpu_known == "family"
    assert MODEL_ID not in [meter.id for meter in found]


def test_it_counts_nothing_that_another_meter_counts():
    """A plug, or anything else that is no processor, memory or GPU."""
    plug = FakeMeter("plug:desk", "other")
    whole = FakeMeter("ipmi:board")
    whole.covers = ("cpu", "ram", "other")
    for other in (plug, whole):
        with pytest.warns(UserWarning, match="counts the same energy"):
            found = with_wall_model(MeterSet((FakeMeter(), other)), server())
        assert [meter.id for meter in found] == ["fake:cpu", other.id]
    with pytest.warns(UserWarning, match="no meter counts the processors"):
        with_wall_model(MeterSet((FakeMeter("g", "gpu"),)), server())
