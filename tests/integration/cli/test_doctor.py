"""`carbontrack doctor` on machines that a test builds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import carbontrack
from carbontrack.config.settings import READERS
from carbontrack.meters.rate import COUNTED, IN_GUEST, NO_PART, OTHER_PART
from carbontrack.testing import Zone, build_powercap
from tests.support.namespaces import NEW_PROC, needs_namespaces, output
from tests.support.used_counters import used

ROOT = Path(carbontrack.__file__).parents[1]
Doctor = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Ask the doctor about the machine below `tmp_path/sys`."""
    (tmp_path / "sys").mkdir()

    def ask(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "carbontrack", "doctor", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "error",
                "CARBONTRACK_SYSFS_PATH": f"{tmp_path}/sys",
                **variables,
            },
            timeout=60,
            check=False,
        )

    return ask


def test_a_machine_without_counters_is_told_what_it_lacks(doctor: Doctor) -> None:
    """All is modelled, and RAPL stands among what is not used, with the reason."""
    done = doctor("--json", "--region", "FR")

    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert found["measured"] is False
    assert {meter["basis"] for meter in found["meters"]} <= {"modelled", "assumed"}
    assert any("rapl" in refusal["id"] and refusal["reason"] for refusal in found["refused"])


def test_a_machine_with_counters_is_measured(doctor: Doctor, tmp_path: Path) -> None:
    """One readable RAPL package is a measurement."""
    with used(build_powercap(tmp_path / "sys"), package_0=50.0, dram=5.0):
        done = doctor("--json", "--region", "FR")

    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert found["measured"] is True
    assert any(meter["id"].startswith("rapl:") for meter in found["meters"])


def test_how_far_off_each_meter_may_be_is_told(doctor: Doctor, tmp_path: Path) -> None:
    """A counter by one number for both sides, a model by how many times its figure its ends are."""
    tree = build_powercap(tmp_path / "sys", [Zone("dram", "intel-rapl:0:0")])
    tree.add_joules("dram", 1.0)

    done = doctor("--json", "--region", "FR")

    meters = {meter["id"]: meter for meter in json.loads(done.stdout)["meters"]}
    assert meters["rapl:dram-0"]["relative_low"] == pytest.approx(0.93)
    assert meters["rapl:dram-0"]["relative_high"] == pytest.approx(1.07)
    model = meters["model:cpu"]
    assert 0.0 < model["relative_low"] < 0.6
    assert model["relative_high"] > 1.5
    with used(tree, dram=5.0):
        text = " ".join(doctor().stdout.split())
    assert "rapl:dram-0 memory measured within 7%" in text
    assert re.search(r"memory measured, [\d.]+ m?W", text)
    assert re.search(rf"CPU (modelled|assumed), {ENDS}", text)
    assert re.search("model:cpu CPU (modelled|assumed), (part|family|nothing) known", text)


ENDS = r"[\d.]+ m?W \([\d.<]+ to [\d.]+ m?W\)"
CPU = (
    "vendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: {}\nsiblings\t: 16\n"
    "flags\t\t: {}\n\n"
)
RYZEN = ("AuthenticAMD", 25, 33, "AMD Ryzen 7 5800X 8-Core Processor")
MILAN = ("AuthenticAMD", 25, 1, "AMD EPYC 7763 64-Core Processor")
STAT = "cpu  100 0 100 800 0 0 0 0 0 0\n" + "".join(
    f"cpu{thread} 6 0 6 50 0 0 0 0 0 0\n" for thread in range(16)
)


