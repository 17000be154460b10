"""What the package says aloud while a command sets things up, kept for the command to print."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected() -> Iterator[list[str]]:
    """Keep warnings of the block as texts, instead of printing or raising them."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += [str(warning.message).removeprefix("carbontrack: ") for warning in caught]
