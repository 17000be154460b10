"""Re-entrance: a signal handler or a finalizer that uses carbontrack while carbontrack's code runs.

Handlers run between two instructions of the main thread, and finalizers wherever the garbage
collector starts or a last reference goes, so both may run while the same thread is inside
carbontrack, with its state half changed. Spans that they open then pass through: their code runs
unmeasured, and the number is logged. The same applies once the interpreter shuts down, when stopped
threads may hold any lock.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable

from carbontrack.system.interrupts import suppressed


class _Thread:
    """The state of one thread."""

    __slots__ = ("busy",)

    busy: bool
    """Whether this thread is inside carbontrack, where no other span of it may start."""

    def __init__(self) -> None:
        self.busy = False


class _Here(threading.local):
    """What is this thread's own. An attribute of it takes ten times as long as one of `thread`."""

    thread: _Thread

    def __init__(self) -> None:
        self.thread = _Thread()


here = _Here()


def busily(do: Callable[[], None]) -> None:
    """Call a function during which no other span of this thread may start."""
    thread = here.thread
    was_busy = thread.busy
    try:
        thread.busy = True
        do()
    finally:
        thread.busy = was_busy


def must_pass() -> bool:
    """Whether a span that starts now must pass through unmeasured."""
    return here.thread.busy or sys.is_finalizing()


class _Passed:
    """The blocks and calls that passed through unmeasured in this process."""

    numbers = itertools.count(1)
    total = told = 0
    first = ""


def pass_through(name: str) -> None:
    """Count a block or call that is not measured; `passed_text` tells of it."""
    if sys.is_finalizing():
        _say_too_late(name)
        return
    _Passed.first = _Passed.first or name
    _Passed.total = next(_Passed.numbers)


def passed_text() -> str | None:
    """The message about those that have passed through; None if it has been logged."""
    total = _Passed.total
    if total == _Passed.told:
        return None
    _Passed.told = total
    return (
        f"{total} blocks or calls so far were not measured, {_Passed.first!r} first: a signal "
        "handler or a finalizer started them while carbontrack's own code was running in the same "
        "thread"
    )


_too_late: list[str] = []
"""The first block or call that started while the interpreter was shutting down."""


def _say_too_late(name: str) -> None:
    """Report it once on stderr, because logging no longer works."""
    stderr = sys.stderr
    if _too_late or stderr is None:
        return
    _too_late.append(name)
    with suppressed(OSError, ValueError):  # closed
        stderr.write(
            f"carbontrack: {name!r} started while Python was shutting down; what starts then is "
            "not measured\n"
        )
        stderr.flush()
