"""Boards with sensors for each rail, socket or die: what is added, and what is contained."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.errors import MeterReadError
from carbontrack.meters.detect import Host, detect
from carbontrack.meters.hwmon import JETSON_MODULES, hwmon_meters
from tests.support.hwmon import ORIN, ORIN_NX, THOR, XAVIER, chip, ina3221, jetson

ALL = ("cpu", "ram", "gpu")
BOARDS = {
    "AGX Orin": (ORIN, 9.5 + 5.7 + 4.5, ["VDDQ_VDD2_1V8AO"]),
    "AGX Xavier": (XAVIER, 1.9 + 3.8 + 5.7 + 0.95 + 1.14 + 2.5, []),
    "AGX Thor": (THOR, -0.36 + 7.2 + 6.5, []),
    "Orin NX": (ORIN_NX, 7.0, ["VDD_CPU_GPU_CV", "VDD_SOC"]),
}


def faults(found):
    return {refusal.id: refusal.fault for refusal in found.refused if refusal.fault}


def reasons(found):
    return " | ".join(f"{refusal.id}: {refusal.reason}" for refusal in found.refused)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("board", BOARDS)
def test_a_jetson_is_the_rails_that_hold_it_together(tmp_path, board, backwards):
    """Rails side by side are added, those inside another are not, whatever number a chip has."""
    rails, watts, contained = BOARDS[board]
    jetson(tmp_path, rails, first=9, backwards=backwards)
    found = hwmon_meters(tmp_path, ALL)
    (meter,) = found.meters
    assert (meter.id, meter.component, meter.basis) == ("hwmon:jetson-module", "cpu", "measured")
    assert found.covered == set(ALL)
    assert meter.value() == pytest.approx(watts)
    assert [refusal.id for refusal in found.refused] == [f"hwmon:{name}" for name in contained]
    assert all("contained in" in refusal.reason for refusal in found.refused)
    assert not faults(found)


def test_no_jetson_counts_a_rail_that_another_of_its_rails_contains():
    """The sets themselves: VDD_IN stands alone, and the memory of AGX Orin is in its 5 V."""
    for module in JETSON_MODULES:
        assert len(module) == 1 or not {"VDD_IN", "POM_5V_IN", "VIN"} & set(module)
        assert "VDDQ_VDD2_1V8AO" not in module


def test_many_rails_are_read_less_often(tmp_path):
    """Files read in a second: as many for six rails as for one."""
    jetson(tmp_path / "one", ORIN_NX)
    jetson(tmp_path / "six", XAVIER)
    (one,), (six,) = (hwmon_meters(tmp_path / name, ALL).meters for name in ("one", "six"))
    assert len(six.files) / six.max_period_s == pytest.approx(len(one.files) / one.max_period_s)


def test_a_rail_that_fails_later_is_a_missed_read_of_the_whole_module(tmp_path):
    """Part of a module is not the module; the next reading bridges the time."""
    first, _ = jetson(tmp_path, ORIN)
    (meter,) = hwmon_meters(tmp_path, ALL).meters
    meter.read_joules(0.0)
    (first / "curr2_input").rename(first / "gone")
    with pytest.raises(MeterReadError):
        meter.read_joules(1.0)
    (first / "gone").rename(first / "curr2_input")
    assert meter.read_joules(2.0) == pytest.approx(2 * 19.7)


def test_a_rail_that_is_missing_refuses_the_module(tmp_path):
    """Three rails of AGX Orin, of which one has no label: no two of them pass for the whole."""
    first, _ = jetson(tmp_path, ORIN)
    (first / "in3_label").write_text("\n")
    found = hwmon_meters(tmp_path, ALL)
    assert (found.meters, found.covered) == ((), frozenset())
    assert "lacks VIN_SYS_5V0" in reasons(found)
    assert "VDD_CPU_CV" in reasons(found)
    everything = detect(Host(busy_s=lambda: 0.0, sysfs=tmp_path, gpu_ids=()))
    assert "model:cpu" in [meter.id for meter in everything]


def test_two_chips_with_one_label_are_told_apart_by_nobody(tmp_path):
    """A carrier board with a rail of the module's name: refused, not guessed and not added."""
    jetson(tmp_path, ORIN_NX)
    ina3221(tmp_path, 12, "7-0042", {1: ("VDD_IN", 12_000, 3000)})
    found = hwmon_meters(tmp_path, ALL)
    assert found.meters == ()
    assert "two rails are named VDD_IN" in reasons(found)


