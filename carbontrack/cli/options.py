"""What the commands' options have in common: how a parser is made, and files to write."""

from __future__ import annotations

from argparse import (
    ArgumentParser,
    HelpFormatter,
    Namespace,
    RawDescriptionHelpFormatter,
    _SubParsersAction,
)
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from carbontrack.errors import ConfigError

Subparsers: TypeAlias = "_SubParsersAction[ArgumentParser]"


class _UnbrokenHelp(HelpFormatter):
    """Help texts that are not broken inside a name such as text-generation."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        from textwrap import wrap  # for --help only

        return wrap(" ".join(text.split()), width, break_on_hyphens=False)


class _RawUnbrokenHelp(_UnbrokenHelp, RawDescriptionHelpFormatter):
    """The same, and description and epilog with their own line breaks."""


def new_parser(
    subparsers: Subparsers,
    name: str,
    run: Callable[[Namespace], int],
    *,
    description: str,
    epilog: str | None = None,
    usage: str | None = None,
    keep_lines: bool = False,
) -> ArgumentParser:
    """The parser of a command that `run` carries out.

    `keep_lines` prints description and epilog with their own line breaks.
    """
    parser = subparsers.add_parser(
        name,
        description=description,
        epilog=epilog,
        usage=usage,
        formatter_class=_RawUnbrokenHelp if keep_lines else _UnbrokenHelp,
        allow_abbrev=False,
    )
    parser.set_defaults(func=run)
    return parser


def file_to_write(option: str, text: str) -> Path:
    """The file that an option names.

    Raises:
        ConfigError: it is a directory, or would lie in one that does not exist.
    """
    path = Path(text).expanduser()
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(f"{option} {text}: not a file in a directory that exists")
    return path
