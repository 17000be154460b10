"""Commands before their start and after their end; tests/integration runs real ones."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from carbontrack.cli.child import End, default_name, obstacle


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "train.py", "--lr", "1"], "train.py"),
        (["/usr/bin/python3.11", "src/train.py"], "train.py"),
        (["python", "-m", "pkg.train", "x"], "pkg.train"),
        (["python", "-c", "print('secret')"], "python"),
        (["python"], "python"),
        (["bash", "job.sh"], "job.sh"),
        (["./build/model", "--key=secret"], "model"),
        (["ls", "/home/someone"], "ls"),
    ],
)
def test_a_record_is_named_after_the_script_and_never_after_its_arguments(
    command: list[str], name: str
) -> None:
    """Arguments may hold secrets; a script's name is what people look for."""
    assert default_name(command) == name


@pytest.mark.parametrize(
    ("returncode", "end"),
    [
        (0, End(0, "ok", None)),
        (7, End(7, "error", "exit code 7")),
        (-signal.SIGTERM, End(143, "error", "ended by SIGTERM")),
        (-signal.SIGKILL, End(137, "error", "ended by SIGKILL")),
        (-signal.SIGINT, End(130, "interrupted", "ended by SIGINT")),
        (-40, End(168, "error", "ended by signal 40")),
    ],
)
def test_an_end_has_the_shells_code(returncode: int, end: End) -> None:
    """128+n after signal n, else the command's own code."""
    assert End.of(returncode) == end


def test_a_missing_command_is_127(tmp_path: Path) -> None:
    """With the code that people know from their shell."""
    for program in ("no-such-command-here", f"{tmp_path}/nothing"):
        end = obstacle([program])

        assert end is not None
        assert (end.code, end.error) == (127, f"there is no command {program!r}")
        assert not end.started


@pytest.mark.parametrize(
    ("file", "command"), [("work.py", "python work.py"), ("simulate", "./simulate")]
)
def test_a_file_of_this_directory_is_offered(
    file: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script without `python` in front, and a program without "./"."""
    monkeypatch.chdir(tmp_path)
    Path(file).touch()
    end = obstacle([file])

    assert end is not None
    assert end.code == 127
    assert str(end.error).endswith(
        f"; for the file in this directory: carbontrack run -- {command}"
    )


def test_a_script_that_is_not_executable_is_given_to_python(tmp_path: Path) -> None:
    """Where a path is given: it is not searched for."""
    (script := tmp_path / "work.py").touch()
    end = obstacle([str(script)])

    assert end is not None
    assert (end.code, end.error) == (
        126,
        f"{script} is not executable; write: carbontrack run -- python {script}",
    )


def test_what_is_there_but_cannot_be_executed_is_126(tmp_path: Path) -> None:
    """A file without permission, a directory, and a script whose interpreter is missing."""
    plain = tmp_path / "plain"
    plain.write_text("data")
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter -x\n")
    script.chmod(0o700)

    ends = [obstacle([str(path)]) for path in (plain, tmp_path, script)]

    assert [end and end.code for end in ends] == [126, 126, 126]
    assert [end and end.error for end in ends] == [
        f"{plain} is not executable; see chmod +x",
        f"{tmp_path} is a directory",
        f"{script} needs /no/such/interpreter, which is not there",
    ]


def test_what_can_be_started_has_no_obstacle(tmp_path: Path) -> None:
    """A program on the path, a script, and a script without a first line for the kernel."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o700)
    bare = tmp_path / "bare"
    bare.write_text("exit 3\n")
    bare.chmod(0o700)

    assert obstacle(["sh"]) is None
    assert obstacle([str(script)]) is None
    assert obstacle([str(bare)]) is None
