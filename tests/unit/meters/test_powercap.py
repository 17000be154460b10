"""RAPL zones: which are read, what they count, and what happens when one misbehaves."""

import os
from pathlib import Path

import pytest

from carbontrack.errors import MeterReadError
from carbontrack.meters.rapl import cap_w, powercap_meters
from carbontrack.testing import Zone, build_powercap


def open_meters(tree, **options):
    meters, refused = powercap_meters(tree.sysfs, **options)
    return {meter.id: meter for meter in meters}, {refusal.id: refusal for refusal in refused}


def open_descriptors():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else None


def zones(*names_and_keys, **options):
    return [Zone(name, key, **options) for name, key in names_and_keys]


def steps(meters, at_s):
    return {name: meter.read_joules(at_s) for name, meter in meters.items()}


def test_packages_and_dram_are_read_and_their_parts_are_not(tmp_path):
    """The default tree gives package and dram; core and uncore are refused with a reason."""
    meters, refused = open_meters(build_powercap(tmp_path))
    assert list(meters) == ["rapl:package-0", "rapl:dram-0"]
    assert [meter.component for meter in meters.values()] == ["cpu", "ram"]
    assert refused.keys() == {"rapl:core", "rapl:uncore"}
    assert "contained in package" in refused["rapl:core"].reason


def test_two_sockets_with_psys_core_and_dram_add_up_once(tmp_path):
    """psys, core and uncore overlap with others; each joule of a two-socket server counts once."""
    tree = build_powercap(
        tmp_path,
        [
            Zone("psys", "intel-rapl:2", 5_000),
            Zone("package-0", "intel-rapl:0", 1_000),
            Zone("core", "intel-rapl:0:0", 2_000),
            Zone("dram", "intel-rapl:0:1", 3_000),
            Zone("package-1", "intel-rapl:1", 4_000),
            Zone("dram", "intel-rapl:1:0", 6_000),
        ],
    )
    meters, refused = open_meters(tree)
    assert list(meters) == ["rapl:package-0", "rapl:dram-0", "rapl:package-1", "rapl:dram-1"]
    assert "rapl:psys" in refused
    steps(meters, 0.0)
    for key, joules in {
        "intel-rapl:0": 10,
        "intel-rapl:1": 20,
        "intel-rapl:0:1": 3,
        "psys": 99,
    }.items():
        tree.add_joules(key, joules)
    assert steps(meters, 1.0) == pytest.approx(
        {"rapl:package-0": 10, "rapl:dram-0": 3, "rapl:package-1": 20, "rapl:dram-1": 0}
    )


def test_a_flat_tree_without_nesting_is_understood(tmp_path):
    """Children that are linked flat only are found, and told apart from top-level zones."""
    tree = build_powercap(tmp_path)
    nested = tree.directory("dram")
    flat = tmp_path / "class" / "powercap" / "intel-rapl:0:2"
    flat.unlink()
    nested.rename(flat)
    meters, _ = open_meters(tree)
    assert list(meters) == ["rapl:package-0", "rapl:dram-0"]


def test_a_tree_without_flat_links_is_understood(tmp_path):
    """Where only the control type's own folder is linked, the zones are found inside it."""
    tree = build_powercap(tmp_path)
    for link in (tmp_path / "class" / "powercap").glob("intel-rapl:*"):
        link.unlink()
    assert list(open_meters(tree)[0]) == ["rapl:package-0", "rapl:dram-0"]


def test_a_top_level_dram_is_counted_too(tmp_path):
    """Some kernels show dram beside the package instead of inside it."""
    tree = build_powercap(tmp_path, zones(("package-0", "intel-rapl:0"), ("dram", "intel-rapl:1")))
    assert list(open_meters(tree)[0]) == ["rapl:package-0", "rapl:dram-1"]


def test_more_than_ten_zones_keep_their_order(tmp_path):
    """Zone 10 comes after zone 9, not after zone 1."""
    made = [Zone(f"package-{n}", f"intel-rapl:{n}", 1_000_000 * (n + 1)) for n in range(12)]
    meters, _ = open_meters(build_powercap(tmp_path, made))
    assert list(meters) == [f"rapl:package-{n}" for n in range(12)]


def test_the_mmio_twin_is_refused_where_the_msr_zone_exists(tmp_path):
    """intel-rapl-mmio is the same package through another register."""
    tree = build_powercap(
        tmp_path, zones(("package-0", "intel-rapl:0"), ("package-0", "intel-rapl-mmio:0"))
    )
    meters, refused = open_meters(tree)
    assert list(meters) == ["rapl:package-0"]
    assert "second interface" in refused["rapl:intel-rapl-mmio"].reason


def test_the_mmio_twin_is_used_where_it_stands_alone(tmp_path):
    """Better the second register than none."""
    tree = build_powercap(tmp_path, zones(("package-0", "intel-rapl-mmio:0")))
    assert list(open_meters(tree)[0]) == ["rapl:package-0"]


