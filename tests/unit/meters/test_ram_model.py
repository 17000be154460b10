"""Energy of memory from its modules or its size, with the ends of its interval."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.interval import Interval
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.ram_model import (
    MODULE_W,
    MODULE_W_PER_GIB,
    W_PER_GIB,
    RamModel,
    installed_gib,
    modules_gib,
    ram_model,
)
from tests.support.edac import add_dimm, add_rank, add_row, add_subchannels, controller


def power_w(model):
    """Best, low and high power, by its counts over ten seconds."""
    model.read_joules(5.0)
    best_j = model.read_joules(15.0)
    return Interval(best_j / 10.0, model.low_j / 10.0, model.high_j / 10.0)


def test_memory_costs_by_its_size_and_never_less_for_more():
    """Installed GiB times watts per GiB times time, at the best estimate and at both ends."""
    assert power_w(RamModel(64.0)) == pytest.approx((64.0 * 0.15, 64.0 * 0.045, 64.0 * 0.60))
    powers_w = [RamModel(float(gib)).nominal_w for gib in (1, 8, 64, 512, 1024)]
    assert powers_w == sorted(powers_w)


@given(st.lists(st.floats(-5.0, 100.0), max_size=40))
def test_no_count_goes_down_whenever_it_is_read(steps):
    """A late clock, or one that steps back, takes no energy away from any of the three."""
    model, now_s, last_j = RamModel(8.0), 0.0, (0.0, 0.0, 0.0)
    for step in steps:
        now_s += step
        counts_j = (model.read_joules(now_s), model.low_j, model.high_j)
        assert all(now >= then for now, then in zip(counts_j, last_j, strict=True))
        assert counts_j[1] <= counts_j[0] <= counts_j[2]
        last_j = counts_j


def test_published_readings_lie_inside_the_interval():
    """Idle and active memory, per GB, on hosts whose modules are unknown; not the stress tests."""
    _, low, high = W_PER_GIB
    for w_per_gb in (0.048, 0.060, 0.13, 0.18, 0.25, 0.24, 0.36, 0.284, 0.375, 0.392):
        assert low <= w_per_gb <= high
    assert high < 0.66  # a stress test of the memory, which is no program


@pytest.mark.parametrize(("gib", "read_w"), [(8, 1.07), (16, 0.92), (8, 3.37), (16, 4.52)])
def test_readings_of_one_module_lie_inside_its_interval(gib, read_w):
    """A DDR4 module idle and under STREAM (E5-2690 v3)."""
    best_w, low_w, high_w = power_w(ram_model(float(gib), (float(gib),), None))
    assert low_w <= read_w <= high_w
    assert low_w < best_w < high_w


def test_modules_of_twenty_gib_cost_the_same_by_both_models():
    """Where the size of the modules is the usual one, knowing it changes nothing."""
    by_module = ram_model(20.0, (20.0,), None)
    assert by_module.w_per_gib.best == pytest.approx(W_PER_GIB.best)
    # and knowing it narrows the interval
    assert W_PER_GIB.low < by_module.w_per_gib.low
    assert by_module.w_per_gib.high < W_PER_GIB.high


def test_small_modules_cost_more_for_each_gib():
    """Thirty-two modules of 4 GiB draw more than two of 64."""
    many, few = ram_model(128.0, (4.0,) * 32, None), ram_model(128.0, (64.0,) * 2, None)
    assert power_w(many).best == pytest.approx(32 * MODULE_W.best + 128 * MODULE_W_PER_GIB.best)
    assert power_w(few).best == pytest.approx(2 * MODULE_W.best + 128 * MODULE_W_PER_GIB.best)
    assert many.about == "128.0 GiB x 0.35 W (0.17 to 0.95); 32 DIMMs, 128 GiB in total"


def test_a_container_pays_for_its_share_of_the_modules():
    """A limit of a sixteenth is a sixteenth of the host's power, at both ends as well."""
    host, container = (ram_model(gib, (32.0,) * 8, None) for gib in (253.0, 16.0))
    assert power_w(host).best == pytest.approx(8 * 1.0 + 256 * 0.10)  # what the kernel keeps, too
    assert power_w(container) == pytest.approx(tuple(watts / 16 for watts in power_w(host)))


def test_a_given_figure_stays_and_its_interval_is_that_of_activity():
    """Modules change nothing then; between idle and busy lies a factor of five."""
    found = ram_model(10.0, (32.0,) * 8, 0.5)
    best_w, low_w, high_w = power_w(found)
    assert best_w == pytest.approx(5.0)
    assert high_w / low_w == pytest.approx(5.0)
    assert high_w / best_w == pytest.approx(best_w / low_w)
    assert found.about == "10.0 GiB x 0.5 W (0.22 to 1.1); watts per GiB as given"
    nothing = ram_model(10.0, (), 0.0)
    assert (*power_w(nothing), nothing.relative_uncertainty) == (0.0, 0.0, 0.0, 0.0)


