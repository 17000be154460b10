"""A decorated call inside a span, which counts it; it has nothing to do but to be there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carbontrack.call import Call
from carbontrack.context import current, nearest_open
from carbontrack.records import Status
from carbontrack.session import Session
from carbontrack.span import Span


class InsideCall:
    """A decorated call inside a span: the span counts it, so there is nothing to count.

    It only remembers that it is there, and becomes a child when somebody inside asks for the
    current span.
    """

    __slots__ = ("_counted_by", "_ended", "_inside", "_labels", "_name", "_span", "around")

    def __init__(self, name: str, labels: Mapping[str, Any]) -> None:
        self._name = name
        self._labels = labels
        self._span: Span | None = None
        self._ended = False
        self._inside: Any = self

    @property
    def is_open(self) -> bool:
        """Whether the call is being made and something around it is counted."""
        return not self._ended and nearest_open(self._counted_by) is not None

    @property
    def session(self) -> Session:
        """What the span around shares with the others of its tracker."""
        session: Session = (nearest_open(self._counted_by) or self._counted_by).session
        return session

    def resume(self) -> None:
        """The body begins to run, or goes on."""
        around = current.get()
        self.around: Any = around
        """What was current around the body when it last went on."""
        # Not by way of the calls between: a function that calls itself would ask all of them.
        self._counted_by: Any = around._counted_by if type(around) is InsideCall else around
        if self._span is not None:
            self._span.resume()
        current.set(self._inside)

    def pause(self) -> None:
        """The body is suspended."""
        if self._span is not None:
            self._span.pause()
        self._inside = current.get()  # a block inside may be open
        current.set(self.around)

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """The body has ended."""
        self._ended = True
        here, span = current.get(), self._span
        if here is self or (here is span is not None):
            current.set(self.around)
        if span is not None:
            span.close(status, error)

    def promote(self) -> Span:
        """Become a child of what is around; calls between that are none yet become one first."""
        waiting: list[InsideCall] = []
        here: Any = self
        while isinstance(here, InsideCall):
            if here._span is None:
                waiting.append(here)
            here = here._span or nearest_open(here.around)
        span: Span = here.promote() if isinstance(here, Call) else here
        for call in reversed(waiting):
            span = call._become_child(span)
        return span

    def _become_child(self, parent: Span | None) -> Span:
        if parent is None:  # another thread has closed it just now
            span = Span(self.session, self._name, labels=self._labels)
        else:
            current.set(parent)
            span = parent.span(self._name, labels=self._labels)
        self._span = span.open()
        return self._span


def past_ended(here: Any) -> Any:
    """The first from here outwards that is not a call that has ended.

    A context that was copied while a call was made keeps it; a task that starts the next of its
    kind, and that one another, would hold on to all of them.
    """
    while isinstance(here, (Call, InsideCall)) and here._ended:
        here = here.around
    return here
