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
def test_every_command_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`carbontrack COMMAND --help` shows an example, in 80 columns, for all that are listed."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"carbontrack {name}" in text
    assert f"carbontrack {name} " in text.lower().partition("example")[2]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "usage", "says"),
    [
        (["regions", "FR", "--yeer", "2"], "regions", "no option --yeer; did you mean '--year'?"),
        (["report", "--format", "statment"], "report", "sci; did you mean 'statement'?"),
        (["top", "all"], "top", "one argument too many: 'all'"),
        (["report", "--qwxyz=1"], "report", "there is no option --qwxyz\n"),
        (["when", "--huors", "4"], "when", "no option --huors; did you mean '--hours'?"),
        (["when"], "when", "the following arguments are required: --hours"),
        (["regions", "--top", "many"], "regions", "argument --top: invalid int value: 'many'"),
        (["run", "--naem", "x", "--", "ls", "-l"], "run", "--naem; did you mean '--name'?"),
        (["--verson"], "", "there is no option --verson; did you mean '--version'?"),
    ],
)
def test_a_wrong_option_shows_the_usage_of_its_own_command(
    words: list[str], usage: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the nearest right name; options behind `--` are the command's own."""
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"usage: carbontrack {usage}".rstrip())
    assert says in printed.err


def test_a_misspelt_command_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """With the nearest right one."""
    assert main(["rnu"]) == 2
    assert "did you mean 'run'" in capsys.readouterr().err


def test_a_wrong_setting_is_bad_usage_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback for a mistake in the command line."""
    assert main(["run", "--scope", "galaxy", "--", "true"]) == 2
    shown = capsys.readouterr().err
    assert shown == "carbontrack: --scope 'galaxy' is none of process, machine\n"
    assert main(["run", "--interval", "0", "--", "true"]) == 2
    assert "carbontrack: --interval '0' is not a number" in capsys.readouterr().err
    assert main(["run", "--output", "a.xlsx", "--", "true"]) == 2
    assert "carbontrack: --output 'a.xlsx' is neither" in capsys.readouterr().err


def test_a_command_is_needed_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    """`carbontrack run` alone is bad usage."""
    assert main(["run"]) == 2
    assert main(["run", "--"]) == 2
    assert "needs a command" in capsys.readouterr().err
    assert main(["run", "--budget", "five", "--", "true"]) == 2
    assert "is not a quantity" in capsys.readouterr().err
    assert main(["run", "--label", "novalue", "--", "true"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err
