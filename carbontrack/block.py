"""What makes an object a block: `with` and `async with`, on top of opening and closing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Generic, TypeVar

from carbontrack.outcome import outcome_of
from carbontrack.records import Status

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
