"""An exception of a signal's handler, at every line of the package, in every way to measure.

Each operation runs again and again; the exception comes one point later each time, until the
operation ends without it. See `tests.support.raising` for what a point is.

By default the doors in `CORE` are tried at every line, the others and the bytecodes at some.
CARBONTRACK_EVERY_POINT=1 tries all of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import carbontrack
from carbontrack.tracking.span import Span
from tests.support.raising import Model, Place
from tests.support.trials import LATER, STOPPED, Operation, Timeout, Trial, try_at

EVERY_POINT = bool(os.environ.get("CARBONTRACK_EVERY_POINT"))

_MOST_HUNG = 2
"""Points at which a door hangs, after which no more are tried."""
CORE = ("root", "child, all", "call", "generator", "coroutine", "check", "tick_in_block", "close")

ANY_OF_CALLS = {"ok", "error", "interrupted"}
"""The row of summed calls is `ok` or `error`, as one of them was."""

ERRORS: dict[str, Callable[[], BaseException]] = {
    "KeyboardInterrupt": lambda: KeyboardInterrupt("stop"),
    "Timeout": lambda: Timeout("the time is over"),
    "TimeoutError": lambda: TimeoutError("the time is over"),
}


ANY = {"ok", "error", "interrupted"}

# -- blocks -----------------------------------------------------------------------------------


def root(trial: Trial) -> None:
    span = trial.span()
    with trial.interrupted(), span:
        trial.ran(span)
        trial.clock.advance(2.0)


def root_of_track(trial: Trial) -> None:
    trial.tries += 1
    with trial.interrupted(), carbontrack.track(STOPPED, tracker=trial.tracker) as span:
        trial.ran(span)


def root_by_hand(trial: Trial) -> None:
    trial.statuses = ANY  # the program's second `close` may end it
    span = trial.span()
    with trial.interrupted():
        span.open()
        try:
            trial.ran(span)
        finally:
            span.close()
    span.close()  # a program's own `finally`, should the first one not have been reached


def two_roots(trial: Trial) -> None:
    trial.statuses = ANY  # one of them is whole
    with trial.interrupted():
        for _ in range(2):
            with trial.span() as span:
                trial.ran(span)


def child(trial: Trial) -> None:
    trial.rowless = trial.session.spans == "roots"
    with trial.span("around") as around:
        span = trial.watch(around.span(STOPPED))
        with trial.interrupted(), span:
            trial.ran(span)
        trial.check_inside(around)


def child_of_track(trial: Trial) -> None:
    trial.rowless = trial.session.spans == "roots"
    block = carbontrack.track(STOPPED)
    trial.tries += 1
    with trial.span("around") as around:
        with trial.interrupted(), block as span:
            trial.ran(span)
        trial.check_inside(around)


def grandchild(trial: Trial) -> None:
    trial.rowless = trial.session.spans == "roots"
    with trial.span("around") as around:
        with trial.interrupted(), trial.watch(around.span("between")) as between:
            span = trial.watch(between.span(STOPPED))
            with span:
                trial.ran(span)
        trial.check_inside(around)


def all_generations(trial: Trial) -> None:
    trial.rowless = trial.session.spans == "roots"
    outer, inner = trial.span("around"), trial.span()
    with trial.interrupted(), outer, trial.watch(outer.span("between")), inner:
        trial.ran(inner)


def failing_body(trial: Trial) -> None:
    span = trial.span()
    trial.statuses = {"error", "interrupted"}
    with trial.interrupted():
        try:
            with span:
                trial.ran(span)
                raise ValueError("the program's own")
        except ValueError:
            pass


def async_with(trial: Trial) -> None:
    span = trial.span()

    async def body() -> None:
        async with span:
            trial.ran(span)
            await _once()

    with trial.interrupted():
        _drive(body())


def overlapping(trial: Trial) -> None:
    """The one that was opened first ends first."""
    # a `close` that did not begin leaves the second one inside of the first, without a row
    trial.rowless = trial.spans_with_rows == "roots"
    first, second = trial.span("first"), trial.span()
    trial.tries += 1  # it has a row for the time until the first one ends, and one after that
    trial.rowless = trial.session.spans == "roots"  # so it is if the first one does not end first
    trial.statuses = {"ok", "error", "interrupted"}  # the program's `finally` ends it as usual
    with trial.interrupted():
        try:
            first.open()
            second.open()
            trial.ran(second)
        finally:
            try:
                first.close()
            finally:
                second.close()
    first.close()
    second.close()


# -- decorated calls --------------------------------------------------------------------------


def decorated(trial: Trial, body: Callable[[], Any] = lambda: None, **options: Any) -> Any:
    """A function of the trial's tracker."""

    @carbontrack.track(STOPPED, tracker=trial.tracker, **options)
    def work() -> Any:
        trial.ran()
        return body()

    return work


