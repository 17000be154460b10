"""AMD GPUs over a library in Python that answers as amdsmi does."""

import threading

import pytest

from carbontrack.errors import MeterGone, MeterReadError, MeterUnavailable
from carbontrack.meters.amd import amd_meters
from carbontrack.meters.counter_or_power import AGREES
from carbontrack.meters.detect import Host, detect

RESOLUTION_UJ = 15.3


class AmdSmiLibraryException(Exception):  # noqa: N818 - its name there
    """As the library's own, which is an Exception too."""


class FakeSmi:
    """Boards of 400 W whose counter moves in units of 15.3 microjoules."""

    class AmdSmiInitFlags:
        INIT_AMD_GPUS = 2

    def __init__(self, *, boards=1, counts=1.0, field="energy_accumulator", power=None):
        self.boards, self.counts, self.field = boards, counts, field
        self.power = power or {"socket_power": 400, "average_socket_power": "N/A"}
        self.at_s, self.fails, self.processes = 0.0, set(), []
        self.names, self.hip_ids, self.missed_j = {}, None, 0.0
        self.offset_units = 1_000_000_000

    def amdsmi_init(self, flag):
        self._answer("amdsmi_init")
        assert flag == 2

    def amdsmi_get_processor_handles(self):
        return [f"handle {n}" for n in range(self.boards)]

    def amdsmi_get_gpu_device_uuid(self, handle):
        return f"b4ff74a0-0000-1000-80aa-00000000000{handle[-1]}"

    def amdsmi_get_gpu_asic_info(self, handle):
        name = self.names.get(handle, "AMD Instinct MI300X")
        return {"market_name": name, "asic_serial": f"0x4B2C1A9F8D3E6F7{handle[-1]}"}

    def amdsmi_get_gpu_enumeration_info(self, handle):
        if self.hip_ids is None:
            raise AmdSmiLibraryException("an older library")
        return {"hip_id": self.hip_ids[int(handle[-1])], "hip_uuid": "N/A"}

    def amdsmi_get_energy_count(self, handle):
        self._answer("amdsmi_get_energy_count")
        joules = 400.0 * self.at_s * self.counts - self.missed_j
        units = self.offset_units + round(joules * 1e6 / RESOLUTION_UJ)
        return {self.field: units, "counter_resolution": RESOLUTION_UJ, "timestamp": 1}

    def amdsmi_get_power_info(self, handle):
        self._answer("amdsmi_get_power_info")
        return self.power.get(handle, self.power)

    def amdsmi_get_gpu_process_list(self, handle):
        self._answer("amdsmi_get_gpu_process_list")
        return self.processes

    def _answer(self, function):
        if function in self.fails:
            raise AmdSmiLibraryException(f"{function} is busy")


def open_all(smi, gpu_ids=None, **variables):
    return amd_meters(gpu_ids, lambda: smi, variables)


def run(smi, seconds, *, period_s=0.1):
    (meter,), _, _ = open_all(smi)
    for step in range(round(seconds / period_s) + 1):
        smi.at_s = step * period_s
        joules = meter.read_joules(smi.at_s)
    return meter, joules


@pytest.mark.parametrize("field", ["energy_accumulator", "power"])
def test_a_counter_that_agrees_is_believed_and_is_exact(field):
    """Units of 15.3 uJ, by the new name and the old; then it may be read as seldom as one likes."""
    smi = FakeSmi(field=field)
    meter, joules = run(smi, 10.0)
    assert joules == pytest.approx(4000.0, rel=1e-6)
    assert meter.max_period_s is None
    smi.at_s = 70.0
    assert meter.read_joules(70.0) == pytest.approx(28_000.0, rel=1e-6)


@pytest.mark.parametrize("counts", [0.0, 0.4 / AGREES, 3.0 * AGREES])
def test_a_counter_that_disagrees_is_not_used(counts):
    """It stands still, or is off by far: the power is integrated, as often as it must be."""
    meter, joules = run(FakeSmi(counts=counts), 10.0)
    assert joules == pytest.approx(4000.0, rel=1e-6)
    assert meter.max_period_s == pytest.approx(0.1)


def test_a_board_without_a_counter_is_measured_by_its_power():
    """NOT_SUPPORTED is no zero."""
    smi = FakeSmi()
    smi.fails = {"amdsmi_get_energy_count"}
    assert run(smi, 5.0)[1] == pytest.approx(2000.0)


