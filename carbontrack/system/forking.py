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
from contextlib import suppress
from types import FrameType, MethodType
from typing import Any, Generic, Protocol, TypeVar

from carbontrack.system.interrupts import WeakObjects, reentrant_lock, suppressed

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

    def _bootstrap(self) -> None:
        # A handler of a signal has raised in `start`, which has forgotten the thread.
        with suppress(KeyError):
            super()._bootstrap()  # type: ignore[misc]


_FIRST_PID = os.getpid()


def is_fork() -> bool:
    """Whether this process is a fork of one that had loaded carbontrack, and shares its memory."""
    return os.getpid() != _FIRST_PID


class Forked(Protocol):
    """An object whose locks, threads and open records are the parent's after a fork."""

    def forget_parent(self) -> None:
        """Start at zero; called in the child, where only the forking thread exists."""
        ...


_all: WeakObjects[Forked] = WeakObjects()


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
        self.ones: WeakObjects[Ending] = WeakObjects()
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
        ones = self.ones.living()
        for one in ones:
            one.end()
        for one in ones:
            one.close()
        for last in _last_of_worker:
            last()


_worker_end = _WorkerEnd()
_last_of_worker: list[Callable[[], object]] = []


def last_of_worker(do: Callable[[], object]) -> None:
    """Do this at the end of a library's worker, after all that `at_end_of_worker` names."""
    _last_of_worker.append(do)


def at_end_of_worker(one: Ending) -> None:
    """Call `one.end` and `one.close` at the end of this process, if it is a library's worker.

    A worker, forked or from a fork server, ends without running `atexit` functions; it runs the
    finalizers of multiprocessing, or of a library that is built like it, such as billiard or
    multiprocess. Celery's workers run none, but send a signal. `one` is held by a weak reference.
    """
    worker_end = _worker_end
    worker_end.ones.add(one)
    if not worker_end.is_registered:
        worker_end.register()


def end_worker() -> None:
    """Do now what `at_end_of_worker` names: this process is about to leave by `os._exit`."""
    _worker_end.run()


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
    with suppressed(Exception):  # a module that only has the name
        if hasattr(process, "parent_process"):
            return process.parent_process() is not None
        here = process.current_process()  # type: ignore[attr-defined,unused-ignore]
        return getattr(here, "_parent_pid", None) is not None  # as billiard tells its children
    return False


class _Imports:
    """The threads that are importing, and the lock that a fork holds."""

    def __init__(self) -> None:
        self.holds: dict[int, weakref.ref[holding_forks]] = {}
        """By thread: the outermost block in which it imports, which may be over."""
        self.reset()

    def reset(self) -> None:
        """In a child: the lock may be held by a thread that does not exist there."""
        self.forks = reentrant_lock()  # in C, so that it is released whatever a handler raises
        me = threading.get_ident()
        self.holds = {me: self.holds[me]} if me in self.holds else {}
        self.held_by_fork = False

    def is_in(self, thread: int) -> bool:
        """Whether a thread is importing."""
        hold = self.holds.get(thread)
        return hold is not None and hold() is not None

    def others_are_done(self) -> bool:
        """Whether no other thread is importing."""
        me = threading.get_ident()
        return not any(self.is_in(thread) for thread in list(self.holds) if thread != me)

    def add(self, one: holding_forks) -> None:
        """The thread begins to import; later than a fork that waits, unless it does already."""
        me = threading.get_ident()
        hold = self.holds.get(me)
        if hold is None or hold() is None:
            with self.forks:
                self.holds[me] = weakref.ref(one)
                if len(self.holds) > _MOST_THREADS:
                    self._forget_those_that_are_done()

    def _forget_those_that_are_done(self) -> None:
        self.holds = {one: self.holds[one] for one in list(self.holds) if self.is_in(one)}


_MOST_THREADS = 64
"""Threads that are remembered though they import no more."""


class _InNoFrame:
    """A method that does nothing, in no frame: what it is called on ends with its block."""

    def __get__(self, one: object, kind: type | None = None) -> Any:
        # a method in C that takes anything and returns nothing that is true
        return MethodType("".format, one) if one is not None else "".format


class holding_forks:  # noqa: N801 - a context manager
    """Let forks wait while this thread imports; any number of threads may import at a time.

    A module that one thread is importing stays locked in the child of another thread's fork: the
    first import of it there, by any code, would never return.

    It holds as long as the `with` statement has a reference to it: nothing has to be done at the
    end, which a handler of a signal could prevent.
    """

    __slots__ = ("__weakref__",)

    def __init__(self) -> None:
        _imports.add(self)

    __enter__: Any = _InNoFrame()
    __exit__: Any = _InNoFrame()


_imports = _Imports()
_PATIENCE_S, _LOOK_S = 5.0, 0.001
"""The longest time that a fork waits, much longer than an import takes, and how often it looks."""


def is_importing() -> bool:
    """Whether this thread is in the middle of an import of ours, and a handler runs there.

    What an exception's traceback keeps of an interrupted import is forgotten.
    """
    me = threading.get_ident()
    if not _imports.is_in(me):
        return False
    if _is_import_below(sys._getframe(1)):
        return True
    _imports.holds.pop(me, None)
    return False


def _is_import_below(frame: FrameType | None) -> bool:
    """Whether the program has been called by one of our frames that imports."""
    while frame is not None and _is_ours(frame):  # the one that asks
        frame = frame.f_back
    while frame is not None and not _is_ours(frame):
        frame = frame.f_back
    return frame is not None


def _is_ours(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] == "carbontrack" and name not in _CALL_THE_PROGRAM


_CALL_THE_PROGRAM = ("carbontrack.tracking.decorate", "carbontrack.tracking.context")
"""Our modules with frames around the program's own functions."""


def _before() -> None:
    imports = _imports
    imports.held_by_fork = imports.forks.acquire(timeout=_PATIENCE_S)
    if imports.held_by_fork:
        pause = threading.Lock()
        pause.acquire()
        for _ in range(round(_PATIENCE_S / _LOOK_S)):
            if imports.others_are_done():
                break
            pause.acquire(timeout=_LOOK_S)


def _in_parent() -> None:
    if _imports.held_by_fork:
        _imports.held_by_fork = False
        _imports.forks.release()


def _in_child() -> None:
    _imports.reset()
    _worker_end.reset()
    for one in _all.living():
        one.forget_parent()


if hasattr(os, "register_at_fork"):
    # Hooks run in reverse order. That of logging takes a lock that an import may need, so it must
    # run after ours has waited for imports: `logging` must be imported before this.
    assert logging
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