def call(trial: Trial, times: int = 3, **options: Any) -> None:
    work = decorated(trial, **options)
    trial.tries += times
    trial.statuses = ANY_OF_CALLS
    with trial.interrupted():
        for _ in range(times):
            work()
    trial.tries += 1
    work()
    trial.clock.advance(20.0)
    trial.session.sampler.tick()


def long_call(trial: Trial, **options: Any) -> None:
    work = decorated(trial, partial(trial.clock.advance, 2.0), **options)
    trial.tries += 1
    trial.statuses = ANY_OF_CALLS
    with trial.interrupted():
        work()


def call_with_ticks(trial: Trial) -> None:
    """It is running at a tick, so that it is credited singly, and later a span."""

    def body() -> None:
        for _ in range(3):
            trial.clock.advance(0.4)
            trial.session.sampler.tick()

    work = decorated(trial, body)
    trial.tries += 1
    trial.statuses = ANY_OF_CALLS
    with trial.interrupted():
        work()


def failing_call(trial: Trial) -> None:
    def body() -> None:
        raise ValueError("the program's own")

    work = decorated(trial, body)
    trial.tries += 1
    trial.statuses = ANY_OF_CALLS
    with trial.interrupted(), contextlib.suppress(ValueError):
        work()


def call_that_becomes_a_span(trial: Trial) -> None:
    def body() -> None:
        found = carbontrack.current_span()
        assert found is not None
        assert found.name == STOPPED
        with trial.watch(found.span("inside")):
            pass

    work = decorated(trial, body)
    trial.tries += 1
    trial.statuses = ANY_OF_CALLS
    with trial.interrupted():
        work()


def call_inside(trial: Trial) -> None:
    work = decorated(trial)
    trial.rowless = True  # the block around has the row
    with trial.span("around") as around:
        with trial.interrupted():
            work()
        trial.check_inside(around)
        work()


def call_inside_with_row(trial: Trial) -> None:
    work = decorated(trial)
    trial.statuses = ANY_OF_CALLS
    trial.tries += 2
    with trial.span("around") as around:
        with trial.interrupted():
            work()
        trial.check_inside(around)
        work()


def call_inside_call(trial: Trial) -> None:
    inner = carbontrack.track("inner", tracker=trial.tracker)(lambda: None)
    work = decorated(trial, inner)
    trial.tries += 2
    trial.statuses = ANY_OF_CALLS
    with trial.interrupted():
        work()
    work()


def stoppable_call(trial: Trial) -> None:
    work = decorated(trial, budget="1 kWh", on_exceed="raise")
    trial.tries += 1
    trial.statuses = ANY_OF_CALLS
    with trial.interrupted():
        work()


# -- generators and coroutines ----------------------------------------------------------------


def _generator(trial: Trial, **options: Any) -> Any:
    @carbontrack.track(STOPPED, tracker=trial.tracker, **options)
    def steps() -> Iterator[int]:
        trial.ran()
        try:
            yield 1
            yield 2
        except ValueError:
            yield 3

    trial.tries += 1
    trial.statuses = ANY_OF_CALLS
    return steps()


def generator(trial: Trial, **options: Any) -> None:
    steps = _generator(trial, **options)
    with trial.interrupted():
        for _ in steps:
            pass