@pytest.mark.parametrize(
    ("power", "watts"),
    [
        (
            {"socket_power": "N/A", "current_socket_power": 310, "average_socket_power": "N/A"},
            310.0,
        ),
        ({"current_socket_power": "N/A", "average_socket_power": 150}, 150.0),
        ({"current_socket_power": 65535, "average_socket_power": 90}, 90.0),
    ],
)
def test_every_name_of_the_power_is_understood(power, watts):
    """The field differs by board and by version; 65535 stands for nothing."""
    (meter,), names, _ = open_all(FakeSmi(power=power))
    assert meter.nominal_w == watts
    assert names == ("AMD Instinct MI300X",)


@pytest.mark.parametrize("nothing", [0, "N/A"])
def test_the_second_die_of_a_board_is_refused(nothing):
    """Its power is in what the first one shows."""
    power = {
        "handle 0": {"average_socket_power": 237},
        "handle 1": {"average_socket_power": nothing},
    }
    meters, names, refused = open_all(FakeSmi(boards=2, power=power))
    assert [meter.nominal_w for meter in meters] == [237.0]
    assert len(names) == 1
    assert "second die" in refused[0].reason
    assert refused[0].fault is None, "its energy is in what is measured"


def test_a_failing_read_is_missed_and_the_next_carries_it():
    """Whatever the library raises is a missed read."""
    smi = FakeSmi()
    meter, _ = run(smi, 2.0)
    smi.fails = {"amdsmi_get_energy_count", "amdsmi_get_power_info"}
    smi.at_s = 3.0
    with pytest.raises(MeterReadError, match="busy"):
        meter.read_joules(3.0)
    smi.fails = set()
    smi.at_s = 4.0
    assert meter.read_joules(4.0) == pytest.approx(1600.0, rel=1e-6)


