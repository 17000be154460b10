"""Energy from models: of the processors by their load, of memory by its size."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.errors import MeterReadError
from carbontrack.meters.cpu_model import LOAD_CURVE, CpuModel, power_share
from carbontrack.meters.ram_model import RamModel, installed_gib


class Busy:
    """CPU seconds by hand."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def run(model, busy, load, seconds, *, threads=4, begin_s=0.0, step_s=1.0):
    """Let all processors work at this load, reading now and then."""
    joules = model.read_joules(begin_s)
    for number in range(1, round(seconds / step_s) + 1):
        busy.seconds += load * threads * step_s
        joules = model.read_joules(begin_s + number * step_s)
    return joules


@pytest.mark.parametrize(("load", "share"), LOAD_CURVE)
@pytest.mark.parametrize("step_s", [0.05, 1.0, 10.0])
def test_energy_follows_the_published_curve(load, share, step_s):
    """At 0, 10, 50 and 100 % load a 100 W part uses 12, 32, 75 and 102 W, read often or seldom."""
    busy = Busy()
    model = CpuModel(100.0, busy, 4)
    assert run(model, busy, load, 20.0, step_s=step_s) == pytest.approx(100.0 * share * 20.0)


def test_full_load_is_not_billed_at_the_floor():
    """100 W TDP at full load for eight seconds is about 816 J (a public tool gave 76 W x 8 s)."""
    busy = Busy()
    assert run(CpuModel(100.0, busy, 4), busy, 1.0, 8.0) == pytest.approx(816.0)


def test_the_curve_is_concave_and_rises():
    """Both are needed for a count that never goes down."""
    shares = [power_share(load / 100) for load in range(101)]
    steps = [later - sooner for sooner, later in pairwise(shares)]
    assert all(step > 0 for step in steps)
    assert all(later <= sooner + 1e-9 for sooner, later in pairwise(steps))
    assert power_share(-1.0) == power_share(0.0)
    assert power_share(2.0) == power_share(1.0)


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(-0.1, 20.0)), max_size=50))
def test_the_count_never_goes_down_whatever_is_read(steps):
    """Late readings, coarse CPU seconds, even ones that go back: no energy is taken away."""
    busy, now_s, last_j = Busy(), 0.0, 0.0
    model = CpuModel(100.0, busy, 4)
    for seconds, worked_s in steps:
        now_s += seconds
        busy.seconds += worked_s
        joules = model.read_joules(now_s)
        assert last_j <= joules <= 102.0 * now_s + 1e-6
        last_j = joules


def test_unreadable_load_is_a_missed_read():
    """The next reading carries it."""
    answers = iter([0.0, None, 8.0])
    model = CpuModel(100.0, lambda: next(answers), 4)
    model.read_joules(0.0)
    with pytest.raises(MeterReadError):
        model.read_joules(1.0)
    assert model.read_joules(2.0) == pytest.approx(204.0)


def test_nominal_power_is_that_of_one_busy_thread():
    """What asks about a span too short to measure is itself running."""
    assert CpuModel(100.0, Busy(), 1).nominal_w == pytest.approx(102.0)
    assert 12.0 < CpuModel(100.0, Busy(), 64).nominal_w < 20.0


def test_memory_costs_by_its_size_and_never_less_for_more():
    """Installed GiB times watts per GiB times time."""
    model = RamModel(64.0)
    model.read_joules(5.0)
    assert model.read_joules(15.0) == pytest.approx(64.0 * 0.375 * 10.0)
    powers_w = [RamModel(float(gib)).nominal_w for gib in (1, 8, 64, 512, 1024)]
    assert powers_w == sorted(powers_w)


def procfs(tmp_path, *, cgroup="", kib=16 * 2**20):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal:       {kib} kB\nMemFree: 1 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
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
