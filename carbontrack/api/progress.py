"""`progress`: a measured loop with a progress bar of power, emissions so far and their forecast.

The only module that uses tqdm.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar

from carbontrack.api.cell_output import show_in_notebook
from carbontrack.api.forecast import Forecast, LoopCourse, forecast_verdict
from carbontrack.api.track import Track, qualified_name_of, track
from carbontrack.config.environment import is_switched_off
from carbontrack.errors import BudgetExceeded, ConfigError, MissingExtra
from carbontrack.record import Record
from carbontrack.system.interrupts import attempt
from carbontrack.text import visible
from carbontrack.tracking.budget import CHECK_PERIOD_S, Budget, OnExceed
from carbontrack.tracking.span import Span


class Bar(Protocol):
    """The part of tqdm's interface that is used."""

    n: float
    total: float | None

    def update(self, n: float = 1) -> object:
        """Advance by `n` iterations."""
        ...

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:  # noqa: FBT001, FBT002
        """Set the text after the bar."""
        ...

    def close(self) -> None:
        """End the bar."""
        ...


def new_bar(**options: Any) -> Bar:
    """Make a bar for a terminal or a notebook.

    Raises:
        MissingExtra: tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingExtra("tqdm", "progress", "a progress bar") from None
    bar: Bar = tqdm(**options)
    return bar


def new_terminal_bar(**options: Any) -> Any:
    """Make a bar for a terminal; None if tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(**options)


T = TypeVar("T")

_log = logging.getLogger("carbontrack")

_IN_LOOP: ContextVar[bool] = ContextVar("carbontrack_in_progress_loop", default=False)
"""Whether a loop of `progress` runs: the summary of the outermost one includes the inner ones."""


class Progress(Generic[T]):
    """The iterable that `progress` returns.

    Attributes:
        span: the span that measures the loop; None before it starts.
    """

    def __init__(
        self,
        iterable: Iterable[T],
        block: Track,
        *,
        total: int | None,
        check_forecast: Callable[[LoopCourse, Record], None],
        bar: Callable[[], Bar],
    ) -> None:
        self.span: Span | None = None
        self._iterable = iterable
        self._block = block
        self._course = LoopCourse(total)
        self._check_forecast = check_forecast
        self._bar = bar

    @property
    def forecast(self) -> Forecast | None:
        """The forecast of the total; None before the first step, and without `total`."""
        return self._course.forecast

    def __len__(self) -> int:
        if self._course.total is None:
            raise TypeError("the length of this loop is not known")
        return self._course.total

    def __iter__(self) -> Iterator[T]:
        self._course = LoopCourse(self._course.total)
        bar, is_inner = self._bar(), _IN_LOOP.get()
        _IN_LOOP.set(True)
        try:
            with self._block as self.span:
                yield from self._measured(self.span, bar)
        finally:
            _IN_LOOP.set(is_inner)
            bar.close()
            # a bar is a live widget; an exported notebook shows it as it was at the start
            if self.span is not None and not is_inner:
                attempt(show_in_notebook, self.span)

    def _measured(self, span: Span, bar: Bar) -> Iterator[T]:
        monotonic_s = span.clock.monotonic_s
        checked_s, iterations = monotonic_s(), 0
        for item in self._iterable:
            yield item
            iterations += 1
            if monotonic_s() - checked_s >= CHECK_PERIOD_S:
                self._update(span, bar, iterations)
                checked_s, iterations = monotonic_s(), 0
            bar.update(1)
        if iterations:
            self._update(span, bar, iterations)

    def _update(self, span: Span, bar: Bar, iterations: int) -> None:
        record = span.snapshot()
        self._course.take(record, iterations)
        bar.set_postfix_str(self._course.text, refresh=False)
        if span.budget_guard is not None:
            span.budget_guard.enforce()
        self._check_forecast(self._course, record)


