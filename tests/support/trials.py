"""A trial: one operation with an interrupt inside of it, and all that must hold afterwards."""

from __future__ import annotations

import contextvars
import csv
import gc
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import iscoroutine, isgenerator
from pathlib import Path
from typing import Any

import carbontrack
from carbontrack.api.track import PROVIDER
from carbontrack.attribution.policy import Attribution
from carbontrack.grid.intensity import Fixed
from carbontrack.record import Record
from carbontrack.sampling.ledger import Ledger
from carbontrack.sampling.sampler import Sampler
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.journal.recovery import recover
from carbontrack.sinks.timelines import TimelineFiles
from carbontrack.system import forking
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.checkpoints import Checkpoints
from carbontrack.tracking.propagation import Propagator
from carbontrack.tracking.record_builder import RecordBuilder, Resource
from carbontrack.tracking.session import Session
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracker import Tracker
from tests.support.raising import Model, Place, Raiser, without_a_trace

STOPPED, LATER = "stopped", "later"
HANGS, WAITS = "it hangs", "another thread waits for a lock"
_PATIENCE_S = 60.0
"""Real seconds for another thread's block; it needs them only where a lock is not released."""
_LIMIT_S = 30.0
"""Real seconds for a trial; it needs them only where something goes on for ever."""


class Hung(BaseException):
    """A trial does not end."""


class Timeout(Exception):  # noqa: N818 - as a program may call it
    """A class of the program's own."""


