"""Two sockets of 100 W and 60 W, and only the first one's counter may be read, by real programs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carbontrack.testing import Zone, build_powercap

ROOT = Path(__file__).parents[3]
PROGRAM = """
import json, os, sys, threading, time
from pathlib import Path
from carbontrack import track
folders = {name: Path(sys.argv[1], *where.split("/")) for name, where in json.loads(sys.argv[2])}
joules = {name: 5.0 + n for n, name in enumerate(folders)}  # no mirrors
before = dict(joules)
watts = {"package-0": 100.0, "package-1": 60.0, "dram-0": 8.0, "dram-1": 4.0}
over = threading.Event()
descriptors = {name: os.open(path, os.O_WRONLY) for name, path in folders.items()}
def use():
    last_s = time.monotonic()
    while not over.wait(0.004):
        now_s = time.monotonic()
        for name, descriptor in descriptors.items():
            joules[name] += watts[name] * (now_s - last_s)
            os.pwrite(descriptor, b"%019d\\n" % (joules[name] * 1e6), 0)
        last_s = now_s
thread = threading.Thread(target=use)
with track("t", output=None, region="FR", scope="machine", gpu_ids="none", interval_s=0.2,
           sysfs_path=sys.argv[1], state_dir=sys.argv[3]) as run:
    thread.start()
    time.sleep(1.5)
    over.set()
    thread.join()
r = run.record
used_kwh = lambda part: sum(joules[n] - before[n] for n in watts if n.startswith(part)) / 3.6e6
print(json.dumps({
    "cpu": r.cpu_kwh / used_kwh("package"), "ram": r.ram_kwh and r.ram_kwh / used_kwh("dram"),
    "low": r.energy_low_kwh, "high": r.energy_high_kwh,
    "true": used_kwh("package") + used_kwh("dram"), "basis": r.basis, "cpu_basis": r.cpu_basis,
    "ram_basis": r.ram_basis, "meters": r.meters, "faults": r.faults}))
"""
KEYS = {
    "package-0": "intel-rapl:0",
    "package-1": "intel-rapl:1",
    "dram-0": "intel-rapl:0:0",
    "dram-1": "intel-rapl:1:0",
}
SYSTEM_PYTHON = f"/usr/bin/python3.{sys.version_info[1]}"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", 'exec "$@"']
BARE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def commands() -> dict[str, list[str]]:
    """How to run Python with rights by which a closed file is closed, where this system can."""
    if os.geteuid() != 0:
        return {"as we are": [sys.executable]}
    if shutil.which("setpriv") is None:
        return {}
    plain = [*NOBODY, "sh", SYSTEM_PYTHON]
    check = [*plain, "-c", "from carbontrack import track; track"]
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.defpath}
    done = subprocess.run(check, env=environ, cwd="/", capture_output=True, check=False)
    found = {"root without its capabilities": [*BARE, sys.executable]}
    return found | ({"a plain user": plain} if done.returncode == 0 else {})


@pytest.fixture(params=commands() or [None])
def measure(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Runs the program over a tree in which these zones are closed; returns what it found."""
    if request.param is None:
        pytest.skip("we are root, and there is no setpriv to give up its rights")
    command = commands()[request.param]

    def run(*closed: str) -> dict[str, Any]:
        # a plain user may not enter pytest's folder
        base = Path("/tmp") if os.geteuid() == 0 else tmp_path
        folder = Path(subprocess.check_output(["mktemp", "-d", "-p", base], text=True).strip())
        folder.chmod(0o755)
        try:
            return told(folder, *closed)
        finally:
            shutil.rmtree(folder)

    def told(folder: Path, *closed: str) -> dict[str, Any]:
        zones = [Zone(name.split("-")[0] if name[0] == "d" else name, key, 5_000_000)
                 for name, key in KEYS.items()]  # fmt: skip
        tree = build_powercap(folder / "sys", zones)
        places = []
        for name, key in KEYS.items():
            path = tree.directory(key) / "energy_uj"
            tree.set_raw_uj(key, 5_000_000 + 1_000_000 * len(places))
            path.chmod(0o222 if name in closed else 0o666)
            places.append((name, str(path.relative_to(tree.sysfs))))
        (folder / "state").mkdir()
        (folder / "state").chmod(0o777)
        arguments = [tree.sysfs, json.dumps(places), folder / "state"]
        done = subprocess.run(
            [*command, "-c", PROGRAM, *map(str, arguments)],
            env={"PYTHONPATH": str(ROOT), "PATH": os.defpath, "HOME": str(folder)},
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def test_the_half_that_is_read_never_passes_for_the_whole(measure: Any) -> None:
    """True 160 W: modelled after the first socket, said in the record, and held by its interval."""
    found = measure("package-1")
    assert (found["cpu_basis"], found["faults"]) == ("modelled", "zones_closed:1")
    assert found["meters"] == "rapl:dram-0;rapl:dram-1;model:packages"
    assert found["cpu"] == pytest.approx(200.0 / 160.0, rel=0.01)
    assert found["low"] < found["true"] < found["high"]


def test_one_closed_dram_zone_of_two(measure: Any) -> None:
    """True 12 W of memory: the processors stay measured, and the memory is completed."""
    found = measure("dram-1")
    assert (found["cpu_basis"], found["ram_basis"]) == ("measured", "modelled")
    assert (found["basis"], found["faults"]) == ("modelled", "zones_closed:1")
    assert found["meters"] == "rapl:package-0;rapl:package-1;model:dram"
    assert found["cpu"] == pytest.approx(1.0, rel=0.01)
    assert found["low"] < found["true"] < found["high"]


def test_all_open_is_measured_and_nothing_is_said(measure: Any) -> None:
    """The same machine with every counter readable."""
    found = measure()
    assert (found["basis"], found["faults"]) == ("measured", None)
    assert found["cpu"] == pytest.approx(1.0, rel=0.01)
