"""The design power of a machine's threads: from the part, its family, or a stated default."""

import csv

import pytest

from carbontrack.meters.cpu_info import CpuFacts, cached_name, read_cpu_facts
from carbontrack.meters.cpu_power import FAMILIES, cpu_power
from carbontrack.meters.load_curve import BEFORE_2010, SINCE_2010, curve_of
from carbontrack.system.files import package_text

BLOCK = """\
processor\t: 0
vendor_id\t: {vendor}
cpu family\t: {family}
model\t\t: {model}
model name\t: {name}
stepping\t: {stepping}
physical id\t: 0
siblings\t: {siblings}
cpu cores\t: 2
flags\t\t: fpu vme {flags} sse2
"""


def machine(tmp_path, *, threads=2, online=None, **fields):
    """A procfs and a sysfs with this processor in them."""
    values = {
        "vendor": "AuthenticAMD",
        "family": 26,
        "model": 2,
        "name": "AMD EPYC",
        "stepping": 1,
        "siblings": threads,
        "flags": "hypervisor",
    } | fields
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    proc.mkdir()
    (proc / "cpuinfo").write_text("\n".join([BLOCK.format(**values)] * 2))
    (proc / "stat").write_text(
        "cpu  1 2 3\n" + "".join(f"cpu{n} 1 2 3\n" for n in range(threads)) + "intr 5\n"
    )
    if online:
        (sys / "devices" / "system" / "cpu").mkdir(parents=True)
        (sys / "devices" / "system" / "cpu" / "online").write_text(online + "\n")
    return read_cpu_facts(proc, sys)


def test_facts_are_read_from_procfs(tmp_path):
    """Name, family, threads, and whether this is a guest."""
    facts = machine(tmp_path, threads=4)
    assert facts.name == "AMD EPYC"
    assert (facts.vendor, facts.family, facts.model, facts.stepping) == (
        "AuthenticAMD",
        "26",
        "2",
        "1",
    )
    assert (facts.threads, facts.siblings, facts.is_guest) == (4, 4, True)


def test_threads_online_are_counted_from_sysfs(tmp_path):
    """ "0-3,8,10-11" is seven threads."""
    assert machine(tmp_path, online="0-3,8,10-11").threads == 7


def test_arm_is_known_by_implementer_and_part(tmp_path):
    """ARM has no model name; Graviton2 and Altra are told by their core."""
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n"
    )
    (tmp_path / "stat").write_text("cpu 1\ncpu0 1\ncpu1 1\n")
    power = cpu_power(read_cpu_facts(tmp_path, tmp_path))
    assert "Neoverse N1" in power.how
    assert power.tdp_w == pytest.approx(2 * 2.2)


def test_a_guest_pays_for_its_threads_of_the_part(tmp_path):
    """Two of 128 threads of a 280 W part are 4.4 W, not 280 W."""
    power = cpu_power(machine(tmp_path, name="AMD EPYC 7763 64-Core Processor"))
    assert power.tdp_w == pytest.approx(280.0 * 2 / 128)
    assert (power.basis, power.known) == ("modelled", "part")


def test_a_name_that_says_nothing_is_known_by_its_family(tmp_path):
    """A cloud's "AMD EPYC" of family 26 is a Turin, with an interval wider than a part's."""
    power = cpu_power(machine(tmp_path))
    assert "Turin" in power.how
    assert power.tdp_w == pytest.approx(3.22)
    assert (power.basis, power.known) == ("modelled", "family")
    assert power.curve.at(0.5).high > curve_of(2024).at(0.5).high


@pytest.mark.parametrize(("stepping", "name"), [(4, "Skylake"), (7, "Cascade Lake")])
def test_stepping_tells_skylake_from_cascade_lake(tmp_path, stepping, name):
    """Both are family 6, model 85."""
    generic = "Intel(R) Xeon(R) CPU @ 2.00GHz"
    facts = machine(
        tmp_path, vendor="GenuineIntel", family=6, model=85, stepping=stepping, name=generic
    )
    assert name in cpu_power(facts).how


def test_an_unknown_processor_is_assumed_with_the_widest_interval():
    """A default is stated as an assumption, never dressed up."""
    power = cpu_power(CpuFacts(name="Frobnicator 9000", threads=8))
    assert (power.basis, power.known) == ("assumed", "nothing")
    assert power.tdp_w == pytest.approx(28.0)
    half_load = power.curve.at(0.5)
    assert half_load.high > 3.0 * half_load.best
    assert half_load.low < half_load.best / 3.0


def test_real_hardware_has_all_of_its_packages(tmp_path):
    """Two sockets of 64 threads each have twice the TDP, with multithreading on or off."""
    facts = machine(
        tmp_path, threads=128, siblings=64, flags="ht", name="AMD EPYC 7543 32-Core Processor"
    )
    assert cpu_power(facts).tdp_w == pytest.approx(450.0)
    without_smt = CpuFacts(name=facts.name, threads=32, siblings=32)
    assert cpu_power(without_smt).tdp_w == pytest.approx(225.0)


