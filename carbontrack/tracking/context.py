"""The current span of a context, and `wrap_context`, which carries it into threads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

from carbontrack.system.reentrance import here

current: ContextVar[Any] = ContextVar("carbontrack_current_span", default=None)
"""The innermost span or decorated call of this context, open or not."""
running_task: ContextVar[Any] = ContextVar("carbontrack_running_task", default=None)
"""The `RunningTask` that an integration runs in this context; see `carbontrack.tracking.task`."""


def set_current(found: Any) -> None:
    """Make a span or call the innermost one here.

    While the variable is being set no finalizer may set it, as up to Python 3.11 the interpreter
    does not survive that.
    """
    thread = here.thread
    was_busy = thread.busy
    try:
        thread.busy = True
        current.set(found)
    finally:  # a handler of a signal may raise behind the call
        thread.busy = was_busy


def nearest_open(around: Any) -> Any:
    """The innermost open span or call from here outwards, of this process."""
    while around is not None and not around.is_open:
        around = around.around
    return around


def innermost() -> Any:
    """The innermost span of this context; a decorated call is promoted to one."""
    around = current.get()
    while around is not None and hasattr(around, "promote"):
        # In a context copied during a call, the call may have ended.
        around = around.promote() if around.is_open else around.around
    return around


P = ParamSpec("P")
R = TypeVar("R")


def wrap_context(function: Callable[P, R]) -> Callable[P, R]:
    """Return a wrapper of the function whose calls run inside the spans that are open here.

    Threads and executors start with an empty context, so a span that is opened in one of their
    calls is a root. `executor.submit(carbontrack.wrap_context(work), item)` makes it a child of the
    span that is open where `wrap_context` is called. `asyncio.to_thread` does not need it.
    """
    context = copy_context()

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        # A context can be entered only once at a time, and an executor may run many calls at once.
        return context.copy().run(function, *args, **kwargs)

    return inside