def generator_closed(trial: Trial, **options: Any) -> None:
    steps = _generator(trial, **options)
    with trial.interrupted():
        next(steps)
        steps.close()


def generator_thrown(trial: Trial) -> None:
    steps = _generator(trial)
    with trial.interrupted():
        next(steps)
        assert steps.throw(ValueError("the program's own")) == 3
        assert next(steps, None) is None


def generator_dropped(trial: Trial) -> None:
    steps = _generator(trial)
    with trial.interrupted():
        next(steps)
        del steps  # closed by the interpreter, which can pass nothing on


def generator_inside(trial: Trial) -> None:
    with trial.span("around") as around:
        steps = _generator(trial)
        trial.rowless = True
        with trial.interrupted():
            for _ in steps:
                pass
        trial.check_inside(around)


def generator_with_block(trial: Trial) -> None:
    @carbontrack.track("steps", tracker=trial.tracker)
    def steps() -> Iterator[int]:
        with trial.span() as span:
            trial.ran(span)
            yield 1
            yield 2

    trial.rowless = True  # the call around has the row
    trial.statuses = {"ok", "error", "interrupted"}  # the body may be closed, as any generator
    going = steps()
    with trial.interrupted():
        for _ in going:
            assert carbontrack.current_span() is None
    going.close()  # a program's own end of it, should it hang at a step


def coroutine(trial: Trial, **options: Any) -> None:
    @carbontrack.track(STOPPED, tracker=trial.tracker, **options)
    async def work() -> None:
        trial.ran()
        await _once()

    trial.tries += 1
    trial.statuses = ANY_OF_CALLS
    with trial.interrupted():
        _drive(work())


def async_generator(trial: Trial) -> None:
    @carbontrack.track(STOPPED, tracker=trial.tracker)
    async def steps() -> Any:
        trial.ran()
        yield 1
        await _once()
        yield 2

    async def work(going: Any) -> None:
        async for _ in going:
            pass

    trial.tries += 1
    trial.statuses = ANY_OF_CALLS
    going = steps()
    with trial.interrupted():
        _drive(work(going))
    _drive(going.aclose())


class _once:  # noqa: N801 - a function to those who await it
    """One suspension."""

    def __await__(self) -> Iterator[None]:
        yield


def _drive(coroutine: Any) -> None:
    """Run it to its end, as a loop would."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        pass
    finally:
        coroutine.close() if hasattr(coroutine, "close") else None


# -- what is asked of open blocks -------------------------------------------------------------


class Bar:
    """A bar that shows nothing."""

    n = 0.0
    total = None

    def __init__(self, **_: object) -> None:
        self.closed = False

    def update(self, n: float = 1) -> None:
        """Nothing to show."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Nothing to show."""

    def close(self) -> None:
        """Note it."""
        self.closed = True


def progress(trial: Trial, **options: Any) -> None:
    trial.tries += 1
    loop = carbontrack.progress(range(3), tracker=trial.tracker, name=STOPPED, bar=Bar, **options)
    trial.find = lambda: [loop.span] if isinstance(loop.span, Span) else []
    with trial.interrupted():
        for i in loop:
            trial.runs += i == 0
            trial.clock.advance(2.0)
    trial.spans += trial.find()


def progress_with_budget(trial: Trial) -> None:
    progress(trial, budget="1 kWh", forecast=True)


def _in_open_block(ask: Callable[[Span], object], **options: Any) -> Operation:
    """Ask something of an open block, which goes on and ends as if nothing had been asked."""

    def operation(trial: Trial) -> None:
        trial.statuses = {"ok"}
        trial.tries += 1
        with carbontrack.track(STOPPED, tracker=trial.tracker, **options) as span:
            trial.ran(span)
            trial.clock.advance(2.0)
            with trial.interrupted():
                ask(span)
            trial.check_inside(span)
            span.check()
            span.snapshot()

    return operation


