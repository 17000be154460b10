"""A path that the user named himself is an error before anything starts, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SETTINGS = {
    # what each is given: a path below a file, which can never be one of a folder or a new file
    "output": "file/x.csv",
    "state_dir": "file/state",
    "sysfs_path": "file/sys",
    "procfs_path": "file/proc",
}
TRACK = """
import sys, carbontrack
given = {given}
try:
    with carbontrack.track("x", **given):
        print("started")
except carbontrack.ConfigError as error:
    print("refused", error)
"""
AUTO = TRACK.replace(
    'with carbontrack.track("x", **given):', "carbontrack.auto(**given)\n    if 1:"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a file in it, below which nothing can be."""
    (tmp_path / "file").touch()
    return tmp_path


def run(home: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A program that stands in its home."""
    known = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], cwd=home, env={**known, **environ},
                          capture_output=True, text=True, check=False)  # fmt: skip


def left(home: Path) -> list[str]:
    """What is in the home besides the settings."""
    return sorted(p.name for p in home.rglob("*") if p.name not in {"file", ".config",
                  "carbontrack", "config.toml", "pyproject.toml"})  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("how", ["argument", "variable", "user's file", "project's file"])
@pytest.mark.parametrize("door", [TRACK, AUTO], ids=["track", "auto"])
def test_a_program_is_told_by_an_exception(home: Path, name: str, how: str, door: str) -> None:
    """A `ConfigError` that names the setting; nothing has begun, and nothing was made."""
    path = str(home / SETTINGS[name])
    given = {name: path} if how == "argument" else {}
    environ = {f"CARBONTRACK_{name.upper()}": path} if how == "variable" else {}
    _write(home, how, name, path)
    done = run(home, "-c", door.format(given=given), **environ)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("refused ")
    assert name in done.stdout.lower()
    assert path in done.stdout
    assert left(home) == []


@pytest.mark.parametrize(
    ("how", "name"),
    [("option", "output"), *product(["variable", "user's file", "project's file"], SETTINGS)],
)
def test_a_command_is_not_started(home: Path, name: str, how: str) -> None:
    """One line, and the exit code 2."""
    path = str(home / SETTINGS[name])
    option = ("--output", path) if how == "option" else ()
    environ = {f"CARBONTRACK_{name.upper()}": path} if how == "variable" else {}
    _write(home, how, name, path)
    done = run(home, "-m", "carbontrack", "run", *option, "--", "echo", "started", **environ)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("carbontrack: ")
    assert done.stderr.count("\n") == 1
    assert name in done.stderr.lower()
    assert left(home) == []


def _write(home: Path, how: str, name: str, path: str) -> None:
    if how == "user's file":
        folder = home / ".config" / "carbontrack"
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(f"{name} = '{path}'\n")
    elif how == "project's file":
        (home / "pyproject.toml").write_text(f"[tool.carbontrack]\n{name} = '{path}'\n")


def test_what_is_asked_wrongly_is_said_before_what_is_missing(home: Path) -> None:
    """A setting that cannot be used, and a command that is not there."""
    done = run(home, "-m", "carbontrack", "run", "--", "no-such-command", CARBONTRACK_PUE="x")
    assert done.returncode == 2
    assert "CARBONTRACK_PUE" in done.stderr
