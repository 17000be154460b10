"""Blocks: base classes of the objects that `with` and `async with` open, and their final status."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from carbontrack.errors import BudgetExceeded
from carbontrack.record import Status
from carbontrack.system.interrupts import suppressed
from carbontrack.tracking.handle import ExitMethod, Handle

if TYPE_CHECKING:  # loaded only where there is a budget
    from carbontrack.sampling.sampler import Sampler
    from carbontrack.tracking.budget import BudgetGuard, Verdict

_ERROR_LENGTH = 200
"""The most characters of an exception's message that a record keeps."""


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
    with suppressed(Exception):
        return str(error)
    return ""


def _is_cancelled(error: BaseException) -> bool:
    for library, name in (("asyncio", "CancelledError"), ("trio", "Cancelled")):
        # it cannot have been raised before its import
        kind = getattr(sys.modules.get(library), name, None)
        if isinstance(kind, type) and isinstance(error, kind):
            return True
    return False


Opened = TypeVar("Opened")


class Done:
    """The awaitable that `__aexit__` returns, which is done already."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


def _exit(
    block: Block[Any],
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _trace: TracebackType | None,
) -> None:
    block.leave(error)


def _aexit(
    block: Block[Any],
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _trace: TracebackType | None,
) -> Done:
    block.leave(error)  # now, as the handle of the `with` statement is dead when it awaits
    return Done()


class Block(ABC, Generic[Opened]):
    """Opened when a block is entered, closed with a status when the block is left.

    Exceptions are recorded in the status and propagate unchanged.
    """

    handle: Handle | None = None
    """The handle of the `with` statement that will end it."""

    @abstractmethod
    def open(self) -> Opened:
        """Begin; returns the value that `as` binds."""

    @abstractmethod
    def close(self, status: Status = "ok", error: str | None = None) -> None:
        """End with this status."""

    def enter(self) -> Opened:
        """Enter the block."""
        return self.open()

    def leave(self, error: BaseException | None) -> None:
        """Leave the block; `error` is the exception that is propagating, or None."""
        self.close(*outcome_of(error))

    def abandon(self) -> None:
        """End the block, because its `with` statement is over and has not ended it."""
        self.close("interrupted")

    def __enter__(self) -> Opened:
        return self.enter()

    __exit__: Any = ExitMethod(_exit)

    async def __aenter__(self) -> Opened:
        return self.enter()

    __aexit__: Any = ExitMethod(_aexit)


class BudgetedBlock(Block[Opened]):
    """A block that may have a budget, its own or that of an enclosing block."""

    budget_guard: BudgetGuard | None = None
    """The guard of the innermost budget that applies here."""

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled and copied.

        Raises:
            TypeError: always, with the alternative in the message.
        """
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled or copied: it is measured in this process. "
            "Open one where the work is done; child processes find their parent's record in the "
            "environment. Its record, or snapshot() while it is open, can be pickled"
        )

    def _begin_budget(self: Any, around: Any, sampler: Sampler) -> None:
        outer = None if around is None else around.budget_guard
        if self.budget_guard is None:
            self.budget_guard = outer
        else:
            self.budget_guard.begin(self, outer, sampler)

    def enter(self) -> Opened:
        """Open, and close again if the exception of an exceeded enclosing budget is due."""
        try:
            opened = self.open()
            if self.budget_guard is not None:
                self.budget_guard.enforce()
            return opened  # noqa: TRY300 - a handler of a signal may raise here too
        except BaseException as error:
            self.close(*outcome_of(error))
            raise

    def leave(self, error: BaseException | None) -> None:
        """Close, then enforce the budgets; never raise over a propagating exception."""
        if error is None:
            self.close()
        else:
            self.close(*outcome_of(error))
        if self.budget_guard is not None:
            self.budget_guard.enforce(error)

    def check(self) -> Verdict | None:
        """Check the budgets that apply here, now.

        Returns:
            The verdict of the innermost budget so far; None if there is none.

        Raises:
            BudgetExceeded: one of them whose `on_exceed` is "raise" is exceeded.
        """
        return None if self.budget_guard is None else self.budget_guard.check()
