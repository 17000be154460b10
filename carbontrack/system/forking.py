"""What a child process does after a fork, and what a fork waits for: the package's only hook."""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

State = TypeVar("State")


class Forked(Protocol):
    """Something whose locks, threads and descriptors are the parent's after a fork."""

    def forget_parent(self) -> None:
        """Begin anew; called in the child, where only the forking thread still runs."""
        ...


_all: weakref.WeakSet[Forked] = weakref.WeakSet()


def remember(one: Forked) -> None:
    """Call `one.forget_parent` in every child, as long as `one` exists."""
    _all.add(one)


class PerProcess(Generic[State]):
    """State of one process, made when it is first asked for, and made anew in a forked child.

    A child has neither its parent's threads nor, for certain, its locks, and what the parent holds
    open is not the child's to use. With `abandon`, which releases what was inherited without
    changing it for the parent, the child does so right after the fork; without it, the inherited
    state is dropped when the child first asks for its own.
    """

    def __init__(
        self, make: Callable[[], State], *, abandon: Callable[[State], object] | None = None
    ) -> None:
        self._make = make
        self._abandon = abandon
        self._by_pid: dict[int, State] = {}
        if abandon is not None:
            remember(self)

    def get(self) -> State:
        """The state of this process."""
        pid = os.getpid()
        state = self._by_pid.get(pid)
        return self._begin(pid) if state is None else state

    def forget_parent(self) -> None:
        """Release what was inherited."""
        self._begin(os.getpid())

    def _begin(self, pid: int) -> State:
        for other in [other for other in list(self._by_pid) if other != pid]:
            inherited = self._by_pid.pop(other, None)
            if inherited is not None and self._abandon is not None:
                self._abandon(inherited)
        return self._by_pid.setdefault(pid, self._make())  # the same for threads that ask at once


def at_end_of_worker(end: Callable[[], None], close: Callable[[], None]) -> None:
    """Call `end`, and later `close`, when this process ends, if multiprocessing started it.

    Such a process, forked or from a fork server, runs multiprocessing's finalizers when it ends,
    but not the functions registered with `atexit`. Every `end` is called before the first `close`.
    """
    process = sys.modules.get("multiprocessing.process")
    finalizers = sys.modules.get("multiprocessing.util")
    if process is not None and finalizers is not None and process.parent_process() is not None:
        # Before those of queues, which have priorities from -5 to 10 and close what logging needs.
        finalizers.Finalize(None, end, exitpriority=101)
        finalizers.Finalize(None, close, exitpriority=100)


class _Imports:
    """Which threads are importing; the lock is held only to change that, not during an import."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.depths: dict[int, int] = {}
        """How many nested imports each thread is in, by thread id."""
        self.fork_waits = self.held_by_fork = False

    def begin_anew(self) -> None:
        """In a child: the lock may be held by a thread that does not exist here."""
        me = threading.get_ident()
        depth = self.depths.get(me, 0)
        self.changed = threading.Condition()
        self.depths = {me: depth} if depth else {}
        self.fork_waits = self.held_by_fork = False

    def others_are_done(self) -> bool:
        """Whether no other thread is importing."""
        return not self.depths.keys() - {threading.get_ident()}

    def no_fork_waits(self) -> bool:
        """Whether an import may begin; it must not while a fork waits."""
        return not self.fork_waits


_imports = _Imports()
_LONGEST_WAIT_S = 5.0
"""The longest that a fork or an import waits; many times what an import takes."""


@contextmanager
def holding_forks() -> Iterator[None]:
    """Let forks wait while this thread imports; several threads may do so at the same time.

    If one thread forks while another imports a module, the module stays locked for ever in the
    child: the first import of it there would never return.
    """
    imports, me = _imports, threading.get_ident()
    with imports.changed:
        depth = imports.depths.get(me, 0)
        if not depth and imports.fork_waits:
            imports.changed.wait_for(imports.no_fork_waits, _LONGEST_WAIT_S)
        imports.depths[me] = depth + 1
    try:
        yield
    finally:
        with imports.changed:  # a new one in a child, if this thread has forked meanwhile
            if depth:
                imports.depths[me] = depth
            else:
                imports.depths.pop(me, None)
                imports.changed.notify_all()


def _before() -> None:
    imports = _imports
    imports.held_by_fork = imports.changed.acquire(timeout=_LONGEST_WAIT_S)
    if imports.held_by_fork:
        imports.fork_waits = True
        imports.changed.wait_for(imports.others_are_done, _LONGEST_WAIT_S)


def _in_parent() -> None:
    if _imports.held_by_fork:
        _imports.fork_waits = False
        _imports.changed.notify_all()
        _imports.changed.release()


def _in_child() -> None:
    _imports.begin_anew()
    for one in list(_all):
        one.forget_parent()


if hasattr(os, "register_at_fork"):
    # Hooks run in reverse order. Logging's takes a lock that an import may need, so it must run
    # after ours has waited for the imports: it must have been registered before.
    assert logging
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
