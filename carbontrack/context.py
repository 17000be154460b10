"""What is being counted here: a variable of the context, as threads and tasks carry it along."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

current: ContextVar[Any] = ContextVar("carbontrack_current_span", default=None)
"""The innermost span of this context, open or not; a decorated call may stand in its place."""


def nearest_open(here: Any) -> Any:
    """The nearest span or call from here outwards that is being counted in this process."""
    while here is not None and not here.is_open:
        here = here.around
    return here
