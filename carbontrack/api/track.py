"""The public functions `track`, which measures a block or a function, and `auto`.

`track(...)` returns a `Track`, which is a context manager and a decorator; its `OpenSpans` are its
open spans in different threads and tasks, or nested.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from carbontrack.api.provider import TrackerProvider
from carbontrack.config.environment import is_switched_off
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.record import NAME_LIMIT, Sink, Status, checked_labels, checked_name
from carbontrack.system.forking import holding_forks, is_importing
from carbontrack.system.interrupts import attempt, pass_on
from carbontrack.system.reentrance import must_pass, pass_through
from carbontrack.tracking.block import Block, Done
from carbontrack.tracking.context import current, innermost, nearest_open
from carbontrack.tracking.handle import SharedExitMethod, WithStatement, dead, end_abandoned
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracker import NoOpTracker, Tracker, checked_sinks

if TYPE_CHECKING:
    from carbontrack.tracking.budget import Budget, OnExceed, Verdict
    from carbontrack.tracking.session import Session


class OpenSpans:
    """The open spans of one `Track`, which may be entered several times at once."""

    def __init__(self) -> None:
        self._open: list[Span] = []
        self._last: Span | None = None

    def __reduce__(self) -> tuple[type[OpenSpans], tuple[()]]:
        """Spans that are open here are not open in another process."""
        return OpenSpans, ()

    def add(self, span: Span) -> Span:
        """Add a span that is about to be opened."""
        self._open.append(span)
        return span

    def current(self) -> Span | None:
        """The span of this context; if there is none, the one opened last.

        If none is open, the one closed last, whose budget may still have to be enforced. None
        before the first.
        """
        if len(self._open) == 1:
            return self._open[0]
        here: Span | None = innermost()
        while here is not None and here not in self._open:
            here = here.parent
        if here is not None:
            return here
        return self._open[-1] if self._open else self._last

    def pop(self, span: Span | None = None) -> Span | None:
        """Remove and return a span that is about to be closed, by default the current one."""
        span = self._last = span or self.current()
        if span in self._open:
            self._open.remove(span)
        return span


__all__ = ["auto", "current_span", "track"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

PROVIDER = TrackerProvider()
"""The trackers of this process."""

_log = logging.getLogger("carbontrack")


def current_span() -> Span | None:
    """The innermost open span here, or None.

    A decorated call inside an open span has no separate span; the enclosing one is returned.
    """
    if dead and not must_pass():
        end_abandoned()
    found: Span | None = nearest_open(innermost())
    return found


def auto(*, sinks: Sequence[Sink] = (), **settings: object) -> Tracker:
    """Make a tracker for this machine from settings: `auto(region="FR", output="a.csv")`.

    Settings come from the arguments, the environment, pyproject.toml and the user's config file,
    in this order; the defaults are those of `track`. `sinks` receive each record in addition to
    `output`.

    Raises:
        ConfigError: a setting is unknown or cannot be used.
    """
    if sinks:
        checked_sinks(sinks)
    with holding_forks():
        loaded = PROVIDER.load(settings)
    return NoOpTracker() if loaded.disable else PROVIDER.make(loaded, *sinks)


# What few programs need is imported where it is used, to keep the start of a process short.


def _budget(limit: str) -> Budget:
    from carbontrack.tracking.budget import Budget

    return Budget(limit)


def _leave(
    statement: WithStatement,
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _trace: TracebackType | None,
) -> None:
    statement.block.leave_for(statement, error)


def _aleave(
    statement: WithStatement,
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _trace: TracebackType | None,
) -> Done:
    statement.block.leave_for(statement, error)
    return Done()


class Track(Block[Span]):
    """What `track(...)` returns: decorate a function with it, or open it with `with`."""

    statement: WithStatement | None = None
    """The `with` statement that is being entered."""

    def __init__(
        self,
        name: str | None,
        *,
        window_s: float,
        limit: tuple[str | None, OnExceed | None],
        labels: Mapping[str, Any] | None,
        tracker: Tracker | None,
        settings: Mapping[str, object],
        default_name: str,
    ) -> None:
        if name is not None and not (isinstance(name, str) and 0 < len(name) <= NAME_LIMIT):
            checked_name(name)  # raises
        if not isinstance(window_s, (int, float)) or not 0.0 <= window_s <= 86400.0:
            raise ConfigError(f"window_s must be 0 to 86400 seconds, not {window_s!r}")
        if tracker is not None and not callable(getattr(tracker, "span", None)):
            raise ConfigError(f"tracker must be a Tracker, such as auto() makes, not {tracker!r}")
        if tracker is not None and settings:
            raise ConfigError(
                f"tracker= has its own settings; {', '.join(settings)} cannot be given as well"
            )
        self._name = name
        self._default_name = default_name
        self._window_s = float(window_s)
        budget, self._on_exceed = limit
        self._budget = None if budget is None else _budget(budget)
        if self._on_exceed is not None:
            from carbontrack.tracking.budget import checked_on_exceed

            checked_on_exceed(self._on_exceed, has_budget=budget is not None)
        self._labels = checked_labels(labels) if labels else {}
        self._tracker = tracker
        self._given = dict(settings)
        self._settings: Settings | None = None
        self._open = OpenSpans()
        if tracker is None:
            with holding_forks():
                self._settings = PROVIDER.checked(
                    settings, inside=nearest_open(current.get()) is not None
                )

    # -- as a context manager ----------------------------------------------------------------

    def open(self) -> Span:
        """Open a span: a child of the one that is open here, or a root."""
        # added first: a handler of a signal may raise behind `open`
        return self._open.add(self._new_span(self._name or self._default_name)).open()

    def enter(self) -> Span:
        """Open a span, unless the exception of an exceeded enclosing budget is due."""
        statement, self.statement = self.statement, None
        span = self._new_span(self._name or self._default_name)
        if statement is not None and statement.is_here:
            statement.begin(span)
        try:
            return self._open.add(span).enter()
        except BaseException:
            self._open.pop(span)
            raise

    __exit__: Any = SharedExitMethod(_leave)
    __aexit__: Any = SharedExitMethod(_aleave)

    def leave_for(self, statement: WithStatement, error: BaseException | None) -> None:
        """Close the span that was opened for a `with` statement, and enforce its budget."""
        span = self._open.pop(statement.span)
        if span is not None:
            span.leave(error)

    def leave(self, error: BaseException | None) -> None:
        """Close the span that was opened here last, and enforce its budget."""
        span = self._open.pop()
        if span is not None:
            span.leave(error)

    def close(self, status: Status = "ok", error: str | None = None) -> None:
        """Close the span that was opened here last; if none is open, do nothing."""
        span = self._open.pop()
        if span is not None:
            span.close(status, error)

    def check(self) -> Verdict | None:
        """Check the budgets of the span that was opened here last; see `Span.check`."""
        span = self._open.current()
        return None if span is None else span.check()

    def _new_span(self, name: str) -> Span:
        if must_pass():
            pass_through(name)
            return NoOpTracker().span(name, labels=self._labels)
        around = current_span() if self._tracker is None else None
        if around is not None:
            self._warn_if_ignored(around.session)
            span = around.span(name, labels=self._labels)
        else:
            span = self.own_tracker().span(name, labels=self._labels)
        if self._budget is not None:
            from carbontrack.tracking.budget import BudgetGuard

            span.budget_guard = BudgetGuard(self._budget, self._on_exceed or "warn")
            span.budget_check = span.budget_guard.mark_exceeded
        return span

    def own_tracker(self) -> Tracker:
        """The tracker that it measures with outside other spans."""
        if self._tracker is not None:
            return self._tracker
        assert self._settings is not None
        return NoOpTracker() if self._settings.disable else PROVIDER.get(self._settings)

    def _warn_if_ignored(self, around: Session) -> None:
        if not self._given or self._settings is None:
            return
        names = PROVIDER.ignored(self._given, self._settings, around)
        if names:
            PROVIDER.warn_once(
                f"track({names}) is inside an open span, whose settings apply; its own are ignored "
                "(tracker= makes a separate root)"
            )

    def is_off(self) -> bool:
        """Whether it measures nothing."""
        if self._settings is not None:
            return self._settings.disable
        return isinstance(self._tracker, NoOpTracker)

    # -- as a decorator ----------------------------------------------------------------------

    def __call__(self, function: F) -> F:
        """Count every call of the function.

        Raises:
            ConfigError: it is a class, is not callable, or is never called.
        """
        if self.is_off() and is_switched_off(self._given):
            return function
        if isinstance(function, type) or not (
            callable(function) or isinstance(function, (staticmethod, classmethod))
        ):
            hint = "decorate the methods that do the work"
            if hasattr(type(function), "__get__"):  # a property, for instance
                hint = f"put @track below @{type(function).__name__}, next to the function"
            raise ConfigError(f"track decorates functions and methods, not {function!r}; {hint}")
        if self.is_off():
            return function
        with holding_forks():
            from carbontrack.tracking.decorate import (
                CallCounter,
                callee_of,
                name_of,
                wrap,
                wrap_stoppable,
            )
            from carbontrack.tracking.tracked_object import check_is_called

        check_is_called(function)
        if self._on_exceed is not None:
            name = self._name or name_of(getattr(function, "__func__", function))
            stoppable: F = wrap_stoppable(function, partial(self._new_span, name))  # type: ignore[assignment]
            return stoppable
        budget_check = None
        if self._budget is not None:
            from carbontrack.tracking.budget import budget_check_of

            budget_check = budget_check_of(self._budget)
        counter = CallCounter(
            callee_of(function, self._name, self._labels),
            window_s=self._window_s,
            budget_check=budget_check,
            tracker=self.own_tracker,
            separate_root=self._tracker is not None,
            on_enclosing=self._warn_if_ignored,
        )
        wrapped: F = wrap(function, counter.begin)  # type: ignore[assignment]
        return wrapped


def qualified_name_of(frame: FrameType) -> str:
    """Module and qualified name of the function that a frame runs."""
    module = str(frame.f_globals.get("__name__", "__main__"))
    function = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
    return module if function == "<module>" else f"{module}.{function}"


@overload
def track(name: F, /) -> F: ...
@overload
def track(
    name: str | None = None,
    *,
    window_s: float = 10.0,
    budget: str | None = None,
    on_exceed: OnExceed | None = None,
    labels: Mapping[str, Any] | None = None,
    tracker: Tracker | None = None,
    **settings: object,
) -> Track: ...
def track(
    name: F | str | None = None,
    *,
    window_s: float = 10.0,
    budget: str | None = None,
    on_exceed: OnExceed | None = None,
    labels: Mapping[str, Any] | None = None,
    tracker: Tracker | None = None,
    **settings: object,
) -> F | Track:
    """Measure the energy and emissions of a block or a function.

    `with track("train", region="FR") as run:` measures a block; `run.record` is its record
    afterwards. `@track`, `@track("name")` and `@track(window_s=60)` measure each call of a
    function, method, coroutine or generator. Inside an open span it opens a child of that span.

    Args:
        name: the name in the records; by default the function's module and qualified name.
        window_s: a call of 1 s or longer has its own row; shorter ones are summed, one row for
            each `window_s` seconds. 0: every call has a row.
        budget: the largest amount that a block or a call may use: "5 g", "2 kWh". A block is
            checked while it runs. A warning is logged at 80 % and above 100 %; the latter also sets
            the record's status.
        on_exceed: what else happens when the lower bound of the interval exceeds the budget: "warn"
            (nothing else); "raise" (`BudgetExceeded`, in the thread that next opens or closes a
            span inside, ends the block or calls `span.check()`); or a function that is called there
            once with the verdict. With this argument a decorated function has a row for each call;
            without it a call is checked only when it has ended.
        labels: your own labels, written with the record.
        tracker: measure with this tracker, as a root span.
        settings: any of carbontrack's settings: region, output, scope, pue, …

    Raises:
        ConfigError: an argument or a setting cannot be used; nothing has been started then.
        BudgetExceeded: later, and only with `on_exceed="raise"`.
    """
    default_name = qualified_name_of(sys._getframe(1))
    if sys.is_finalizing() or is_importing():  # most of Python is gone, or half a module is there
        pass_through(name if isinstance(name, str) else default_name)
        make = _switched_off(name, labels, default_name)
        return make if name is None or isinstance(name, str) else name
    try:
        make = Track(
            name if isinstance(name, str) or name is None else None,
            window_s=window_s,
            limit=(budget, on_exceed),
            labels=labels,
            tracker=tracker,
            settings=settings,
            default_name=default_name,
        )
    except Exception as error:
        pass_on(error)
        if not is_switched_off(settings):
            raise
        make = _switched_off(name, labels, default_name)
    if name is None or isinstance(name, str):
        return make
    # a class method or a property is not callable, but decorated; a number is a wrong name
    is_name = not callable(name) and not hasattr(type(name), "__get__")
    return make if is_name and is_switched_off(settings) else make(name)


def _if_usable(check: Callable[[object], T], given: object) -> T | None:
    return attempt(check, given)[0]


def _switched_off(name: object, labels: object, default_name: str) -> Track:
    """What `track` returns under CARBONTRACK_DISABLE where an argument cannot be used."""
    return Track(
        _if_usable(checked_name, name),
        window_s=0.0,
        limit=(None, None),
        labels=_if_usable(checked_labels, labels),
        tracker=NoOpTracker(),
        settings={},
        default_name=default_name,
    )
