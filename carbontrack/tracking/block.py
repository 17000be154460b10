"""What makes an object a block: `with` and `async with`, and the outcome that a block ends with."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from carbontrack.errors import BudgetExceeded
from carbontrack.record import Status

if TYPE_CHECKING:  # loaded only where there is a budget
    from carbontrack.sampling.sampler import Sampler
    from carbontrack.tracking.budget import BudgetGuard, Verdict

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


Opened = TypeVar("Opened")


class Block(ABC, Generic[Opened]):
    """Opened when a block is entered, closed with its outcome when the block is left.

    Exceptions pass through: they are noted, never swallowed or changed.
    """

    @abstractmethod
    def open(self) -> Opened:
        """Begin; returns what stands after `as`."""

    @abstractmethod
    def close(self, status: Status = "ok", error: str | None = None) -> None:
        """End with this outcome."""

    def enter(self) -> Opened:
        """What entering the block does."""
        return self.open()

    def leave(self, error: BaseException | None) -> None:
        """What leaving the block does; `error` is on its way, or None."""
        self.close(*outcome_of(error))

    def __enter__(self) -> Opened:
        return self.enter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave(error)

    async def __aenter__(self) -> Opened:
        return self.enter()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave(error)


class BudgetedBlock(Block[Opened]):
    """A block that may have a budget, its own or that of a block around it."""

    budget_guard: BudgetGuard | None = None
    """The nearest budget that holds here."""

    def _begin_budget(self: Any, around: Any, sampler: Sampler) -> None:
        outer = None if around is None else around.budget_guard
        if self.budget_guard is None:
            self.budget_guard = outer
        else:
            self.budget_guard.begin(self, outer, sampler)

    def enter(self) -> Opened:
        """Open; not if a budget around is exceeded and its exception is due."""
        opened = self.open()
        if self.budget_guard is not None:
            try:
                self.budget_guard.enforce()
            except BaseException as error:
                self.close(*outcome_of(error))
                raise
        return opened

    def leave(self, error: BaseException | None) -> None:
        """Close, then act on an exceeded budget; never over an error that is on its way."""
        self.close(*outcome_of(error))
        if self.budget_guard is not None:
            self.budget_guard.enforce(error)

    def check(self) -> Verdict | None:
        """Look at the budgets that hold here, now.

        Returns:
            What the nearest budget says so far; None where there is none.

        Raises:
            BudgetExceeded: one of them is exceeded, and its `on_exceed` is "raise".
        """
        return None if self.budget_guard is None else self.budget_guard.check()
