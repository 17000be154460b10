"""Counters that stand still, and a /proc/stat of zeros: real processes and real files."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import carbontrack
from carbontrack.testing import Zone, build_powercap

ROOT = Path(carbontrack.__file__).parents[1]
PACKAGE = Zone("package-0", "intel-rapl:0", raw_uj=0)
DRAM = Zone("dram", "intel-rapl:0:0", raw_uj=0)
AS_PLAIN_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

PROGRAM = """
import json, os, sys, threading, time
from pathlib import Path
proc, seconds = Path(os.environ["PROC"]), float(os.environ["SECONDS"])
if proc.exists():
    os.environ["CARBONTRACK_PROCFS_PATH"] = str(proc)
package, until_s = Path(os.environ["SYS"], "devices/virtual/powercap/intel-rapl/intel-rapl:0/"
                        "energy_uj"), float(os.environ["FREEZES_AT"])
os.environ["CARBONTRACK_SYSFS_PATH"] = os.environ["SYS"]
begun = time.monotonic()
def drive():
    while time.monotonic() - begun < until_s:
        time.sleep(0.01)
        with package.open("r+b", buffering=0) as file:
            file.write(b"%018d\\n" % ((time.monotonic() - begun) * 50e6))
if until_s:
    threading.Thread(target=drive, daemon=True).start()
    time.sleep(0.1)
import carbontrack
used_s = time.process_time()
shown_uj = int(package.read_bytes()) if until_s else 0
with carbontrack.track("t", output=None, region="FR", scope="machine", gpu_ids="none") as run:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.environ["IDLE"]:
            time.sleep(0.2)
shown_uj = int(package.read_bytes()) - shown_uj if until_s else 0
row = run.record
print(json.dumps({"shown_j": shown_uj * 1e-6,
    "cpu_j": row.cpu_kwh * 3.6e6, "ram_j": row.ram_kwh and row.ram_kwh * 3.6e6,
    "cpu_basis": row.cpu_basis, "ram_basis": row.ram_basis, "faults": row.faults,
    "coverage": row.coverage, "duration_s": row.duration_s, "meters": row.meters,
    "low": row.energy_low_kwh, "high": row.energy_high_kwh, "best": row.energy_kwh,
    "share": row.cpu_share, "tdp_w": row.cpu_tdp_w, "used_s": time.process_time() - used_s}))
"""


def measured(
    folder: Path,
    *zones: Zone,
    seconds: float = 1.5,
    freezes_at: float = 0.0,
    idle: bool = False,
    as_plain_user: bool = False,
) -> dict:
    """The row of a block in a process of its own, with what it wrote on stderr."""
    build_powercap(folder / "sys", zones)
    if as_plain_user:
        for path in [folder, *folder.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
    done = subprocess.run(
        [*(AS_PLAIN_USER if as_plain_user else []), sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SYS": str(folder / "sys"),
            "PROC": str(folder / "proc"),
            "SECONDS": str(seconds),
            "FREEZES_AT": str(freezes_at),
            "IDLE": "yes" if idle else "",
        },
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "said": done.stderr}


@pytest.mark.parametrize("seconds", [0.3, 2.5])
def test_a_dead_package_is_modelled_from_the_beginning(tmp_path, seconds):
    """Readable, plausible and never moving: the model counts, and the row says so."""
    row = measured(tmp_path, PACKAGE, seconds=seconds)
    assert row["cpu_j"] > 0.0
    assert (row["cpu_basis"], row["coverage"]) == ("modelled", 1.0)
    assert "stands_still:1" in row["faults"]
    if seconds > 1.0:  # the message is logged by a tick, or at the end
        assert row["said"].count("has not changed for") == 1


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="another user is taken by root only, with setpriv",
)
def test_a_dead_package_is_found_by_a_plain_user():
    """The signs are anybody's to read."""
    closed = [path for path in (ROOT, *ROOT.parents) if path.stat().st_mode & 0o5 != 0o5]
    if closed:
        pytest.skip(f"{closed[0]} is closed to other users")
    with tempfile.TemporaryDirectory() as folder:
        row = measured(Path(folder), PACKAGE, as_plain_user=True)
    assert (row["cpu_basis"], "stands_still:1" in row["faults"]) == ("modelled", True)


def test_a_dead_dram_zone_beside_a_live_package(tmp_path):
    """Memory is modelled, the processors stay measured: as much as their counter shows."""
    row = measured(tmp_path, PACKAGE, DRAM, seconds=2.0, freezes_at=60.0)
    assert (row["cpu_basis"], row["ram_basis"]) == ("measured", "modelled")
    assert row["cpu_j"] == pytest.approx(row["shown_j"], rel=0.2)
    assert row["cpu_j"] > 20.0
    assert row["ram_j"] > 0.0
    assert row["faults"] == "stands_still:1"


def test_a_counter_that_freezes_in_the_middle_of_a_block(tmp_path):
    """Both have their part of the row, and nothing of the time is missing."""
    row = measured(tmp_path, PACKAGE, seconds=5.0, freezes_at=2.0)
    assert "rapl:package-0" in row["meters"]
    assert "model:cpu" in row["meters"]
    assert row["cpu_j"] > 50.0 * 1.5
    assert (row["faults"], row["coverage"]) == ("stands_still:1", 1.0)


def test_an_idle_block_is_found_out_too(tmp_path):
    """A machine that does nothing draws power all the same."""
    row = measured(tmp_path, PACKAGE, seconds=7.0, idle=True)
    assert row["cpu_j"] > 0.0
    assert "stands_still:1" in row["faults"]


def server_in_a_sandbox(folder: Path, stat: str) -> None:
    """A /proc of two threads whose first line of `stat` never changes."""
    proc, cpu = folder / "proc", folder / "sys/devices/system/cpu"
    proc.mkdir()
    cpu.mkdir(parents=True)
    (proc / "self").symlink_to("/proc/self")
    (cpu / "online").write_text("0-1\n")
    (proc / "cpuinfo").write_text(
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n"
        "model name\t: unknown\nsiblings\t: 2\nflags\t\t: fpu hypervisor\n"
    )
    (proc / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n")
    (proc / "stat").write_text(f"{stat}\ncpu0 0 0 0 9 0 0 0 0 0 0\n")


@pytest.mark.parametrize(
    "stat",
    ["cpu  0 0 0 0 0 0 0 0 0 0", "cpu  7 0 9 12345 0 0 0 0 0 0", "intr 0"],
    ids=["zeros", "stands still", "no line"],
)
def test_processors_are_no_less_busy_than_this_process(tmp_path, stat):
    """A sandbox whose system counts nothing: our own CPU seconds are the load, at the least."""
    server_in_a_sandbox(tmp_path, stat)
    row = measured(tmp_path, seconds=2.0)
    load = row["used_s"] / row["duration_s"] / 2
    # idle is 0.12 of the design power, and 10 % of load already 0.20
    least_w = row["tdp_w"] * (0.12 + 0.8 * min(load, 0.1))
    assert row["cpu_j"] / row["duration_s"] >= 0.95 * least_w
    assert (row["cpu_basis"], "beside_cpu_time:1" in row["faults"]) == ("modelled", True)
    assert row["high"] > row["best"] > row["low"] > 0.0
