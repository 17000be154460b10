"""Machines that we do not have: faked trees and libraries for hwmon, batteries, Apple silicon."""

import sys
from types import SimpleNamespace

import pytest

from carbontrack.errors import MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.apple import apple_meters
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.hwmon import BatteryMeter, hwmon_meters
from carbontrack.meters.meter import MeterSet
from carbontrack.testing import FakeMeter, Zone, build_powercap
from tests.support.bench import Bench

ALL = ("cpu", "ram", "gpu")


def chip(sysfs, number, name, **files):
    """An hwmon chip; a double underscore in a file's name is a folder."""
    folder = sysfs / "class" / "hwmon" / f"hwmon{number}"
    for file, text in {"name": name, **files}.items():
        path = folder / file.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return folder


def test_amd_sockets_are_counted_and_cores_are_not(tmp_path):
    """amd_energy shows each core and each socket; the socket holds the cores."""
    folder = chip(
        tmp_path, 0, "amd_energy",
        energy1_label="Ecore000", energy1_input=5_000_000,
        energy2_label="Esocket0", energy2_input=9_000_000,
        energy3_label="Esocket1", energy3_input=8_000_000,
    )  # fmt: skip
    found = hwmon_meters(tmp_path, ALL)
    assert [meter.id for meter in found.meters] == ["hwmon:socket-0", "hwmon:socket-1"]
    assert found.covered == {"cpu"}
    meter = found.meters[0]
    meter.read_joules(0.0)
    (folder / "energy2_input").write_text("59000000\n")
    assert meter.read_joules(1.0) == pytest.approx(50.0)


def test_grace_is_its_socket_and_never_the_module(tmp_path):
    """The module holds the GPU, which NVML reads; the socket holds its memory."""
    for number, label in enumerate(
        ["Module Power Socket 0", "Grace Power Socket 0", "CPU Power Socket 0"]
    ):
        chip(
            tmp_path, number, "power_meter",
            device__power1_oem_info=label, device__power1_average=300_000_000,
        )  # fmt: skip
    found = hwmon_meters(tmp_path, ALL)
    assert [meter.id for meter in found.meters] == ["hwmon:grace-0"]
    assert found.covered == {"cpu", "ram"}
    assert len(found.refused) == 2
    meter = found.meters[0]
    assert [meter.read_joules(at_s) for at_s in (0.0, 0.1, 0.2)] == pytest.approx([0.0, 30.0, 60.0])


def test_jetson_is_its_whole_module(tmp_path):
    """VDD_IN holds processor, GPU and memory; the other rails are parts of it."""
    chip(
        tmp_path, 1, "ina3221",
        in1_label="VDD_IN", in1_input=5000, curr1_input=2000,
        in2_label="VDD_CPU_GPU_CV", in2_input=5000, curr2_input=1000,
    )  # fmt: skip
    found = hwmon_meters(tmp_path, ALL)
    assert [meter.id for meter in found.meters] == ["hwmon:jetson-module"]
    assert found.covered == set(ALL)
    meter = found.meters[0]
    meter.read_joules(0.0)
    assert meter.read_joules(1.0) == pytest.approx(10.0)
    everything = detect(Host(busy_s=lambda: 0.0, sysfs=tmp_path, nvml_library="libc.so.6"))
    assert [m.id for m in everything] == ["hwmon:jetson-module"], "no model and no NVML beside it"


@pytest.mark.parametrize(
    ("board", "expected"), [("type : cem", 1), ("type : oam", 1), ("type : unknown", 0)]
)
def test_an_integrated_amd_gpu_is_not_counted_beside_its_package(tmp_path, board, expected):
    """Only boards of their own are meters; MI250's second die shows 0 W and adds nothing."""
    chip(
        tmp_path, 2, "amdgpu",
        device__board_info=board, device__unique_id="5c88007d7a0b2a8f", power1_average=45_000_000,
    )  # fmt: skip
    found = hwmon_meters(tmp_path, ALL)
    assert len(found.meters) == expected
    assert len(found.refused) == 1 - expected


def test_sensors_are_used_only_for_what_is_missing(tmp_path):
    """Where RAPL reads the package, amd_energy's socket would be the same energy again."""
    chip(tmp_path, 0, "amd_energy", energy1_label="Esocket0", energy1_input=9_000_000)
    build_powercap(tmp_path, [Zone("package-0", "intel-rapl:0")])
    found = detect(Host(busy_s=lambda: 0.0, sysfs=tmp_path, gpu_ids=()))
    assert [meter.id for meter in found] == ["rapl:package-0", "model:ram"]


def test_a_sensor_that_shows_nothing_is_left_out_or_missed(tmp_path):
    """Unreadable at the start: no meter. Unreadable later: a missed read."""
    folder = chip(tmp_path, 0, "amd_energy", energy1_label="Esocket0", energy1_input="")
    assert hwmon_meters(tmp_path, ALL).meters == ()
    (folder / "energy1_input").write_text("9000000\n")
    (meter,) = hwmon_meters(tmp_path, ALL).meters
    meter.read_joules(0.0)
    (folder / "energy1_input").unlink()
    with pytest.raises(MeterReadError):
        meter.read_joules(1.0)
    meter.close()
    with pytest.raises(MeterGone):
        meter.read_joules(2.0)


