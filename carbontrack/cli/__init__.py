"""The command line: one module for each command, imported only when that command is called.

A command's module has `add_parser(subparsers)`, which sets `func=run`, and `run(args) -> int`.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from carbontrack.errors import CarbontrackError, ConfigError
from carbontrack.system.interrupts import attempt
from carbontrack.system.version import VERSION
from carbontrack.text import visible

COMMANDS = {
    "run": "measure any command, and pass its exit code through",
    "report": "add up records into tables, or into a page to send to someone",
    "compact": "collect records in an archive of Parquet files, each record once",
    "estimate": "estimate the energy and emissions of a run before it runs",
    "top": "show the runs that are being measured on this host",
    "label": "grade measured energy per 1,000 inferences against published models",
    "recover": "write the records of runs that were killed",
    "sync": "send the records that wait for a server",
    "relay": "send what all processes of a host have for a server, over one connection",
    "serve": "receive a team's records, and show the totals of each project",
    "regions": "show the carbon intensity of places, and where the same work would emit less",
    "when": "find the greenest time to start some hours of work",
    "calibrate": "make a meter of what a wall meter sees beyond this host's own meters",
    "doctor": "show what is measured here, how, and what would make it better",
}
"""Every command and its line of help; the module `carbontrack.cli.<command>` implements it."""

USAGE = 2
_INTERRUPTED = 130
_NOT_FOUND = 127
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code: 0 for success, 1 for failure, 2 for bad usage."""
    given = _without_mistakes(list(sys.argv[1:] if argv is None else argv))
    try:
        command, error = attempt(_command, given)
        return _failed_at_start(error, given) if command is None else command()
    except SystemExit as end:  # argparse has printed its help or an error
        return end.code if isinstance(end.code, int) else USAGE
    except CarbontrackError as error:
        _say(str(error))
        return USAGE if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:
        return _failed(error)


def _without_mistakes(given: list[str]) -> list[str]:
    """The arguments; under CARBONTRACK_DISABLE no mistake in `run`'s options stops the command."""
    if given[:1] != ["run"] or "--" not in given:
        return given
    from carbontrack.config.environment import is_disabled

    end = given.index("--")
    if not is_disabled():
        return given
    harmless = {"-h", "--help", "--quiet", "--json", "--as-codecarbon"}
    return ["run", *filter(harmless.__contains__, given[1:end]), *given[end:]]


_SWITCHES = frozenset(
    {"-h", "--help", "--quiet", "--json", "--verbose", "--timeline", "--as-codecarbon"}
)
"""Options of `run` that take no value."""


def _command_behind(given: Sequence[str]) -> list[str]:
    """The command of `run` behind its options and `--`; none where it is not written so."""
    place = 1
    while given[place : place + 1] != ["--"]:
        option = given[place] if place < len(given) else ""
        if not option.startswith("-"):
            return []  # a `--` further on is the command's own
        place += 1 if option in _SWITCHES or "=" in option else 2
    return list(given[place + 1 :])


def _command(given: Sequence[str]) -> Callable[[], int]:
    args = _parser(given).parse_args(given)
    return lambda: int(args.func(args))


def _failed_at_start(error: Exception | None, given: Sequence[str]) -> int:
    """Go on as the command of `run`, if there is one, whatever keeps us from being loaded.

    Such as a file of the user's that has the name of one of Python's modules.
    """
    assert error is not None
    command = _command_behind(given) if given[:1] == ["run"] else []
    if isinstance(error, CarbontrackError) or not command:
        raise error
    if "--quiet" not in given[: given.index("--")]:
        _say(f"{command[0]} is not measured: {type(error).__name__}: {error}")
    try:
        os.execvp(command[0], command)  # noqa: S606 - it is the job
    except FileNotFoundError:
        return _NOT_FOUND


def _failed(error: OSError) -> int:
    """Print an error of the system in one line; it is bad usage where it names a file."""
    if error.filename is None:
        _say(f"{error.strerror or error}")
        return 1
    _say(f"{error.filename}: {error.strerror}")
    return USAGE


def _say(text: str) -> None:
    from carbontrack.cli.terminal import Terminal  # for an error only

    Terminal(sys.stderr).say(f"carbontrack: {visible(text)}\n")


class _Parser(ArgumentParser):
    """A parser that shows what was given as text; the commands' parsers are of its class."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with 2."""
        super().error(visible(message))


def _parser(given: Sequence[str]) -> ArgumentParser:
    asked = given[0] if given else "--help"
    parser = _Parser(
        prog="carbontrack",
        description="What did this code emit, how is that known, and how far may it be off?",
        epilog="`carbontrack COMMAND --help` tells more of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"carbontrack {VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, line in COMMANDS.items():
        if name == asked:
            import_module(f"carbontrack.cli.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=line)
    if not given:
        parser.print_help(sys.stderr)
        parser.exit(USAGE)
    if not asked.startswith("-") and asked not in COMMANDS:
        from carbontrack.errors import nearest

        parser.error(f"there is no command {asked!r}{nearest(asked, COMMANDS)}")
    return parser