def test_a_given_tdp_is_of_one_package(tmp_path):
    """It is taken whole, for each package there is, and cut to a guest's known share."""
    assert cpu_power(CpuFacts(name="x", threads=4, siblings=4), 65.0).tdp_w == 65.0
    assert cpu_power(CpuFacts(name="x", threads=8, siblings=4), 65.0).tdp_w == 130.0
    known = CpuFacts(name="AMD EPYC 7763 64-Core Processor", threads=2, siblings=2, is_guest=True)
    assert cpu_power(known, 320.0).tdp_w == pytest.approx(5.0)
    assert cpu_power(known, 320.0).known == "given"


CLOUD = CpuFacts("AMD EPYC", "AuthenticAMD", "26", "2", "1", 2, 2, is_guest=True, cores=1)


@pytest.mark.parametrize(
    ("facts", "given_w", "tdp_w", "known"),
    [
        (CLOUD, 400.0, 2 * 1.61, "family"),
        (CLOUD._replace(name="AMD EPYC 7571", family="23", model="1"), 200.0, 2 * 3.49, "family"),
        (CLOUD._replace(name="Frobnicator 9000", family="9"), 400.0, 2 * 3.5, "nothing"),
        # never more than the package that was given
        (CLOUD._replace(name="Frobnicator 9000", family="9", threads=64), 65.0, 65.0, "nothing"),
        (CLOUD._replace(name="Xeon E-9999", family="9", threads=64), 65.0, 65.0, "nothing"),
        # a server's guest may have more than one package
        (CLOUD._replace(threads=512), 400.0, 512 * 1.61, "family"),
        (CpuFacts("", "ARM", "0x41", "0xd40", threads=2, maker="Amazon EC2",
                  machine_type="c7g.large"), 100.0, 2 * 1.56, "family"),
    ],
)  # fmt: skip
def test_a_given_tdp_is_shared_out_where_the_parts_threads_are_unknown(
    facts, given_w, tdp_w, known
):
    """By watts per thread, so that two threads of a 400 W part are no whole socket."""
    power, without = cpu_power(facts, given_w), cpu_power(facts)
    assert power.tdp_w == pytest.approx(tdp_w)
    assert power.share == pytest.approx(tdp_w / given_w)
    assert (power.known, power.basis) == (known, without.basis)
    assert f"{given_w:g} W, as given, x {power.share:.3g}, estimated by" in power.how
    for load in (0.0, 0.5, 1.0):
        end, own = power.curve.at(load), without.curve.at(load)
        assert (end.best, end.low) == (own.best, own.low)
        assert end.high <= own.high
        if known == "nothing":
            assert end.high * power.tdp_w <= SINCE_2010.at(load).high * given_w * (1 + 1e-9)


@pytest.mark.parametrize(
    "facts",
    [
        CLOUD._replace(name="Intel(R) Core(TM) i9-99999K", family="9", model="9"),  # WSL2
        CpuFacts("", "ARM", "0x61", "0x000", threads=8, maker="QEMU"),  # Docker Desktop, macOS
        CpuFacts("", "ARM", "0x41", "0xd08", threads=4),  # a board
        CpuFacts("", "ARM", "0x41", "0xd40", threads=64, maker="Amazon EC2",
                 machine_type="c7g.metal"),
        CpuFacts("Frobnicator 9000", threads=8),
    ],
)  # fmt: skip
def test_a_given_tdp_is_taken_whole_by_clients_and_real_hardware(facts):
    """Nobody else has a part of the package."""
    power = cpu_power(facts, 100.0)
    assert (power.tdp_w, power.share, power.known) == (100.0, 1.0, "given")


