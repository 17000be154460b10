"""What a child does after a fork, and what a fork waits for: the one hook of the package."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


class _Imports:
    """The lock that imports of ours hold, and whether the fork that is under way has it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.held_by_fork = False


_imports = _Imports()
_PATIENCE_S = 5.0
"""The longest that a fork waits; what an import takes, many times over."""


@contextmanager
def holding_forks() -> Iterator[None]:
    """Let forks wait while this thread imports.

    A module that one thread is importing stays locked for ever in the child of another thread's
    fork: the first import of it there, by anybody's code, would never return.
    """
    with _imports.lock:
        yield


def _before() -> None:
    _imports.held_by_fork = _imports.lock.acquire(timeout=_PATIENCE_S)


def _in_parent() -> None:
    if _imports.held_by_fork:
        _imports.lock.release()


def _in_child() -> None:
    _imports.lock = threading.RLock()  # the other may be held by a thread that is gone
    for one in list(_all):
        one.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
