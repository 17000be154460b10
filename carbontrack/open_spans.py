"""The spans that one `track(...)` has open: several at once, in threads and tasks, or nested."""

from __future__ import annotations

from carbontrack.span import Span, innermost


class OpenSpans:
    """Which span is meant when a block that may be open several times is left or asked."""

    def __init__(self) -> None:
        self._open: list[Span] = []
        self._last: Span | None = None

    def add(self, span: Span) -> Span:
        """It has been opened."""
        self._open.append(span)
        return span

    def mine(self) -> Span | None:
        """The one of this context; the one opened last where the context has been left.

        When none is open, the one that was closed last: leaving it may still have to act, and it
        can be asked. None before the first.
        """
        here = innermost()
        while here is not None and here not in self._open:
            here = here.parent
        if here is not None:
            return here
        return self._open[-1] if self._open else self._last

    def take(self) -> Span | None:
        """The same, which is now going to be closed."""
        span = self._last = self.mine()
        if span in self._open:
            self._open.remove(span)
        return span
