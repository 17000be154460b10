"""RAPL through perf events: found in a faked tree, read through faked and real descriptors."""

import sys

import pytest

from carbontrack.errors import MeterGone, MeterReadError
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.perf import perf_meters
from carbontrack.testing import build_powercap

SCALE = 2.0**-32


class FakeEvent:
    """A counter by hand."""

    def __init__(self, kind, config, cpu):
        self.asked = (kind, config, cpu)
        self.joules = 0.0
        self.closed = self.broken = False

    def read(self):
        if self.broken:
            raise OSError(5, "Input/output error")
        return int(self.joules / SCALE)

    def close(self):
        self.closed = True


class Kernel:
    """Opens events, and remembers them; may refuse from the n-th on."""

    def __init__(self, allowed=99):
        self.events = []
        self.allowed = allowed

    def open(self, kind, config, cpu):
        if len(self.events) >= self.allowed:
            raise PermissionError(13, "Permission denied")
        self.events.append(FakeEvent(kind, config, cpu))
        return self.events[-1]


def build_perf(sysfs, *, packages=("0", "1"), with_ram=True):
    """The tree of a machine with a processor 0, 10, 20 … in each of these packages."""
    power = sysfs / "bus" / "event_source" / "devices" / "power"
    (power / "events").mkdir(parents=True)
    (power / "type").write_text("9\n")
    (power / "cpumask").write_text(",".join(str(10 * n) for n in range(len(packages))) + "\n")
    events = {"energy-pkg": 2, "energy-cores": 1, "energy-psys": 5} | (
        {"energy-ram": 3} if with_ram else {}
    )
    for name, code in events.items():
        (power / "events" / name).write_text(f"event=0x{code:02x}\n")
        (power / "events" / f"{name}.scale").write_text("2.3283064365386962890625e-10\n")
    for number, package in enumerate(packages):
        topology = sysfs / "devices" / "system" / "cpu" / f"cpu{10 * number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(package + "\n")
    return sysfs


def test_packages_and_dram_of_two_sockets(tmp_path):
    """Each package and dram of each socket is a meter; cores and psys are left alone."""
    kernel = Kernel()
    meters, refused = perf_meters(build_perf(tmp_path), ("cpu", "ram"), kernel.open)
    assert [m.id for m in meters] == [
        "perf:package-0",
        "perf:package-1",
        "perf:dram-0",
        "perf:dram-1",
    ]
    assert [event.asked for event in kernel.events] == [
        (9, 2, 0),
        (9, 2, 10),
        (9, 3, 0),
        (9, 3, 10),
    ]
    assert refused == ()
    for meter in meters:
        meter.read_joules(0.0)
    for number, event in enumerate(kernel.events):
        event.joules += 10.0 * (number + 1)
    assert [m.read_joules(1.0) for m in meters] == pytest.approx([10.0, 20.0, 30.0, 40.0])


def test_dies_of_an_amd_package_are_one_meter(tmp_path):
    """Without a dram event the dies of one package show one counter."""
    kernel = Kernel()
    tree = build_perf(tmp_path, packages=("0", "0", "1"), with_ram=False)
    meters, _ = perf_meters(tree, ("cpu", "ram"), kernel.open)
    assert [m.id for m in meters] == ["perf:package-0", "perf:package-1"]


def test_dies_of_an_intel_package_are_added(tmp_path):
    """With a dram event every die has a counter of its own."""
    meters, _ = perf_meters(build_perf(tmp_path, packages=("0", "0")), ("cpu",), Kernel().open)
    assert [m.id for m in meters] == ["perf:package-0", "perf:package-0-die-1"]


@pytest.mark.parametrize("allowed", [0, 1])
def test_refused_by_the_kernel_is_all_or_nothing(tmp_path, allowed):
    """One package of two would look like the whole machine; the cure is told."""
    kernel = Kernel(allowed)
    meters, refused = perf_meters(build_perf(tmp_path), ("cpu",), kernel.open)
    assert meters == ()
    assert "Permission denied" in refused[0].reason
    assert "perf_event_paranoid" in refused[0].cure
    assert all(event.closed for event in kernel.events)


def test_a_failed_read_is_missed_and_a_closed_meter_is_gone(tmp_path):
    """The errors of the protocol, and nothing else."""
    kernel = Kernel()
    meter = perf_meters(build_perf(tmp_path), ("cpu",), kernel.open)[0][0]
    meter.read_joules(0.0)
    kernel.events[0].broken = True
    with pytest.raises(MeterReadError):
        meter.read_joules(1.0)
    meter.close()
    meter.close()
    with pytest.raises(MeterGone):
        meter.read_joules(2.0)


def test_nothing_there_is_no_error(tmp_path):
    """A machine without the power events, or with broken ones, has no such meters."""
    assert perf_meters(tmp_path, ("cpu",), Kernel().open) == ((), ())
    tree = build_perf(tmp_path)
    for file in (tree / "bus/event_source/devices/power/events").iterdir():
        file.write_text("garbage\n")
    assert perf_meters(tree, ("cpu", "ram"), Kernel().open) == ((), ())


def test_powercap_comes_first(tmp_path):
    """Where powercap shows both domains, perf is not even tried."""
    build_perf(tmp_path)
    build_powercap(tmp_path)
    found = detect(Host(busy_s=lambda: 0.0, sysfs=tmp_path, gpu_ids=()))
    assert [m.id for m in found] == ["rapl:package-0", "rapl:dram-0"]


def test_a_closed_door_ends_in_the_model_with_both_cures(tmp_path):
    """Without powercap, and with events that this kernel does not know, the models remain."""
    power = build_perf(tmp_path) / "bus/event_source/devices/power"
    (power / "type").write_text("4000000\n")
    found = detect(Host(busy_s=lambda: 0.0, sysfs=tmp_path, gpu_ids=()))
    assert [m.id for m in found] == ["model:cpu", "model:ram"]
    assert {"perf:package", "perf:dram", "rapl"} <= {refusal.id for refusal in found.refused}


def test_perf_adds_only_the_domain_that_powercap_refuses(tmp_path):
    """A dram zone that shows nothing leaves memory to perf; the package is not read twice."""
    power = build_perf(tmp_path) / "bus/event_source/devices/power"
    (power / "type").write_text("4000000\n")
    tree = build_powercap(tmp_path)
    tree.break_zone("dram", "garbage")
    found = detect(Host(busy_s=lambda: 0.0, sysfs=tmp_path, gpu_ids=()))
    assert [m.id for m in found] == ["rapl:package-0", "model:ram"]
    assert "perf:dram" in {refusal.id for refusal in found.refused}
    assert "perf:package" not in {refusal.id for refusal in found.refused}


@pytest.mark.skipif(sys.platform != "linux", reason="perf events are Linux's")
def test_the_system_call_counts_the_processors_own_clock():
    """A software event proves the call: the kernel's cpu-clock runs on, in nanoseconds."""
    from carbontrack.meters.perf import PerfEvent

    try:
        event = PerfEvent(1, 0, 0)
    except OSError as error:
        pytest.skip(f"perf events are closed here: {error}")
    first = event.read()
    total = sum(range(100_000))
    assert event.read() > first
    assert total
    event.close()
    event.close()
