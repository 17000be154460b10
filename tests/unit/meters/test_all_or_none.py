"""A component is measured by all of its zones or by none; what is closed is said and held."""

import os
import sys

import pytest

from carbontrack.errors import MeterReadError
from carbontrack.meters.all_or_none import together
from carbontrack.meters.cpu_info import sockets_online
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.gpu_model import with_most_power
from carbontrack.meters.meter import MeterSet, Refusal
from carbontrack.meters.perf import perf_meters
from carbontrack.meters.rapl import powercap_meters
from carbontrack.testing import FakeMeter, Zone, build_powercap
from tests.support.bench import Bench, joules

NO_LIBRARY = "libnvidia-ml-that-is-not-there.so"


def sockets(count, dram=False, **options):
    made = [
        Zone(f"package-{n}", f"intel-rapl:{n}", 1_000_000 * (n + 1), **options)
        for n in range(count)
    ]
    if dram:
        made += [Zone("dram", f"intel-rapl:{n}:0", 5_000_000 * (n + 1)) for n in range(count)]
    return made


def closing(*keys):
    """Opens counters but for those of these zones, as for a user who may not read them."""

    def open_file(path):
        if path.parent.name in keys:
            raise PermissionError(13, "Permission denied", str(path))
        return os.open(path, os.O_RDONLY)

    return open_file


def half_open(tree, *keys, **options):
    """The meters by id, and the faults of what was refused."""
    meters, refused = powercap_meters(tree.sysfs, open_file=closing(*keys), **options)
    return {meter.id: meter for meter in meters}, MeterSet(refused=refused).standing_faults()


def find(sysfs, procfs):
    return detect(
        Host(lambda: 0.0, sysfs=sysfs, procfs=procfs, gpu_ids=(), nvml_library=NO_LIBRARY)
    )


def test_a_closed_socket_is_taken_to_be_like_the_open_one(tmp_path):
    """True 160 W: 100 W are read, 200 modelled, and the interval has the other's whole limit."""
    tree = build_powercap(tmp_path, sockets(2, limit_w=150.0))
    meters, faults = half_open(tree, "intel-rapl:1")
    assert (list(meters), faults) == (["model:packages"], {"zones_closed": 1})
    meter = meters["model:packages"]
    meter.read_joules(0.0)
    tree.add_joules("package-0", 100.0)
    assert meter.read_joules(1.0) == pytest.approx(200.0)
    assert (meter.low_j, meter.high_j) == pytest.approx((93.0, 107.0 + 150.0))
    assert (meter.basis, meter.component) == ("modelled", "cpu")
    assert "rapl:package-0" in meter.about


@pytest.mark.parametrize(("closed", "part"), [((2,), 4 / 3), ((1, 3), 2.0), ((0, 1, 2), 4.0)])
def test_any_number_of_sockets_may_be_closed(tmp_path, closed, part):
    """One, two or three of four: what is read stands for all, and each closed one is counted."""
    tree = build_powercap(tmp_path, sockets(4, limit_w=100.0))
    meters, faults = half_open(tree, *(f"intel-rapl:{n}" for n in closed))
    assert faults == {"zones_closed": len(closed)}
    meter = meters["model:packages"]
    meter.read_joules(0.0)
    for number in range(4):
        tree.add_joules(f"package-{number}", 50.0)
    assert meter.read_joules(1.0) == pytest.approx(50.0 * (4 - len(closed)) * part)
    assert meter.low_j <= 200.0 <= meter.high_j


@pytest.mark.parametrize(("moves_for_s", "found_at_s"), [(0, 2), (3, 8)])
def test_a_dead_zone_among_those_that_are_read_is_no_part_of_the_sum(
    tmp_path, moves_for_s, found_at_s
):
    """Three of four are read, and one of them stands still: nothing is known of it."""
    tree = build_powercap(tmp_path, sockets(4))
    meter = half_open(tree, "intel-rapl:3")[0]["model:packages"]
    meter.read_joules(0.0)
    for second in range(1, 12):
        for number in range(3 if second <= moves_for_s else 2):
            tree.add_joules(f"package-{number}", 50.0)
        if second < found_at_s:
            meter.read_joules(float(second))
        else:
            with pytest.raises(MeterReadError, match="rapl:package-2 does not change"):
                meter.read_joules(float(second))
    assert meter.fault_counts == {"stands_still": 1}
    for number in range(3):
        tree.add_joules(f"package-{number}", 50.0)
    assert meter.read_joules(12.0) == pytest.approx((2 * 600 + 50 * (moves_for_s + 1)) * 4 / 3)