def test_a_counter_that_fails_later_gives_way_to_the_power_and_comes_back():
    """Each second is counted once: by the counter, then by the power, then by the counter."""
    smi = FakeSmi()
    (meter,), _, _ = open_all(smi)
    periods = set()
    for tenth in range(1001):
        smi.fails = {"amdsmi_get_energy_count"} if 200 <= tenth < 400 else set()
        smi.at_s = tenth / 10
        try:
            joules = meter.read_joules(smi.at_s)
        except MeterReadError:
            continue  # for three seconds it is waited for
        periods.add((tenth // 100, meter.max_period_s))
    assert joules == pytest.approx(40_000.0, rel=1e-3)
    assert (3, 0.1) in periods
    assert meter.max_period_s is None
    assert meter.fault_counts == {}


def test_a_counter_that_stands_still_later_is_set_aside():
    """The power says that it cannot: the joules go on, and a fault says why."""
    smi = FakeSmi()
    meter, _ = run(smi, 5.0)
    for tenth in range(51, 101):
        smi.at_s = tenth / 10
        smi.missed_j = 400.0 * (smi.at_s - 5.0)
        joules = meter.read_joules(smi.at_s)
    assert joules == pytest.approx(4000.0, rel=0.01)
    assert meter.fault_counts == {"stands_still": 1}


@pytest.mark.parametrize(
    ("variables", "ours"),
    [
        ({}, "0123"),
        ({"ROCR_VISIBLE_DEVICES": "2,3"}, "23"),
        ({"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}, "3"),
        ({"ROCR_VISIBLE_DEVICES": "3,1", "CUDA_VISIBLE_DEVICES": "0"}, "3"),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0"}, "1"),
        ({"HIP_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": "0"}, "0"),  # empty is not set
        ({"GPU_DEVICE_ORDINAL": "0,2"}, "02"),
        ({"HIP_VISIBLE_DEVICES": "-1"}, ""),
        ({"ROCR_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "0"}, ""),
        ({"ROCR_VISIBLE_DEVICES": "GPU-4b2c1a9f8d3e6f71"}, "1"),
        ({"ROCR_VISIBLE_DEVICES": "GPU-4b2c1a9f8d3e6f72,0", "HIP_VISIBLE_DEVICES": "1"}, "0"),
        ({"HIP_VISIBLE_DEVICES": "junk"}, "0123"),
    ],
)
def test_the_variables_of_rocm_hide_boards_as_they_do_there(variables, ours):
    """ROCR filters, HIP counts in what is left, and CUDA's stands in for HIP's."""
    meters, _, refused = open_all(FakeSmi(boards=4), **variables)
    assert sorted(meter.id[-1] for meter in meters) == list(ours)
    assert all(refusal.fault is None for refusal in refused)


def test_the_numbers_are_hips_where_the_library_tells_them():
    """Its own order is by the bus, and HIP's need not be."""
    smi = FakeSmi(boards=3)
    smi.hip_ids = [2, 0, 1]
    smi.names = {"handle 0": "AMD Radeon Graphics"}
    (meter,), _, _ = open_all(smi, HIP_VISIBLE_DEVICES="0")
    assert meter.id[-1] == "1"
    (meter,), _, _ = open_all(smi, ["0"])  # the setting's are the library's
    assert meter.id[-1] == "0"


def test_among_boards_of_several_models_the_one_in_use_counts():
    """An older library tells no numbers of HIP: the board with our memory on it is ours."""
    smi = FakeSmi(boards=2)
    smi.names = {"handle 0": "AMD Radeon Graphics"}
    meters, _, _ = open_all(smi, HIP_VISIBLE_DEVICES="0")
    assert [meter.candidates.wanted for meter in meters] == [1, 1]
    smi.processes = [{"pid": 11, "memory_usage": {"vram_mem": 1 << 30}}]
    meters[1].note(meters[1].look(), {11})
    assert meters[1].candidates.decided


@pytest.mark.parametrize("answer", [None, [], "N/A", {"socket_power": None}, {"socket_power": -1}])
def test_a_board_whose_answers_make_no_sense_is_refused_alone(answer):
    """The other is measured, and every record says that one is not."""
    power = {"handle 0": answer, "handle 1": {"socket_power": 300}}
    smi = FakeSmi(boards=2, power=power)
    smi.names = {"handle 0": "AMD Radeon Pro W7900"}
    meters, _, refused = open_all(smi)
    assert [meter.nominal_w for meter in meters] == [300.0]
    assert [(refusal.id[-1], refusal.fault) for refusal in refused] == [("0", "gpu_unmeasured")]


@pytest.mark.parametrize("uuid", [None, "", 7, b"\xff", "the same"])
def test_boards_whose_uuids_make_no_sense_are_told_apart(uuid):
    """By their position."""
    smi = FakeSmi(boards=2)
    smi.amdsmi_get_gpu_device_uuid = lambda handle: uuid
    meters, _, _ = open_all(smi)
    assert len({meter.id for meter in meters}) == 2


def test_who_holds_memory_is_told():
    """A process that every HIP program leaves on a board it does not use is no holder."""
    smi = FakeSmi()
    (meter,), _, _ = open_all(smi)
    smi.processes = [
        {"pid": 11, "memory_usage": {"vram_mem": 1 << 30}},
        {"pid": 22, "memory_usage": {"vram_mem": 0}},
        {"pid": 33},
    ]
    assert meter.look()[0].holders == {11, 33}
    for nonsense in ([object()], None, "N/A"):
        smi.processes = nonsense
        assert meter.look()[0].holders is None
    smi.processes = [{"pid": "N/A"}, {}, {"pid": 44, "memory_usage": None}]
    assert meter.look()[0].holders == {44}


def test_gpu_ids_choose_by_number_or_uuid():
    """And what is not named is refused with that reason."""
    smi = FakeSmi(boards=3)
    found, _, refused = open_all(smi, ["1", "B4FF74A0-0000-1000-80aa-000000000002"])
    assert [meter.id[-1] for meter in found] == ["1", "2"]
    assert [refusal.id[-1] for refusal in refused] == ["0"]


def test_a_library_that_is_missing_or_does_not_start_is_a_refusal():
    """With its reason, and no thread left behind."""

    def missing():
        raise MeterUnavailable("amdsmi is not installed", 'pip install "carbontrack[amd]"')

    assert amd_meters(None, missing)[2][0].cure == 'pip install "carbontrack[amd]"'
    smi = FakeSmi()
    smi.fails = {"amdsmi_init"}
    meters, _, (refusal,) = open_all(smi)
    assert meters == ()
    assert "cannot be started" in refusal.reason


def test_closing_the_last_board_ends_the_thread():
    """Nothing of ours stays behind, and a closed meter is gone."""
    before = set(threading.enumerate())
    meters, _, _ = open_all(FakeSmi(boards=2))
    threads = set(threading.enumerate()) - before
    assert [thread.name for thread in threads] == ["carbontrack-amdsmi"]
    for meter in meters:
        meter.close()
        meter.close()
    for thread in threads:
        thread.join(60.0)
    assert not any(thread.is_alive() for thread in threads)
    with pytest.raises(MeterGone):
        meters[0].read_joules(1.0)


def board(sysfs, **files):
    """A board of its own in the kernel's tree, with the driver loaded."""
    chip = sysfs / "class" / "hwmon" / "hwmon3"
    (chip / "device").mkdir(parents=True)
    (sysfs / "module" / "amdgpu").mkdir(parents=True)
    (chip / "name").write_text("amdgpu\n")
    (chip / "device" / "board_info").write_text("type : oam\n")
    (chip / "device" / "unique_id").write_text("b4ff74a0\n")
    for name, text in files.items():
        (chip / name).write_text(f"{text}\n")


def find(sysfs, load):
    return detect(Host(busy_s=lambda: 0.0, sysfs=sysfs, nvml_library="none.so", load_amdsmi=load))


def test_the_library_comes_before_the_kernels_sensor(tmp_path):
    """One board, two ways to it, one meter; its name is told."""
    board(tmp_path, power1_average=300_000_000)
    found = find(tmp_path, FakeSmi)
    gpus = [meter.id for meter in found if meter.component == "gpu"]
    assert gpus == ["amdsmi:b4ff74a0-0000-1000-80aa-000000000000"]
    assert found.hardware.gpu_models == ("AMD Instinct MI300X",)
    for meter in found:
        meter.close()


@pytest.mark.parametrize(
    ("files", "counts"),
    [({"power1_average": 300_000_000}, False), ({"energy1_input": 5, "power1_average": 3}, True)],
)
def test_without_the_library_the_kernels_sensor_is_read(tmp_path, files, counts):
    """Energy before power; and what the library would need is told."""
    board(tmp_path, **files)

    def missing():
        raise MeterUnavailable("amdsmi is not installed", 'pip install "carbontrack[amd]"')

    found = find(tmp_path, missing)
    (gpu,) = [meter for meter in found if meter.component == "gpu"]
    assert gpu.id == "hwmon:amdgpu-b4ff74a0"
    assert (gpu.max_period_s is None) == counts
    assert [refusal.id for refusal in found.refused if refusal.id == "amdsmi"] == ["amdsmi"]


def test_a_board_that_is_hidden_is_not_read_from_the_kernel_either(tmp_path):
    """And one that the library cannot read is, without a fault."""
    board(tmp_path, power1_average=300_000_000)

    def gpus(smi, **more):
        host = Host(busy_s=lambda: 0.0, sysfs=tmp_path, nvml_library="none.so", **more)
        found = detect(host._replace(load_amdsmi=lambda: smi))
        return [meter.id for meter in found if meter.component == "gpu"], found.standing_faults()

    hidden = (("HIP_VISIBLE_DEVICES", "-1"),)
    assert gpus(FakeSmi(), gpu_variables=hidden) == ([], {})
    assert gpus(FakeSmi(), visible_gpus="-1") == ([], {})
    broken = FakeSmi()
    broken.fails = {"amdsmi_get_power_info"}
    assert gpus(broken) == (["hwmon:amdgpu-b4ff74a0"], {})


def test_without_the_kernels_driver_the_library_is_not_loaded(tmp_path):
    """It costs seconds to load, and nobody else needs it."""
    assert len(find(tmp_path, lambda: 1 / 0).meters) >= 1


@pytest.mark.parametrize(("info", "measured"), [("type : cem", 1), ("type : oam", 1), (None, 1),
                                                ("type : unknown", 0)])  # fmt: skip
def test_an_integrated_gpu_is_contained_in_its_package(tmp_path, info, measured):
    """It is neither counted twice nor missing; where the kernel says nothing, it is a board."""
    smi = FakeSmi()
    smi.amdsmi_get_gpu_device_bdf = lambda handle: "0000:C4:00.0"
    folder = tmp_path / "bus" / "pci" / "devices" / "0000:c4:00.0"
    folder.mkdir(parents=True)
    if info is not None:
        (folder / "board_info").write_text(f"{info}\n")
    meters, names, refused = amd_meters(None, lambda: smi, {}, tmp_path)
    assert len(meters) == len(names) == measured
    assert [(one.fault, "package" in one.reason) for one in refused] == [(None, True)] * (
        1 - measured
    )
