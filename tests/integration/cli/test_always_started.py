"""`carbontrack run` starts the command, whatever goes wrong with the measurement."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMAND = ("sh", "-c", "echo ran; exit 5")
TRACK = """
import carbontrack
with carbontrack.track("x", region="FR") as run:
    print("ran")
print(run.record.status)
"""
AUTO = TRACK.replace("carbontrack.track(", "carbontrack.auto(region='FR').span(").replace(
    ', region="FR")', ")"
)


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A program that finds modules in this folder before Python's own."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "CARBONTRACK_REGION": "FR",
               "PYTHONPATH": f"{folder}:{ROOT}"}  # fmt: skip
    return subprocess.run([sys.executable, *words], cwd=folder, env=environ, check=False,
                          capture_output=True, text=True)  # fmt: skip


@pytest.mark.parametrize("options", [(), ("--quiet",), ("--json",)])
def test_no_tracker_can_be_made(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A module that is loaded for it is not what it seems."""
    (tmp_path / "_blake2.py").write_text("raise RuntimeError('another module of this name')")
    done = run(tmp_path, "-m", "carbontrack", "run", *options, "--", *COMMAND)

    assert (done.returncode, done.stdout) == (5, "ran\n"), done.stderr
    note = "carbontrack: sh is not measured: RuntimeError: another module of this name\n"
    assert done.stderr == ("" if options == ("--quiet",) else note)


@pytest.mark.parametrize("program", [TRACK, AUTO], ids=["track", "auto"])
def test_neither_for_a_program(tmp_path: Path, program: str) -> None:
    """It runs, its block has a record that says so, and one line tells why."""
    (tmp_path / "_blake2.py").write_text("raise RuntimeError('another module of this name')")
    done = run(tmp_path, "-c", program)

    assert (done.returncode, done.stdout) == (0, "ran\ndisabled\n"), done.stderr
    note = "carbontrack: nothing is measured: RuntimeError: another module of this name\n"
    assert done.stderr == note


@pytest.mark.parametrize("module", ["subprocess", "shutil"])
def test_we_cannot_even_be_loaded(tmp_path: Path, module: str) -> None:
    """A file of the user's has the name of a module of Python's that we import."""
    (tmp_path / f"{module}.py").write_text("raise RuntimeError('mine')")
    done = run(tmp_path, "-m", "carbontrack", "run", "--", *COMMAND)

    assert (done.returncode, done.stdout) == (5, "ran\n"), done.stderr
    assert done.stderr == "carbontrack: sh is not measured: RuntimeError: mine\n"


@pytest.mark.parametrize(
    ("words", "is_started"),
    [
        (["--name", "--json", "--quiet", "--", *COMMAND], True),  # a name that looks like an option
        (["--label=a=b", "--timeline", "--", *COMMAND], True),
        ([*COMMAND[:1], "-c", "echo other", "--", *COMMAND], False),  # this `--` is the command's
        (["--quiet", "--"], False),
    ],
)
def test_the_command_is_what_stands_behind_our_options(
    tmp_path: Path, words: list[str], is_started: bool
) -> None:
    """Never something else, where our own parser cannot be loaded."""
    (tmp_path / "subprocess.py").write_text("raise RuntimeError('mine')")
    done = run(tmp_path, "-m", "carbontrack", "run", *words)

    assert done.stdout == ("ran\n" if is_started else "")
    assert (done.returncode == 5) == is_started


def test_a_source_that_fails(tmp_path: Path) -> None:
    """The command is measured by the others, and the record says it."""
    (tmp_path / "_ctypes.py").write_text("raise RuntimeError('mine')")
    done = run(tmp_path, "-m", "carbontrack", "run", "--json", "--", *COMMAND)

    assert (done.returncode, done.stdout) == (5, "ran\n"), done.stderr
    assert '"faults": "source_failed:1"' in done.stderr


def test_what_was_asked_of_us_is_an_error(tmp_path: Path) -> None:
    """The command is not started where the user's own words cannot be obeyed."""
    output = str(tmp_path / "nowhere" / "x.csv")
    for words in (("--output", output), ("--scope", "universe"), ("--no-such-option",)):
        done = run(tmp_path, "-m", "carbontrack", "run", *words, "--", *COMMAND)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "Traceback" not in done.stderr