class StillClock(FakeClock):
    """A clock at which the sampler's thread waits in vain, so that only a test ticks."""

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Wait until the event is set."""
        return event.wait()

    def advance(self, seconds: float) -> None:
        """Move on."""
        with self._changed:
            self._move_to(self._monotonic_s + seconds)


class Env:
    """An environment of its own for the parent id."""

    def __init__(self) -> None:
        self.said: str | None = None

    def read(self) -> str | None:
        """What it says."""
        return self.said

    def write(self, said: str | None) -> None:
        """Change it."""
        self.said = said


class Trial:
    """One operation on a tracker of its own, with one exception raised in it.

    Args:
        nth: the point at which it is raised.
        error: the exception.
        model: see `tests.support.raising`.
        folder: where a journal, a CSV file and timelines are kept; None: only in memory.
        scope: the tracker's scope.
        spans: which spans have rows.

    Attributes:
        runs: how often a body that is called `STOPPED` has begun.
        tries: how often one was meant to run.
        broken: the promises that did not hold.
    """

    def __init__(
        self,
        nth: int,
        error: BaseException,
        *,
        model: Model = "line",
        folder: Path | None = None,
        scope: str = "machine",
        spans: str = "roots",
    ) -> None:
        self.clock = StillClock()
        self.sink = MemorySink()
        self.folder = folder
        self.environment = Env()
        self._options = scope, spans
        self.spans_with_rows = spans
        self.tracker = self._new_tracker()
        self.error = error
        self.raiser = Raiser(nth, error, model=model, on_hit=self._at_hit)
        self.spans: list[Span] = []
        self.runs = self.tries = 0
        self.rowless = False
        """Whether the bodies have no rows of their own."""
        self.final = False
        """Whether the operation closes the tracker, so that the next one is another tracker."""
        self.statuses: set[str] | None = None
        """The statuses that the rows may have; None: by the exception."""
        self.find: Callable[[], list[Span]] = list
        """Finds the spans that are open only inside of the operation."""
        self.broken: list[str] = []
        self._unraisable: list[Any] = []
        self._was_open = True
        self._saw: BaseException | None = None

    # -- for operations ---------------------------------------------------------------------

    @property
    def place(self) -> Place | None:
        """Where the exception was raised."""
        return self.raiser.place

    @property
    def session(self) -> Session:
        """The tracker's session."""
        return self.tracker.session

    def span(self, name: str = STOPPED, **more: Any) -> Span:
        """A span of the tracker, whose end is checked."""
        span = self.tracker.span(name, **more)
        return self.watch(span)

    def watch(self, span: Span) -> Span:
        """Check later that this span has ended."""
        self.tries += span.name == STOPPED
        self.spans.append(span)
        return span

    def ran(self, span: Any = None) -> None:
        """The body runs."""
        self.runs += 1
        if isinstance(span, Span) and span not in self.spans:
            self.spans.append(span)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Raise inside of this; the program catches it at the end of the block."""
        hook, sys.unraisablehook = sys.unraisablehook, self._unraisable.append
        try:
            with self.raiser:
                yield
        except Hung:
            raise
        except BaseException as error:
            self._saw = error
            if error is not self.error:
                self.broken.append(f"the program saw {type(error).__name__}: {error}")
        else:
            if self.place is not None and not self._could_not_pass():
                self.broken.append(f"the exception was swallowed{_catcher(self.error)}")
        finally:
            sys.unraisablehook = hook

    def _could_not_pass(self) -> bool:
        """Whether the interpreter itself could not pass it on, in a finalizer of the program's."""
        return could_not_pass(self._unraisable, self.error)

    def _at_hit(self) -> None:
        spans = [span for span in [*self.spans, *self.find()] if span.name == STOPPED]
        self._was_open = not spans or any(span.is_open for span in spans)

    # -- afterwards -------------------------------------------------------------------------

    def check_inside(self, around: Span) -> None:
        """In a block that goes on after the exception, it is current, and holds what comes."""
        self.expect(carbontrack.current_span() is around, "the block around is not current")
        with carbontrack.track("inside") as inside:
            pass
        self.expect(inside.parent is around, "a later block is not inside the one around")
        self.expect(not inside.is_open, "a later block inside is left open")

    def check(self) -> None:
        """Everything that must hold once the program goes on."""
        self.error.__traceback__ = None  # the program has handled it
        self._saw = None
        here = carbontrack.current_span()
        self.expect(here is None, f"{here!r} is current")
        for span in self.spans:
            self.expect(not span.is_open, f"{span!r}")
        is_real = self.place is None or self.place.is_real
        if is_real:
            for found in left_open(self.tracker):
                self.broken.append(f"left open: {found}")
        free = self.expect(not is_real or _is_free(self.tracker), "the sampler's lock is held")
        if self.final:
            self._close()
            self.tracker = self._new_tracker()
        self._check_later(free=free and is_real)
        self.expect(self.environment.said is None, "the environment still names a parent")
        if free:
            self._end()

    def _check_later(self, *, free: bool) -> None:
        if free:
            with_thread = threading.Thread(
                target=contextvars.Context().run, args=(self._later, "thread"), daemon=True
            )
            with_thread.start()
            with_thread.join(_PATIENCE_S)
            if not self.expect(not with_thread.is_alive(), WAITS):
                return
        self._later("main")

    def _later(self, where: str) -> None:
        try:
            name = f"{LATER} {where}"
            with carbontrack.track(name, tracker=self.tracker) as block:
                self.expect(carbontrack.current_span() is block, "a later block is not current")
            with self.tracker.span(name) as span:
                pass
            self.expect(block.parent is span.parent is None, "a later block is no root")
            call = carbontrack.track(f"{name} call", tracker=self.tracker)(lambda: self.clock)
            self.expect(call() is self.clock, "a later call does not return")
            self.expect(carbontrack.current_span() is None, "something is current after a call")
        except Hung:
            raise
        except BaseException as error:
            self.broken.append(f"a later block or call raises {type(error).__name__}: {error}")

    def _close(self) -> None:
        try:
            self.tracker.close()
            self.tracker.close()
        except Hung:
            raise
        except BaseException as error:
            self.broken.append(f"a later close raises {type(error).__name__}: {error}")

    def _end(self) -> None:
        self._close()
        records = [*self.sink.records]
        self._check_ids(records)
        self._check_rows(records)
        if self.folder is not None:
            self._check_files(self.folder)

    def _check_ids(self, records: list[Record]) -> None:
        twice = [one for one, n in Counter(r.record_id for r in records).items() if n > 1]
        names = sorted({r.name for r in records if r.record_id in twice})
        self.expect(not twice, f"written twice: {', '.join(names)}")

    def _check_rows(self, records: list[Record]) -> None:
        rows = Counter(record.name for record in records)
        threads = ("main", "thread") if self.place is None or self.place.is_real else ("main",)
        for where in threads:
            name = f"{LATER} {where}"
            self.expect(rows[name] == 2, f"{rows[name]} of 2 rows of later blocks ({where})")
            calls = sum(r.calls or 1 for r in records if r.name == f"{name} call")
            self.expect(calls == 1, f"{calls} of 1 later calls are counted ({where})")
        parents = {r.parent_id for r in records if r.name.startswith(LATER)} - {None}
        self.expect(not parents, "the row of a later block has a parent")
        mine = [record for record in records if record.name == STOPPED]
        if not self.rowless:
            count = sum(record.calls or 1 for record in mine)
            self.expect(
                self.runs <= count <= self.tries,
                f"{count} rows or calls where {self.runs} bodies ran in {self.tries} tries",
            )
        self._check_statuses({record.status for record in mine})

    def _check_statuses(self, found: set[str]) -> None:
        allowed = self.statuses
        if allowed is None:
            stopped = "interrupted" if isinstance(self.error, KeyboardInterrupt) else "error"
            # one whose end did not begin is ended by the next edge, which does not know the error
            allowed = {stopped, "interrupted"}
            if self.place is None or not self._was_open:
                allowed.add("ok")
        self.expect(found <= allowed, f"the status is {', '.join(sorted(found - allowed))}")

    def _check_files(self, folder: Path) -> None:
        with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
            written = [row["record_id"] for row in csv.DictReader(file)]
        twice = len(written) - len(set(written))
        self.expect(not twice, f"{twice} records are in the CSV file twice")
        missing = {r.record_id for r in self.sink.records} - set(written)
        names = sorted({r.name for r in self.sink.records if r.record_id in missing})
        names = [name for name in names if name.startswith(LATER)]
        self.expect(not names, f"not in the CSV file: {', '.join(names)}")
        again = {found.record.record_id for found in recover(folder / "state")}
        self.expect(not again & set(written), "a written record is recovered as well")

    def expect(self, holds: bool, otherwise: str) -> bool:
        if not holds:
            self.broken.append(otherwise)
        return holds

    @property
    def has_hung(self) -> bool:
        """Whether something waited in vain, so that the process's own locks may be held."""
        return HANGS in self.broken or WAITS in self.broken

    # -- the tracker ------------------------------------------------------------------------

    def _new_tracker(self) -> Tracker:
        scope, spans = self._options
        meters = [FakeMeter(watts=100.0)]
        sampler = Sampler(meters, interval_s=3600.0, clock=self.clock)
        ledger = Ledger(Attribution(scope), Fixed.of(100.0))  # type: ignore[arg-type]
        builder = RecordBuilder(Resource(), ledger, sampler)
        more: dict[str, Any] = {"sinks": [self.sink]}
        if self.folder is not None:
            output = self.folder / "runs.csv"
            journal = Journal(self.folder / "state", self.clock)
            more = {
                "sinks": [CsvSink(output), self.sink],
                "checkpoints": Checkpoints(journal, (str(output),), 1.0),
                "timelines": TimelineFiles([output]),
                "propagator": Propagator(self.environment.read, self.environment.write),
            }
        session = Session(builder, spans=spans, **more)  # type: ignore[arg-type]
        return Tracker.of(session, owns_sampler=True)