def test_amd_without_constraints_has_a_stated_cap(tmp_path):
    """AMD's zones name no limit and no children; the default cap sets the poll period."""
    tree = build_powercap(tmp_path, zones(("package-0", "intel-rapl:0"), limit_w=None))
    meters, _ = open_meters(tree)
    assert meters["rapl:package-0"].max_period_s == pytest.approx(0.4 * 262_143.328_85 / 1000.0)


@pytest.mark.parametrize(("limit_w", "cap"), [(20.0, 50.0), (200.0, 300.0), (None, 1000.0)])
def test_the_cap_follows_the_limits(tmp_path, limit_w, cap):
    """One and a half times the limit, never below 50 W."""
    tree = build_powercap(tmp_path, zones(("package-0", "intel-rapl:0"), limit_w=limit_w))
    assert cap_w(tree.directory("package-0"), "cpu") == pytest.approx(cap)


def test_a_raised_limit_is_noticed(tmp_path):
    """Steps that the old limit forbids are believed once the limits were raised."""
    tree = build_powercap(tmp_path, zones(("package-0", "intel-rapl:0"), limit_w=40.0))
    meter = open_meters(tree)[0]["rapl:package-0"]
    meter.read_joules(0.0)
    for file in tree.directory("package-0").glob("constraint_0_*_uw"):
        file.write_text("400000000\n")
    tree.add_joules("package-0", 300.0)
    assert meter.read_joules(1.0) == pytest.approx(300.0)
    assert meter.fault_counts == {}


def test_wraps_are_exact(tmp_path):
    """A counter that wraps between two reads loses nothing."""
    tree = build_powercap(tmp_path, zones(("package-0", "intel-rapl:0"), raw_uj=262_143_000_000))
    meter = open_meters(tree)[0]["rapl:package-0"]
    for second in range(20):
        assert meter.read_joules(float(second)) == pytest.approx(100.0 * second, abs=1e-4)
        tree.add_joules("package-0", 100.0)


def test_without_a_range_a_wrap_is_a_reset(tmp_path):
    """An unreadable max_energy_range_uj never makes negative or invented energy."""
    tree = build_powercap(tmp_path, zones(("package-0", "intel-rapl:0"), range_uj=None))
    meter = open_meters(tree)[0]["rapl:package-0"]
    meter.read_joules(0.0)
    tree.set_raw_uj("package-0", 50_000_000)
    with pytest.raises(MeterReadError):
        meter.read_joules(1.0)
    for at_s in (2.0, 3.0):
        tree.add_joules("package-0", 100.0)
        joules = meter.read_joules(at_s)
    assert joules == pytest.approx(200.0)
    assert meter.fault_counts == {"reset": 1}


@pytest.mark.parametrize("text", ["", "-1", "0", "garbage", "12 34", "9" * 30])
def test_garbage_in_the_file_is_a_missed_read(tmp_path, text):
    """A failed read neither loses nor invents energy."""
    tree = build_powercap(tmp_path)
    meter = open_meters(tree)[0]["rapl:package-0"]
    meter.read_joules(0.0)
    tree.add_joules("package-0", 100.0)
    tree.break_zone("package-0", text)
    with pytest.raises(MeterReadError):
        meter.read_joules(1.0)
    tree.add_joules("package-0", 100.0)
    assert meter.read_joules(2.0) == pytest.approx(200.0)
    assert meter.fault_counts == {}


def test_a_zone_that_vanishes_and_returns_goes_on(tmp_path):
    """What was used in between is carried by the zone's own counter."""
    tree = build_powercap(tmp_path)
    meter = open_meters(tree)[0]["rapl:package-0"]
    meter.read_joules(0.0)
    tree.remove("package-0")
    for at_s in (1.0, 2.0):
        with pytest.raises(MeterReadError):
            meter.read_joules(at_s)
    tree.add_joules("package-0", 100.0)
    assert meter.read_joules(3.0) == pytest.approx(100.0)


def test_a_file_put_in_the_place_of_the_open_one_is_followed(tmp_path):
    """Replacing the file does not leave the meter reading a deleted one for ever."""
    tree = build_powercap(tmp_path)
    meter = open_meters(tree)[0]["rapl:package-0"]
    meter.read_joules(0.0)
    energy = tree.directory("package-0") / "energy_uj"
    draft = energy.with_name("draft")
    draft.write_text(f"{tree.raw_uj('package-0') + 5_000_000}\n")
    draft.replace(energy)
    assert meter.read_joules(1.0) == pytest.approx(5.0)


def failing(descriptor, folder):
    """Let reads of this descriptor fail from now on, and leave the file itself alone."""
    other = os.open(folder, os.O_RDONLY)  # a directory: EISDIR
    os.dup2(other, descriptor)
    os.close(other)


