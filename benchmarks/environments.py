"""A virtual environment for each tool, and one measurement in a new process of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from peers import load
from simulated import inside

from carbontrack.testing import Powercap

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
TOOLS = ("carbontrack", "codecarbon", "codecarbon_on_carbontrack", "eco2ai", "carbontracker",
         "zeus", "perun", "pyjoules", "opentelemetry")  # fmt: skip
LIST = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
)
INSTALLERS = ("pip", "setuptools", "wheel")


class Installed(NamedTuple):
    """A tool's Python, and what lies beside it."""

    python: Path
    versions: dict[str, str]
    size_mib: float


def install(tool: str, cache: Path) -> Installed:
    """The tool's newest release; an environment that is there already is brought up to date.

    Raises:
        subprocess.SubprocessError: it cannot be installed.
    """
    folder, adapter = cache / tool, load(tool)
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    target = str(PROJECT) if adapter.REQUIREMENT == "." else adapter.REQUIREMENT
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command += ["--upgrade", target, *getattr(adapter, "ALSO", ())]
    if target == str(PROJECT):  # the same version may have changed
        command += ["--force-reinstall"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    printed = subprocess.run([str(python), "-c", LIST], capture_output=True, text=True, check=True)
    versions = {k: v for k, v in json.loads(printed.stdout).items() if k not in INSTALLERS}
    return Installed(python, versions, size_mib(python))


def size_mib(python: Path) -> float:
    """Size on disk, without installers and compiled caches."""
    (site,) = python.parent.parent.glob("lib/python3*/site-packages")
    skipped = (*INSTALLERS, "pkg_resources", "_distutils_hack", "distutils-precedence")
    return sum(
        file.lstat().st_size / 2**20
        for file in site.rglob("*")
        if file.is_file()
        and file.suffix != ".pyc"
        and not file.relative_to(site).parts[0].startswith(skipped)
    )


def measure(tool: str, what: str, python: Path, tree: Powercap | None) -> dict[str, Any]:
    """One measurement in one new process, with a tree where RAPL would be and without network.

    Raises:
        RuntimeError: it failed, or took longer than 60 s; says how.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        out, said = Path(folder) / "out.json", Path(folder) / "said.txt"
        probe = [str(python), str(HERE / "peers" / "probe.py"), tool, what, str(out)]
        with said.open("w") as sink:
            started = subprocess.Popen(
                probe if tree is None else inside(tree, probe),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=folder,
                env={"PATH": os.environ["PATH"], "HOME": folder},
                start_new_session=True,
            )
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            raise RuntimeError("took longer than 60 s") from None
        finally:
            _end(started)
        if not out.exists():
            raise RuntimeError(_last_line(said.read_text(errors="replace")))
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def _end(started: subprocess.Popen[bytes]) -> None:
    # Monitors that a tool has started may outlive it.
    try:
        os.killpg(started.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    started.wait()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return ((errors or lines or ["ended without a word"])[-1])[:200]


def reason(error: Exception) -> str:
    """What a failure says, in one line."""
    return _last_line(str(getattr(error, "stderr", None) or error))
