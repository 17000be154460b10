"""What is known of the processors of guests, containers and hosts, and the page that shows it."""

import re
from pathlib import Path

import pytest

from carbontrack.meters.cpu_info import CpuFacts, read_cpu_facts
from carbontrack.meters.cpu_power import UNKNOWN_W_PER_THREAD, CpuPower, cpu_power
from carbontrack.meters.load_curve import LOADS, SINCE_2010
from tests.support.guests import Machine, machines

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "meters.md"
MACHINES = {machine.guest: machine for machine in machines()}
HALF_LOAD_BEFORE = 0.75
"""Share of TDP at half load that the model had before."""

EXPECTED_W = {
    "WSL2 on a laptop, i7-8650U": 15.0,
    "WSL2 on a laptop, i7-12700H": 45.0,
    "WSL2 on a laptop, Core Ultra 7 155H": 28.0,
    "WSL2 on a laptop, i7-1165G7": 28.0,  # no thread count: the whole part
    "Docker Desktop, 4 threads of an i7-12700H": 45.0 * 4 / 20,
    "Docker Desktop on Apple silicon": 8 * 3.0,
    "AWS c5n.xlarge": 240.0 * 4 / 36,
    "AWS m7a.large (a core a vCPU)": 400.0 * 2 / 96,
    "AWS m8a.large (a core a vCPU)": 2 * 2 * 1.61,
    "AWS hpc6a.48xlarge (a core a vCPU)": 2 * 225.0,
    "AWS c7g.large (Graviton3)": 2 * 1.56,
    "AWS c8g.large (Graviton4)": 2 * 2.0,
    "AWS c8g.large, core not known": 2 * 2.0,
    "AWS m8i.large, name and family not known": 2 * 2.58,
    "AWS c5.metal": 480.0,
    "Google n2d-standard-2": 2 * 2.19,
    "Google t2d-standard-2 (a core a vCPU)": 2 * 2 * 2.19,
    "Google c4a (Axion)": 2 * 2.0,
    "Azure, Cobalt 100": 2 * 2.0,
    "AmpereOne": 4 * 1.8,
    "QEMU, Icelake-Server": 4 * 3.55,
    "QEMU, Haswell": 2 * 5.0,
    "QEMU, Nehalem (refused)": 2 * 3.5,
    "QEMU Virtual CPU (refused)": 2 * 3.5,
    "Common KVM processor (refused)": 2 * 3.5,
    "Hygon Dhyana": 4 * 3.49,
    "Raspberry Pi 4": 4 * 1.6,
    "Raspberry Pi 5": 4 * 2.3,
    "LXC, 4 of 128 threads of two EPYC 7543": 225.0 * 4 / 64,
    "LXC of an older lxcfs, 4 of the same 128": 225.0 * 4 / 64,
    "two EPYC 7543, 60 threads of the first offline": 450.0,
}


def power_of(machine: Machine, root: Path) -> CpuPower:
    """What is known of a machine, read from its files."""
    return cpu_power(read_cpu_facts(*machine.write(root)))


def row_of(machine: Machine, root: Path) -> str:
    """The page's row about a machine."""
    power = power_of(machine, root)
    before_w = float(machine.before_w)
    half = power.curve.at(0.5)
    best_w, low_w, high_w = (power.tdp_w * share for share in half)
    return (
        f"| {machine.guest} | {before_w:.1f} | {power.tdp_w:.1f} | {power.known} "
        f"| {before_w * HALF_LOAD_BEFORE:.1f} | {best_w:.1f} ({low_w:.1f} to {high_w:.1f}) |"
    )


@pytest.mark.parametrize("guest", EXPECTED_W)
def test_a_guest_has_the_design_power_of_its_threads(guest, tmp_path):
    """By its part, its family, its cores or its type, or by nothing."""
    power = power_of(MACHINES[guest], tmp_path)
    assert power.tdp_w == pytest.approx(EXPECTED_W[guest])
    assert (power.known == "nothing") == ("(refused)" in guest)
    assert power.basis == ("assumed" if power.known == "nothing" else "modelled")


@pytest.mark.parametrize("guest", MACHINES)
def test_the_page_shows_the_guest_as_it_is_modelled(guest, tmp_path):
    """Each row of the page is what the code says today, beside what it said before."""
    assert row_of(MACHINES[guest], tmp_path) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_has_no_other_guests():
    """As many rows as machines."""
    rows = re.findall(
        r"^\| .* \| (?:part|family|nothing) \| .* to .*\) \|$", PAGE.read_text(), re.M
    )
    assert len(rows) == len(MACHINES)


def test_a_type_of_aws_counts_on_its_machines_only(tmp_path):
    """A product's name proves nothing where the firmware is another's."""
    elsewhere = MACHINES["AWS c8g.large, core not known"]._replace(sys_vendor="QEMU")
    assert power_of(elsewhere, tmp_path).known == "nothing"


