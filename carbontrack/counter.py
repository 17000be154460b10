"""Which way a decorated call is counted: as a call, as a span, or by the span around it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from carbontrack.call import InsideCall
from carbontrack.callsite import Callee, CallSite
from carbontrack.context import current, nearest_open
from carbontrack.records import Record, Status
from carbontrack.session import Session
from carbontrack.span import Span, innermost
from carbontrack.tracker import Tracker
from carbontrack.wrap import Counted, Uncounted

_log = logging.getLogger("carbontrack")


class CallCounter:
    """Begins the calls of one decorated function.

    Args:
        callee: the function.
        window_s: for how long short calls are summed into one row; 0: every call has a row.
        judge: called with each row before it is written.
        tracker: finds the tracker when the first call needs it.
        alone: calls are roots even inside a span of another tracker.
    """

    def __init__(
        self,
        callee: Callee,
        *,
        window_s: float,
        judge: Callable[[Record], Record] | None,
        tracker: Callable[[], Tracker],
        alone: bool,
    ) -> None:
        self._callee = callee
        self._name, self._labels = callee.name, callee.labels
        self._window_s = window_s
        self._judge = judge
        self._tracker = tracker
        self._alone = alone
        self._site: CallSite | None = None
        self._inner: CallSite | None = None

    def begin(self) -> Counted:
        """Begin a call and let it run; never raises."""
        try:
            if current.get() is not None:
                return self._begin_inside()
            return self._begin_root()
        except Exception:
            _log.exception("a call of %s could not be counted", self._name)
            return Uncounted()

    def _begin_root(self) -> Counted:
        site = self._site
        if site is None or site.session.closed:
            return self._begin_first()
        return site.begin()

    def _begin_first(self) -> Counted:
        session = self._tracker().session
        if session.closed:
            session.leave_out(self._name)
            return Uncounted()
        if self._window_s == 0.0 or session.writes_at_once:
            return self._as_span(Span(session, self._name, labels=self._labels))
        self._site = self._new_site(session)
        return self._site.begin()

    def _new_site(self, session: Session) -> CallSite:
        return CallSite.of(session, self._callee, window_s=self._window_s, judge=self._judge)

    def _begin_inside(self) -> Counted:
        open_around = nearest_open(current.get())
        if open_around is None or (
            self._alone and open_around.session is not self._tracker().session
        ):
            return self._begin_root()
        session: Session = open_around.session
        if session.circumstances.spans == "roots" and self._judge is None:
            return self._inside()
        parent = innermost()
        assert parent is not None
        return self._as_span(parent.span(self._name, labels=self._labels))

    def _inside(self) -> Counted:
        call = InsideCall(self._name, self._labels)
        call.resume()
        return call

    def _as_span(self, span: Span) -> Counted:
        span.judge = self._judge
        if self._window_s > 0.0 and not span.session.writes_at_once:
            if self._inner is None or self._inner.session is not span.session:
                self._inner = self._new_site(span.session)
            span.absorb_if_short(self._inner.absorb_span)
        return SpanCall(span)


class SpanCall:
    """A decorated call that is a span from its beginning."""

    __slots__ = ("_before", "_inside", "_span")

    def __init__(self, span: Span) -> None:
        self._before: Any = current.get()
        self._inside: Any = span
        self._span = span.open()

    def resume(self) -> None:
        """The body goes on."""
        self._before = current.get()
        self._span.resume()
        current.set(self._inside)

    def pause(self) -> None:
        """The body is suspended."""
        self._span.pause()
        self._inside = current.get()  # a block inside may be open
        current.set(self._before)

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """The body has ended."""
        if current.get() is self._span:
            current.set(self._before)
        self._span.close(status, error)


def callee_of(function: Callable[..., Any], name: str | None, labels: Mapping[str, Any]) -> Callee:
    """The function as its rows will call it: by `name`, or by module and qualified name."""
    inner = getattr(function, "__func__", function)
    code = getattr(inner, "__code__", None)
    return Callee(name or name_of(function), labels, id(function) if code is None else code)


def name_of(function: Callable[..., Any]) -> str:
    """Module and qualified name."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}.{name}" if module else name