def supply(sysfs, **files):
    folder = sysfs / "class" / "power_supply" / files.pop("name", "BAT0")
    folder.mkdir(parents=True)
    for name, text in {"type": "Battery", **files}.items():
        (folder / name).write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(
    "files",
    [{"power_now": 12_000_000}, {"current_now": -1_000_000, "voltage_now": 12_000_000}],
)
def test_a_battery_counts_while_it_is_discharged(tmp_path, files):
    """Power as it is told, or current times voltage; on mains power it says nothing."""
    folder = supply(tmp_path, status="Discharging", **files)
    meter = BatteryMeter.find(tmp_path)
    assert meter.id == "battery:BAT0"
    assert meter.nominal_w == pytest.approx(12.0)
    meter.read_joules(0.0)
    assert meter.read_joules(2.0) == pytest.approx(24.0)
    (folder / "status").write_text("Charging\n")
    with pytest.raises(MeterReadError):
        meter.read_joules(3.0)
    meter.close()
    with pytest.raises(MeterGone):
        meter.read_joules(4.0)


def test_no_battery_of_the_machine_is_no_meter(tmp_path):
    """A mouse's battery, a charger and a full battery are not this laptop's discharge."""
    supply(tmp_path, name="hidpp", status="Discharging", scope="Device", power_now=1)
    supply(tmp_path, name="AC", type="Mains")
    supply(tmp_path, name="BAT0", status="Full", power_now=0)
    supply(tmp_path, name="BAT1", status="Discharging")
    with pytest.raises(MeterUnavailable):
        BatteryMeter.find(tmp_path)


class FakeMonitor:
    """zeus-apple-silicon's monitor, with counts by hand."""

    def __init__(self, **counts):
        self.counts = counts
        self.asked = 0
        self.fails = False

    def get_cumulative_energy(self):
        self.asked += 1
        if self.fails:
            raise RuntimeError("IOReport")
        return SimpleNamespace(**self.counts)


def test_apple_parts_are_told_apart():
    """Processor, memory, GPU with its SRAM, and the neural engine; all of one instant, once."""
    monitor = FakeMonitor(cpu_total_mj=1000, dram_mj=500, gpu_mj=10, gpu_sram_mj=5, ane_mj=0)
    meters = apple_meters(lambda: monitor)
    assert {m.id: m.component for m in meters} == {
        "apple:cpu": "cpu",
        "apple:dram": "ram",
        "apple:gpu": "gpu",
        "apple:ane": "other",
    }
    for meter in meters:
        meter.read_joules(1.0)
    asked = monitor.asked
    monitor.counts = {
        "cpu_total_mj": 6000,
        "dram_mj": 1500,
        "gpu_mj": 20,
        "gpu_sram_mj": 6,
        "ane_mj": 0,
    }
    assert [m.read_joules(2.0) for m in meters] == pytest.approx([5.0, 1.0, 0.011, 0.0])
    assert monitor.asked == asked + 1


def test_apple_parts_that_a_chip_lacks_are_no_meters():
    """None is unknown, not zero."""
    monitor = FakeMonitor(cpu_total_mj=1, dram_mj=None, gpu_mj=1, gpu_sram_mj=None)
    assert [m.id for m in apple_meters(lambda: monitor)] == ["apple:cpu", "apple:gpu"]


def test_a_frozen_apple_counter_is_set_aside_from_the_beginning():
    """A processor that uses nothing for seconds has a dead counter; the model takes over."""
    meters = apple_meters(lambda: FakeMonitor(cpu_total_mj=7, gpu_mj=9))
    model = FakeMeter("model:cpu", watts=20.0, basis="modelled")
    worked = iter(range(1000))
    found = MeterSet(meters, {"cpu": lambda: model}, busy_s=lambda: float(next(worked)))
    with Bench(found) as bench, bench.tracker.span("s") as span:
        bench.run(30.0, ticks=30)
    assert span.record.cpu_kwh * 3.6e6 == pytest.approx(600.0)
    assert span.record.gpu_kwh == 0.0, "a GPU may be at rest"
    assert span.record.faults == "stands_still:1"


@pytest.mark.parametrize("watts", [0, 35_000_000])
def test_a_sensor_of_0_w_is_no_meter_of_a_processor(tmp_path, watts):
    """A socket of Grace that shows 0 W while the processors work; one that shows 35 W is one."""
    chip = tmp_path / "class/hwmon/hwmon0"
    (chip / "device").mkdir(parents=True)
    (chip / "name").write_text("power_meter")
    (chip / "device/power1_oem_info").write_text("Grace Power Socket 0")
    (chip / "device/power1_average").write_text(f"{watts}\n")
    meters = hwmon_meters(tmp_path, {"cpu", "ram"}).meters
    meters[0].max_period_s = 1.0  # its power is constant
    worked = iter(range(10_000))
    models = {
        "cpu": lambda: FakeMeter("model:cpu", watts=20.0, basis="modelled"),
        "ram": lambda: FakeMeter("model:ram", "ram", watts=5.0, basis="modelled"),
    }
    found = MeterSet(meters, models, busy_s=lambda: float(next(worked)))
    with Bench(found) as bench, bench.tracker.span("s") as span:
        bench.run(30.0, ticks=30)
    row = span.record
    assert row.faults == (None if watts else "stands_still:1")
    assert row.energy_kwh * 3.6e6 == pytest.approx(35.0 * 30 if watts else 25.0 * 30)
    assert row.ram_basis == (None if watts else "modelled"), "the sensor covers memory, too"


def test_a_failing_apple_library_is_a_missed_read():
    """The library's own errors do not leave the meter."""
    monitor = FakeMonitor(cpu_total_mj=7)
    meter = apple_meters(lambda: monitor)[0]
    monitor.fails = True
    with pytest.raises(MeterReadError, match="IOReport"):
        meter.read_joules(1.0)
    meter.close()
    with pytest.raises(MeterGone):
        meter.read_joules(2.0)


@pytest.mark.skipif(sys.platform == "darwin", reason="the library may be installed there")
def test_a_missing_apple_library_names_its_extra():
    """What to install stands in the cure."""
    with pytest.raises(MeterUnavailable) as error:
        apple_meters()
    assert error.value.cure == 'pip install "carbontrack[apple]"'
