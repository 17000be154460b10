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
