"""What is reserved for a process: its affinity, its quota, or the whole machine."""

import os

import pytest

from carbontrack.attribution.reservation import Reservation

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def machine(tmp_path):
    """Eight threads; thread n has worked n seconds."""
    lines = [f"cpu{n} {n * TICKS} 0 0 999 9 0 0 9 0 0" for n in range(8)]
    (tmp_path / "stat").write_text("\n".join(["cpu 1 1 1 1 1 1 1 1", *lines, "intr 5"]) + "\n")
    (tmp_path / "self").mkdir()
    return tmp_path


def limit(root, group, cpu_max, usage_usec):
    """Give a group a quota, and this process the group."""
    (root / "self" / "cgroup").write_text(f"0::{group}\n")
    folder = root / "fs" / "cgroup" / group.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{cpu_max}\n")
    (folder / "cpu.stat").write_text(f"usage_usec {usage_usec}\nuser_usec 1\nsystem_usec 1\n")


def test_who_may_use_all_shares_the_whole_machine(machine):
    """Without any limit the machine is the reservation, and its count the machine's."""
    reservation = Reservation(machine, machine, lambda: range(8))
    assert reservation.share == 1.0
    assert reservation.cpu_s() is None


def test_affinity_reserves_its_threads(machine):
    """Two of eight threads, and the work done on those two, whoever did it."""
    reservation = Reservation(machine, machine, lambda: {2, 5})
    assert reservation.share == 0.25
    assert reservation.cpu_s() == pytest.approx(7.0)


def test_a_quota_reserves_its_time(machine):
    """`cpu.max` of 150 ms in 100 ms is one and a half threads, and the group counts their work."""
    limit(machine, "/box/inner", "150000 100000", 2_500_000)
    reservation = Reservation(machine, machine, lambda: range(8))
    assert reservation.share == pytest.approx(1.5 / 8)
    assert reservation.cpu_s() == pytest.approx(2.5)


def test_the_narrowest_limit_above_us_counts(machine):
    """A group further up may be narrower than our own, and affinity narrower than both."""
    limit(machine, "/box", "200000 100000", 9_000_000)
    limit(machine, "/box/inner", "400000 100000", 1_000_000)
    reservation = Reservation(machine, machine, lambda: range(8))
    assert (reservation.share, reservation.cpu_s()) == (0.25, 9.0)
    assert Reservation(machine, machine, lambda: {3}).share == 0.125


@pytest.mark.parametrize("cpu_max", ["max 100000", "junk", "", "5", "100000 0", "-1 100000"])
def test_what_is_no_quota_limits_nothing(machine, cpu_max):
    """Garbage is not a limit of nothing."""
    limit(machine, "/box", cpu_max, 1)
    assert Reservation(machine, machine, lambda: range(8)).share == 1.0


def test_where_the_system_tells_nothing_all_is_shared(tmp_path):
    """No procfs, no affinity: the whole machine."""
    reservation = Reservation(tmp_path, tmp_path, lambda: None)
    assert (reservation.share, reservation.cpu_s()) == (1.0, None)


def limit_v1(root, group, quota_us, usage_ns, *, controllers="cpu,cpuacct", period_us=100_000):
    """Give a group of version 1 a quota: one tree for both controllers, or one for each."""
    lines = ["4:memory:/", f"3:{controllers}:{group}"]
    if controllers == "cpu":
        lines.append(f"2:cpuacct:{group}")
    (root / "self" / "cgroup").write_text("\n".join([*lines, "0::/init.scope"]) + "\n")
    top = root / "fs" / "cgroup"
    top.mkdir(parents=True, exist_ok=True)
    if "," in controllers and not (top / "cpu").exists():
        (top / "cpu,cpuacct").mkdir()
        (top / "cpu").symlink_to("cpu,cpuacct")
        (top / "cpuacct").symlink_to("cpu,cpuacct")
    quotas, counts = (top / name / group.strip("/") for name in ("cpu", "cpuacct"))
    quotas.mkdir(parents=True, exist_ok=True)
    counts.mkdir(parents=True, exist_ok=True)
    (quotas / "cpu.cfs_quota_us").write_text(f"{quota_us}\n")
    (quotas / "cpu.cfs_period_us").write_text(f"{period_us}\n")
    (counts / "cpuacct.usage").write_text(f"{usage_ns}\n")


@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpu"])
def test_a_quota_of_version_1_reserves_its_time(machine, controllers):
    """Two files for the quota, and nanoseconds of use, in one tree or in two."""
    limit_v1(machine, "/box", 150_000, 2_500_000_000, controllers=controllers)
    reservation = Reservation(machine, machine, lambda: range(8))
    assert reservation.share == pytest.approx(1.5 / 8)
    assert reservation.cpu_s() == pytest.approx(2.5)