def test_zones_that_stand_still_together_are_left_to_the_watch_of_the_whole(tmp_path):
    """A machine that was suspended, say."""
    tree = build_powercap(tmp_path, sockets(3))
    meter = half_open(tree, "intel-rapl:2")[0]["model:packages"]
    for second in range(20):
        assert meter.read_joules(float(second)) == 0.0


def test_a_closed_dram_zone_leaves_the_packages_measured(tmp_path):
    """Memory is completed on its own; it may differ by its activity, a factor of five."""
    tree = build_powercap(tmp_path, sockets(2, dram=True))
    meters, faults = half_open(tree, "intel-rapl:1:0")
    assert list(meters) == ["model:dram", "rapl:package-0", "rapl:package-1"]
    assert faults == {"zones_closed": 1}
    meter = meters["model:dram"]
    meter.read_joules(0.0)
    tree.add_joules("intel-rapl:0:0", 10.0)
    assert meter.read_joules(1.0) == pytest.approx(20.0)
    assert (meter.low_j, meter.high_j) == pytest.approx((9.3, 10.7 + 50.0))


def test_a_zone_that_shows_no_number_is_closed_as_well(tmp_path):
    """What cannot be read is missing, whatever the reason."""
    tree = build_powercap(tmp_path, sockets(2))
    tree.break_zone("package-1", "garbage")
    meters, faults = half_open(tree)
    assert (list(meters), faults) == (["model:packages"], {"zones_closed": 1})


def test_without_limits_the_design_power_bounds_what_is_closed(tmp_path):
    """AMD's zones name no limit."""
    tree = build_powercap(tmp_path, sockets(2, limit_w=None))
    meter = half_open(tree, "intel-rapl:1", package_w=225.0)[0]["model:packages"]
    meter.read_joules(0.0)
    meter.read_joules(10.0)
    assert meter.high_j == pytest.approx(2250.0)


@pytest.mark.parametrize(
    ("dram", "ids"),
    [(False, ["rapl:package-0-die-0"]), (True, ["model:packages", "rapl:dram-0-die-0"])],
)
def test_a_closed_die_is_missing_only_where_dies_differ(tmp_path, dram, ids):
    """AMD's dies all show the counter of their package; Intel's have one each, and count dram."""
    made = [Zone(f"package-0-die-{n}", f"intel-rapl:{n}", 1_000_000 * (n + 1)) for n in range(2)]
    made += [Zone("dram", "intel-rapl:0:0")] * dram
    meters, faults = half_open(build_powercap(tmp_path, made), "intel-rapl:1")
    assert list(meters) == ids
    assert faults == ({"zones_closed": 1} if dram else {})


def test_all_closed_is_no_fault_but_the_model(tmp_path, procfs):
    """The usual case of a plain user: the basis says it, whatever else can be read."""
    made = [
        Zone("psys", "intel-rapl:1", 7_000),
        *sockets(1),
        Zone("package-0", "intel-rapl-mmio:0"),
    ]
    tree = build_powercap(tmp_path / "sys", made)
    for zone in ("intel-rapl:0", "intel-rapl-mmio:0"):
        tree.break_zone(zone, "closed")
    found = find(tree.sysfs, procfs)
    assert [meter.id for meter in found] == ["model:cpu", "model:ram"]
    assert found.standing_faults() == {}


def test_a_zone_without_a_range_is_still_measured(tmp_path):
    """An unreadable max_energy_range_uj costs a step at each wrap, which the record says."""
    made = sockets(2)
    made[1] = Zone("package-1", "intel-rapl:1", 262_143_000_000, range_uj=None)
    tree = build_powercap(tmp_path, made)
    meters, faults = half_open(tree)
    assert (list(meters), faults) == (["rapl:package-0", "rapl:package-1"], {})


