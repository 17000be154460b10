"""The episode: one run of a framework at a time, such as a training, as a span with children.

An integration translates the names of its framework's hooks into `begin`, `child`, `end_child` and
`end`, and decorates each hook with `guarded`.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, TypeVar

from carbontrack.api.track import Track, track
from carbontrack.errors import BudgetExceeded, ConfigError
from carbontrack.integrations.metrics import PREFIX, metrics_of
from carbontrack.integrations.stack_watch import (
    StackWatch,
    close_gone,
    stays_on_stack,
    watched_loop,
)
from carbontrack.record import Record, Status, checked_labels
from carbontrack.system.interrupts import attempt
from carbontrack.system.log import OnceLog
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracker import Tracker

GONE = "ended without its last hook"
"""The error of a run that the stack watch, or the next `begin`, has closed."""
_ELSEWHERE = (
    "another thread: the earlier one ends here with an error, and the rest of it is not measured; "
    "give each run a separate callback"
)
_ERROR_LENGTH = 200
_log = OnceLog()
_asked = threading.local()
_Hook = TypeVar("_Hook", bound=Callable[..., Any])


class _Run:
    """A span, at most one open child of it, and the watch of the loop that called the hook."""

    span: Span | None = None
    child: Span | None = None
    watch: StackWatch | None = None

    def __init__(self, block: Track) -> None:
        self._block = block
        self.loop: CodeType | None = None

    def open(self, loop: CodeType | None) -> None:
        """Open the span, and watch the loop."""
        self.loop = loop
        self.span = span = self._block.open()
        session = getattr(span, "session", None)  # none where nothing is measured
        if session is None:
            return
        if _counts_for_another_rank(span):
            span.discard()
            self.span = None
            text = "scope is 'machine': rank 0 of each node measures, the others do not"
            _log.say(text, logging.INFO)
        elif loop is not None:
            gone = functools.partial(self.close, "error", GONE)
            self.watch = StackWatch(loop, self.is_open, gone, session.sampler)
            self.watch.start()

    def is_open(self) -> bool:
        """Whether it is being measured, in this process."""
        return self.span is not None and self.span.is_open

    def is_in_another_thread(self) -> bool:
        """Whether it is known to go on in another thread."""
        return self.is_open() and self.watch is not None and self.watch.runs_elsewhere()

    def close_child(self, status: Status = "ok", error: str | None = None) -> None:
        """Close the child, if one is open."""
        child = self.child
        if child is not None:
            child.close(status, error)
            self.child = None

    def close(self, status: Status, error: str | None = None) -> None:
        """Close the child, then the span; any thread may do it, and a second call does nothing."""
        self.close_child(status, error)
        if self.span is not None:
            self.span.close(status, error)
        else:  # a handler of a signal has raised behind `open`
            self._block.close(status, error)
        if self.watch is not None:  # last, as such a handler may raise before
            self.watch.stop()


def _counts_for_another_rank(span: Span) -> bool:
    """Whether another process of this node counts the same machine."""
    session = span.session
    is_machine = session.ledger.attribution.scope == "machine" and span.parent is None
    return is_machine and bool(session.builder.resource.columns.get("local_rank"))


class Episode:
    """One run of a framework at a time, started and ended by its hooks.

    Nothing is opened before `begin`. A pickled or copied episode has only the settings. In a forked
    child no run is open.

    Args:
        tracker: measure with this tracker, as a root span.
        settings: the arguments of `track`. `name` replaces that of `begin`, `labels` are added.

    Raises:
        ConfigError: a setting cannot be used.
    """

    def __init__(self, tracker: Tracker | None = None, **settings: Any) -> None:
        self._tracker, self._settings = tracker, dict(settings)
        name = settings.pop("name", None)
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"name must be a text, not {name!r}")
        track("episode" if name is None else name, tracker=tracker, **settings)  # raises
        self._run: _Run | None = None
        self._record: Record | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), self._tracker, **self._settings), ()

    @property
    def is_open(self) -> bool:
        """Whether a run is open, in this process."""
        return self._run is not None and self._run.is_open()

    @property
    def is_running(self) -> bool:
        """Whether a run is open whose loop is on the stack of this thread, or is not watched."""
        loop = None if self._run is None else self._run.loop
        return self.is_open and (loop is None or stays_on_stack(loop))

    @property
    def record(self) -> Record | None:
        """The record of the last run that ended; None before."""
        run = self._run
        if run is not None and run.span is not None and not run.span.is_open:
            return run.span.record or self._record
        return self._record

    @property
    def record_id(self) -> str | None:
        """The id that the record of the open run will have; None if nothing is measured."""
        span = None if self._run is None else self._run.span
        is_measured = span is not None and span.is_open and hasattr(span, "session")
        return span.record_id if span is not None and is_measured else None

    def snapshot(self) -> Record | None:
        """The record of the open run so far; None where none is open."""
        run = self._run
        return run.span.snapshot() if run is not None and run.span and run.span.is_open else None

    def begin(
        self,
        name: str,
        labels: Mapping[str, Any] | None = None,
        *,
        loop: CodeType | None = None,
    ) -> None:
        """Open a run; one that is still open is closed as an error.

        Args:
            name: the name in the record.
            labels: labels of the record.
            loop: the code that is on the stack as long as the run lasts; by default that of the
                nearest caller outside of the framework's modules for callbacks.

        Raises:
            BudgetExceeded: the budget of an enclosing block is exceeded, and it demands this.
        """
        if self._run is not None:
            if self._run.is_in_another_thread():
                _log.say(
                    f"{name!r} begins while another run of the same callback is open in "
                    f"{_ELSEWHERE}"
                )
            self._run.close("error", GONE)
            self._record = self.record
        given = dict(self._settings)
        name = given.pop("name", None) or name
        given["labels"] = {**(labels or {}), **(given.get("labels") or {})}
        watched = watched_loop() if loop is None else loop if stays_on_stack(loop) else None
        close_gone(watched)
        self._run = run = _Run(track(name, tracker=self._tracker, **given))
        try:
            run.open(watched)
        except BaseException:
            run.close("interrupted")
            raise
        self.check()

    def add_labels(self, labels: Mapping[str, Any]) -> None:
        """Add labels to the open run that are known only now."""
        run = self._run
        if run is not None and run.span is not None and run.span.is_open:
            run.span.labels = checked_labels({**labels, **run.span.labels})

    def metrics(self, prefix: str = PREFIX) -> dict[str, float]:
        """The numbers of the open run so far, or of the last one, by flat names."""
        record = self.snapshot() or self.record
        return {} if record is None else metrics_of(record, prefix)

    def child(self, name: str) -> None:
        """Open a child of the run, such as an epoch; one that is open is ended first.

        It starts and ends with the Python loop: kernels that still run are counted in the next
        child.
        """
        run = self._run
        if run is None or run.span is None or not run.span.is_open:
            return
        run.close_child()
        if run.watch is not None:
            run.watch.has_gone_on = True
        run.child = child = run.span.span(name)
        child.open()
        if not run.is_open():  # the stack watch has just closed it
            run.close_child()
        self.check()

    def end_child(self) -> None:
        """End the child; does nothing if none is open."""
        if self._run is not None:
            self._run.close_child()
            self.check()

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """End the run; does nothing if none is open."""
        run = self._run
        if run is None or not run.is_open():
            return
        run.close(status, None if error is None else " ".join(error.split())[:_ERROR_LENGTH])
        if status == "ok":
            self._enforce(run)

    def end_by(self, error: BaseException | None) -> None:
        """End the run with the exception that a hook receives; None: without one."""
        if error is None:
            self.end()
        elif isinstance(error, BudgetExceeded):  # of an enclosing block
            self.end("budget", str(error))
        else:
            is_signal = isinstance(error, (KeyboardInterrupt, SystemExit))
            status: Status = "interrupted" if is_signal else "error"
            self.end(status, f"{type(error).__name__}: {error}")

    def check(self) -> None:
        """Stop the run if a budget is exceeded and demands it; looks at most ten times a second.

        Raises:
            BudgetExceeded: a budget is exceeded, and its `on_exceed` is "raise".
        """
        run = self._run
        if run is not None and run.is_open():
            self._enforce(run)

    def _enforce(self, run: _Run) -> None:
        guard = None if run.span is None else run.span.budget_guard
        if guard is None:
            return
        try:
            guard.enforce()
        except BaseException as error:
            _asked.error = id(error)
            status: Status = "budget" if isinstance(error, BudgetExceeded) else "error"
            run.close(status, str(error)[:_ERROR_LENGTH])
            raise


def guarded(hook: _Hook) -> _Hook:
    """A hook from which no error of carbontrack reaches the framework; errors are logged once.

    `BudgetExceeded` passes, because it is raised only on request, and so does anything that the
    program's own `on_exceed` and its signal handlers raise. Such a hook returns None if it has
    failed.
    """

    @functools.wraps(hook)
    def inside(self: Any, *given: Any, **named: Any) -> Any:
        _asked.error = None  # the id of one that is no more may be that of another one
        result, error = attempt(hook, self, *given, passes=BudgetExceeded, **named)
        if error is not None:
            if _asked.error == id(error):
                raise error
            key = f"{type(self).__module__}.{type(self).__qualname__}.{hook.__name__}"
            _log.say(f"{key} failed; this is logged only once", logging.ERROR, error)
        return result

    return inside  # type: ignore[return-value]
