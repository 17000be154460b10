"""What a child process does after a fork: the one hook of the package."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
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


def at_end_of_worker(finish: Callable[[], None]) -> None:
    """Call `finish` at the end of this process, if it is a child made by multiprocessing.

    Such a child, forked or from a fork server, ends without running what `atexit` holds; its own
    finalizers are what it runs.
    """
    process = sys.modules.get("multiprocessing.process")
    finalizers = sys.modules.get("multiprocessing.util")
    if process is not None and finalizers is not None and process.parent_process() is not None:
        # Before the queues' own, which have priorities from -5 to 10 and close what logging needs.
        finalizers.Finalize(None, finish, exitpriority=100)


def _in_child() -> None:
    for one in list(_all):
        one.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