def procfs(tmp_path, *, cgroup="", kib=16 * 2**20, flags=""):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal:       {kib} kB\nMemFree: 1 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
    (tmp_path / "proc" / "cpuinfo").write_text(f"model name\t: AMD EPYC 7543\nflags\t: {flags}\n")
    return tmp_path / "proc", tmp_path / "sys"


def limit(sys, path, text):
    file = sys / "fs" / "cgroup" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


def test_memory_is_the_machines_where_nothing_limits_it(tmp_path):
    """MemTotal is in KiB, whatever it says."""
    proc, sys = procfs(tmp_path, cgroup="0::/\n")
    limit(sys, "memory.max", "max")
    assert installed_gib(proc, sys) == 16.0


@pytest.mark.parametrize("where", ["memory.max", "slice/memory.max", "slice/job/memory.max"])
def test_a_cgroup_limit_counts_at_any_height(tmp_path, where):
    """A container has what it may use, not what its host has."""
    proc, sys = procfs(tmp_path, cgroup="0::/slice/job\n")
    limit(sys, where, str(4 * 2**30))
    assert installed_gib(proc, sys) == 4.0


def test_a_cgroup_of_the_first_version_counts_too(tmp_path):
    """Its "unlimited" is a huge number."""
    proc, sys = procfs(tmp_path, cgroup="5:cpu:/\n4:memory:/docker/abc\n0::/\n")
    limit(sys, "memory/memory.limit_in_bytes", str(2**63 - 4096))
    assert installed_gib(proc, sys) == 16.0
    limit(sys, "memory/docker/abc/memory.limit_in_bytes", str(2 * 2**30))
    assert installed_gib(proc, sys) == 2.0


# -- the machine's modules ------------------------------------------------------------------------


def test_modules_are_read_where_the_driver_knows_them(tmp_path):
    """Two controllers of an Intel server, with empty slots and one larger module."""
    proc, sys = procfs(tmp_path, kib=93 * 2**20)
    for mc in (0, 1):
        for index in (0, 2):
            add_dimm(sys, mc, index, 16 * 1024)
    add_dimm(sys, 1, 4, 32 * 1024)
    assert sorted(modules_gib(proc, sys)) == [16.0] * 4 + [32.0]


def test_ranks_of_one_module_are_put_together(tmp_path):
    """AMD's driver shows ranks: twice as many halves for modules of two ranks.

    16 modules of 32 GiB, in the two slots of eight channels, are 32 ranks of 16 GiB.
    """
    proc, sys = procfs(tmp_path, kib=503 * 2**20)
    for channel in range(8):
        for row in range(4):
            add_rank(sys, 0, row, channel, 16 * 1024)
    assert modules_gib(proc, sys) == (32.0,) * 16


def test_modules_of_one_rank_stay_modules(tmp_path):
    """They have the even rows for themselves."""
    proc, sys = procfs(tmp_path, kib=31 * 2**20)
    for channel in range(2):
        for row in (0, 2):
            add_rank(sys, 0, row, channel, 8 * 1024, kind="Load-Reduced-DDR4-RAM")
    assert modules_gib(proc, sys) == (8.0,) * 4


def test_an_old_kernels_rows_are_modules_across_channels(tmp_path):
    """Two modules of two ranks and two of one rank: rows 0, 1 and 2."""
    proc, sys = procfs(tmp_path, kib=11 * 2**20)
    for row in range(3):
        add_row(sys, 0, row, 4 * 1024)
    assert sorted(modules_gib(proc, sys)) == [2.0, 2.0, 4.0, 4.0]


def test_a_module_of_four_ranks_counts_as_two(tmp_path):
    """Rows 0 to 3 of a channel are one module or two, and no file tells which."""
    proc, sys = procfs(tmp_path, kib=63 * 2**20)
    for row in range(4):
        add_rank(sys, 0, row, 0, 16 * 1024)
    assert modules_gib(proc, sys) == (32.0,) * 2


@pytest.mark.parametrize(
    "kind", ["Low-Power-DDR4-RAM", "Low-Power-DDR5-RAM", "Unbuffered-DDR5", "Unknown", ""]
)
def test_the_memory_of_a_client_counts_by_its_gib(tmp_path, kind):
    """Eight subchannels of 2 GiB are chips on the board, and no modules of a watt each."""
    proc, sys = procfs(tmp_path)
    for mc in (0, 1):
        add_subchannels(sys, mc, 2 * 1024, kind)
    assert modules_gib(proc, sys) == ()
    assert found_ram(proc, sys).nominal_w == pytest.approx(16 * 0.15)