def budget_exceeded(trial: Trial) -> None:
    trial.statuses = {"budget", "error", "interrupted"}
    trial.tries += 1
    block = carbontrack.track(STOPPED, tracker=trial.tracker, budget="1 Wh", on_exceed="raise")
    with trial.interrupted():
        try:
            with block as span:
                trial.ran(span)
                trial.clock.advance(3600.0)
                span.check()
        except carbontrack.BudgetExceeded:
            pass


def current_span(trial: Trial) -> None:
    """A call that is asked for becomes a span."""

    def body() -> None:
        with trial.interrupted():
            carbontrack.current_span()

    work = decorated(trial, body)
    trial.tries += 1
    trial.statuses = ANY_OF_CALLS
    work()


def tick(trial: Trial) -> None:
    """What the sampler's thread does with everything that can be open."""
    work = decorated(trial)
    trial.rowless = True
    work()
    steps = _generator(trial)
    next(steps)

    def body() -> None:
        trial.clock.advance(2.0)
        with trial.interrupted():
            trial.session.sampler.tick()

    running = carbontrack.track("running", tracker=trial.tracker)(body)
    with trial.span("around"):
        trial.clock.advance(2.0)
    running()
    steps.close()


def tick_in_block(trial: Trial) -> None:
    trial.statuses = {"ok"}
    with trial.span() as span:
        trial.ran(span)
        for _ in range(2):
            trial.clock.advance(2.0)
            trial.session.sampler.tick()
        trial.clock.advance(2.0)
        with trial.interrupted():
            trial.session.sampler.tick()
        trial.session.sampler.tick()
        trial.check_inside(span)


# -- the tracker ------------------------------------------------------------------------------


def close(trial: Trial) -> None:
    """With a root, a summed call and a suspended generator open."""
    work = carbontrack.track("work", tracker=trial.tracker)(lambda: None)
    work()
    steps = _generator(trial)
    next(steps)
    span = trial.span()
    span.open()
    trial.ran(span)
    trial.final = True
    with trial.interrupted():
        trial.tracker.close()
    trial.tracker.close()
    steps.close()


def with_tracker(trial: Trial) -> None:
    trial.final = True
    with trial.interrupted(), trial.tracker as tracker:
        span = trial.watch(tracker.span(STOPPED))
        with span:
            trial.ran(span)


def new_tracker(trial: Trial) -> None:
    """Made by hand, used and closed; the trial's own tracker stands for the next one."""
    from carbontrack.testing import FakeMeter, MemorySink

    sink = MemorySink()
    trial.rowless = True
    made: list[carbontrack.Tracker] = []
    with trial.interrupted():
        made.append(
            carbontrack.Tracker(
                meters=[FakeMeter()], sinks=[sink], clock=trial.clock, grid=100.0, interval_s=5.0
            )
        )
        with made[0].span("a"):
            pass
        carbontrack.track("b", tracker=made[0])(lambda: None)()
    for tracker in made:
        with tracker.span(f"{LATER} its own"):
            pass
        tracker.close()
        rows = [r.name for r in sink.records].count(f"{LATER} its own")
        trial.expect(rows == 1, "a later block of the new tracker has no row")


# -- all of them ------------------------------------------------------------------------------

OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (
        *(root, root_of_track, root_by_hand, two_roots, child, child_of_track, grandchild),
        *(all_generations, failing_body, async_with, overlapping),
        *(call, long_call, call_with_ticks, failing_call, call_that_becomes_a_span),
        *(call_inside, call_inside_call, stoppable_call),
        *(generator, generator_closed, generator_thrown, generator_dropped, generator_inside),
        *(generator_with_block, coroutine, async_generator),
        *(progress, progress_with_budget, budget_exceeded, current_span),
        *(tick, tick_in_block, close, with_tracker, new_tracker),
    )
} | {
    "call_with_rows": partial(call, window_s=0.0),
    "coroutine_with_row": partial(coroutine, window_s=0.0),
    "generator_with_row": partial(generator, window_s=0.0),
    "check": _in_open_block(lambda span: span.check(), budget="1 kWh"),
    "snapshot": _in_open_block(lambda span: span.snapshot()),
    "timeline": _in_open_block(lambda span: span.timeline()),
    "call_inside_with_row": call_inside_with_row,
}