def test_an_ina3221_without_labels_is_refused(tmp_path):
    """A channel's number tells nothing; a router's board has such chips, too."""
    ina3221(tmp_path, 0, "0-0040", {1: ("", 12_000, 900)})
    found = hwmon_meters(tmp_path, ALL)
    assert found.meters == ()
    assert "no labels" in reasons(found)


def test_labels_with_blanks_are_the_same_labels(tmp_path):
    """Firmware writes blanks before, behind and between words."""
    board = (("1-0040", {2: ("  VDD_IN ", 5_000, 1000), 1: ("VDD_SOC", 5_000, 9)}),)
    jetson(tmp_path, board)
    (meter,) = hwmon_meters(tmp_path, ALL).meters
    assert meter.value() == pytest.approx(5.0)


def test_the_input_of_thors_board_is_not_its_module(tmp_path):
    """The INA238 measures the carrier board as well: beside the rails it would count them twice."""
    files = {"label": "VIN", "in1_input": 19_000, "curr1_input": 2000, "power1_input": 38_000_000}
    chip(tmp_path, 0, "ina238", "i2c-2/2-0044", files)
    jetson(tmp_path, THOR)
    found = hwmon_meters(tmp_path, ALL)
    assert [meter.id for meter in found.meters] == ["hwmon:jetson-module"]
    assert "hwmon:VIN: the input of a board" in reasons(found)


# -- Ampere ------------------------------------------------------------------------------------


def altra(sysfs, number, cpu_w=12.2, io_w=8.025, swapped=False):
    labels = ["CPU power", "IO power"]
    watts = [cpu_w, io_w]
    if swapped:
        labels.reverse()
        watts.reverse()
    files = {"temp1_label": "SoC Temperature", "temp1_input": 37_000}
    for place, (label, power_w) in enumerate(zip(labels, watts, strict=True), start=1):
        files |= {f"power{place}_label": label, f"power{place}_input": round(power_w * 1e6)}
    return chip(sysfs, number, "apm_xgene", f"APMC0D8A:0{number}", files)


@pytest.mark.parametrize("swapped", [False, True])
def test_an_altra_is_its_cores_and_the_rest_of_it(tmp_path, swapped):
    """Microwatts, by label; its memory is not in it and is modelled."""
    altra(tmp_path, 1, swapped=swapped)
    found = hwmon_meters(tmp_path, ALL)
    (meter,) = found.meters
    assert (meter.id, found.covered) == ("hwmon:ampere-0", {"cpu"})
    assert meter.value() == pytest.approx(20.225)
    assert meter.read_joules(0.0) == 0.0
    assert meter.read_joules(2.0) == pytest.approx(40.45)


def test_two_sockets_of_altra_are_both_counted_or_neither(tmp_path):
    """Both are the processor. One that fails leaves the model, and the record says so."""
    altra(tmp_path, 1)
    second = altra(tmp_path, 2, cpu_w=50.0)
    ids = [meter.id for meter in hwmon_meters(tmp_path, ALL).meters]
    assert ids == ["hwmon:ampere-0", "hwmon:ampere-1"]
    (second / "power1_input").write_text("\n")
    found = hwmon_meters(tmp_path, ALL)
    assert (found.meters, found.covered) == ((), frozenset())
    assert faults(found) == {"hwmon:ampere-1": "zones_closed"}
    assert "hwmon:ampere-0: hwmon:ampere-1, next to it, cannot be read" in reasons(found)


def test_one_of_two_labels_is_no_processor(tmp_path):
    """An X-Gene without "IO power" is refused by its name."""
    folder = altra(tmp_path, 1)
    (folder / "power2_label").unlink()
    found = hwmon_meters(tmp_path, ALL)
    assert found.meters == ()
    assert 'no sensors "CPU power" and "IO power"' in reasons(found)


def test_a_board_controllers_view_is_another_machine(tmp_path):
    """SMpro is read on the BMC, whose own processor it is not."""
    chip(tmp_path, 0, "smpro_hwmon", "smpro",
         {"power1_label": "Core VRD power", "power1_input": 19_500_000})  # fmt: skip
    found = hwmon_meters(tmp_path, ALL)
    assert found.meters == ()
    assert "board controller" in reasons(found)