class _ForecastCheck:
    """Checks forecasts against a budget, and acts once if one exceeds it."""

    def __init__(self, name: str, budget: Budget, on_exceed: OnExceed) -> None:
        self._name = name
        self._budget = budget
        self._on_exceed = on_exceed
        self._acted = False

    def __call__(self, course: LoopCourse, record: Record) -> None:
        verdict = forecast_verdict(self._budget, course.forecast, record)
        if self._acted or verdict is None or verdict.outcome != "over":
            return
        self._acted = True
        text = f"{self._name} will be {verdict.text}"
        if callable(self._on_exceed):
            self._on_exceed(verdict)
        elif self._on_exceed == "raise":
            raise BudgetExceeded(text, verdict)
        else:
            _log.warning("%s", text)


def progress(
    iterable: Iterable[T],
    *,
    total: int | None = None,
    name: str | None = None,
    budget: str | None = None,
    on_exceed: OnExceed = "raise",
    forecast: bool = False,
    bar: Callable[..., Bar] = new_bar,
    **settings: Any,
) -> Progress[T]:
    """Measure a loop, and show a bar with power, emissions so far and their forecast.

    `for epoch in carbontrack.progress(range(50), budget="200 g", forecast=True):`. The loop is a
    span, as with `track`: a root with its own record, or a child of the span that is open.

    Args:
        iterable: the iterable to loop over.
        total: the number of iterations; by default `len(iterable)`, if it has a length.
        name: the name in the record; by default the name of the calling function or module.
        budget: the most that the loop may use: "200 g", "2 kWh".
        on_exceed: what happens between two iterations when the budget is exceeded: "raise" (the
            default),
            "warn", or a function that is called with the verdict. See `track`.
        forecast: act as soon as the forecast's lower bound exceeds the budget, instead of when the
            loop's own use does.
        bar: makes the bar; called with arguments of `tqdm`.
        settings: other arguments of `track`: labels, tracker, region, output, …

    Raises:
        ConfigError: an argument or a setting cannot be used, or `forecast` is set for a loop of
            unknown length; nothing has been started then.
        MissingExtra: tqdm is not installed; `pip install "carbontrack[progress]"`.
        BudgetExceeded: in the loop, if `on_exceed` is "raise".
    """
    name = name or qualified_name_of(sys._getframe(1))
    if is_switched_off(settings):
        return _switched_off(iterable, total, name, bar)
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if total is not None and (not isinstance(total, int) or total < 0):
        raise ConfigError(f"total must be a whole number of iterations, not {total!r}")
    if forecast and (total is None or budget is None):
        missing = "total=, the number of iterations" if total is None else "budget="
        raise ConfigError(f"forecast=True needs {missing}")
    limit: dict[str, Any] = {}
    if budget is not None:
        # the function is called once: the forecast exceeds the budget before the use does
        later = "warn" if forecast and callable(on_exceed) else on_exceed
        limit = {"budget": budget, "on_exceed": later}
    block = track(name, **limit, **settings)
    check_forecast = (
        _ForecastCheck(name, Budget(budget), on_exceed) if forecast and budget else lambda *_: None
    )
    return Progress(
        iterable,
        block,
        total=total,
        check_forecast=check_forecast,
        bar=lambda: bar(total=total, desc=visible(name)),
    )


def _switched_off(
    iterable: Iterable[T], total: object, name: object, bar: Callable[..., Bar]
) -> Progress[T]:
    """The loop under CARBONTRACK_DISABLE: nothing is measured or checked."""
    steps = total if isinstance(total, int) and total >= 0 else None
    if steps is None and isinstance(iterable, Sized):
        steps = len(iterable)

    def bar_or_none() -> Bar:
        try:
            return bar(total=steps, desc=visible(str(name)))
        except MissingExtra:
            return _NoBar()

    return Progress(
        iterable,
        track(str(name)),
        total=steps,
        check_forecast=lambda *_: None,
        bar=bar_or_none,
    )


class _NoBar:
    """Replaces the bar if tqdm is not installed and nothing can stop the loop."""

    n: float = 0.0
    total: float | None = None

    def update(self, n: float = 1) -> object:
        """Does nothing."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:  # noqa: FBT001, FBT002
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
