"""The interpreters of this machine, to run small programs with; the package comes from its source.

What the package itself needs to measure with modelled meters is in the standard library.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.13t", "3.14t")
_ASK = "import sys; print('%d.%d%s' % (*sys.version_info[:2], sys.abiflags))"


@functools.cache
def find(version: str) -> str | None:
    """The path of an interpreter of this version, the running one first; None: there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    number = version.rstrip("t")
    found = [sys.executable, shutil.which(f"python{version}")]
    found += map(str, sorted((pyenv / "versions").glob(f"{number}*/bin/python")))
    return next((one for one in found if one is not None and _version(one) == version), None)


@functools.cache
def _version(path: str) -> str:
    """What an interpreter says of itself; "" if it cannot be started, as a shim of pyenv's."""
    try:
        done = subprocess.run(
            [path, "-c", _ASK], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def path_of(version: str) -> str:
    """The path of an interpreter of this version; the test is skipped where there is none."""
    path = find(version)
    if path is None:
        pytest.skip(f"this machine has no Python {version}")
    return path


@functools.cache
def compiled() -> str:
    """A folder for bytecode until this process ends: another version compiles the package once."""
    folder = tempfile.mkdtemp(prefix="carbontrack-bytecode-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def run(
    version: str, program: str, folder: Path, *args: object, limit_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder, with a state folder of its own there.

    Raises:
        AssertionError: it has not ended within `limit_s`, far more than it needs.
    """
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPYCACHEPREFIX": compiled(),
        "CARBONTRACK_STATE_DIR": str(folder / "state"),
        "CARBONTRACK_REGION": "FR",
        "CARBONTRACK_OUTPUT": "runs.csv",
    }
    command = [path_of(version), "-c", program, *map(str, args)]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # it says where it is
        out, err = process.communicate()
        raise AssertionError(f"it hangs; so far it said {out!r} {err!r}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)
