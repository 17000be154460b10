"""What the system's files say of the machine, where they say less than all or another thing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbontrack.api.hardware import has_cpu_counter
from carbontrack.config.settings import Settings
from carbontrack.meters.boards import board_refusals
from carbontrack.meters.cpu_info import CpuFacts, read_cpu_facts
from carbontrack.meters.cpu_power import cpu_power
from carbontrack.meters.detect import Host, detect
from carbontrack.testing import Zone, build_powercap
from tests.support.guests import Machine
from tests.support.hwmon import ORIN, chip, jetson

EPYC = Machine(
    "two EPYC 7513", name="AMD EPYC 7513 32-Core Processor", vendor="AuthenticAMD", family="25",
    model="1", stepping="1", threads=128, siblings="64", cores="32", hypervisor=False, packages=2,
)  # fmt: skip
FOUR = EPYC._replace(guest="four of 64", threads=4, packages=1)
AMD = {"name": EPYC.name, "vendor": "AuthenticAMD", "family": "25", "model": "1", "stepping": "1"}
WSL = {"vendor": "GenuineIntel", "family": "6", "is_guest": True}


@pytest.mark.parametrize(
    ("facts", "tdp_w"),
    [
        (WSL | {"name": "Intel(R) Core(TM) Ultra 7 165H", "model": "170", "threads": 22,
                "siblings": 22}, 28.0),
        (WSL | {"name": "12th Gen Intel(R) Core(TM) i7-12700K", "model": "151", "threads": 20,
                "siblings": 20}, 125.0),
        (WSL | {"name": "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "model": "158", "threads": 12,
                "siblings": 12}, 45.0),
        # a sibling: half of the threads given to Docker Desktop
        (WSL | {"name": "12th Gen Intel(R) Core(TM) i7-12700K", "model": "151", "threads": 10,
                "siblings": 10}, 62.5),
        (AMD | {"threads": 128, "siblings": 64}, 400.0),
        (AMD | {"threads": 96, "siblings": 32}, 400.0),
        (AMD | {"threads": 66, "siblings": 2}, 400.0),
        (AMD | {"threads": 65, "siblings": 1, "cores": 1}, 600.0),  # one thread a core: 1 + 32 + 32
        (AMD | {"threads": 64, "siblings": 32, "cores": 32}, 400.0),
        (AMD | {"threads": 64, "siblings": 64}, 200.0),
        (AMD | {"threads": 4, "siblings": 64}, 12.5),
        (AMD | {"threads": 63, "siblings": 64}, 200.0 * 63 / 64),
    ],
)  # fmt: skip
def test_the_design_power_of_what_is_there(facts, tdp_w):
    """Whole packages with any processors offline, a container's threads, a guest's."""
    assert cpu_power(CpuFacts(**facts)).tdp_w == pytest.approx(tdp_w)


@pytest.mark.parametrize(
    ("machine", "seen", "of", "tdp_w"),
    [
        # lxcfs: the list of processors online is the container's, and present is the host's
        (FOUR._replace(present="0-63"), 4, 64, 12.5),
        # an older one: the list is the host's, and /proc/stat the container's
        (FOUR._replace(online="0-63", present="0-63"), 4, 64, 12.5),
        # all lists are the container's: the first package has more online than all of them
        (FOUR, 4, 64, 12.5),
        # with half of the host's threads switched off
        (FOUR._replace(siblings="32", present="0-63", offline="32-63"), 4, 32, 25.0),
        # with slots for processors that are not there
        (FOUR._replace(present="0-63", offline="64-127"), 4, 64, 12.5),
        # two packages, of which it is shown a few threads of the second
        (FOUR._replace(online="64-67", present="0-127", packages=2), 4, 128, 12.5),
    ],
)
def test_a_container_is_told_from_a_machine_with_processors_offline(
    tmp_path, machine, seen, of, tdp_w
):
    """Hidden is what is present, and neither online nor offline."""
    facts = read_cpu_facts(*machine.write(tmp_path))
    assert (facts.threads, facts.machine_threads) == (seen, of)
    assert cpu_power(facts).tdp_w == pytest.approx(tdp_w)


@pytest.mark.parametrize(
    "machine",
    [
        EPYC,
        EPYC._replace(guest="slots", offline="128-511"),
        EPYC._replace(
            guest="nosmt", threads=64, siblings="32", online="0-31,64-95",
            present="0-127", offline="32-63,96-127",
        ),
        EPYC._replace(
            guest="an old kernel", threads=96, siblings="64", online="32-127", present="0-127",
            offline="0-31",
        ),
        EPYC._replace(
            guest="all but one of the first", threads=65, siblings="1", online="63-127",
            present="0-127", offline="0-62",
        ),
        Machine("a guest", threads=4, siblings="8"),
    ],
    ids=lambda machine: machine.guest,
)  # fmt: skip
def test_processors_offline_hide_nothing(tmp_path, machine):
    """What was switched off, or may be plugged in, is no container's view."""
    facts = read_cpu_facts(*machine.write(tmp_path))
    if not facts.is_guest:
        assert facts.machine_threads is None
        assert cpu_power(facts).tdp_w == 400.0
    assert facts.threads == machine.threads


