"""The current span of a context, and `wrap_context`, which carries it into threads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

current: ContextVar[Any] = ContextVar("carbontrack_current_span", default=None)
"""The innermost span or decorated call of this context, open or not."""


def nearest_open(here: Any) -> Any:
    """The innermost open span or call from here outwards, of this process."""
    while here is not None and not here.is_open:
        here = here.around
    return here


def skip_closed(here: Any) -> Any:
    """The first from here outwards that is not a closed span.

    A span that was closed in another context is still referenced in this one; keeping it would
    build a chain of all spans ever opened here.
    """
    while getattr(here, "_end", None) is not None:
        here = here._before
    return here


P = ParamSpec("P")
R = TypeVar("R")


def wrap_context(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function, so that every call of it runs inside the spans that are open here.

    Threads and executors begin with an empty context, so that a span opened in one of their calls
    is a root. `executor.submit(carbontrack.wrap_context(work), item)` makes it a child of the span
    that is open where `wrap_context` is called. `asyncio.to_thread` needs no help.
    """
    here = copy_context()

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        # A context can be entered only once at a time, and an executor may run many calls at once.
        return here.copy().run(function, *args, **kwargs)

    return inside
