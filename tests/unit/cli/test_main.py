"""The command line as a whole: help, version, and bad usage."""

from __future__ import annotations

import subprocess
import sys

import pytest

from carbontrack.cli import COMMANDS, main
from carbontrack.system.version import VERSION


def test_the_version_is_told_without_loading_a_command() -> None:
    """`carbontrack --version` is quick."""
    code = (
        "import sys; from carbontrack.cli import main; end = main(['--version']);"
        "print(end, [m for m in sys.modules if m.startswith('carbontrack.cli.')])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [f"carbontrack {VERSION}", "0 []"]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each; without a command it is bad usage."""
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert name in shown

    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`carbontrack COMMAND --help` works for all that are listed."""
    assert main([name, "--help"]) == 0
    assert f"carbontrack {name}" in capsys.readouterr().out


def test_a_misspelt_command_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """With the nearest right one."""
    assert main(["rnu"]) == 2
    assert "did you mean 'run'" in capsys.readouterr().err


def test_a_wrong_setting_is_bad_usage_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback for a mistake in the command line."""
    assert main(["run", "--scope", "galaxy", "--", "true"]) == 2
    shown = capsys.readouterr().err
    assert shown == "carbontrack: argument scope='galaxy' is none of process, machine\n"


def test_a_command_is_needed_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    """`carbontrack run` alone is bad usage."""
    assert main(["run"]) == 2
    assert main(["run", "--"]) == 2
    assert "needs a command" in capsys.readouterr().err
    assert main(["run", "--budget", "five", "--", "true"]) == 2
    assert "is not a quantity" in capsys.readouterr().err
    assert main(["run", "--label", "novalue", "--", "true"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err
