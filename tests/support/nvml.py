"""Runs scripts against the real nvidia-ml-py with a compiled stand-in for the driver."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).parent / "fake_nvml.c"
UUIDS = (
    "GPU-4e817856-1fb8-192a-7ab7-0e0e4476d301",
    "GPU-9b2c1d04-77aa-4c1e-8a52-5f3e6d0c9b11",
    "GPU-9b2f0001-77aa-4c1e-8a52-5f3e6d0c9b12",
)


@dataclass
class FakeGpu:
    """A line of the stand-in's control file; -1 is not supported, "-" no MIG slice."""

    uuid: str = UUIDS[0]
    name: str = "NVIDIA H100 80GB HBM3"
    energy_mj: int = 987_654_321_000
    power_mw: int = 300_000
    limit_mw: int = 700_000
    instant_mw: int = -1
    error: int = 0
    utilisation: int = 0
    pid: int = 0
    mig: str = "-"

    def line(self):
        fields = vars(self) | {"name": self.name.replace(" ", "_")}
        return " ".join(str(field) for field in fields.values())


class State:
    """The control file; replaced in one step, so that no call sees half of it."""

    def __init__(self, path):
        self.path = Path(path)

    def show(self, *gpus, init=0, hang=0, virtual=0, fail=None, processes=(), graphics=(), says=""):
        lines = [gpu.line() for gpu in gpus]
        lines += [f"init {init}"] if init else []
        lines += [f"hang {hang}"] if hang else []
        lines += [f"virtual {virtual}"] if virtual else []
        lines += [f"fail {function} {code}" for function, code in (fail or {}).items()]
        lines += [f"process {gpu} {pid} {percent}" for gpu, pid, percent in processes]
        lines += [f"graphics {gpu} {pid}" for gpu, pid in graphics]
        lines += [f"says {says}"] if says else []
        draft = self.path.with_suffix(".draft")
        draft.write_text("\n".join(lines) + "\n", "utf-8", "surrogateescape")
        draft.replace(self.path)


def compile_fake_nvml(folder, *, without=()):
    """The folder to put into LD_LIBRARY_PATH, or None where there is no C compiler.

    `without` names functions that the library lacks, as an older driver's does.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = Path(folder) / "libnvidia-ml.so.1"
    lacking = [f"-D{name}=absent_{name}" for name in without]
    command = [compiler, "-shared", "-fPIC", *lacking, "-o", library, SOURCE]
    subprocess.run(command, check=True)
    return library.parent


def run_script(folder, script, state, variables=None, *, python=(sys.executable,), root=ROOT):
    """Run Python text in a process of its own, where `state` is the State; return its JSON.

    `python` is how it is started, `root` where this package lies for it.
    """
    # dlopen reads LD_LIBRARY_PATH once, when a process starts
    preamble = (
        "import json, os, sys\n"
        "from tests.support.nvml import FakeGpu, State, UUIDS\n"
        "state = State(os.environ['FAKE_NVML_STATE'])\n"
    )
    done = subprocess.run(
        [*python, "-W", "error", "-c", preamble + script],
        env=os.environ
        | {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML_STATE": str(state.path)}
        | (variables or {}),
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