@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpu"])
def test_the_group_of_a_container_is_the_root_it_is_shown(machine, controllers):
    """/proc names the host's path, which is not mounted; the quota is that of the mounted root."""
    limit_v1(machine, "/", 200_000, 7_000_000_000, controllers=controllers)
    cgroup = machine / "self" / "cgroup"
    cgroup.write_text(cgroup.read_text().replace(":/\n", ":/docker/3f2a\n"))
    reservation = Reservation(machine, machine, lambda: range(8))
    assert (reservation.share, reservation.cpu_s()) == (0.25, pytest.approx(7.0))


def test_the_narrowest_of_both_versions_counts(machine):
    """A machine half way between the versions may have a quota in either tree."""
    limit_v1(machine, "/box", 400_000, 1_000_000_000)
    group = machine / "fs" / "cgroup" / "init.scope"
    group.mkdir()
    (group / "cpu.max").write_text("100000 100000\n")
    (group / "cpu.stat").write_text("usage_usec 3000000\n")
    reservation = Reservation(machine, machine, lambda: range(8))
    assert (reservation.share, reservation.cpu_s()) == (0.125, 3.0)
    (group / "cpu.max").write_text("max 100000\n")
    reservation = Reservation(machine, machine, lambda: range(8))
    assert (reservation.share, reservation.cpu_s()) == (0.5, 1.0)


@pytest.mark.parametrize("quota_us", ["-1", "", "0", "junk"])
def test_what_is_no_quota_of_version_1_limits_nothing(machine, quota_us):
    """-1 is none, and neither is garbage."""
    limit_v1(machine, "/box", quota_us, 1)
    assert Reservation(machine, machine, lambda: range(8)).share == 1.0


def test_a_quota_whose_use_is_counted_elsewhere_is_a_share_of_the_machine(machine):
    """A group of cpuacct with other processes says nothing of ours."""
    limit_v1(machine, "/box", 200_000, 1, controllers="cpu")
    cgroup = machine / "self" / "cgroup"
    cgroup.write_text(cgroup.read_text().replace("2:cpuacct:/box", "2:cpuacct:/other"))
    reservation = Reservation(machine, machine, lambda: range(8))
    assert (reservation.share, reservation.cpu_s()) == (0.25, None)


@pytest.fixture
def hybrid(tmp_path):
    """Six performance cores of two threads, 0 to 11, and eight efficiency cores, 12 to 19."""
    lines = [f"cpu{n} {n * TICKS} 0 0 999 9 0 0 9 0 0" for n in range(20)]
    (tmp_path / "stat").write_text("\n".join(["cpu 1 1 1 1 1 1 1 1", *lines, "intr 5"]) + "\n")
    (tmp_path / "self").mkdir()
    for kind, cpus in {"cpu_core": "0-11", "cpu_atom": "12-19"}.items():
        (tmp_path / "devices" / kind).mkdir(parents=True)
        (tmp_path / "devices" / kind / "cpus").write_text(f"{cpus}\n")
    return tmp_path


@pytest.mark.parametrize("version", [1, 2])
def test_a_quota_on_a_hybrid_processor_is_one_of_threads(hybrid, version):
    """Four of twenty: the kernel promises time, and not which cores it is spent on."""
    if version == 2:
        limit(hybrid, "/box", "400000 100000", 2_000_000)
    else:
        limit_v1(hybrid, "/box", 400_000, 2_000_000_000)
    reservation = Reservation(hybrid, hybrid, lambda: range(20))
    assert (reservation.share, reservation.cpu_s()) == (0.2, 2.0)


def test_efficiency_cores_alone_are_eight_threads_and_the_work_on_them(hybrid):
    """Affinity to 12 to 19, with a wider quota and with a narrower one."""
    reservation = Reservation(hybrid, hybrid, lambda: range(12, 20))
    assert (reservation.share, reservation.cpu_s()) == (0.4, float(sum(range(12, 20))))
    limit(hybrid, "/box", "1000000 100000", 1)
    assert Reservation(hybrid, hybrid, lambda: range(12, 20)).share == 0.4
    limit(hybrid, "/box", "400000 100000", 1)
    assert Reservation(hybrid, hybrid, lambda: range(12, 20)).share == 0.2


def test_threads_that_lxcfs_has_numbered_anew_are_only_counted(machine):
    """The kernel's numbers of ours are not those in /proc/stat: how many is known, which is not."""
    reservation = Reservation(machine, machine, lambda: {2, 40, 41, 42})
    assert (reservation.share, reservation.cpu_s()) == (0.5, None)
    assert Reservation(machine, machine, lambda: range(32, 40)).share == 1.0
