"""What a child process does after a fork: the one hook of the package."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something whose locks, threads and open things are the parent's after a fork."""

    def forget_parent(self) -> None:
        """Begin at zero; called in the child, where only the forking thread lives on."""
        ...


_all: weakref.WeakSet[Forked] = weakref.WeakSet()


def remember(one: Forked) -> None:
    """Let `one` begin at zero in every child; there is no need to take it back."""
    _all.add(one)


def _in_child() -> None:
    for one in list(_all):
        one.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
