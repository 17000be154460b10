"""How a block or a call ended, in a record's words."""

from __future__ import annotations

import sys

from carbontrack.errors import BudgetExceeded
from carbontrack.records import Status

_ERROR_LENGTH = 200
"""Characters of an exception's message that a record keeps."""


def outcome_of(error: BaseException | None) -> tuple[Status, str | None]:
    """The status of a span that ended with this exception, and the text for its record."""
    if error is None or isinstance(error, GeneratorExit):
        return "ok", None
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return "ok", None
    if isinstance(error, BudgetExceeded):
        return "budget", _message(error)[:_ERROR_LENGTH]
    text = " ".join(f"{type(error).__name__}: {_message(error)}".split())[:_ERROR_LENGTH]
    if isinstance(error, KeyboardInterrupt) or _is_cancelled(error):
        return "interrupted", text
    return "error", text


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _is_cancelled(error: BaseException) -> bool:
    asyncio = sys.modules.get("asyncio")  # nobody can have raised it before it was imported
    return asyncio is not None and isinstance(error, asyncio.CancelledError)
