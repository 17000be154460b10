"""The simulated machine: a powercap tree, an NVML, a known power, and a process put inside."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curves import Curve

from carbontrack.testing import Powercap, Zone, build_powercap

HERE = Path(__file__).resolve().parent
FAKE_NVML = HERE.parents[1] / "tests" / "support" / "fake_nvml.c"
REFRESH_S = 0.001
"""How often a RAPL counter changes."""
GPU_REFRESH_S = 0.1
"""How often a board's energy counter changes (carbontrack.meters.nvml)."""
GPU = "GPU-4e817856-1fb8-192a-7ab7-0e0e4476d301 NVIDIA_A100 987654321000 75000 400000 -1 0 0 0 -"
PACKAGE = Zone("package-0", "intel-rapl:0", 123_456_789_012, limit_w=200.0)


@dataclass(frozen=True)
class Machine:
    """What is simulated.

    Attributes:
        curve: the power of the processor, and of the GPU where there is one.
        zones: the powercap tree; each counter shows its factor times the curve's energy.
        refresh_s: the time between two changes of the counters; 0 for at each look.
        fail_every: each so manieth read of a counter fails; 0 for none.
        resets_s: when the counters begin again at 0, after the beginning.
    """

    curve: Curve
    zones: Sequence[tuple[Zone, float]] = ((PACKAGE, 1.0),)
    refresh_s: float = REFRESH_S
    fail_every: int = 0
    resets_s: Sequence[float] = field(default=())

    def text(self, origin_s: float) -> str:
        """What machine.c is told."""
        lines = [f"origin {origin_s:.9f}", f"fail {self.fail_every}", "gpu 987654321000 1 0.1"]
        lines += [f"point {at_s:.9f} {power_w:.6f}" for at_s, power_w in self.curve]
        lines += [
            f"zone {zone.key} {zone.raw_uj} {zone.range_uj} {factor} {self.refresh_s}"
            for zone, factor in self.zones
        ]
        lines += [f"reset {at_s}" for at_s in self.resets_s]
        return "\n".join(lines) + "\n"


def compiled(folder: Path) -> tuple[Path, Path]:
    """The library that is preloaded, and the folder of the stand-in for NVML.

    Raises:
        RuntimeError: there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler: the simulated machine is a C library")
    library, nvml = folder / "machine.so", folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o"]
    subprocess.run([*command, library, HERE / "machine.c", "-ldl", "-lm"], check=True)
    subprocess.run([*command, nvml, FAKE_NVML], check=True)
    return library, folder


def tree_in(folder: Path, zones: Sequence[Zone]) -> Powercap:
    """Build a tree, with the links to their class that some tools look for."""
    tree = build_powercap(folder, zones)
    devices = folder / "devices" / "virtual" / "powercap"
    for directory in {devices / "intel-rapl", *(tree.directory(zone) for zone in tree.zones)}:
        (directory / "subsystem").symlink_to("/sys/class/powercap")
    return tree


def inside(tree: Powercap, command: Sequence[str]) -> list[str]:
    """The command where the tree is /sys/class/powercap; nothing outside sees it, no network."""
    root = shlex.quote(str(tree.sysfs))
    script = (
        f"mount --bind {root}/devices/virtual /sys/devices/virtual && "
        f"mount --bind {root}/class /sys/class && exec {shlex.join(command)}"
    )
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--mount", "--net", "sh", "-c", script]


def run(
    machine: Machine,
    plan: dict[str, Any],
    *,
    tool: str,
    python: Path,
    folder: Path,
    library: Path,
    limit_s: float,
) -> dict[str, Any]:
    """The plan's spans, measured by one tool in a new process on a new machine.

    What comes back has `spans` and `errors`; a tool that cannot be run has only errors.
    """
    folder.mkdir(parents=True)
    tree = tree_in(folder / "sys", [zone for zone, _ in machine.zones])
    described, planned, out = folder / "machine.txt", folder / "plan.json", folder / "out.json"
    origin_s = time.monotonic()
    described.write_text(machine.text(origin_s))
    plan |= {"library": str(library), "until_s": origin_s + limit_s}
    planned.write_text(json.dumps(plan))
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LD_PRELOAD": str(library),
        "SIMULATED_MACHINE": str(described),
    }
    if plan["part"] == "gpu":
        (folder / "nvml.txt").write_text(GPU + "\n")
        # some tools take a machine without this program for one without a GPU
        (folder / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI 550.54.15'\n")
        (folder / "nvidia-smi").chmod(0o755)
        environ["PATH"] = f"{folder}:{environ['PATH']}"
        environ |= {
            "FAKE_NVML_STATE": str(folder / "nvml.txt"),
            "LD_LIBRARY_PATH": str(library.parent),
        }
    if tool == "carbontrack":
        environ["PYTHONPATH"] = str(HERE.parents[1])
    probe = [str(python), str(HERE / "inside" / "probe.py"), tool, str(planned), str(out)]
    variables = [f"{name}={value}" for name, value in environ.items()]
    return _finish(inside(tree, ["env", "-i", *variables, *probe]), folder, out, limit_s + 30.0)


def _finish(command: list[str], folder: Path, out: Path, limit_s: float) -> dict[str, Any]:
    said = folder / "said.txt"
    with said.open("w") as sink:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=folder,
            start_new_session=True,
        )
        try:
            started.wait(limit_s)
        except subprocess.TimeoutExpired:
            return {"spans": [], "unknown": 0, "errors": [f"took longer than {limit_s:.0f} s"]}
        finally:
            _end(started)
    if not out.exists():
        lines = [line.strip() for line in said.read_text(errors="replace").splitlines()]
        return {
            "spans": [],
            "unknown": 0,
            "errors": [([*filter(None, lines)] or ["no word"])[-1][:200]],
        }
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def _end(started: subprocess.Popen[bytes]) -> None:
    # Monitors that a tool has started may outlive it.
    try:
        os.killpg(started.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    started.wait()


def works(folder: Path) -> str | None:
    """Why this machine cannot simulate another one; None where it can."""
    if sys.platform != "linux":
        return "mount namespaces are Linux's"
    tree = tree_in(folder, [PACKAGE])
    test = inside(tree, ["test", "-r", "/sys/class/powercap/intel-rapl:0/energy_uj"])
    try:
        done = subprocess.run(test, capture_output=True, check=False, text=True)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else f"no mount namespace: {done.stderr.strip()[:160]}"
