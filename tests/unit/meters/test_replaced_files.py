"""A counter's file that is emptied, replaced or hidden: read again by its path, at once."""

import os
import shutil
import subprocess
import sys

import pytest

from carbontrack.attribution.usage import UsageReader
from carbontrack.errors import MeterReadError
from carbontrack.meters.perf import PerfEvent, PerfMeter
from carbontrack.meters.rapl import powercap_meters
from carbontrack.testing import Zone, build_powercap
from tests.support.interpreters import ROOT

STAT = "cpu  {} 0 0 900 0 0 0 0 0 0\ncpu0 1 0 0 9 0 0 0 0 0 0\n"


def truncate_and_rename(path, text):
    """The open file is emptied, and another one takes its path."""
    os.truncate(path, 0)
    rename_over(path, text)


def rename_over(path, text):
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.replace(path)


def unlink_and_create(path, text):
    path.unlink()
    path.write_text(text)


def spoil_and_rename(path, text):
    """The open file holds something else for good."""
    path.write_text("no number\n")
    rename_over(path, text)


def keep_and_rename(path, text):
    """The open file lives on under another name, and stands still."""
    path.rename(path.with_name("old"))
    path.write_text(text)


WAYS = [truncate_and_rename, rename_over, unlink_and_create, spoil_and_rename, keep_and_rename]


def open_zone(tmp_path):
    tree = build_powercap(tmp_path, [Zone("package-0", "intel-rapl:0", 7_000_000)])
    (meter,) = powercap_meters(tree.sysfs)[0]
    meter.read_joules(0.0)
    return tree.directory("package-0") / "energy_uj", meter


@pytest.mark.parametrize("replace", WAYS)
def test_a_zone_goes_on_with_the_file_that_has_its_path(tmp_path, replace):
    """No read is missed, and no joule is lost."""
    path, meter = open_zone(tmp_path)
    replace(path, "12000000\n")
    assert meter.read_joules(1.0) == pytest.approx(5.0)
    path.write_text("13000000\n")
    assert meter.read_joules(2.0) == pytest.approx(6.0)
    assert meter.fault_counts == {}


def test_a_count_that_stands_still_is_looked_at_after_a_twentieth_of_a_second(tmp_path):
    """Two readings within a millisecond show the same count; that alone says nothing."""
    path, meter = open_zone(tmp_path)
    path.write_text("8000000\n")
    assert meter.read_joules(1.0) == pytest.approx(1.0)
    rename_over(path, "12000000\n")
    assert meter.read_joules(1.02) == meter.read_joules(1.04) == pytest.approx(1.0)
    assert meter.read_joules(1.06) == pytest.approx(5.0)
    assert meter.fault_counts == {}


@pytest.mark.parametrize("replace", WAYS)
def test_the_processors_go_on_with_the_file_that_has_its_path(tmp_path, replace):
    """At once where the open file shows no line, else with the next look at the memory."""
    stat = tmp_path / "stat"
    stat.write_text(STAT.format(100))
    reader = UsageReader(tmp_path, tmp_path, run=lambda work: work())
    first = reader.read(0.0).machine_cpu_s
    replace(stat, STAT.format(300))
    assert reader.read(6.0).machine_cpu_s == pytest.approx(3.0 * first)


def test_an_emptied_stat_is_unknown_and_its_successor_is_read(tmp_path):
    """Unknown is not 0; the file is asked for by its path each time."""
    stat = tmp_path / "stat"
    stat.write_text(STAT.format(100))
    reader = UsageReader(tmp_path, tmp_path, run=lambda work: work())
    first = reader.machine_busy_s()
    os.truncate(stat, 0)
    assert reader.machine_busy_s() is None
    rename_over(stat, STAT.format(200))
    assert reader.machine_busy_s() == pytest.approx(2.0 * first)


def test_a_line_that_is_only_half_written_is_read_again(tmp_path):
    """The first digits of a number are a number, but no possible one."""
    tree = build_powercap(tmp_path, [Zone("package-0", "intel-rapl:0", 700_000_000)])
    path, opened = tree.directory("package-0") / "energy_uj", []

    def open_file(path):
        if len(opened) == 1:  # the writer has finished by now
            path.write_text("705000000\n")
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    (meter,) = powercap_meters(tree.sysfs, open_file=open_file)[0]
    meter.read_joules(0.0)
    path.write_text("7050")
    assert meter.read_joules(1.0) == pytest.approx(5.0)
    assert meter.fault_counts == {}


