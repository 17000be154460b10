"""What the package says aloud while a command sets things up, kept for the command to print."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def collected() -> Iterator[list[str]]:
    """Keep warnings of the block as texts, instead of printing or raising them."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += [str(warning.message).removeprefix("carbontrack: ") for warning in caught]


class Unseen:
    """The journals that a command could not look into; to be handed on as `on_trouble`."""

    def __init__(self) -> None:
        self.found: list[tuple[Path, OSError]] = []

    def __call__(self, path: Path, error: OSError) -> None:
        """Keep one."""
        self.found.append((path, error))

    def say(self) -> bool:
        """Name the first on stderr, and how many there are; False if there is none."""
        for path, error in self.found[:1]:
            print(
                f"carbontrack: {len(self.found)} journals could not be looked into, and what they "
                f"keep still waits; the first: {path}: {error.strerror or error}",
                file=sys.stderr,
            )
        return bool(self.found)