def test_one_failed_read_is_made_good_at_once(tmp_path):
    """A read fails and the next would not: it is made at the same instant, so nothing is missed."""
    tree = build_powercap(tmp_path, zones(("package-0", "intel-rapl:0")))
    opened = []

    def open_file(path):
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    meter = open_meters(tree, open_file=open_file)[0]["rapl:package-0"]
    assert meter.read_joules(0.0) == 0.0
    before = open_descriptors()
    for second in (1, 2, 3):
        tree.add_joules("package-0", 5.0)
        failing(opened[-1], tmp_path)
        assert meter.read_joules(float(second)) == pytest.approx(5.0 * second)
    assert len(opened) == 4
    assert open_descriptors() == before


def test_two_failed_reads_are_a_missed_one(tmp_path):
    """Where the second read fails as well the meter says so, and the next answer carries all."""
    tree = build_powercap(tmp_path, zones(("package-0", "intel-rapl:0")))
    opened, broken = [], False

    def open_file(path):
        if broken:
            raise OSError(5, "Input/output error", str(path))
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    meter = open_meters(tree, open_file=open_file)[0]["rapl:package-0"]
    meter.read_joules(0.0)
    tree.add_joules("package-0", 5.0)
    failing(opened[-1], tmp_path)
    broken = True
    for second in (1.0, 2.0):
        with pytest.raises(MeterReadError, match="Input/output error"):
            meter.read_joules(second)
    broken = False
    assert meter.read_joules(3.0) == pytest.approx(5.0)


def test_permission_denied_is_refused_with_its_cure(tmp_path):
    """One closed zone is named with the lines that open it; the others are read."""

    def open_file(path):
        if "package" in (path.parent / "name").read_text():
            raise PermissionError(13, "Permission denied", str(path))
        return os.open(path, os.O_RDONLY)

    meters, refused = open_meters(build_powercap(tmp_path), open_file=open_file)
    assert list(meters) == ["rapl:dram-0"]
    assert "permission denied" in refused["rapl:package-0"].reason
    assert "70-powercap.rules" in refused["rapl:package-0"].cure
    assert "chmod" in refused["rapl:package-0"].cure


def test_a_pipe_or_a_folder_in_the_place_of_a_counter_cannot_hang(tmp_path):
    """What is no file of text is refused at once."""
    tree = build_powercap(tmp_path)
    for zone, make in (("package-0", os.mkfifo), ("dram", os.mkdir)):
        path = tree.directory(zone) / "energy_uj"
        path.unlink()
        make(path)
    meters, refused = open_meters(tree)
    assert meters == {}
    assert refused.keys() >= {"rapl:package-0", "rapl:dram-0"}


def test_nothing_there_says_why(tmp_path):
    """An empty tree and Docker's masked one are told apart, each with its cure."""
    empty = powercap_meters(tmp_path)[1][0]
    assert "no RAPL zone" in empty.reason
    links = tmp_path / "class" / "powercap"
    links.mkdir(parents=True)
    (links / "intel-rapl:0").symlink_to("../../devices/virtual/powercap/intel-rapl/intel-rapl:0")
    masked = powercap_meters(tmp_path)[1][0]
    assert "container" in masked.reason
    assert "CARBONTRACK_SYSFS_PATH" in masked.cure


def test_a_closed_meter_gives_up_its_descriptors(tmp_path):
    """Closing twice is fine, and nothing stays open."""
    before = open_descriptors()
    meters, _ = open_meters(build_powercap(tmp_path))
    for meter in meters.values():
        meter.close()
        meter.close()
    assert open_descriptors() == before


def test_two_zones_of_one_name_keep_two_ids(tmp_path):
    """Ids stay unique when firmware gives two zones the same name."""
    made = [Zone("package-0", f"intel-rapl:{n}", 1_000_000 * (n + 1)) for n in range(2)]
    assert list(open_meters(build_powercap(tmp_path, made))[0]) == [
        "rapl:package-0",
        "rapl:package-0#2",
    ]


@pytest.mark.skipif(open_descriptors() is None, reason="it counts in procfs")
@pytest.mark.parametrize(("mode", "kept"), [(0o444, 0), (0o400, 2)])
def test_at_rest_no_descriptor_is_held_but_those_of_root_alone(tmp_path, mode, kept):
    """Nothing is lost over a rest; what only root may read could not be opened again later."""
    if mode == 0o400 and os.geteuid() != 0:
        pytest.skip("another user could not read it at all")
    tree = build_powercap(tmp_path)
    for path in tree.sysfs.rglob("energy_uj"):
        path.chmod(mode)
    before = open_descriptors()
    meters, _ = open_meters(tree)
    steps(meters, 0.0)
    for meter in meters.values():
        meter.rest()
    assert open_descriptors() - before == kept
    tree.add_joules("intel-rapl:0", 5)
    assert steps(meters, 1.0)["rapl:package-0"] == pytest.approx(5.0)
    for meter in meters.values():
        meter.close()
    assert open_descriptors() == before
