"""The edges of a span: how it opens and closes, even if a signal handler raises."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from sys import is_finalizing, modules
from typing import Any, ClassVar, TypeVar

from carbontrack.record import Record, Status, unmeasured_record
from carbontrack.sampling.ledger import Mark
from carbontrack.system.forking import holding_forks
from carbontrack.system.interrupts import attempt, from_outside
from carbontrack.system.reentrance import here, pass_through
from carbontrack.tracking.apportion import OWN_ROW_S, PriorUsage
from carbontrack.tracking.block import outcome_of
from carbontrack.tracking.checkpoints import Checkpoint, OpenRow
from carbontrack.tracking.context import current, innermost, nearest_open, running_task
from carbontrack.tracking.handle import dead, end_abandoned, end_later
from carbontrack.tracking.outliving import (
    follow_parents,
    hand_over,
    keep_around,
    keep_awake_for,
    leave_overlapping,
    release,
)
from carbontrack.tracking.record_builder import WHOLE_S, EndStatus, rfc3339
from carbontrack.tracking.session import NO_PARENT
from carbontrack.tracking.span_row import OK, SpanRow
from carbontrack.tracking.tree import NO_SPANS, recount

Opening = TypeVar("Opening", bound="SpanEdges")

_NOTHING_LEFT: list[Sequence[Any]] = []
_log = logging.getLogger("carbontrack")


class SpanEnd(SpanRow):
    """The end of a span; see `SpanEdges`.

    Attributes:
        on_close: called with every span that was just closed, in the thread and context that closed
            it; it must not raise. None: there is no callback.
    """

    on_close: ClassVar[Callable[[Any], None] | None] = None
    is_block = False  # whether it was opened by `with`, which will close it
    has_passed = False  # whether it was let through unmeasured
    _is_torn = False  # whether a handler has raised in a change of the tree
    _before: Any = None  # what was the current span or call when it was opened
    _held: Sequence[Record] = ()
    _left: list[Sequence[Any]] = _NOTHING_LEFT
    """While its row is to be written: the spans that outlive it."""

    @property
    def is_open(self) -> bool:
        """Whether the span is being counted, in this process."""
        return self._end is None and self._epoch == self.session.sampler.epoch

    @property
    def is_of_parent(self) -> bool:
        """Whether it was opened before this process was forked."""
        return bool(self._epoch != self.session.sampler.epoch)

    @property
    def record(self) -> Record | None:
        """The finished record; None while the span is open, and in a forked child."""
        if self.has_passed:
            return self._unmeasured()
        if self._record is None and self._end is not None:
            window, error = self._window, None
            if window is None:
                window, error = attempt(self._window_of, *self._sealed)
            if window is None:  # a property of a plugin's meter has failed, for instance
                self._give_up(error)
                return None
            record = self._build(self._end, window, self._outcome)
            self._record = record if self.budget_check is None else self.budget_check(record)
        return self._record

    def _unmeasured(self) -> Record:
        now = rfc3339(self.session.sampler.clock.now_utc())
        return unmeasured_record(self.name, self.labels, (now, now))

    def _look(self) -> None:
        """Read what an edge needs, if that may take a while; no lock is held."""
        session = self.session
        if session.ledger.waits_for_grid:
            session.ledger.refresh(session.sampler.clock)
        if self._parent is None and session.remote_parents is not None:
            session.look_for_parents()

    def _repair(self) -> None:
        """A handler has raised in a change of the open spans; the sampler's lock is held."""
        session = self.session
        self._is_torn = True
        if self._start is None:  # it has not begun, so there is nothing to be ended
            session.sampler.release(session.ledger, self)
        recount(session.sampler)

    def close(self, status: Status = "ok", error: str | None = None) -> None:
        """Stop counting, and write the record of a root. A second call does nothing."""
        outcome = OK if status == "ok" and error is None else EndStatus(status, error)
        if here.thread.busy or is_finalizing():  # see `must_pass`
            end_later(self, outcome)
        elif SpanEnd.on_close is None or self._end is not None:
            self.end_here(outcome)
        else:
            self.end_here(outcome)
            SpanEnd.on_close(self)

    def end_here(self, outcome: EndStatus, *, written: bool = True) -> None:
        """Close it, in the middle of an edge of its own call too."""
        thread = here.thread
        was_busy = thread.busy
        try:
            if dead and not was_busy:  # one inside of it, for instance
                end_abandoned()
            thread.busy = True
            self._finish(outcome, written=written)
            thread.busy = was_busy
            if dead and not was_busy:  # what a finalizer has ended meanwhile
                end_abandoned()
        except BaseException as error:
            thread.busy = was_busy
            outside = from_outside(error) if isinstance(error, Exception) else error
            if outside is None:
                self._give_up(error)
                return
            self._outcome = again = EndStatus(*outcome_of(outside))
            self._finish(again, written=written)
            try:
                raise outside
            finally:
                del outside  # its traceback refers to this frame

    def _give_up(self, error: BaseException | None) -> None:
        _log.error("the end of span %r could not be counted", self.name, exc_info=error)
        # it has ended all the same; its last checkpoint will be recovered
        self.given_id, self._epoch = self.record_id, -1
        with self.session.sampler.lock:
            self.session.sampler.release(self.session.ledger, self)
            recount(self.session.sampler)
        self.session.forget_root(self)
        if current.get() is self:
            current.set(_skip_closed(self._before))

    def checkpoint(self) -> Checkpoint | OpenRow | None:
        """The checkpoint of an open span; None once it has ended."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """The program ends: close as interrupted, the spans inside first."""
        raise NotImplementedError

    def _finish(self, outcome: EndStatus, *, written: bool) -> None:
        """End it, from wherever an earlier call was interrupted."""
        session, parent = self.session, self._parent
        if self._end is None:
            sampler = session.sampler
            if self._epoch != sampler.epoch:  # it is not open
                self.handle = None
                return
            if parent is None or session.ledger.waits_for_grid:
                self._look()
            with sampler.lock:
                if self._end is None:  # another thread may just have closed it
                    try:
                        self._stop(outcome)
                    except BaseException:
                        self._repair()
                        raise
        self.handle = None
        left = self._left and self._left[:1]  # where another thread writes the row, nothing
        if current.get() is self:
            before = self._before
            current.set(before if before is parent else _skip_closed(before))
        elif left and left[0]:
            leave_overlapping(self)
        if left:
            session.sampler.uninterrupted(partial(self._write_rows, written=written))

    def _write_rows(self, *, written: bool) -> None:
        try:
            outliving = self._left.pop()
        except IndexError:  # another thread does it, or has done it
            return
        session = self.session
        for record in self._held:
            session.deliver(record)
        for span in outliving:
            if span.parent is None:
                session.keep(span)
        site = self.call_site if self.ended.duration_s < OWN_ROW_S else None
        written = written and site is None
        has_row = written and session.sinks and (self._parent is None or session.spans == "all")
        if has_row and self._parent is not None:
            keep_around(self)
        ended = self.row_id, self.ended.end.at_s
        session.span_closed(self, self.record if has_row else None, ended, written=written)
        if site is not None:
            site.credit_span(self)

    def _stop(self, outcome: EndStatus) -> None:
        """Take the last mark, and make what outlives the span independent of it.

        The sampler's lock is held.
        """
        session, sampler = self.session, self.session.sampler
        if self.covered:
            keep_awake_for(self)
        before = sampler.counts
        mark = sampler.mark(session.ledger)
        held: Sequence[Record] = ()
        if self._parent is None and session.remote_parents is not None:
            held = follow_parents(self, session.remote_parents, mark, is_end=True)
        if self._is_torn:
            self._window = None
            self.finish_leaving(mark)
            recount(sampler)
        self.leave_tree(mark)
        # what can only be known now; the record is built when it is needed
        start, now_s = self._start.counts, mark.counts.at_s  # type: ignore[union-attr]
        is_whole = before is start
        gap_s = WHOLE_S if is_whole else sampler.history.longest_gap_s(start.at_s, now_s)
        now = sampler.clock.now_utc()
        self._sealed = mark, (gap_s, now, session.ledger.intensity(now), sampler.history.powers)
        has_row = self._parent is None or session.spans == "all"
        if has_row or self.spans_inside or self.call_site or self.covered:
            self._stop_row(outcome, mark, held)
        else:
            # at once: from now on any thread may build the record
            self._outcome, self._end = outcome, mark

    def _stop_row(self, outcome: EndStatus, mark: Mark, held: Sequence[Record]) -> None:
        """The end of a span that has a row, or that something outlives."""
        outliving, sampler = tuple(self.spans_inside), self.session.sampler
        self.extend_timeline(mark)
        if self._row_id is not None:
            self._claim_row_id()
        if outliving:
            held = [*held, *hand_over(self, outliving, mark)]
        if self.covered:
            release(self, mark.counts.at_s)
        if self._parent is None:
            sampler.release(self.session.ledger, self)
        is_inner = self._parent is not None and self.session.spans == "roots"
        left: list[Sequence[Any]] = [outliving]
        if is_inner and not (outliving or held or self.call_site):
            left = _NOTHING_LEFT
        self._window = self._window_of(*self._sealed)
        # last, and at once: from now on any thread may build the record, and write it
        ended = outcome, mark, held, left, NO_SPANS
        self._outcome, self._end, self._held, self._left, self.spans_inside = ended


class SpanEdges(SpanEnd):
    """The start and the end of a span.

    A signal handler may raise at any line of an edge. Each edge therefore first completes its state
    and then publishes it in one statement, and can be repeated from the start: `open` and `close`
    do so, and then let the exception through.
    """

    def enter(self: Opening) -> Opening:
        """Enter the block; see `BudgetedBlock.enter`."""
        self.is_block = True
        opened: Opening = super().enter()
        return opened

    def open(self: Opening) -> Opening:
        """Start counting. A second call does nothing."""
        if self._start is not None:
            return self
        thread = here.thread
        if thread.busy or is_finalizing():  # see `must_pass`
            self.has_passed = True
            pass_through(self.name)
            return self
        try:
            if dead:
                end_abandoned()
            thread.busy = True
            self._open()
            thread.busy = False
            return self  # noqa: TRY300 - a handler of a signal may raise here too
        except BaseException as error:
            thread.busy = False
            self.close(*outcome_of(error))
            raise

    def _open(self) -> None:
        session, parent = self.session, self._parent
        sampler, ledger = session.sampler, session.ledger
        if ledger.waits_for_grid:
            ledger.refresh(sampler.clock)
        elsewhere, task = NO_PARENT, None
        if parent is None:
            elsewhere, task = session.parent_now(), _task_here()
        with sampler.lock:  # the parent too: it may end in another thread
            try:
                if parent is None or not parent.is_open:
                    parent = self._parent = _parent_of(self)
                if parent is None:
                    self.task = self.task or task
                    mark = self._begin_root(elsewhere)
                else:
                    mark = sampler.mark_inside(ledger)
                    self._number = next(session.numbers)
                    if parent.call_site is not None:
                        self._parent_id = parent.row_id
                    if self.budget_guard is not parent.budget_guard:
                        self._begin_budget(parent, sampler)
                self._started_at = sampler.clock.now_utc()
                self._start, self._epoch = mark, session.epoch
                self.join_tree()
                if parent is None:
                    session.root_opened(self)
            except BaseException:
                self._repair()
                raise
        if parent is None:
            session.keep_first(self)
        before = current.get()
        self._before = before if before is parent else _skip_closed(before)
        current.set(self)

    def _begin_root(self, elsewhere: tuple[str | None, bool | None]) -> Mark:
        """The first mark of a root, whose parent in another process is given."""
        session = self.session
        self._parent_id, self._holds = elsewhere
        mark = session.sampler.hold(session.ledger, self)
        self._number = session.new_number()
        if self.budget_guard is not None:
            self._begin_budget(None, session.sampler)
        return mark

    def continue_from(self, use_so_far: Callable[[], PriorUsage]) -> None:
        """Open as a root with what a call has used so far; the sampler's lock is held.

        One reading ends what the call has used and begins what the span will use: nothing is
        between them.
        """
        session, sampler = self.session, self.session.sampler
        tasks = modules.get("carbontrack.tracking.task")  # nothing is imported under a lock
        self.task = None if tasks is None else tasks.task_here()
        try:
            now = self._begin_root(session.parent_now(looks=False))
            used = use_so_far()
            self._started_at = sampler.clock.now_utc() - timedelta(seconds=used.began_ago_s)
            self._sums, self._since = used.sums, now
            self._start, self._epoch = used.start(now), session.epoch
            self.join_tree()
            session.root_opened(self)
        except BaseException:
            self._repair()
            raise


def _task_here() -> Any:
    """The task of a framework that runs here, if one may be known."""
    if running_task.get() is None and "pyspark" not in modules:
        return None
    with holding_forks():
        from carbontrack.tracking.task import task_here  # loaded only where there may be one
    return task_here()


def _parent_of(span: Any) -> Any:
    """The open span that becomes a span's parent, if any."""
    session = span.session
    around = span.parent or innermost()
    if around is None or around.session is not session:
        return None
    return nearest_open(around)


def _skip_closed(around: Any) -> Any:
    # A span that was closed in another context is still referenced in this one; keeping it would
    # build a chain of all spans ever opened here.
    while getattr(around, "_end", None) is not None:  # a call has none
        around = around._before
    return around
