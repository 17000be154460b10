"""The tests for hardware, on stand-ins for it: they run, and find what they are there to find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("serial"),
    pytest.mark.skipif(sys.platform != "linux", reason="it makes a /sys"),
]

# What counters do: they rise by 20 W, and by 80 W while a load runs.
DRIVE = """
import os, sys, time
from pathlib import Path
from tests.support.nvml import FakeGpu, State
tree, stands_still = Path(sys.argv[1]), sys.argv[2] == "stands still"
zone = os.open(tree / "class/powercap/intel-rapl:0/energy_uj", os.O_WRONLY)
socket = os.open(tree / "class/hwmon/hwmon0/energy1_input", os.O_WRONLY)
state, joules, at_s, is_first = State(sys.argv[3]), 1000.0, time.monotonic(), True
while True:
    watts = 80.0 if (tree / "load").exists() else 20.0
    now_s = time.monotonic()
    joules, at_s = joules + watts * (now_s - at_s), now_s
    if not stands_still:
        for file in (zone, socket):
            os.pwrite(file, b"%020d\\n" % round(joules * 1e6), 0)
    shown = 0 if stands_still else round(joules * 1000)
    # where the power says more, it would count in the place of the counter
    state.show(FakeGpu(energy_mj=shown, power_mw=0 if stands_still else round(watts * 1000)))
    if is_first:
        is_first = bool(print("driven", flush=True))
    time.sleep(0.005)
"""
LOAD = "trap 'rm -f {load}' EXIT; trap 'exit 0' TERM; touch {load}; while :; do sleep 0.1; done"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A /sys with a package, and a socket of AMD's."""
    folder = tmp_path / "sys"
    for name, files in {
        "class/powercap/intel-rapl:0": {
            "name": "package-0",
            "energy_uj": "0",
            "max_energy_range_uj": "262143328850",
            "constraint_0_max_power_uw": "5000000000",  # its writer may be late
        },
        "class/hwmon/hwmon0": {"name": "amd_energy", "energy1_label": "Esocket0"},
    }.items():
        (folder / name).mkdir(parents=True)
        for file, text in files.items():
            (folder / name / file).write_text(text + "\n")
    (folder / "class/hwmon/hwmon0/energy1_input").write_text("0\n")
    return folder


@pytest.fixture
def driven(request: pytest.FixtureRequest, tree: Path, tmp_path: Path) -> Iterator[Path]:
    """The file of the GPU's driver, while another process moves all counters."""
    state = tmp_path / "gpus.txt"
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVE, str(tree), getattr(request, "param", ""), str(state)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    yield state
    process.kill()
    process.wait()


def outcomes(tree: Path, library: Path, state: Path, folder: Path) -> dict[str, str]:
    """How each of the tests ends: passed, skipped or failure."""
    load = f'sh -c "{LOAD.format(load=tree / "load")}"'
    report = folder / "report.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/hardware", f"--junitxml={report}"],
        cwd=ROOT,
        env=os.environ
        | {"HARDWARE_SYSFS": str(tree), "HARDWARE_CPU_LOAD": load, "HARDWARE_GPU_LOAD": load}
        | {"HARDWARE_FIGURES": str(folder / "figures.json"), "HARDWARE_LENGTH": "0.25"}
        | {"LD_LIBRARY_PATH": str(library), "FAKE_NVML_STATE": str(state)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return {
        str(case.get("name")): "".join(one.tag for one in case if one.tag != "properties")
        or "passed"
        for case in ET.parse(report).iter("testcase")
    }


def test_they_pass_where_the_meters_are_right(
    tree: Path, library: Path, driven: Path, tmp_path: Path
) -> None:
    """RAPL, hwmon and NVML are run, the others are skipped, and the figures are written."""
    found = outcomes(tree, library, driven, tmp_path)
    for kind in ("rapl", "hwmon", "nvml"):
        mine = {name: end for name, end in found.items() if f"[{kind}]" in name}
        only_nvml = f"test_a_boards_counter_agrees_with_its_power[{kind}]"
        if kind != "nvml":
            assert mine.pop(only_nvml) == "skipped"
        assert len(mine) >= 4
        assert set(mine.values()) == {"passed"}, mine
    for kind in ("perf", "amdsmi"):
        assert {end for name, end in found.items() if f"[{kind}]" in name} == {"skipped"}
    figures = json.loads((tmp_path / "figures.json").read_text())
    for kind in ("rapl", "hwmon", "nvml"):
        names = " ".join(figures[kind])
        for what in ("a read", "refresh period", "power", "reads of 500 that failed"):
            assert what in names, kind
    idle, load = (float(part.split()[-2]) for part in figures["rapl"]["power"].split(", "))
    assert load > 2 * idle


@pytest.mark.parametrize("driven", ["stands still"], indirect=True)
def test_they_fail_where_a_counter_stands_still(
    tree: Path, library: Path, driven: Path, tmp_path: Path
) -> None:
    """A counter that does not move is not taken for a meter."""
    found = outcomes(tree, library, driven, tmp_path)
    for kind in ("rapl", "nvml"):
        for test in ("counts_never_go_down", "how_often_it_changes", "load_costs_more_than_idle"):
            assert found[f"test_{test}[{kind}]"] == "failure", found