@pytest.mark.parametrize(
    ("cpu", "flags", "said", "rate"),
    [
        (RYZEN, "fpu", "modelled, part known", OTHER_PART),
        (MILAN, "fpu", "modelled, part known", COUNTED),
        (MILAN, "fpu hypervisor", "modelled, part known", IN_GUEST),
        (("AuthenticAMD", 26, 2, "AMD EPYC"), "fpu", "modelled, family known", NO_PART),
        (("Nobody", 9, 9, "Some Processor"), "fpu", "assumed, nothing known", None),
    ],
)
def test_what_is_modelled_says_by_what_it_is_known_and_where_it_ends(
    doctor: Doctor,
    tmp_path: Path,
    cpu: tuple[object, ...],
    flags: str,
    said: str,
    rate: str | None,
) -> None:
    """The step, watts with both ends, the boundary, and how often such an interval holds."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(CPU.format(*cpu, flags))
    (tmp_path / "proc" / "stat").write_text(STAT)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:       16777216 kB\n")

    text = " ".join(doctor(CARBONTRACK_PROCFS_PATH=str(tmp_path / "proc")).stdout.split())

    assert re.search(f"total {ENDS}, CPU and memory, not wall power", text), text
    assert f"model:cpu CPU {said}" in text
    for one in (COUNTED, IN_GUEST, NO_PART, OTHER_PART):
        assert (f"interval {one}" in text) is (rate == one)
    narrowing = text.partition("How to improve")[2].partition("This machine")[0]
    assert "CARBONTRACK_REGION=" in narrowing
    # a guest's host is at another plug
    assert ("carbontrack calibrate --wall" in narrowing) is ("hypervisor" not in flags)
    assert ("CARBONTRACK_CPU_TDP_W=WATTS" in text) is ("part" not in said)


@pytest.mark.parametrize(
    ("name", "design_power", "by_name"),
    [
        ("AMD EPYC", False, True),
        ("AMD Ryzen 7 5800X 8-Core Processor", False, False),
        ("Intel(R) Core(TM) i9-99999K", True, True),  # a laptop's guest has all of it
    ],
)
def test_a_guest_is_told_what_helps_a_guest(
    doctor: Doctor, tmp_path: Path, name: str, design_power: bool, by_name: bool
) -> None:
    """Neither a module nor a wall meter, nor the power of a package that is shared out."""
    (tmp_path / "proc").mkdir()
    cpu = CPU.format("AuthenticAMD", 26, 2, name, "hypervisor")
    (tmp_path / "proc" / "cpuinfo").write_text(cpu)
    (tmp_path / "proc" / "stat").write_text(STAT)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:       16777216 kB\n")
    (tmp_path / "sys" / "module").mkdir(parents=True)

    text = " ".join(doctor(CARBONTRACK_PROCFS_PATH=str(tmp_path / "proc")).stdout.split())

    assert "modprobe" not in text
    assert "calibrate --wall" not in text
    assert "a virtual machine is shown neither energy counters nor wall power" in text
    assert "CARBONTRACK_REGION=" in text
    assert ("CARBONTRACK_CPU_TDP_W=WATTS" in text) is design_power
    assert ("let the hypervisor pass on its name" in text) is by_name


def test_what_is_measured_claims_no_rate_of_models(doctor: Doctor, tmp_path: Path) -> None:
    """With counters for both there is neither a sum with a boundary nor a way to make it better."""
    with used(build_powercap(tmp_path / "sys"), package_0=50.0, dram=5.0):
        text = doctor("--region", "FR").stdout

    assert "not wall power" not in text
    assert "How to improve" not in text


def test_what_is_not_measured_stands_in_the_first_line(doctor: Doctor, tmp_path: Path) -> None:
    """Beside how the rest is known; the closed zone is named below with its reason."""
    sockets = [Zone(f"package-{n}", f"intel-rapl:{n}", 1_000_000 * (n + 1)) for n in range(2)]
    tree = build_powercap(tmp_path / "sys", sockets)
    tree.break_zone("package-1", "closed")

    with used(tree, package_0=50.0):
        text = doctor("--region", "FR").stdout
        found = json.loads(doctor("--json", "--region", "FR").stdout)

    assert text.splitlines()[0].endswith(
        "CPU and memory modelled; nothing measured; "
        "1 closed counter is assumed to be like the others of its kind"
    )
    assert "rapl:package-1" in text.partition("Not used")[2]
    assert found["faults"] == {"zones_closed": 1}
    assert "published servers" not in text


def test_a_script_can_ask_whether_anything_is_measured(doctor: Doctor, tmp_path: Path) -> None:
    """With `--check` the exit code is 1 where nothing is, and 0 where something is."""
    without = doctor("--check", "--region", "FR")
    tree = build_powercap(tmp_path / "sys")
    dead = doctor("--check", "--json", "--region", "FR")
    with used(tree, package_0=50.0, dram=5.0):
        measured = doctor("--check", "--json", "--region", "FR")

    assert (without.returncode, without.stderr) == (1, "")
    assert dead.returncode == 1, "its counters stand still"
    assert (measured.returncode, measured.stderr) == (0, "")


def test_every_setting_is_told_with_its_origin(doctor: Doctor, tmp_path: Path) -> None:
    """Where a value comes from is half of a diagnosis; a token is never shown."""
    (tmp_path / "pyproject.toml").write_text("[tool.carbontrack]\ninterval_s = 5\n")

    done = doctor("--json", CARBONTRACK_REGION="DE", CARBONTRACK_HTTP_TOKEN="hush")

    settings = json.loads(done.stdout)["settings"]
    assert list(settings) == list(READERS)
    assert settings["region"] == {"value": "DE", "origin": "environment"}
    assert settings["interval_s"] == {"value": 5.0, "origin": f"{tmp_path}/pyproject.toml"}
    assert settings["http_token"] == {"value": "(set)", "origin": "environment"}
    assert "hush" not in done.stdout + done.stderr


def test_the_text_has_a_part_for_each_question(doctor: Doctor) -> None:
    """What is there, what is not used and why, where, and with which settings."""
    done = doctor("--region", "FR")

    places = [
        done.stdout.index(f"\n{part}\n")
        for part in ("At a glance", "How to improve", "This machine", "Meters", "Not used",
                     "Checks", "Grid", "Settings")
    ]  # fmt: skip
    assert places == sorted(places)
    assert "FR, as given" in done.stdout
    assert "\x1b" not in done.stdout


def test_settings_that_nobody_set_wait_to_be_asked_for(doctor: Doctor) -> None:
    """One line says how; `--all` has each of them, set or not."""
    short, long = doctor("--region", "FR").stdout, doctor("--region", "FR", "--all").stdout
    assert "to see them: carbontrack doctor --all" in " ".join(short.split())
    own = short.partition("\nSettings\n")[2]
    assert {line.split()[0] for line in own.splitlines() if line[2:3].strip()} == {
        "region", "sysfs_path", "default",
    }  # fmt: skip
    for name in READERS:
        assert f"\n  {name} " in long


def test_what_the_grids_interval_leaves_out_is_said_beside_it(doctor: Doctor) -> None:
    """For a table's figure of a country; a figure of one's own is not judged."""
    told = " ".join(doctor("--region", "FR").stdout.split())
    own = doctor("--region", "FR", CARBONTRACK_INTENSITY_G_PER_KWH="50").stdout
    assert "0.63 to 1.73 times these" in told
    assert "flow-traced" not in own


def test_an_unknown_place_is_said_in_a_note(doctor: Doctor) -> None:
    """A warning becomes part of the report, even where warnings are errors."""
    found = json.loads(doctor("--json", TZ="UTC", CARBONTRACK_CLOUD="none").stdout)

    assert found["region_basis"] == "unknown"
    assert len(found["notes"]) == 1


def test_an_output_that_cannot_be_written_does_not_silence_the_doctor(doctor: Doctor) -> None:
    """It writes nothing itself."""
    done = doctor("--json", CARBONTRACK_OUTPUT="no/such/place.csv")

    assert json.loads(done.stdout)["settings"]["output"]["value"] == ["no/such/place.csv"]


def test_counters_that_stand_still_are_told(doctor: Doctor, tmp_path: Path) -> None:
    """A counter is watched for a second: one that moves has watts, one that does not is named."""
    with used(build_powercap(tmp_path / "sys"), package_0=50.0):
        checks = json.loads(doctor("--json").stdout)["checks"]
        glance = " ".join(doctor().stdout.partition("This machine")[0].split())
    assert checks["still"] == ["rapl:dram-0"]
    assert checks["watts"]["rapl:package-0"] > 1.0
    assert checks["watts"]["rapl:dram-0"] == 0.0
    assert "CPU measured, " in glance
    assert "memory not measured: its counters stand still" in glance
    assert "0 mW" not in glance
    assert "did not move in a second" in doctor().stdout
    verdicts = {one["id"]: (one["verdict"], one["with"]) for one in checks["compared"]}
    assert verdicts["rapl:package-0"] == ("moves", "CPU seconds of the processors")
    assert verdicts["rapl:dram-0"] == ("stands still", "CPU seconds of the processors")


def test_what_completes_closed_zones_is_checked_as_a_counter(
    doctor: Doctor, tmp_path: Path
) -> None:
    """It reads the counters of the open ones, which move or stand still."""
    sockets = [Zone(f"package-{n}", f"intel-rapl:{n}", 1_000_000 * (n + 1)) for n in range(2)]
    tree = build_powercap(tmp_path / "sys", sockets)
    tree.break_zone("package-1", "closed")

    def verdict() -> tuple[str, str]:
        found = json.loads(doctor("--json", "--region", "FR").stdout)["checks"]["compared"]
        (one,) = [one for one in found if one["id"] == "model:packages"]
        return one["verdict"], one["with"]

    assert verdict() == ("stands still", "CPU seconds of the processors")
    with used(tree, package_0=50.0):
        assert verdict() == ("moves", "CPU seconds of the processors")
        text = " ".join(doctor("--region", "FR").stdout.split())
    assert "counters 1 watched for a second; all of them count" in text


def test_busy_time_that_stands_still_is_told(doctor: Doctor, tmp_path: Path) -> None:
    """A sandbox shows zeros for ever: that is no agreement with a program that works."""
    (tmp_path / "proc").mkdir()
    idle = re.sub(r"\b\d+\b", "0", STAT)
    (tmp_path / "proc/stat").write_text(idle)

    text = " ".join(doctor(CARBONTRACK_PROCFS_PATH=str(tmp_path / "proc")).stdout.split())

    assert "model:cpu disagrees, compared with the CPU seconds of this process: the sys" in text
    assert "the system counted 0.00, and this process used 0.1" in text


@needs_namespaces
def test_a_machine_that_cannot_be_seen_is_not_said_to_agree(tmp_path: Path) -> None:
    """With nothing but our own CPU seconds there is nothing to compare them with."""
    (tmp_path / "sys").mkdir()
    program = "from carbontrack.cli import main; main(['doctor', '--json'])"
    subset = f"{NEW_PROC} -o subset=pid"

    told = output(program, tmp_path, before=subset, CARBONTRACK_SYSFS_PATH=f"{tmp_path}/sys")

    compared = {one["id"]: one for one in json.loads(told)["checks"]["compared"]}
    assert compared["model:cpu"]["verdict"] == "cannot be compared"
    assert "how busy all processors are cannot be read" in compared["model:cpu"]["why"]


def test_a_completed_component_that_stands_still_is_told_as_well(
    doctor: Doctor, tmp_path: Path
) -> None:
    """One package is closed and the other does not move: no counter of the processors is left."""
    tree = build_powercap(
        tmp_path / "sys",
        [Zone("package-0", "intel-rapl:0", 5.0), Zone("package-1", "intel-rapl:1", 9.0)],
    )
    tree.break_zone("package-1", "closed")
    done = doctor("--json")
    assert json.loads(done.stdout)["checks"]["still"] == ["model:packages"]
    text = " ".join(doctor().stdout.split())
    assert "CPU not measured, as counters stand still" in text.partition("This machine")[0]
    assert "model:packages stands still, compared with the CPU seconds" in text
    assert "model:packages agrees" not in text


def test_what_was_compared_with_what_is_told_in_plain_words(doctor: Doctor) -> None:
    """A model of the load beside our own work; a model of memory beside nothing, and why."""
    text = " ".join(doctor("--region", "FR").stdout.split())
    words = "model:cpu agrees, compared with the CPU seconds of this process: the system counted"
    assert words in text
    assert "model:ram cannot be compared: nothing else shows this power" in text


def test_what_carbontrack_costs_here_is_measured(doctor: Doctor) -> None:
    """The time of a reading and of a block, in microseconds."""
    overhead = json.loads(doctor("--json").stdout)["checks"]["overhead"]
    assert overhead["tick_us"] > 0.0
    assert overhead["span_us"] > 0.0


@pytest.mark.parametrize(("flags", "suspected"), [("fpu sgx sgx_lc", True), ("fpu vme", False)])
def test_blurred_counters_are_suspected(
    doctor: Doctor, tmp_path: Path, flags: str, *, suspected: bool
) -> None:
    """Intel adds noise to RAPL where SGX is enabled; the suspicion is reported, with the remedy."""
    build_powercap(tmp_path / "sys")
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cpuinfo").write_text(
        f"vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i7-8700\nflags\t: {flags}\n\n"
    )
    done = doctor(CARBONTRACK_PROCFS_PATH=str(proc))
    assert ("disable SGX in the" in " ".join(done.stdout.split())) is suspected


def test_only_what_was_set_takes_a_line_each(doctor: Doctor) -> None:
    """Settings that somebody chose stand out; the others are not there, and all fits."""
    done = doctor(CARBONTRACK_REGION="DE", CARBONTRACK_IDLE="none")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["idle", "none", "(environment)"] in lines
    assert "interval_s" not in done.stdout
    assert "for idle=none" in " ".join(done.stdout.split())
    prose = [line for line in done.stdout.splitlines() if not line.startswith("      ")]
    assert max(map(len, prose)) <= 80


def test_a_calibration_is_shown(doctor: Doctor, tmp_path: Path) -> None:
    """The line that a wall meter gave stands beside the meter that it makes."""
    build_powercap(tmp_path / "sys")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environ["CARBONTRACK_SYSFS_PATH"] = f"{tmp_path}/sys"
    command = [sys.executable, "-m", "carbontrack", "calibrate", "50:110", "100:170"]
    subprocess.run(command, env=environ, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    shown = " ".join(doctor().stdout.split())
    assert "wall power is 50.0 W + 1.200 x metered (calibrated with 2 readings)" in shown


def test_a_key_in_an_address_is_not_shown(doctor: Doctor) -> None:
    """What the doctor says is made to be pasted; a query often holds a key."""
    address = "http://127.0.0.1:9/records"
    for form in ((), ("--json",)):
        done = doctor(*form, CARBONTRACK_OUTPUT=f"{address}?key=hush")
        assert address in done.stdout
        assert "hush" not in done.stdout + done.stderr