def processors(sysfs, *packages):
    """The kernel's list of processors, each of a package of its own number."""
    cpus = sysfs / "devices" / "system" / "cpu"
    for number, package in enumerate(packages):
        topology = cpus / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_siblings_list").write_text(f"{number}\n")
    (cpus / "online").write_text(f"0-{len(packages) - 1}\n")


def test_a_package_that_powercap_does_not_show_is_missing(tmp_path, procfs):
    """One zone mounted into a container of a machine with two packages is not the machine."""
    tree = build_powercap(tmp_path / "sys", sockets(1))
    processors(tree.sysfs, 0, 1)
    found = find(tree.sysfs, procfs)
    assert [meter.id for meter in found] == ["model:packages", "model:ram"]
    assert found.standing_faults() == {"zones_closed": 1}
    assert "2 packages" in next(r.reason for r in found.refused if r.id == "rapl:package-1")


def test_in_a_guest_packages_are_not_counted(tmp_path, procfs):
    """There each virtual processor may pass for a package."""
    tree = build_powercap(tmp_path / "sys", sockets(1))
    processors(tree.sysfs, 0, 1)
    cpuinfo = procfs / "cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text() + "flags\t: hypervisor\n")
    assert [meter.id for meter in find(tree.sysfs, procfs)] == ["rapl:package-0", "model:ram"]


def perf_tree(sysfs, packages, cpumask):
    """The events of a kernel whose energy is its processors' own clock, a software event."""
    power = sysfs / "bus" / "event_source" / "devices" / "power"
    (power / "events").mkdir(parents=True)
    (power / "type").write_text("1\n")
    (power / "cpumask").write_text(cpumask)
    (power / "events" / "energy-pkg").write_text("event=0x00\n")
    (power / "events" / "energy-pkg.scale").write_text("1e-9\n")
    processors(sysfs, *packages)


def can_count():
    try:
        from carbontrack.meters.perf import PerfEvent

        PerfEvent(1, 0, 0).close()
        PerfEvent(1, 0, 1).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux" or not can_count(), reason="perf events are closed")
def test_where_perf_reads_all_packages_it_is_used_and_nothing_is_missing(tmp_path, procfs):
    """A measured whole is better than a completed part."""
    tree = build_powercap(tmp_path / "sys", sockets(2))
    tree.break_zone("package-1", "closed")
    perf_tree(tree.sysfs, (0, 1), "0-1")
    found = find(tree.sysfs, procfs)
    assert [meter.id for meter in found] == ["perf:package-0", "perf:package-1", "model:ram"]
    assert found.standing_faults() == {}
    for meter in found:
        meter.close()


class Event:
    """A counter by hand."""

    def read(self):
        return 0

    def close(self):
        pass


def test_perf_that_names_one_of_two_packages_is_refused(tmp_path):
    """A mask of one processor is not the machine's, if the machine has more packages."""
    perf_tree(tmp_path, (0, 1), "0")
    meters, refused = perf_meters(
        tmp_path, ("cpu",), lambda *_: Event(), sockets=lambda: sockets_online(tmp_path)
    )
    assert meters == ()
    assert "1 of 2 packages" in refused[0].reason


@pytest.mark.parametrize("errno", [13, 24])
def test_perf_that_is_refused_on_one_package_leaves_a_completed_part(tmp_path, errno):
    """EACCES or EMFILE on the second one: none of perf's, and what powercap shows is completed."""
    perf_tree(tmp_path, (0, 1), "0-1")

    def open_event(_kind, _config, cpu):
        if cpu == 1:
            raise OSError(errno, os.strerror(errno))
        return Event()

    meters, refused = perf_meters(tmp_path, ("cpu",), open_event)
    assert (meters, [refusal.id for refusal in refused]) == ((), ["perf:package"])


# -- while it runs ----------------------------------------------------------------------------


def two_sockets(**substitutes):
    a, b = FakeMeter("rapl:package-0", watts=100.0), FakeMeter("rapl:package-1", watts=60.0)
    return a, b, MeterSet(together((a, b)), substitutes)