@pytest.mark.parametrize(
    ("name", "threads", "share"),
    [
        ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", 16, 1.0),  # 8 threads
        ("AMD Ryzen 7 5800H with Radeon Graphics", 32, 1.0),  # 16
        ("Intel(R) Xeon(R) E-2288G CPU @ 3.70GHz", 32, 1.0),  # 16
        ("AMD EPYC 7402P 24-Core Processor", 96, 1.0),  # 48
        ("AMD EPYC 7543 32-Core Processor", 128, 2.0),  # 64
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", 128, 2.0),  # 64
    ],
)
def test_a_guest_has_no_more_than_the_sockets_that_can_be(name, threads, share):
    """A host may promise more threads than it has; two of a client's part in a machine are none."""
    facts = CpuFacts(name, threads=threads, siblings=threads, is_guest=True, cores=threads // 2)
    assert cpu_power(facts).share == share


def test_a_slice_of_a_host_of_a_known_family_is_its_part_of_the_packages():
    """Also where the table has no such part: threads seen over the host's."""
    facts = CpuFacts(
        "Intel(R) Xeon(R) Platinum 8473C", "GenuineIntel", "6", "143", "4", 4, 104,
        cores=52, packages=4 / 104,
    )  # fmt: skip
    power = cpu_power(facts)
    assert (power.known, power.share) == ("family", 4 / 104)
    assert power.tdp_w == pytest.approx(4 * 3.4)


def test_a_twin_without_pro_stands_in_and_is_named():
    """The same design with the same power; one of its own has its own row."""
    twin = cpu_power(CpuFacts("AMD Ryzen 7 PRO 7840U w/ Radeon 780M Graphics", siblings=16))
    assert twin.how.startswith("ryzen 7 7840u, an equivalent part: 28 W")
    own = cpu_power(CpuFacts("AMD Ryzen 7 PRO 4750U with Radeon Graphics", siblings=16))
    assert own.how.startswith("ryzen 7 pro 4750u: ")


@pytest.mark.parametrize(
    ("facts", "family"),
    [
        (CpuFacts("VirtualApple @ 2.50GHz", "GenuineIntel", "6", "44", threads=8), "Apple silicon"),
        (CpuFacts("Virtual Apple @ 2.50GHz processor", "GenuineIntel", "6", "44"), "Apple silicon"),
        (
            CpuFacts("Westmere E56xx/L56xx/X56xx (Nehalem-C)", "GenuineIntel", "6", "44"),
            "Xeon Westmere-EP",
        ),
        (CpuFacts("AMD Opteron 63xx class CPU", "AuthenticAMD", "21", "2"), "Opteron 6200 or 6300"),
        (CpuFacts("AMD Opteron 62xx class CPU", "AuthenticAMD", "21", "1"), "Opteron 6200 or 6300"),
        (CpuFacts("", "ARM", "0x46", "0x001"), "A64FX"),
        (CpuFacts("", "ARM", "0x43", "0x0af"), "ThunderX2"),
        (CpuFacts("", "ARM", "0x48", "0xd01"), "Kunpeng 920"),
        (CpuFacts("", "ARM", "0x41", "0xd84"), "Neoverse V3"),
        (CpuFacts("", "ARM", "0x41", "0xd8e"), "Neoverse N3"),
        (CpuFacts("", "ARM", "0xc0", "0xac4"), "AmpereOne"),
        (CpuFacts("AMD Opteron 23xx (Gen 3 Class Opteron)", "AuthenticAMD", "16", "2"), None),
        (CpuFacts("AMD Opteron 22xx (Gen 2 Class Opteron)", "AuthenticAMD", "15", "6"), None),
        (CpuFacts("", "ARM", "0x51", "0x001"), None),
    ],
)
def test_families_are_told_or_refused(facts, family):
    """QEMU's older AMD models and a core that no table has are refused."""
    power = cpu_power(facts._replace(is_guest=True))
    assert power.known == ("nothing" if family is None else "family")
    assert family is None or power.how.startswith(family)


@pytest.mark.parametrize(
    "name",
    ["Intel(R) Core(TM) i7 CPU         920  @ 2.67GHz", "Intel(R) Core(TM) i7 CPU 860 @ 2.80GHz",
     "Intel(R) Core(TM) i5 CPU         750  @ 2.67GHz", "AMD Sempron(tm) Processor LE-1100"],
)  # fmt: skip
def test_the_first_core_i_processors_have_the_earlier_curve(name):
    """Sold first in 2008 and 2009, as were the Semprons LE."""
    assert cpu_power(CpuFacts(name, siblings=1)).curve == BEFORE_2010


def test_parts_from_before_2010_have_a_curve_of_their_own():
    """They drew more at idle; a part of unknown year counts as recent."""
    old = cpu_power(CpuFacts(name="Intel(R) Xeon(R) CPU E5405 @ 2.00GHz", threads=4, siblings=4))
    assert old.known == "part"
    assert old.curve == BEFORE_2010
    recent = cpu_power(CpuFacts(name="Intel(R) Core(TM) i7-2600K CPU @ 3.40GHz", siblings=8))
    assert recent.curve == SINCE_2010


def test_every_family_has_a_range_a_year_and_a_source():
    """The table of families is as honest as the table of parts."""
    for row in csv.DictReader(package_text(FAMILIES).splitlines()):
        low, middle, high = (float(row[k]) for k in ("low_w", "tdp_w_per_thread", "high_w"))
        assert 0.0 < low <= middle <= high
        assert row["source"]
        assert row["grade"] in ("C", "D")
        assert 2005 <= int(row["year"]) <= 2026


def test_a_slow_name_is_asked_for_once_per_boot(tmp_path):
    """The cache answers until the next boot; a broken cache is asked past."""
    asked = []

    def ask():
        asked.append(1)
        return "Apple M2"

    assert [cached_name(tmp_path / "new", "boot-1", ask) for _ in range(3)] == ["Apple M2"] * 3
    assert len(asked) == 1
    cached_name(tmp_path / "new", "boot-2", ask)
    assert len(asked) == 2
    (tmp_path / "new" / "cpu-name.json").write_text("[broken")
    assert cached_name(tmp_path / "new", "boot-2", ask) == "Apple M2"
    assert cached_name(None, "boot-2", ask) == "Apple M2"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    """A read-only home costs time, nothing else."""
    (tmp_path / "file").write_text("")
    assert cached_name(tmp_path / "file", "boot", lambda: "Apple M2") == "Apple M2"
