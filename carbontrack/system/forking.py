"""Threads and forks: our threads, what a child resets, and what a fork waits for.

The only fork hook of the package is here.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, Protocol, TypeVar

from carbontrack.system.log import LOSSES

State = TypeVar("State")


class OwnThread(threading.Thread):
    """A thread of carbontrack: a daemon, and one that also ends in silence after gevent's patch.

    A program may patch `threading` when the thread is running already. At its end the thread is
    then looked up by the number of a greenlet, and Python prints a traceback.
    """

    def __init__(
        self, target: Callable[..., object], name: str, args: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)

    def _delete(self) -> None:
        with suppress(KeyError):
            super()._delete()  # type: ignore[misc]


class Forked(Protocol):
    """An object whose locks, threads and open records are the parent's after a fork."""

    def forget_parent(self) -> None:
        """Start at zero; called in the child, where only the forking thread exists."""
        ...


_all: weakref.WeakSet[Forked] = weakref.WeakSet()


def remember(one: Forked) -> None:
    """Let `one` start at zero in every child; it is held by a weak reference."""
    _all.add(one)


class PerProcess(Generic[State]):
    """State of one process, made when it is first wanted, and made anew in a forked child.

    A child has neither its parent's threads nor, for certain, its locks, and what the parent holds
    open is not the child's to use. `abandon` releases what was inherited, right after the fork and
    without changing it for the parent.

    Attributes:
        state: the state; None before `get` has made it. On a path that is often taken,
            `mine.state or mine.get()` saves the call.
    """

    state: State | None

    def __init__(
        self, make: Callable[[], State], *, abandon: Callable[[State], object] | None = None
    ) -> None:
        self._make = make
        self._abandon = abandon
        self.forget_parent()
        remember(self)

    def get(self) -> State:
        """The state of this process; the same for threads that ask at once."""
        made = self._made
        self.state = made[0] if made else made.setdefault(0, self._make())
        return self.state

    def forget_parent(self) -> None:
        """Begin without state, and release what was inherited, if anything."""
        inherited = getattr(self, "state", None)
        self.state = None
        self._made: dict[int, State] = {}
        if inherited is not None and self._abandon is not None:
            self._abandon(inherited)


class Ending(Protocol):
    """An object that has something to do at the end of a process, in two steps."""

    def end(self) -> None:
        """The first step, done by all before the first `close`."""
        ...

    def close(self) -> None:
        """The second step."""
        ...


class _WorkerEnd:
    """What is done at the end of this process, if it is a worker of a library."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """In a child: what the parent has to do at its end is the parent's."""
        self.ones: weakref.WeakValueDictionary[int, Ending] = weakref.WeakValueDictionary()
        self.is_registered = False

    def register(self) -> None:
        """Have it done by each library that may end this process."""
        self.is_registered = True
        for finalize in _finalizers_here():
            # Before those of queues, with priorities from -5 to 10, which close what logging needs.
            finalize(None, self.run, exitpriority=100)
        celery = sys.modules.get("celery.signals")
        shutdown = getattr(celery, "worker_process_shutdown", None)  # None: half imported
        if shutdown is not None:
            shutdown.connect(self.run, weak=False)

    def run(self, **_: object) -> None:
        """Do it."""
        ones = [one for ref in self.ones.valuerefs() if (one := ref()) is not None]
        for one in ones:
            one.end()
        for one in ones:
            one.close()
        LOSSES.say()


_worker_end = _WorkerEnd()


def at_end_of_worker(one: Ending) -> None:
    """Call `one.end` and `one.close` at the end of this process, if it is a library's worker.

    A worker, forked or from a fork server, ends without running `atexit` functions; it runs the
    finalizers of multiprocessing, or of a library that is built like it, such as billiard or
    multiprocess. Celery's workers run none, but send a signal. `one` is held by a weak reference.
    """
    worker_end = _worker_end
    worker_end.ones[id(one)] = one
    if not worker_end.is_registered:
        worker_end.register()


def is_worker() -> bool:
    """Whether a library of worker processes has started this process."""
    return next(_finalizers_here(), None) is not None


def _finalizers_here() -> Iterator[Callable[..., object]]:
    """`Finalize` of each library like multiprocessing that has started this process."""
    names = "\n".join(map(str, list(sys.modules))) + "\n"
    if ".process\n" not in names:
        return
    for name in names.split("\n"):
        package, _, last = name.rpartition(".")
        process, util = sys.modules.get(name), sys.modules.get(f"{package}.util")
        if last == "process" and package and _has_parent(process):
            finalize = getattr(util, "Finalize", None)
            if callable(finalize):
                yield finalize


def _has_parent(process: object) -> bool:
    """Whether the process of such a library is not the first one of its program."""
    try:
        if hasattr(process, "parent_process"):
            return process.parent_process() is not None
        here = process.current_process()  # type: ignore[attr-defined,unused-ignore]
        return getattr(here, "_parent_pid", None) is not None  # as billiard tells its children
    except Exception:  # a module that only has the name
        return False


class _Imports:
    """The threads that are importing, under a lock that is held only to change this."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.depths: dict[int, int] = {}
        """By thread: the depth of its nested imports."""
        self.fork_waits = self.held_by_fork = False

    def reset(self) -> None:
        """In a child: the lock may be held by a thread that does not exist there."""
        me = threading.get_ident()
        depth = self.depths.get(me, 0)
        self.changed = threading.Condition()
        self.depths = {me: depth} if depth else {}
        self.fork_waits = self.held_by_fork = False

    def others_are_done(self) -> bool:
        """Whether no other thread is importing."""
        return not self.depths.keys() - {threading.get_ident()}

    def no_fork_waits(self) -> bool:
        """Whether an import may begin: a waiting fork goes before later imports."""
        return not self.fork_waits


_imports = _Imports()
_PATIENCE_S = 5.0
"""The longest time that a fork waits, much longer than an import takes."""


@contextmanager
def holding_forks() -> Iterator[None]:
    """Let forks wait while this thread imports; any number of threads may import at a time.

    A module that one thread is importing stays locked in the child of another thread's fork: the
    first import of it there, by any code, would never return.
    """
    imports, me = _imports, threading.get_ident()
    with imports.changed:
        depth = imports.depths.get(me, 0)
        if not depth and imports.fork_waits:
            imports.changed.wait_for(imports.no_fork_waits, _PATIENCE_S)
        imports.depths[me] = depth + 1
    try:
        yield
    finally:
        with imports.changed:  # a new one, if this is the child of a fork in between
            if depth:
                imports.depths[me] = depth
            else:
                imports.depths.pop(me, None)
                imports.changed.notify_all()


def _before() -> None:
    imports = _imports
    imports.held_by_fork = imports.changed.acquire(timeout=_PATIENCE_S)
    if imports.held_by_fork:
        imports.fork_waits = True
        imports.changed.wait_for(imports.others_are_done, _PATIENCE_S)


def _in_parent() -> None:
    if _imports.held_by_fork:
        _imports.fork_waits = False
        _imports.changed.notify_all()
        _imports.changed.release()


def _in_child() -> None:
    _imports.reset()
    _worker_end.reset()
    for one in list(_all):
        one.forget_parent()


if hasattr(os, "register_at_fork"):
    # Hooks run in reverse order. That of logging takes a lock that an import may need, so it must
    # run after ours has waited for imports: `logging` must be imported before this.
    assert logging
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
