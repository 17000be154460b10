"""Which way a decorated call is counted: as a call, as a span, or by the span around it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from carbontrack.call import Call
from carbontrack.callsite import Callee, CallSite
from carbontrack.context import current, nearest_open
from carbontrack.inside_call import InsideCall, past_ended
from carbontrack.records import Record, Status
from carbontrack.session import Session
from carbontrack.span import Span, innermost
from carbontrack.tracker import Tracker
from carbontrack.wrap import UNCOUNTED, Counted

_log = logging.getLogger("carbontrack")


class CallCounter:
    """Begins the calls of one decorated function.

    Args:
        callee: the function.
        window_s: for how long short calls are summed into one row; 0: every call has a row.
        judge: called with each row before it is written.
        tracker: finds the tracker when the first call needs it.
        alone: calls are roots even inside a span of another tracker.
        inside: told of each session inside whose spans the function is called.
    """

    def __init__(
        self,
        callee: Callee,
        *,
        window_s: float,
        judge: Callable[[Record], Record] | None,
        tracker: Callable[[], Tracker],
        alone: bool,
        inside: Callable[[Session], None] | None = None,
    ) -> None:
        self._callee = callee
        self._name, self._labels = callee.name, callee.labels
        self._window_s = window_s
        self._judge = judge
        self._tracker = tracker
        self._alone = alone
        self._tell_inside = inside
        self._told: Session | None = None
        self._site: CallSite | None = None
        self._inner: CallSite | None = None

    def begin(self) -> Counted:
        """Begin a call and let it run; never raises."""
        try:
            here = current.get()
            try:
                return self._begin_root() if here is None else self._begin_inside(here)
            except RecursionError:
                current.set(here)
            except Exception:
                current.set(here)
                _log.exception("a call of %s could not be counted", self._name)
        except RecursionError:  # the program has one frame left, and may get by with it
            pass
        return UNCOUNTED

    def _begin_root(self) -> Counted:
        site = self._site
        if site is None or site.session.closed:
            return self._begin_first()
        call = Call(site)
        call.resume()
        return call

    def _begin_first(self) -> Counted:
        session = self._tracker().session
        if session.closed:
            session.leave_out(self._name)
            return UNCOUNTED
        if self._window_s == 0.0 or session.writes_at_once:
            return self._as_span(Span(session, self._name, labels=self._labels))
        self._site = self._new_site(session)
        return self._begin_root()

    def _new_site(self, session: Session) -> CallSite:
        return CallSite.of(session, self._callee, window_s=self._window_s, judge=self._judge)

    def _begin_inside(self, here: Any) -> Counted:
        open_around = nearest_open(here)
        if open_around is not here:
            current.set(past_ended(here))
        if open_around is None or (
            self._alone and open_around.session is not self._tracker().session
        ):
            return self._begin_root()
        session: Session = open_around.session
        if session is not self._told:
            self._told = session
            if self._tell_inside is not None:
                self._tell_inside(session)
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
    inner = _bare(function)
    code = getattr(inner, "__code__", None)
    return Callee(name or name_of(function), labels, id(inner) if code is None else code)


def name_of(function: Callable[..., Any]) -> str:
    """Module and qualified name; those of the function behind a partial."""
    function = _bare(function)
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        name = type(function).__qualname__
    return f"{module}.{name}" if module else name


def _bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that is run in the end, behind methods and partials."""
    while (inner := _inner(function)) is not None:
        function = inner
    return function


def _inner(function: Any) -> Any:
    if isinstance(function, functools.partial):
        return function.func
    # What a class gives for a partialmethod is a function of functools that remembers its maker,
    # by another name from Python 3.13 on.
    maker = getattr(function, "__partialmethod__", getattr(function, "_partialmethod", None))
    if isinstance(maker, functools.partialmethod):
        return maker.func
    # Not whatever has a `__func__`: a proxy of something remote has an attribute of any name.
    methods = (staticmethod, classmethod, MethodType)
    return function.__func__ if isinstance(function, methods) else None