def test_one_of_two_sockets_lost_brings_the_model_of_both():
    """True 160 W: the one that is left does not pass for both; the record says what stood in."""
    _, b, meters = two_sockets(cpu=lambda: FakeMeter("model:cpu", watts=150.0, basis="modelled"))
    bench = Bench(meters, interval_s=1.0)
    with bench, bench.tracker.span("s") as span:
        bench.clock.advance(10.0)
        bench.sampler.tick()
        b.fail(1000)
        for _ in range(90):
            bench.clock.advance(1.0)
            bench.sampler.tick()
    record = span.record
    assert record.cpu_basis == "modelled"
    assert record.meters == "rapl:package-0;rapl:package-1;model:cpu"
    assert "substituted:1" in record.faults
    # the model counts from the last answer on, not from the third silent tick
    assert joules(record) == pytest.approx(10 * 160.0 + 90 * 150.0)
    assert record.coverage == pytest.approx(1.0)


def test_a_short_silence_of_one_socket_loses_nothing():
    """The counts of both go on, and the next answers carry what they missed."""
    _, b, meters = two_sockets()
    bench = Bench(meters, interval_s=1.0)
    with bench, bench.tracker.span("s") as span:
        for second in range(10):
            if second == 5:
                b.fail(1)
            bench.clock.advance(1.0)
            bench.sampler.tick()
    assert joules(span.record) == pytest.approx(1600.0)
    assert (span.record.cpu_basis, span.record.faults) == ("measured", None)


def test_a_meter_that_is_closed_leaves_the_others_alone():
    """Another package's meter may take the place of one."""
    _, b, meters = two_sockets()
    first, second = meters
    second.close()
    b.fail(1000)
    first.read_joules(0.0)
    assert first.read_joules(1.0) == pytest.approx(100.0)


def test_an_answer_is_given_once():
    """Whoever asks again at the same instant has what is there now."""
    a, _, meters = two_sockets()
    first, second = meters
    first.read_joules(0.0)
    second.read_joules(0.0)
    before = a.reads
    first.read_joules(1.0)
    second.read_joules(1.0)
    assert a.reads == before + 1
    first.read_joules(1.0)
    assert a.reads == before + 2


def test_the_one_that_is_silent_is_named():
    """The other one's error tells why it has no value."""
    _, b, meters = two_sockets()
    b.fail(2)
    with pytest.raises(MeterReadError, match="rapl:package-1"):
        meters.meters[0].read_joules(0.0)


def test_what_a_meter_offers_beyond_the_protocol_stays(tmp_path):
    """Faults, limits of its period and rest are those of the zone."""
    tree = build_powercap(tmp_path, sockets(2))
    zones = powercap_meters(tree.sysfs)[0]
    for zone, member in zip(zones, together(zones), strict=True):
        assert member.fault_counts is zone.fault_counts
        assert member.max_period_s == zone.max_period_s
        member.rest()


def test_one_meter_and_modelled_ones_stay_as_they_are():
    """Only measured meters of one component belong together; boards do not."""
    meters = (
        FakeMeter("rapl:package-0"),
        FakeMeter("model:ram", component="ram", basis="modelled"),
        FakeMeter("nvml:a", component="gpu"),
        FakeMeter("nvml:b", component="gpu"),
    )
    assert together(meters) == meters


# -- GPUs: those that are read stay measured, and the interval holds the others ----------------


@pytest.mark.parametrize(
    ("names", "most_w"),
    [
        (("NVIDIA H100 80GB HBM3",) * 2, 770.0),
        (("Tesla T4", "NVIDIA A100 80GB PCIe"), 330.0),
        (("GRID T4-4Q",), 19.25),
        (("a board that nobody knows",), None),
        ((), None),
    ],
)
def test_the_most_that_a_refused_board_uses_is_its_design_power_and_a_tenth(names, most_w):
    """Of the largest of those that there are; unknown is no bound, and is documented as none."""
    lost = Refusal("nvml:GPU-1", "it does not answer", fault="gpu_unmeasured")
    other = Refusal("nvml:GPU-2", "it is not used by this program")
    bounded = with_most_power((lost, other), names)
    assert bounded[0].most_w == (most_w and pytest.approx(most_w))
    assert bounded[1] == other
    assert MeterSet(refused=bounded).uncounted_w() == pytest.approx(most_w or 0.0)