def test_unbuffered_modules_of_other_drivers_count_by_their_gib(tmp_path):
    """Ranks of a desktop, and the rows of an old kernel."""
    proc, sys = procfs(tmp_path)
    for row in range(2):
        add_rank(sys, 0, row, 0, 8 * 1024, kind="Unbuffered-DDR4")
    assert modules_gib(proc, sys) == ()
    proc, sys = procfs(tmp_path / "old")
    add_row(sys, 0, 0, 16 * 1024, kind="Unbuffered-DDR3")
    assert modules_gib(proc, sys) == ()


@pytest.mark.parametrize("kind", ["Unbuffered-DDR4", "Unbuffered-DDR5"])
def test_intels_servers_have_modules_whatever_their_driver_calls_them(tmp_path, kind):
    """It says unbuffered of all modules since Skylake; its controllers are of a socket."""
    proc, sys = procfs(tmp_path, kib=63 * 2**20)
    for mc, name in enumerate(("Skylake Socket#0 IMC#0", "Intel_10nm Socket#1 IMC#3")):
        add_dimm(sys, mc, 0, 32 * 1024, kind=kind)
        (controller(sys, mc) / "mc_name").write_text(f"{name}\n")
    assert modules_gib(proc, sys) == (32.0,) * 2


@pytest.mark.parametrize("mib", [10**12, 10**60, 18 * 1024])
def test_a_size_that_the_machine_cannot_have_is_not_believed(tmp_path, mib):
    """Modules hold what the kernel shows and the tenth that it may keep, and no more."""
    proc, sys = procfs(tmp_path)
    add_dimm(sys, 0, 0, mib)
    assert modules_gib(proc, sys) == ()
    assert found_ram(proc, sys).nominal_w == pytest.approx(16 * 0.15)


@pytest.mark.parametrize("kind", ["Non-volatile-RAM", "High-bandwidth-memory-Gen3"])
def test_what_is_no_memory_of_this_machine_is_not_counted(tmp_path, kind):
    """Persistent modules, and the memory of accelerators that their driver shows as well."""
    proc, sys = procfs(tmp_path)
    add_dimm(sys, 0, 0, 16 * 1024)
    add_dimm(sys, 0, 1, 512 * 1024, kind=kind)
    assert modules_gib(proc, sys) == (16.0,)


def test_modules_that_are_not_all_told_are_not_used(tmp_path):
    """No driver, an empty controller, half of the memory, a rank without a place, garbage."""
    proc, sys = procfs(tmp_path)
    assert modules_gib(proc, sys) == ()
    folder = controller(sys, 0)
    assert modules_gib(proc, sys) == ()
    add_dimm(sys, 0, 0, 8 * 1024)
    assert modules_gib(proc, sys) == ()  # the other 8 GiB are on a controller without a driver
    (folder / "dimm0" / "size").write_text("sixteen\n")
    assert modules_gib(proc, sys) == ()
    add_rank(sys, 1, 0, 0, 16 * 1024)
    assert modules_gib(proc, sys) == (16.0,)
    (sys / "devices/system/edac/mc/mc1/rank0/dimm_location").write_text("\n")
    assert modules_gib(proc, sys) == ()


def found_ram(proc, sys, **more):
    host = Host(busy_s=lambda: 0.0, sysfs=sys, procfs=proc, gpu_ids=(), **more)
    return next(meter for meter in detect(host) if meter.component == "ram")


def test_a_server_is_modelled_by_its_modules_and_a_guest_by_its_gib(tmp_path):
    """What a guest sees of modules, if anything, is not its own."""
    proc, sys = procfs(tmp_path, cgroup="0::/job\n")
    add_dimm(sys, 0, 0, 16 * 1024)
    assert found_ram(proc, sys).nominal_w == pytest.approx(1.0 + 1.6)
    limit(sys, "job/memory.max", str(4 * 2**30))
    assert found_ram(proc, sys).nominal_w == pytest.approx((1.0 + 1.6) / 4)
    assert found_ram(proc, sys, ram_w_per_gib=0.5).nominal_w == pytest.approx(2.0)
    (proc / "cpuinfo").write_text("model name\t: AMD EPYC 7543\nflags\t: fpu hypervisor\n")
    assert found_ram(proc, sys).nominal_w == pytest.approx(4 * 0.15)