def test_missing_lists_leave_the_sure_sign(tmp_path):
    """No list but `online`: the first package has 64 online, and four are shown."""
    proc, sysfs = FOUR.write(tmp_path)
    for name in ("present", "offline"):
        (sysfs / "devices/system/cpu" / name).unlink()
    (sysfs / "devices/system/cpu/possible").write_text("0-63\n")
    facts = read_cpu_facts(proc, sysfs)
    assert (facts.threads, facts.machine_threads, facts.packages) == (4, 64, 4 / 64)


def host(proc, sysfs):
    return Host(busy_s=lambda: 0.0, procfs=proc, sysfs=sysfs, gpu_ids=())


@pytest.mark.parametrize("what", ["rapl", "sockets", "rapl and dram"])
def test_what_counts_the_whole_machine_is_set_aside(tmp_path, what):
    """RAPL, memory and sensors alike; one fault, with the numbers of threads."""
    proc, sysfs = FOUR._replace(present="0-63").write(tmp_path)
    (proc / "meminfo").write_text("MemTotal: 16000000 kB\n")
    if what == "sockets":
        chip(sysfs, 0, "amd_energy", "amd_energy.0",
             {"energy1_label": "Esocket0", "energy1_input": 9_000_000})  # fmt: skip
    else:
        dram = [Zone("dram", "intel-rapl:0:0")] if "dram" in what else []
        build_powercap(sysfs, [Zone("package-0", "intel-rapl:0"), *dram])
    found = detect(host(proc, sysfs))
    assert [meter.id for meter in found] == ["model:cpu", "model:ram"]
    assert found.standing_faults() == {"machine_hidden": 1}
    (refusal,) = [refusal for refusal in found.refused if refusal.fault]
    assert "4 of 64 hardware threads" in refusal.reason
    assert refusal.id.count(",") == ("dram" in what)
    # the same machine seen whole
    proc, sysfs = EPYC.write(tmp_path / "whole")
    build_powercap(sysfs, [Zone(f"package-{n}", f"intel-rapl:{n}", raw_uj=n) for n in (0, 1)])
    found = detect(host(proc, sysfs))
    assert "rapl:package-0" in [meter.id for meter in found]
    assert found.standing_faults() == {}


def test_zones_closed_are_not_amiss_where_all_zones_are_set_aside(tmp_path):
    """The model counts the container whole, whichever zones it could have read."""
    proc, sysfs = FOUR._replace(present="0-63").write(tmp_path)
    (proc / "meminfo").write_text("MemTotal: 16000000 kB\n")
    tree = build_powercap(sysfs, [Zone(f"package-{n}", f"intel-rapl:{n}", n) for n in (0, 1)])
    tree.break_zone("package-1", "garbage")
    found = detect(host(proc, sysfs))
    assert [meter.id for meter in found] == ["model:cpu", "model:ram"]
    assert found.standing_faults() == {"machine_hidden": 1}


def test_a_module_with_its_gpu_is_set_aside_as_a_whole(tmp_path):
    """A container on a Jetson: nothing that is not metered counts as covered."""
    machine = Machine("orin", vendor="ARM", family="0x41", model="0xd42", stepping="1", threads=4,
                      present="0-11")  # fmt: skip
    proc, sysfs = machine.write(tmp_path)
    (proc / "meminfo").write_text("MemTotal: 16000000 kB\n")
    jetson(sysfs, ORIN)
    found = detect(Host(busy_s=lambda: 0.0, procfs=proc, sysfs=sysfs, nvml_library="libc.so.6"))
    assert [meter.id for meter in found if meter.component != "gpu"] == ["model:cpu", "model:ram"]
    assert found.standing_faults()["machine_hidden"] == 1


def test_without_a_counter_nothing_is_set_aside(tmp_path):
    """The model counts the container's threads by the container's view: both are of one machine."""
    proc, sysfs = FOUR.write(tmp_path)
    assert detect(host(proc, sysfs)).standing_faults() == {}


@pytest.mark.parametrize(("machine", "counts"), [(EPYC, True), (FOUR, False)])
def test_a_test_run_has_no_counter_where_it_counts_another_machine(tmp_path, machine, counts):
    """The plugin's metric "auto" is measured only where a measured meter would be used."""
    proc, sysfs = machine.write(tmp_path)
    build_powercap(sysfs, [Zone("package-0", "intel-rapl:0")])
    settings = Settings(procfs_path=str(proc), sysfs_path=str(sysfs))
    assert has_cpu_counter(settings) is counts


