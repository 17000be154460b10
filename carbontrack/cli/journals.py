"""What `recover`, `relay` and `sync` share: they process the journals of ended processes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from carbontrack.cli.terminal import Terminal
from carbontrack.config.settings import Settings
from carbontrack.sinks.factory import is_url
from carbontrack.sinks.journal.names import SetAside
from carbontrack.sinks.post import token_for
from carbontrack.text import visible


class UnreadableJournals:
    """The journals that a command could not read, for `on_unreadable`.

    Attributes:
        found: each with the reason.
        set_aside: what was no journal, for `on_set_aside`.
    """

    def __init__(self) -> None:
        self.found: list[tuple[Path, OSError]] = []
        self.set_aside = SetAside()

    def __call__(self, path: Path, error: OSError) -> None:
        """Add one."""
        self.found.append((path, error))

    def warn(self) -> bool:
        """Print the first on stderr, and how many there are; False if there is none."""
        if (text := self.set_aside.text()) is not None:
            print(f"carbontrack: {visible(text)}", file=sys.stderr)
        for path, error in self.found[:1]:
            print(
                f"carbontrack: {_count(len(self.found), 'journal')} could not be read, and the "
                f"records in {'it' if len(self.found) == 1 else 'them'} are still waiting; the "
                f"first: {visible(f'{path}: {error.strerror or error}')}",
                file=sys.stderr,
            )
        return bool(self.found or self.set_aside.count)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def print_result(
    document: object | None,
    lines: Iterable[str],
    unreadable: UnreadableJournals,
    *,
    nothing: tuple[str, str],
    is_complete: bool,
) -> int:
    """Print the document as JSON, or the lines if it is None; returns the exit code.

    `nothing` is printed in place of no lines: the first text if there was nothing to do, the
    second if journals could not be read. The exit code is 1 if something is left to do.
    """
    terminal = Terminal(sys.stdout)
    if document is not None:
        print(terminal.json(document))
    else:
        shown = terminal.fit("\n".join(map(visible, lines)))
        print(shown or nothing[bool(unreadable.found or unreadable.set_aside.count)])
    return 0 if not unreadable.warn() and is_complete else 1


def token_to(url: str | None, settings: Settings) -> str | None:
    """The token; a project's file may not give its own for another address than its own."""
    token = settings.http_token
    if url is None or settings.is_users("http_token"):
        return token
    return token_for(url, token, filter(is_url, settings.output))