@pytest.mark.parametrize(
    ("machine_type", "known"),
    [
        ("m8i-flex.large", "family"),
        ("c8gn.xlarge", "family"),
        ("r8gd.metal-24xl", "family"),
        ("g6.xlarge", "nothing"),  # a line with GPUs; its processor is not in its name
        ("g6e.xlarge", "nothing"),
        ("i7ie.large", "nothing"),  # its Intel is another than that of c7i, m7i and r7i
        ("m9g.large", "nothing"),
        ("t4g.small", "nothing"),
        ("u-6tb1.56xlarge", "nothing"),
        ("mac2-m2.metal", "nothing"),
        ("", "nothing"),
        (".", "nothing"),
        ("HVM domU", "nothing"),
    ],
)
def test_only_types_that_name_their_processor_are_understood(machine_type, known):
    """Lines c, m and r with g, a or i behind a generation that the table has."""
    facts = CpuFacts(threads=2, is_guest=True, maker="Amazon EC2", machine_type=machine_type)
    assert cpu_power(facts).known == known


@pytest.mark.parametrize(
    ("name", "known", "tdp_w"),
    [
        ("Intel(R) Xeon(R) Gold 6133 CPU @ 2.50GHz", "family", 2 * 3.75),
        ("AMD Ryzen 5 3500X 6-Core Processor", "part", 65.0),
        ("Intel(R) Celeron(R) J4125 CPU @ 2.00GHz", "part", 10.0),
        ("Intel(R) Core(TM) i7 CPU         920  @ 2.67GHz", "part", 130.0),
    ],
)
def test_without_a_number_of_threads_client_parts_alone_are_taken_whole(name, known, tdp_w):
    """A server's part is shared out among many guests, so that its family tells more."""
    facts = CpuFacts(name, "GenuineIntel", "6", "85", "4", threads=2, siblings=2, is_guest=True)
    power = cpu_power(facts)
    assert (power.known, power.tdp_w) == (known, pytest.approx(tdp_w))


def test_an_unclear_topology_widens_the_high_end(tmp_path):
    """Where a cloud shows a core for each thread they may be one or the other: up to twice."""
    shown = MACHINES["Azure, EPYC 9V74, topology unclear"]
    unclear = power_of(shown, tmp_path / "unclear")
    clear = power_of(shown._replace(cores="2"), tmp_path / "clear")
    assert unclear.tdp_w == clear.tdp_w
    for load in LOADS:
        one, other = unclear.curve.at(load), clear.curve.at(load)
        assert (one.best, one.low) == pytest.approx((other.best, other.low))
        assert other.high * 1.2 < one.high <= other.high * 2.0


def test_one_virtual_processor_may_be_a_thread_or_a_core(tmp_path):
    """A single one has a core to itself or shares it; on a cloud the high end holds both."""
    shown = MACHINES["Azure, EPYC 7763"]._replace(threads=1, siblings="1", cores="1")
    cloud = power_of(shown, tmp_path / "cloud")
    other = power_of(shown._replace(sys_vendor="QEMU"), tmp_path / "other")
    for load in LOADS:
        assert cloud.curve.at(load).high > 1.2 * other.curve.at(load).high


def test_a_guest_with_the_whole_part_cannot_have_more(tmp_path):
    """Nothing is unclear about its share, whatever the topology shows."""
    shown = MACHINES["WSL2 on a laptop, i7-8650U"]
    whole = shown._replace(sys_vendor="Microsoft Corporation", cores="8")
    assert power_of(whole, tmp_path / "whole").curve == power_of(shown, tmp_path / "wsl").curve
    most = power_of(whole._replace(threads=6, siblings="6", cores="6"), tmp_path / "most")
    assert most.share == 0.75
    assert SINCE_2010.at(1.0).high < most.curve.at(1.0).high < SINCE_2010.at(1.0).high / 0.75


def test_threads_that_burst_may_be_shared(tmp_path):
    """The low end of AWS's t types lies lower than that of another type of the same processor."""
    bursting = MACHINES["AWS t3.micro"]
    one = power_of(bursting, tmp_path / "t3")
    other = power_of(bursting._replace(product_name="m5.large"), tmp_path / "m5")
    assert one.tdp_w == other.tdp_w
    assert one.curve.at(0.0).high == pytest.approx(other.curve.at(0.0).high)
    assert one.curve.at(0.5).low < 0.8 * other.curve.at(0.5).low
    graviton = MACHINES["AWS c7g.large (Graviton3)"]
    one = power_of(graviton._replace(product_name="t4g.large"), tmp_path / "t4g")
    assert one.curve.at(0.5).low < power_of(graviton, tmp_path / "c7g").curve.at(0.5).low