# -- processors without /proc/cpuinfo ----------------------------------------------------------


def only_sysfs(root, machine, modalias):
    """A procfs that shows processes only (subset=pid), and the sysfs of a machine."""
    proc, sysfs = machine.write(root)
    for name in ("cpuinfo", "stat"):
        (proc / name).unlink()
    cpus = sysfs / "devices/system/cpu"
    (cpus / "modalias").write_text(modalias + "\n")
    for number in range(machine.threads):
        (cpus / f"cpu{number}/topology/thread_siblings_list").write_text("0,1\n")
    return proc, sysfs


@pytest.mark.parametrize("guest", [False, True])
def test_a_processor_is_known_without_cpuinfo(tmp_path, guest):
    """Vendor, family and model of the module alias, threads of the topology; nobody is asked."""
    features = "0000,0001,009E" + (",009F" if guest else "")
    modalias = f"cpu:type:x86,ven0002fam0019mod0001:feature:,{features},00C0"
    proc, sysfs = only_sysfs(tmp_path, EPYC._replace(packages=2), modalias)
    facts = read_cpu_facts(proc, sysfs, tmp_path / "cache")
    assert (facts.vendor, facts.family, facts.model) == ("AuthenticAMD", "25", "1")
    assert (facts.threads, facts.siblings, facts.cores, facts.is_guest) == (128, 64, 32, guest)
    assert facts.packages == (None if guest else 2.0)
    assert cpu_power(facts).known == "family"
    assert not (tmp_path / "cache").exists()


def test_an_arm_core_is_known_without_cpuinfo(tmp_path):
    """By its register; Graviton 4 here."""
    proc, sysfs = only_sysfs(tmp_path, Machine("arm"), "cpu:type:aarch64:feature:,0000,0001")
    register = sysfs / "devices/system/cpu/cpu0/regs/identification/midr_el1"
    register.parent.mkdir(parents=True)
    register.write_text("0x00000000410fd4f1\n")
    facts = read_cpu_facts(proc, sysfs)
    assert (facts.vendor, facts.family, facts.model, facts.stepping) == (
        "ARM", "0x41", "0xd4f", "1",
    )  # fmt: skip
    assert "Neoverse V2" in cpu_power(facts).how


@pytest.mark.parametrize("modalias", ["", "cpu:type:x86", "cpu:type:x86,venXXfam", "\0"])
def test_an_alias_that_is_none_is_ignored(tmp_path, modalias):
    """The threads are counted all the same."""
    proc, sysfs = only_sysfs(tmp_path, EPYC._replace(threads=8), modalias)
    assert read_cpu_facts(proc, sysfs).threads == 8


COUNT = """
import os, sys
os.cpu_count = os.process_cpu_count = lambda: 1000  # as PYTHON_CPU_COUNT has it from 3.13 on
from pathlib import Path
from carbontrack.meters.cpu_info import read_cpu_facts
from carbontrack.api.hardware import machine_fingerprint
print(read_cpu_facts(Path(sys.argv[1]), Path(sys.argv[1])).threads, machine_fingerprint())
"""