SPANS_ALL = (
    *("child", "child_of_track", "grandchild", "all_generations"),
    *("call_inside_with_row", "overlapping", "generator_closed"),
)
PROCESS = ("root", "child", "call", "long_call", "generator", "tick")
KEPT = (
    *("root", "two_roots", "child", "overlapping", "call", "call_with_rows", "long_call"),
    *("generator", "generator_dropped", "snapshot", "timeline", "tick", "tick_in_block", "close"),
)
DOORS: dict[str, tuple[Operation, dict[str, Any]]] = {
    name: (operation, {})
    for name, operation in OPERATIONS.items()
    if name not in ("call_inside_with_row", "timeline")
}
DOORS |= {f"{name}, all": (OPERATIONS[name], {"spans": "all"}) for name in SPANS_ALL}
DOORS |= {f"{name}, process": (OPERATIONS[name], {"scope": "process"}) for name in PROCESS}
DOORS |= {f"{name}, kept": (OPERATIONS[name], {"kept": True}) for name in KEPT}


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """What is logged on the way is not what these tests are about."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


Broken = dict[str, list[Place]]
"""By promise, the places at which an exception breaks it."""


def torture(
    door: str, errors: Sequence[str], model: Model, folder: Path, stride: int = 1
) -> tuple[Broken, int]:
    """Interrupt a door at every point, or at every `stride`-th, with one class after the other.

    Returns what was broken, and the number of points.
    """
    operation, options = DOORS[door]
    kept = "kept" in options
    broken: Broken = {}
    nth, points, hung = 1, 0, 0
    while True:
        more = dict(options)
        if more.pop("kept", False):
            more["folder"] = folder / str(nth)
            more["folder"].mkdir()
        error = ERRORS[errors[points % len(errors)]]()
        trial = try_at(nth, operation, error, model=model, **more)
        if trial.raiser.seen < nth:
            break
        if trial.place is not None:
            for promise in trial.broken:
                broken.setdefault(promise, []).append(trial.place)
        if kept and not trial.broken:
            shutil.rmtree(folder / str(nth))
        nth += stride
        points += 1
        hung += trial.has_hung
        if hung == _MOST_HUNG:
            return broken, points
    assert points > 1, "the operation runs no line of the package"
    assert not trial.broken, f"without any exception: {trial.broken}"
    return broken, points


def said(broken: Broken) -> str:
    """By promise and function, the lines at which an exception breaks it."""
    lines = []
    for promise, places in broken.items():
        lines.append(f"{promise}:")
        functions: dict[str, list[str]] = {}
        for place in places:
            texts = functions.setdefault(f"{place.file}: {place.function}", [])
            if place.marked not in texts:
                texts.append(place.marked)
        for function, texts in functions.items():
            more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
            lines.append(f"    {function}: {'; '.join(texts[:5])}{more}")
    return "\n".join(lines)


@pytest.mark.parametrize("door", DOORS)
def test_at_every_line(door: str, tmp_path: Path) -> None:
    """Nothing is current, open or locked, nothing is written twice, and the next one is whole."""
    every = EVERY_POINT or door in CORE
    broken, points = torture(door, [*ERRORS], "line", tmp_path, 1 if every else 7)
    assert not broken, f"of {points} points\n{said(broken)}"


@pytest.mark.skipif(not EVERY_POINT, reason="it takes an hour: CARBONTRACK_EVERY_POINT=1")
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("door", DOORS)
def test_with_each_class(door: str, error: str, tmp_path: Path) -> None:
    """Each class at each line."""
    broken, points = torture(door, [error], "line", tmp_path)
    assert not broken, f"of {points} points\n{said(broken)}"


@pytest.mark.parametrize("door", DOORS)
def test_at_every_bytecode(door: str, tmp_path: Path) -> None:
    """Where the interpreter looks for signals, which is also inside of a line."""
    broken, points = torture(door, [*ERRORS], "signal", tmp_path, 1 if EVERY_POINT else 199)
    assert not broken, f"of {points} points\n{said(broken)}"