# -- Grace -------------------------------------------------------------------------------------


def grace(sysfs, number, label, watts=100, inside="device/"):
    files = {f"{inside}power1_oem_info": label, f"{inside}power1_average": watts * 10**6}
    return chip(sysfs, number, "power_meter", f"ACPI000D:0{number}", files)


@pytest.mark.parametrize("inside", ["device/", ""])
def test_grace_is_read_where_the_driver_has_its_files(tmp_path, inside):
    """In `device` until the driver was rewritten, beside the name since; blanks do not matter."""
    for number, (label, watts) in enumerate(
        {"SysIO Power Socket 0 ": 10, "CPU Power Socket 0": 60, " Grace  Power Socket 0": 90,
         "Module Power Socket 0": 400}.items()
    ):  # fmt: skip
        grace(tmp_path, number, label, watts, inside)
    found = hwmon_meters(tmp_path, ALL)
    (meter,) = found.meters
    assert (meter.id, meter.value()) == ("hwmon:grace-0", 90.0)
    assert found.covered == {"cpu", "ram"}
    assert len(found.refused) == 3


def test_a_socket_of_grace_without_its_own_meter_leaves_the_model(tmp_path):
    """Two sockets, of which the second shows the cores only: the first is not both of them."""
    for number, label in enumerate(
        ["Grace Power Socket 0", "CPU Power Socket 0", "CPU Power Socket 1"]
    ):
        grace(tmp_path, number, label)
    found = hwmon_meters(tmp_path, ALL)
    assert found.meters == ()
    assert faults(found) == {"hwmon:grace-1": "zones_closed"}


@pytest.mark.parametrize("label", ["", "\0", "Chassis", "Grace Power Socket", "Power Meter 1"])
def test_an_acpi_meter_of_the_whole_machine_is_no_processor(tmp_path, label):
    """Servers of other makers have one for all they draw: named, and not read."""
    grace(tmp_path, 0, label, 450)
    found = hwmon_meters(tmp_path, ALL)
    assert found.meters == ()
    assert "what it covers is not known" in reasons(found)


# -- what any sensor may do --------------------------------------------------------------------


def failing(path: Path, how: str) -> None:
    """A file whose read fails as a bus or a device does."""
    path.unlink()
    if how == "EIO":  # the first page of a process is not mapped
        path.symlink_to("/proc/self/mem")
    elif how == "EAGAIN":  # a pipe that somebody has open, and nothing in it
        os.mkfifo(path)
    elif how == "EISDIR":
        path.mkdir()
    else:
        path.write_text(how)


@pytest.mark.parametrize("how", ["EIO", "EAGAIN", "EISDIR", "", "N/A", "12.5", "nan"])
def test_a_value_that_cannot_be_read_is_named_and_modelled(tmp_path, how):
    """At the start a refusal with the file's name; later a missed read, and the rest is kept."""
    folder = altra(tmp_path, 1)
    path = folder / "power2_input"
    writer = None
    try:
        (meter,) = hwmon_meters(tmp_path, ALL).meters
        meter.read_joules(0.0)
        failing(path, how)
        if how == "EAGAIN":
            writer = os.open(path, os.O_RDWR)
        with pytest.raises(MeterReadError):
            meter.read_joules(1.0)
        found = hwmon_meters(tmp_path, ALL)
        assert found.meters == ()
        assert str(path).rpartition("/")[2] in reasons(found)
    finally:
        if writer is not None:
            os.close(writer)


@pytest.mark.parametrize("milliamperes", [-900, -1])
def test_a_power_below_nothing_is_no_reading(tmp_path, milliamperes):
    """A module cannot feed its input: an impossible value is missed, never counted."""
    (folder,) = jetson(tmp_path, ORIN_NX)
    (meter,) = hwmon_meters(tmp_path, ALL).meters
    meter.read_joules(0.0)
    (folder / "curr1_input").write_text(f"{milliamperes}\n")
    with pytest.raises(MeterReadError):
        meter.read_joules(1.0)
    (folder / "curr1_input").write_text("1400\n")
    assert meter.read_joules(2.0) == pytest.approx(14.0)