def test_what_python_is_told_to_count_is_not_the_machine(tmp_path):
    """PYTHON_CPU_COUNT and -X cpu_count say how many workers a program may start."""
    environ = os.environ | {
        "PYTHON_CPU_COUNT": "1000",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    answer = subprocess.run(
        [sys.executable, "-c", COUNT, str(tmp_path)], env=environ, capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip
    threads, told = answer.stdout.split(None, 1)
    assert int(threads) == os.sysconf("SC_NPROCESSORS_ONLN")
    assert "x1000" not in told


def test_who_may_use_one_processor_does_not_make_the_machine_smaller(tmp_path):
    """Affinity and a container's --cpuset-cpus are limits, which `idle="reserved"` reads."""
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert read_cpu_facts(tmp_path, tmp_path).threads == os.sysconf("SC_NPROCESSORS_ONLN")
    finally:
        os.sched_setaffinity(0, allowed)


# -- boards ------------------------------------------------------------------------------------


def board(root, core, model, compatible, threads=4):
    """An ARM board with a device tree, whose texts end in a zero byte."""
    machine = Machine("board", vendor="ARM", family="0x41", model=core, stepping="1",
                      threads=threads)  # fmt: skip
    proc, sysfs = machine.write(root)
    tree = sysfs / "firmware/devicetree/base"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(model.encode() + b"\0")
    (tree / "compatible").write_bytes(b"".join(name.encode() + b"\0" for name in compatible))
    return proc, sysfs


PI_5 = ("0xd0b", "Raspberry Pi 5 Model B Rev 1.0", ["raspberrypi,5-model-b", "brcm,bcm2712"])
PI_4 = ("0xd08", "Raspberry Pi 4 Model B Rev 1.4", ["raspberrypi,4-model-b", "brcm,bcm2711"])


@pytest.mark.parametrize(("pi", "tdp_w"), [(PI_5, 9.2), (PI_4, 6.4)])
def test_a_raspberry_pi_is_known_by_its_device_tree(tmp_path, pi, tdp_w):
    """Its name is the record's; its chip tells more than its core; why no sensor is said."""
    facts = read_cpu_facts(*board(tmp_path, *pi))
    power = cpu_power(facts)
    assert facts.name == pi[1]
    assert (power.known, power.tdp_w) == ("family", pytest.approx(tdp_w))
    by_core = cpu_power(facts._replace(board="", name=""))
    assert by_core.tdp_w == power.tdp_w
    assert by_core.curve.at(0.5).high > power.curve.at(0.5).high
    (refusal,) = board_refusals(facts.board)
    assert "modelled" in refusal.reason
    found = detect(host(*board(tmp_path / "again", *pi)))
    assert "pmic" in [refusal.id for refusal in found.refused]
    assert found.hardware.cpu_model == pi[1]


def test_a_container_on_a_raspberry_pi_has_its_name_from_cpuinfo(tmp_path):
    """Docker shows no firmware; the core is known, and the name is behind the processors."""
    proc, sysfs = board(tmp_path, "0xd0b", "", [])
    with (proc / "cpuinfo").open("a") as cpuinfo:
        cpuinfo.write("\nRevision\t: c04170\nSerial\t\t: 1\nModel\t\t: Raspberry Pi 5 Model B\n")
    facts = read_cpu_facts(proc, sysfs)
    assert (facts.name, cpu_power(facts).tdp_w) == ("Raspberry Pi 5 Model B", pytest.approx(9.2))


def test_an_emulated_board_has_no_name(tmp_path):
    """QEMU's, and that of light guests, is called "linux,dummy-virt"."""
    facts = read_cpu_facts(*board(tmp_path, "0xd0c", "linux,dummy-virt", ["linux,dummy-virt"]))
    assert facts.name == ""
    assert "Neoverse N1" in cpu_power(facts).how
    assert board_refusals(facts.board) == ()


def test_a_board_of_another_chip_is_known_by_its_core(tmp_path):
    """A chip that is in no table leaves the core."""
    other = ["vendor,board", "vendor,chip9000"]
    facts = read_cpu_facts(*board(tmp_path, "0xd0b", "Some Board (rev 2)", other))
    assert (facts.name, cpu_power(facts).tdp_w) == ("Some Board (rev 2)", pytest.approx(9.2))


@pytest.mark.parametrize(
    ("cores", "threads", "tdp_w"),
    [
        (["0xd05"] * 4 + ["0xd0b"] * 4, 8, 4 * 0.5 + 4 * 2.3),  # RK3588
        (["0xd03"] * 4 + ["0xd08"] * 2, 6, 4 * 0.8 + 2 * 1.6),  # RK3399
        (["0xd05"] * 4 + ["0xfff"] * 4, 8, 8 * 3.5),  # a kind that is not known
        (["0xd05"] * 4 + ["0xd0b"] * 4, 6, 6 / 8 * (4 * 0.5 + 4 * 2.3)),  # two of them offline
    ],
)
def test_cores_of_several_kinds_have_watts_of_their_own(tmp_path, cores, threads, tdp_w):
    """The first core is the smallest on many boards, and not all of them."""
    proc, sysfs = board(tmp_path, "0xd05", "Some Board", ["vendor,chip"], threads=threads)
    blocks = [
        f"processor\t: {number}\nCPU implementer\t: 0x41\nCPU part\t: {core}\nCPU revision\t: 0\n"
        for number, core in enumerate(cores)
    ]
    (proc / "cpuinfo").write_text("\n".join(blocks))
    power = cpu_power(read_cpu_facts(proc, sysfs))
    assert power.tdp_w == pytest.approx(tdp_w)
    assert power.curve.at(1.0).low > 0.0


@pytest.mark.parametrize(
    ("core", "product", "watts"),
    [("0xd0c", "c6g.large", 2.2), ("0xd40", "m7g.medium", 1.56), ("0xd4f", "r8g.xlarge", 2.0)],
)
def test_gravitons_are_known_by_their_core(tmp_path, core, product, watts):
    """Two, three and four: watts of each thread, of which a virtual processor is one."""
    machine = Machine("graviton", vendor="ARM", family="0x41", model=core, stepping="1", threads=2,
                      sys_vendor="Amazon EC2", product_name=product)  # fmt: skip
    facts = read_cpu_facts(*machine.write(tmp_path))
    assert cpu_power(facts).tdp_w == pytest.approx(2 * watts)
    assert facts.machine_threads is None
