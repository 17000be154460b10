"""Carrying the open span into threads, which do not inherit it by themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import copy_context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def wrap_context(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with the spans that are open here around every call of it.

    Threads and executors begin with an empty context, so that a span opened in one of their calls
    is a root. `executor.submit(carbontrack.wrap_context(work), item)` makes it a child of the span
    that is open where `wrap_context` is called. `asyncio.to_thread` needs no help.
    """
    here = copy_context()

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        # A context can be entered once at a time, and an executor may run many calls at once.
        return here.copy().run(function, *args, **kwargs)

    return inside
