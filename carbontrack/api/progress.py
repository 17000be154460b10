"""A loop with a bar that tells watts, grams so far, and what the whole will have emitted.

The progress bar: tqdm, in this one file.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Generic, Protocol, TypeVar

from carbontrack.api.forecast import Forecast, LoopCourse, forecast_verdict
from carbontrack.api.track import Track, qualified_name_of, track
from carbontrack.errors import BudgetExceeded, ConfigError, MissingExtra
from carbontrack.record import Record
from carbontrack.tracking.budget import CHECK_PERIOD_S, Budget, OnExceed
from carbontrack.tracking.span import Span


class Bar(Protocol):
    """What is needed of a bar; tqdm's are such."""

    n: float
    total: float | None

    def update(self, n: float = 1) -> object:
        """So many more are done."""
        ...

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:  # noqa: FBT001, FBT002
        """Text after the bar."""
        ...

    def close(self) -> None:
        """The end."""
        ...


def new_bar(**options: Any) -> Bar:
    """A bar for a terminal or a notebook, whichever this is.

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
    """A bar for a terminal; None where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(**options)


T = TypeVar("T")

_log = logging.getLogger("carbontrack")


class Progress(Generic[T]):
    """What `progress` returns: iterate over it.

    Attributes:
        span: what measures the loop; None before it begins.
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
        """What the whole will have used; None before the first look, and without a total."""
        return self._course.forecast

    def __len__(self) -> int:
        if self._course.total is None:
            raise TypeError("the length of this loop is not known")
        return self._course.total

    def __iter__(self) -> Iterator[T]:
        self._course = LoopCourse(self._course.total)
        bar = self._bar()
        try:
            with self._block as self.span:
                yield from self._measured(self.span, bar)
        finally:
            bar.close()

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
    """Judges a forecast by a budget, and does what is to be done once."""

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
    """Measure a loop, and show a bar with its watts, its grams so far and those of the whole.

    `for epoch in carbontrack.progress(range(50), budget="200 g", forecast=True):`. The loop is a
    span, as by `track`: a root with a record of its own, or a child of the span that is open.

    Args:
        iterable: what to loop over.
        total: how many iterations there will be; by default what `len` says, if it says anything.
        name: what the record calls it; by default the function's or module's name.
        budget: what the loop may use at most: "200 g", "2 kWh".
        on_exceed: what happens between two iterations when it is exceeded: "raise" (the default),
            "warn", or a function to be called with the verdict. See `track`.
        forecast: exceeded means that it will be, by the forecast's lower end; else that it is.
        bar: makes the bar; called with what `tqdm` takes.
        settings: what else `track` takes: labels, tracker, region, output, …

    Raises:
        ConfigError: an argument or a setting cannot be used, or a forecast is wanted of a loop
            whose length is not known; nothing has been started then.
        MissingExtra: tqdm is not installed; `pip install "carbontrack[progress]"`.
        BudgetExceeded: in the loop, as asked for.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if total is not None and (not isinstance(total, int) or total < 0):
        raise ConfigError(f"total must be a whole number of iterations, not {total!r}")
    if forecast and (total is None or budget is None):
        missing = "total=, the number of iterations" if total is None else "budget="
        raise ConfigError(f"forecast=True needs {missing}")
    name = name or qualified_name_of(sys._getframe(1))
    limit: dict[str, Any] = {}
    if budget is not None:
        # one call is enough: a forecast is over the budget before the use is
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
        bar=lambda: bar(total=total, desc=name),
    )