def test_the_less_is_known_the_wider_the_interval():
    """Part, family, nothing."""
    part = cpu_power(CpuFacts(name="AMD EPYC 7763 64-Core Processor", threads=64, siblings=64))
    family = cpu_power(
        CpuFacts(name="AMD EPYC", vendor="AuthenticAMD", family="25", model="1", is_guest=True)
    )
    nothing = cpu_power(CpuFacts(name="Frobnicator 9000", is_guest=True))
    curves = [SINCE_2010, part.curve, family.curve, nothing.curve]
    for load in LOADS:
        widths = [curve.at(load).high / curve.at(load).low for curve in curves]
        assert widths == sorted(widths)
        assert widths[1] < widths[2] < widths[3]
        best = [curve.at(load).best for curve in curves]
        assert best == pytest.approx([SINCE_2010.at(load).best] * len(curves))


def test_an_unknown_processor_reaches_as_far_as_parts_do():
    """At 3.5 W a thread, 1.4 to 9, together with the curve's own ends in log quadrature."""
    curve = cpu_power(CpuFacts(name="Frobnicator 9000", threads=8)).curve
    ratio_w = UNKNOWN_W_PER_THREAD.high / UNKNOWN_W_PER_THREAD.best
    assert curve.at(1.0).high > 0.82 * max(ratio_w, 1.40 / 0.82)
    assert curve.at(1.0).high < 0.82 * ratio_w * 1.40 / 0.82
    assert cpu_power(CpuFacts(threads=8)).tdp_w == pytest.approx(28.0)


def test_packages_are_counted_by_their_ids(tmp_path):
    """Four packages of 32; none of them small because others' processors are offline."""
    four = Machine("four", threads=128, siblings="32", cores="16", hypervisor=False, packages=4)
    assert read_cpu_facts(*four.write(tmp_path / "all")).packages == 4.0
    # the first package has one thread left online, and cpuinfo says so
    left = four._replace(threads=97, siblings="1", online="31-127", present="0-127", offline="0-30")
    assert read_cpu_facts(*left.write(tmp_path / "left")).packages == 4.0


def test_one_package_with_processors_offline_is_one_package(tmp_path):
    """Whether the kernel still counts them as siblings or not."""
    for name, siblings in (("now", "48"), ("always", "64")):
        machine = Machine(
            name, threads=48, siblings=siblings, hypervisor=False, online="0-47", present="0-63",
            offline="48-63",
        )  # fmt: skip
        facts = read_cpu_facts(*machine.write(tmp_path / name))
        assert (facts.threads, facts.packages) == (48, 1.0)


def test_a_container_that_is_shown_its_own_processors_only_has_its_share(tmp_path):
    """A package has as many siblings online as cpuinfo says, whatever the lists show."""
    machine = Machine("all faked", threads=4, siblings="64", cores="32", hypervisor=False)
    facts = read_cpu_facts(*machine.write(tmp_path))
    assert (facts.threads, facts.packages) == (4, 4 / 64)


def test_packages_without_ids_are_counted_by_siblings(tmp_path):
    """As before: threads over threads of one package, rounded."""
    machine = Machine("two", threads=16, siblings="8", hypervisor=False, packages=2)
    proc, sys = machine.write(tmp_path)
    for path in sys.glob("devices/system/cpu/cpu*/topology/physical_package_id"):
        path.write_text("-1\n")
    assert read_cpu_facts(proc, sys).packages == 2.0
    for path in sys.glob("devices/system/cpu/cpu*/topology/*"):
        path.unlink()
    assert read_cpu_facts(proc, sys).packages == 2.0


def test_a_large_machine_is_not_read_processor_by_processor(tmp_path):
    """One processor of each package is asked: the others have no files here, and do not matter."""
    machine = Machine("large", threads=512, siblings="256", hypervisor=False, packages=2)
    proc, sys = machine.write(tmp_path)
    for number in set(range(512)) - {0, 256}:
        for path in (sys / f"devices/system/cpu/cpu{number}/topology").iterdir():
            path.unlink()
    assert read_cpu_facts(proc, sys).packages == 2.0


def test_a_list_of_processors_that_is_no_list_is_ignored(tmp_path):
    """Whatever stands in the files, a whole package remains."""
    for number, text in enumerate(("", "x", "0-", "3-1", "0-999999999999,", "\x00")):
        machine = Machine("odd", threads=8, siblings="4", hypervisor=False, packages=2)
        proc, sys = machine.write(tmp_path / str(number))
        for name in ("present", "offline"):
            (sys / "devices/system/cpu" / name).write_text(text)
        assert read_cpu_facts(proc, sys).packages == 2.0
        (sys / "devices/system/cpu/online").write_text(text.replace("999999999999", "1"))
        assert read_cpu_facts(proc, sys).threads >= 1