def sockets(sysfs):
    return chip(sysfs, 0, "amd_energy", "amd_energy.0", {
        "energy1_label": "Ecore000", "energy1_input": 5_000_000,
        "energy2_label": "Esocket1", "energy2_input": 8_000_000,
        "energy3_label": "Esocket0", "energy3_input": 9_000_000,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("closed", "fault"),
    [(["energy2_input"], {"hwmon:socket-1": "zones_closed"}),
     (["energy2_input", "energy3_input"], {})],
)  # fmt: skip
def test_sockets_that_may_not_be_read(tmp_path, closed, fault):
    """One of two closed: no half a machine. Each is named, with what opens it."""
    folder = sockets(tmp_path)
    for name in closed:
        (folder / name).chmod(0)
    said = as_plain_user(tmp_path)
    assert said["meters"] == []
    assert said["faults"] == fault
    assert said["cures"] == [
        f"sudo chmod a+r {tmp_path / 'class/hwmon/hwmon0' / name}" for name in closed
    ]


ASK = """
import json, sys
from pathlib import Path
from carbontrack.meters.hwmon import hwmon_meters
found = hwmon_meters(Path(sys.argv[1]), ("cpu", "ram", "gpu"))
print(json.dumps({
    "meters": [meter.id for meter in found.meters],
    "faults": {refusal.id: refusal.fault for refusal in found.refused if refusal.fault},
    "cures": [refusal.cure for refusal in found.refused if refusal.cure],
}))
"""


def as_plain_user(sysfs):
    """What is found without the right to read everything; root gives that right up."""
    import json

    command = [sys.executable, "-c", ASK, str(sysfs)]
    if os.geteuid() == 0:
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(answer.stdout)


def test_a_board_whose_average_is_unknown_shows_its_present_power(tmp_path):
    """amdgpu has the file of an average on boards without one."""
    folder = chip(tmp_path, 0, "amdgpu", "0000:03:00.0", {
        "power1_average": "", "power1_input": 45_000_000,
    })  # fmt: skip
    (folder / "device" / "board_info").write_text("type : cem\n")
    (meter,) = hwmon_meters(tmp_path, ALL).meters
    assert meter.value() == 45.0
    (folder / "power1_average").write_text("40000000\n")
    (meter,) = hwmon_meters(tmp_path, ALL).meters
    assert meter.value() == 40.0


def test_a_board_without_any_power_is_said_to_be_unmeasured(tmp_path):
    """The other board counts, and the record says that one does not; not if none is wanted."""
    for number, files in enumerate([{"power1_average": 1_000_000}, {"temp1_input": 40_000}]):
        folder = chip(tmp_path, number, "amdgpu", f"0000:0{number}:00.0", files)
        (folder / "device" / "board_info").write_text("type : cem\n")
        (folder / "device" / "unique_id").write_text(f"{number}\n")
    found = hwmon_meters(tmp_path, ALL)
    assert [meter.id for meter in found.meters] == ["hwmon:amdgpu-0"]
    assert faults(found) == {"hwmon:amdgpu-1": "gpu_unmeasured"}
    assert not faults(hwmon_meters(tmp_path, ("cpu", "ram")))


def test_two_chips_of_one_name_are_one_meter(tmp_path):
    """An id is an address: what shows it again is not added."""
    for number in range(2):
        chip(tmp_path, number, "amd_energy", f"amd_energy.{number}",
             {"energy1_label": "Esocket0", "energy1_input": 9_000_000})  # fmt: skip
    found = hwmon_meters(tmp_path, ALL)
    assert [meter.id for meter in found.meters] == ["hwmon:socket-0"]
    assert "two sensors have this name" in reasons(found)


def test_tenth_chip_after_the_second(tmp_path):
    """The numbers of sockets follow those of the chips, not their letters."""
    altra(tmp_path, 9, cpu_w=1.0, io_w=0.0)
    folder = tmp_path / "class" / "hwmon"
    (folder / "hwmon10").symlink_to("hwmon9")
    assert [path.name for path in sorted(folder.iterdir())] == ["hwmon10", "hwmon9"]
    meters = hwmon_meters(tmp_path, ALL).meters
    assert [Path(meter.files[0]).parent.name for meter in meters] == ["hwmon9", "hwmon10"]