def test_a_successor_that_may_not_be_read_does_not_end_the_open_file(tmp_path):
    """A program that has given up its rights keeps what it holds, through a transient too."""
    tree = build_powercap(tmp_path, [Zone("package-0", "intel-rapl:0", 7_000_000)])
    path, opened = tree.directory("package-0") / "energy_uj", []

    def open_file(path):
        if opened:
            raise PermissionError(13, "Permission denied", str(path))
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    (meter,) = powercap_meters(tree.sysfs, open_file=open_file)[0]
    meter.read_joules(0.0)
    os.truncate(path, 0)
    with pytest.raises(MeterReadError):
        meter.read_joules(1.0)
    path.write_text("9000000\n")
    assert meter.read_joules(2.0) == pytest.approx(2.0)


MOUNTED = """
import subprocess, sys
from pathlib import Path
from carbontrack.meters.rapl import powercap_meters
sysfs, counter, other = map(Path, sys.argv[1:])
(meter,) = powercap_meters(sysfs)[0]
joules = [meter.read_joules(0.0)]
other.write_text("12000000\\n")
subprocess.run(["mount", "--bind", other, counter], check=True)
joules.append(meter.read_joules(1.0))
other.write_text("13000000\\n")
joules.append(meter.read_joules(2.0))
subprocess.run(["umount", "--lazy", counter], check=True)
counter.write_text("15000000\\n")
joules.append(meter.read_joules(3.0))
print(*(round(j, 3) for j in joules), dict(meter.fault_counts))
"""


NAMESPACE = ["unshare", "-m" if os.geteuid() == 0 else "-rm"]


def can_mount():
    """Whether we may have a mount namespace of our own."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    command = [*NAMESPACE, "mount", "--bind", "/", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this system gives us no mount namespace")
def test_a_mount_over_a_counter_and_its_end_are_followed(tmp_path):
    """The hidden file lives on and stands still, as when a container's mounts are made anew."""
    tree = build_powercap(tmp_path / "sys", [Zone("package-0", "intel-rapl:0", 7_000_000)])
    counter = tree.directory("package-0") / "energy_uj"
    other = tmp_path / "other"
    command = [*NAMESPACE, sys.executable, "-c", MOUNTED, tree.sysfs, counter, other]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "0.0 5.0 6.0 8.0 {}\n"


class BrokenEvent:
    """An event whose reads fail from now and then on."""

    def __init__(self):
        self.count, self.fails, self.closed = 0, 0, False

    def read(self):
        if self.fails > 0:
            self.fails -= 1
            raise OSError(5, "Input/output error")
        return self.count

    def close(self):
        self.closed = True


def test_an_event_is_read_again_at_once(tmp_path):
    """One failure costs nothing: the count goes on."""
    event = BrokenEvent()
    meter = PerfMeter("package-0", "cpu", event, 1.0)
    meter.read_joules(0.0)
    event.count, event.fails = 50, 1
    assert meter.read_joules(1.0) == 50.0


def test_an_event_that_the_kernel_gave_up_is_opened_anew():
    """What the old one counted unseen is a reset, and from then on it counts."""
    events = [BrokenEvent(), BrokenEvent()]
    meter = PerfMeter("package-0", "cpu", events[0], 1.0, lambda: events[1])
    meter.read_joules(0.0)
    events[0].count = 500
    meter.read_joules(1.0)
    events[0].fails = 99
    with pytest.raises(MeterReadError):
        meter.read_joules(2.0)
    for at_s in (3.0, 4.0, 5.0):
        events[1].count += 100
        try:
            joules = meter.read_joules(at_s)
        except MeterReadError:
            continue
    assert events[0].closed
    assert (joules, dict(meter.fault_counts)) == (700.0, {"reset": 1})


def test_an_event_that_shows_nothing_has_no_count(tmp_path):
    """At the end of a file there are no eight bytes, which are not the number 0."""
    empty = tmp_path / "empty"
    empty.touch()
    event = PerfEvent.__new__(PerfEvent)
    event._descriptor = os.open(empty, os.O_RDONLY)
    with pytest.raises(OSError, match="no count"):
        event.read()
    event.close()
