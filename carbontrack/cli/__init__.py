"""The command line: one module for each command, imported only when that command is called.

A command's module has `add_parser(subparsers)`, which sets `func=run`, and `run(args) -> int`.
"""

from __future__ import annotations

import os
import sys
from argparse import Action, ArgumentError, ArgumentParser
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from carbontrack.errors import CarbontrackError, ConfigError
from carbontrack.system.interrupts import attempt
from carbontrack.system.version import VERSION
from carbontrack.text import visible

COMMANDS = {
    "run": "measure a command",
    "report": "add up records: a table, a page, a document",
    "doctor": "show what is measured on this machine, how, and how to improve it",
    "estimate": "estimate a run before it starts",
    "regions": "compare the carbon intensity of places",
    "when": "find the lowest-carbon time for some hours of work",
    "top": "show the runs that are being measured now",
    "label": "grade energy per 1,000 inferences against published models",
    "calibrate": "add what a wall meter shows beyond the meters of this machine",
    "recover": "write the records of runs that were killed",
    "sync": "send records that are waiting for a server",
    "relay": "collect the records of all processes of a host, and send them",
    "serve": "receive the records of a team, and show totals",
    "compact": "archive records in Parquet, one file a month",
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
    parser, command = _parsers(given)
    if command is not parser:
        command.given = given[1 : given.index("--") if "--" in given else None]
    args, unknown = parser.parse_known_args(given)
    if unknown:
        command.refuse(unknown)
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

    text = text.removeprefix("carbontrack ")  # as in "carbontrack report needs pandas"
    Terminal(sys.stderr).say(f"carbontrack: {visible(text)}\n")


class _Parser(ArgumentParser):
    """A parser whose errors show the usage of its own command, and the nearest right name.

    The commands' parsers are of this class. What was given is shown as text.

    Attributes:
        given: the words behind the command.
    """

    given: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with 2."""
        if message.startswith("the following arguments are required"):
            message = next(filter(None, map(self._mistake, self.given)), message)
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {visible(message)}\n")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Print the usage and the first word that this command does not take, and exit with 2."""
        self.error(self._mistake(unknown[0]) or f"one argument too many: {unknown[0]!r}")

    def _check_value(self, action: Action, value: object) -> None:
        """Refuse a word that is none of an option's choices, with the nearest of them."""
        if action.choices is not None and value not in action.choices:
            from carbontrack.errors import nearest

            known = [str(choice) for choice in action.choices]
            near = nearest(str(value), known)
            raise ArgumentError(action, f"{value!r} is none of {', '.join(known)}{near}")

    def _mistake(self, word: str) -> str | None:
        """What is wrong with a word that looks like an option; None where it is one, or no word."""
        name = word.partition("=")[0]
        if not name.startswith("-") or name in (*self._option_string_actions, "-", "--"):
            return None
        from carbontrack.errors import nearest

        return f"there is no option {name}{nearest(name, self._option_string_actions)}"


def _parsers(given: Sequence[str]) -> tuple[_Parser, _Parser]:
    """The parser of all commands, and that of the command that is given."""
    asked = given[0] if given else "--help"
    parser = _Parser(
        prog="carbontrack",
        description="What did this code emit, how is that known, and how far may it be off?",
        epilog="`carbontrack COMMAND --help` shows a command's options and an example. New here? "
        "Try: carbontrack run -- python train.py",
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
    if asked.startswith("-"):
        parser.given = given
    elif asked not in COMMANDS:
        from carbontrack.errors import nearest

        parser.error(f"there is no command {asked!r}{nearest(asked, COMMANDS)}")
    return parser, commands.choices.get(asked, parser)