def could_not_pass(unraisable: list[Any], error: BaseException) -> bool:
    """Whether an exception was lost at the end of a generator or coroutine, or in a `__del__`.

    What is lost in the callback of a weak reference, as those of a `WeakSet`, was swallowed by us.
    """
    for one in unraisable:
        if one.exc_value is error:
            name = getattr(one.object, "__name__", "")
            return isgenerator(one.object) or iscoroutine(one.object) or name == "__del__"
    return False


def forget_locks() -> None:
    """Make the process's own locks new, or one fault would be found again in all that follows."""
    forking._imports.reset()
    PROVIDER.forget_parent()


def left_open(tracker: Tracker) -> list[str]:
    """What of the tracker's own counters says that something is still open."""
    session, sampler = tracker.session, tracker.session.sampler
    apportioner: Any = sampler.apportioner
    windows = [site for site in session.sites.living() if site.window is not None]
    found = {
        "open roots": len(session._open_roots),
        "leaves": sampler.leaves,
        "holds beside those of summed calls": len(sampler.holders) - len(windows),
        "holds of the ledger": len(session.ledger.holders) - len(windows),
        "running calls": len(sampler.under_way),
        "suspended or long calls": len(apportioner.single) if apportioner is not None else 0,
    }
    return [f"{number} {name}" for name, number in found.items() if number]


def _is_free(tracker: Tracker) -> bool:
    lock: Any = tracker.session.sampler.lock
    return not lock._is_owned()


def _catcher(error: BaseException) -> str:
    """In which function, and at which call, an exception was caught."""
    trace = error.__traceback__
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f" in {getattr(code, 'co_qualname', code.co_name)}, line {trace.tb_lineno}"


Operation = Callable[[Trial], None]


def try_at(nth: int, operation: Operation, error: BaseException, **options: Any) -> Trial:
    """Interrupt an operation at one point, in a context of its own, and check what is left."""
    trial = Trial(nth, error, **options)

    def run() -> None:
        operation(trial)
        try:
            trial.check()
        except Exception as error:
            trial.broken.append(f"afterwards {type(error).__name__} is raised: {error}")

    def give_up(*_: object) -> None:
        raise Hung

    gc.disable()  # a finalizer of an earlier trial would run here, and be interrupted
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _LIMIT_S)
    try:
        without_a_trace(lambda: contextvars.copy_context().run(run))
    except Hung:
        trial.broken.append(HANGS)
    finally:
        if trial.has_hung:
            forget_locks()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
        if nth % 50 == 0:
            gc.collect()
    return trial
