"""Re-entrance: a signal's handler, or a finalizer, that uses carbontrack in the middle of it.

Handlers run between two instructions of the main thread, and finalizers wherever the garbage
collector starts or a last reference goes, so both may come while the same thread is at work in
here, with its state half changed. What they open then passes through: their code runs, unmeasured
and counted. The same holds once the interpreter ends, when threads that have been stopped for good
may hold any lock.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable


class _Thread(threading.local):
    busy = False
    """Whether this thread is at work in carbontrack, where nothing else of it may begin."""


here = _Thread()


def busily(do: Callable[[], None]) -> None:
    """Do something in whose middle nothing else of this thread may begin."""
    was_busy = here.busy
    try:
        here.busy = True
        do()
    finally:
        here.busy = was_busy


_passed: deque[str] = deque(maxlen=1000)
"""The names of what was let through unmeasured, and not said yet."""


def must_pass() -> bool:
    """Whether what begins now must pass through unmeasured."""
    return here.busy or sys.is_finalizing()


def pass_through(name: str) -> None:
    """Count a block or call that is not measured; `say_passed` tells of it."""
    if sys.is_finalizing():
        _say_too_late(name)
    else:
        _passed.append(name)


def take_passed() -> list[str]:
    """The names of what has passed through since the last call."""
    names: list[str] = []
    while _passed:
        names.append(_passed.popleft())
    return names


def passed_text(names: list[str]) -> str:
    """What is said of them."""
    return (
        f"{len(names)} blocks or calls were not measured, {names[0]!r} first: a signal's handler "
        "or a finalizer began them while carbontrack was at work in the same thread"
    )


class _TooLate:
    """What begins after the interpreter has begun to end; it is said once, as no log lives."""

    count = 0


def too_late() -> int:
    """How many blocks and calls began after the interpreter had begun to end."""
    return _TooLate.count


def _say_too_late(name: str) -> None:
    _TooLate.count += 1
    stderr = sys.stderr
    if _TooLate.count == 1 and stderr is not None:
        try:
            stderr.write(
                f"carbontrack: {name!r} began after Python had begun to end; "
                "what begins then is not measured\n"
            )
            stderr.flush()
        except (OSError, ValueError):  # closed
            return
