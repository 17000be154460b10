"""Calls that are named at their end, for the integrations of servers and queues.

    calls = NamedCalls(region="FR")
    call = calls.begin(ThreadCpu())
    try:
        answer = work()
    except BaseException as error:
        call.end_as(request_name(method, route), *outcome_of(error))
        raise
    call.end_as(request_name(method, route))

Each is counted as a call of a decorated function: short ones are summed, a row for each name and
window, each long one has its own row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from carbontrack.api.track import track
from carbontrack.errors import ConfigError
from carbontrack.record import NAME_LIMIT, Status
from carbontrack.system.clock import ThreadCpu
from carbontrack.system.interrupts import attempt, suppressed
from carbontrack.system.reentrance import here, must_pass, pass_through
from carbontrack.tracking.block import outcome_of
from carbontrack.tracking.call import skip_ended
from carbontrack.tracking.call_site import Callee
from carbontrack.tracking.context import current, innermost, nearest_open, set_current
from carbontrack.tracking.handle import dead, end_abandoned
from carbontrack.tracking.named_call import NamedCall, Pending
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracker import NoOpTracker, Tracker

__all__ = ["NOT_COUNTED", "NamedCalls", "ThreadCpu", "outcome_of", "request_name"]

_log = logging.getLogger("carbontrack")
METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY", "WS")
)
"""The methods of HTTP, and WebSockets; any other text that a client sends has one name."""


class NotCounted:
    """What `NamedCalls.begin` returns if nothing is counted, or if an enclosing block counts it."""

    is_counted = False

    def own_thread(self) -> int | None:
        """Nothing is measured."""

    def begin_wait(self) -> None:
        """Nothing counts anyway."""

    def end_wait(self) -> None:
        """Nothing counts anyway."""

    def end_as(self, name: str, status: Status = "ok", error: str | None = None) -> None:
        """There is nothing to end."""


NOT_COUNTED = NotCounted()


class NamedChild(NotCounted):
    """A call inside an open span whose tracker writes all spans: a child span."""

    def __init__(self, span: Span) -> None:
        self._span = span.open()

    def end_as(self, name: str, status: Status = "ok", error: str | None = None) -> None:
        """Close it under this name."""
        self._span.name = name[:NAME_LIMIT]
        self._span.close(status, error)


NamedCallHandle = NamedCall | NotCounted
"""What `NamedCalls.begin` returns; to be ended, by `end_as`, in the context where it began."""


class NamedCalls:
    """Begins calls whose name is known only when they end, such as the requests of a server.

    Nothing is opened before the first call, and each process has its own trackers, so it can be
    created before a server forks its workers.

    Args:
        unnamed: the name of calls that have not ended when the program ends.
        tracker: measures the calls. The default is a tracker made from `settings`.
        window_s: short calls are summed: one row for each name and this many seconds. 0: each call
            has a row.
        most_names: the number of names with rows of their own; the rest is "(other)".
        labels: your own labels, written with each record.
        settings: all settings of carbontrack.

    Raises:
        ConfigError: an argument or a setting cannot be used.
    """

    def __init__(
        self,
        unnamed: str = "(unfinished)",
        *,
        tracker: Tracker | None = None,
        window_s: float = 10.0,
        most_names: int = 200,
        labels: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(most_names, int) or most_names < 1:
            raise ConfigError(
                f"most_names must be a number of names, from 1 on; not {most_names!r}"
            )
        for one in ("name", "budget", "on_exceed"):
            if one in settings:
                raise ConfigError(
                    f"{one}={settings[one]!r} applies to blocks and functions; what is counted "
                    "here has many names and no budget"
                )
        self._track = track(unnamed, window_s=window_s, labels=labels, tracker=tracker, **settings)
        self._is_separate = tracker is not None
        self._callee = Callee(unnamed, dict(labels or {}), "pending")
        self._window_s, self._most_names = float(window_s), most_names
        self._pending: Pending | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process has its own trackers."""
        return vars(self) | {"_pending": None}

    @property
    def is_off(self) -> bool:
        """Whether nothing is measured, for example because of CARBONTRACK_DISABLE."""
        return self._track.is_off()

    def begin(
        self, cpu_s: Callable[[], float] | None = None, *, is_outermost: bool = False
    ) -> NamedCallHandle:
        """Begin a call, in the current context; never raises.

        A call inside an open span or call is counted by that one.

        Args:
            cpu_s: returns the CPU seconds that the call has used since it began, in any thread,
                such as a `ThreadCpu()`. None: the process's are shared among all calls.
            is_outermost: these calls are never nested, whatever the context indicates: the context
                of a request may be a copy of an earlier request's.
        """
        call, error = attempt(self._begin, cpu_s, is_outermost=is_outermost)
        if error is not None:
            here.thread.busy = False
            with suppressed(RecursionError):  # the program may succeed in its last frames
                _log.error("a call of %s could not be counted", self._callee.name, exc_info=error)
        return call or NOT_COUNTED

    def write_rows(self) -> None:
        """Write the rows of finished calls, because the program may be about to end."""
        if self._pending is not None:
            self._pending.write_rows()

    def _begin(self, cpu_s: Callable[[], float] | None, *, is_outermost: bool) -> NamedCallHandle:
        if must_pass():
            pass_through(self._callee.name)
            return NOT_COUNTED
        if dead:
            end_abandoned()
        around = current.get()
        if around is not None:
            found = _covering(around, is_outermost=is_outermost)
            if found is not None and not (
                self._is_separate and found.session is not self._track.own_tracker().session
            ):
                return self._inside(found, is_said=is_outermost)
            if found is not around:  # what has ended, or another request: do not keep it alive
                set_current(None if is_outermost else skip_ended(around))
        pending = self._pending
        if pending is None or pending.session.closed:
            pending = self._pending = self._first()
        if pending is None:
            return NOT_COUNTED
        call = NamedCall(pending, cpu_s)
        call.__enter__()
        return call

    def _first(self) -> Pending | None:
        tracker = self._track.own_tracker()
        if isinstance(tracker, NoOpTracker):
            return None
        session = tracker.session
        if session.closed:
            session.warn_uncounted_call(self._callee.name)
            return None
        key = (self._callee.key, self._window_s, self._most_names, "pending")
        with session.sampler.lock:
            pending = session.sites.get(key)
            if not isinstance(pending, Pending):
                pending = Pending(
                    session, self._callee, window_s=self._window_s, most_names=self._most_names
                )
                session.sites[key] = pending
        return pending

    def _inside(self, around: Any, *, is_said: bool) -> NamedCallHandle:
        if around.session.spans == "roots":
            if is_said:
                around.session.warn(
                    f"inside {self._callee.name}",
                    f"requests get no rows: the block {around.name!r} is open around the server, "
                    "and its energy includes theirs. spans='all' gives each of them a row nested "
                    "in its row; tracker= counts them separately",
                )
            return NOT_COUNTED
        parent = innermost()
        return NamedChild(parent.span(self._callee.name, labels=self._callee.labels))


def _covering(around: Any, *, is_outermost: bool) -> Any:
    """The open span or call that counts calls that begin here; None if there is none."""
    found = outer = nearest_open(around)
    while is_outermost and outer is not None:
        if isinstance(outer, NamedCall) or isinstance(getattr(outer, "call_site", None), Pending):
            return None
        outer = nearest_open(outer.around)
    return found


def request_name(method: str, route: str | None) -> str:
    """The name of a request: its method and the template of its route, never its path."""
    method = method if method in METHODS else "_OTHER"
    return f"{method} {'(no route)' if route is None else route}"
