"""The span: a named window of time between two marks, with a parent.

A span reads no meters. Its energy is that of its own time as a leaf plus that of its children, so
nested and overlapping spans add up to what the process used, and no joule is in two leaves.

Every open leaf is credited the same at each instant (see `carbontrack.sampling.ledger`), so a span
gets that amount times the number of leaves below it; a span without children is a leaf itself.
Arithmetic is needed only when this number changes. A child that opens in a leaf replaces it as a
leaf, and the number stays the same.

`Node` is the arithmetic of the tree, `Span` what users see, and the functions at the end find the
current span.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from carbontrack.record import Record, Status, checked_labels, checked_name, plain_html, record_html
from carbontrack.sampling.ledger import NOTHING, Mark, Sums, sub_joules
from carbontrack.system.clock import Clock
from carbontrack.system.interrupts import from_outside
from carbontrack.system.reentrance import here, must_pass, pass_through
from carbontrack.tracking.apportion import OWN_ROW_S, PriorUsage
from carbontrack.tracking.block import BudgetedBlock, outcome_of
from carbontrack.tracking.context import current, innermost, nearest_open
from carbontrack.tracking.handle import dead, end_abandoned, end_later
from carbontrack.tracking.outliving import (
    follow_parents,
    hand_over,
    keep_around,
    keep_awake_for,
    leave_overlapping,
    release,
)
from carbontrack.tracking.record_builder import EndStatus, Subject, Window
from carbontrack.tracking.session import NO_PARENT, Checkpoint, Session
from carbontrack.tracking.tree import Node, recount

if TYPE_CHECKING:  # loaded only where they are asked for
    from carbontrack.tracking.timeline import PowerRow, PowerSeries

_log = logging.getLogger("carbontrack")
_OK = EndStatus("ok")


class SpanRow(BudgetedBlock["Span"]):
    """The row of a span: from when it counts, under which id, and whose row contains it."""

    _row_id: str | None = None
    has_row_id = False  # whether a call has the id of the row that was meant for summed calls
    is_kept = False  # whether an inner span has a checkpoint
    first_id: str | None = None  # the id of its first checkpoints
    power_series: PowerSeries | None = None
    """The energy over time; None where no timeline is kept."""
    parent_holds: bool | None = None
    """Whether the record of the parent contains this span's energy; None where there is none."""
    covered: set[Any] | None = None
    """The decorated calls that the span counts."""

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        labels: Mapping[str, Any] | None = None,
        parent: Span | None = None,
    ) -> None:
        self.name = checked_name(name)
        self.labels: Mapping[str, Any] = checked_labels(labels) if labels else {}
        self.record_id: str | None = None
        self.session = session
        """The session of the span's tracker."""
        self._parent = parent
        self.parent_id: str | None = None
        """The `record_id` of the parent, as written in its record."""
        self._epoch = -1
        self._before: Any = None
        self._start: Mark | None = None
        self.node: Node | None = None
        """Its place in the tree of open spans, once it has been opened."""
        self._end: Mark | None = None
        self.call_site: Any = None
        # the `CallSite` of a decorated call gets the span if it is short, instead of a row
        self.budget_check: Callable[[Record], Record] | None = None
        """Called with the finished record before it is written; marks one over its budget."""
        self._window: Window
        self._record: Record | None = None
        self._outcome = _OK
        self._left: list[Sequence[Span]] = []
        """While its row is to be written: the spans that outlive it."""

    @property
    def row_id(self) -> str | None:
        """The id of the row that will contain the span: the parent id of what is inside.

        A short call of a decorated function is part of the row of its summed calls.
        """
        if self.call_site is None or self.has_row_id:
            return self.record_id
        if self._row_id is None:
            row_id = self.call_site.row_id()
            if self.is_inside_row(row_id):  # recursion: no row may be inside itself
                self.call_site = None
                return self.record_id
            self._row_id = row_id
        return self._row_id

    def row_parent(self) -> tuple[str | None, bool | None]:
        """The id of the row that contains a decorated call, and whether it does."""
        around = self._parent
        if around is None:
            return self.parent_id, self.parent_holds
        while self.session.spans == "roots" and around._parent is not None:
            around = around._parent  # spans inside have no row
        return around.row_id, True

    def is_inside_row(self, row_id: str | None) -> bool:
        """Whether this is the row of a decorated call around this span."""
        around = self._parent
        while around is not None and (row_id is None or around._row_id != row_id):
            around = around._parent
        return around is not None

    def _claim_row_id(self) -> None:
        """Write a long call under the id that others know as their parent's, unless it is taken."""
        site = self.call_site
        if self._window.duration_s >= OWN_ROW_S and site is not None and site.claim(self._row_id):
            self.record_id = self._row_id

    def _take_ids(self, started_at: datetime) -> None:
        self._run_id, record_id = self.session.new_ids()
        self.first_id = self.record_id = self.record_id or record_id
        self._started_at = started_at

    def _seal(self, mark: Mark) -> None:
        """Capture what can only be known now; the record is built when it is needed."""
        assert self._start is not None
        start, end, node = self._start.counts, mark.counts, self.node
        machine_j, ran_s = sub_joules(end.energy_j, start.energy_j), end.at_s - start.at_s
        if node is not None and node.paused_s:
            machine_j, ran_s = sub_joules(machine_j, node.paused_j), ran_s - node.paused_s
        self._window = self.session.builder.window(start, end, ran_s, machine_j)

    def sums(self, mark: Mark) -> Sums:
        """The span's energy and emissions by `mark`."""
        return self.node.total(mark) if self.node is not None else NOTHING

    def _build(self, mark: Mark, outcome: EndStatus) -> Record:
        ids = (self.record_id or "", self._run_id, self.parent_id, self.parent_holds)
        return self._record_of(ids, mark, outcome)

    def _record_of(
        self, ids: tuple[str, str, str | None, bool | None], mark: Mark, outcome: EndStatus
    ) -> Record:
        subject = Subject(*ids, self.name, self.labels, self._started_at)
        return self.session.builder.build(subject, self._window, self.sums(mark), outcome)

    def begin_timeline(self) -> None:
        """Keep a timeline from the span's start on."""
        assert self._start is not None
        from carbontrack.tracking.timeline import PowerSeries  # loaded only if needed

        self.power_series = PowerSeries.begin(self._start.counts)

    def extend_timeline(self, mark: Mark) -> None:
        """Add a mark to the timeline, if one is kept; the sampler's lock is held."""
        if self.power_series is not None and self._end is None:
            self.power_series.extend(mark.counts, self.sums(mark).ours_j)

    @property
    def began(self) -> tuple[Mark, datetime]:
        """The mark at which its row begins, and when that was."""
        assert self._start is not None
        return self._start, self._started_at

    def change_parent(
        self, parent: Span | None, parent_id: str | None, *, holds: bool | None
    ) -> None:
        """Have another parent from now on, with its budget."""
        self._parent, self.parent_id, self.parent_holds = parent, parent_id, holds
        guard, outer = self.budget_guard, None if parent is None else parent.budget_guard
        if guard is not None and guard.guards(self):
            guard.outer = outer
        elif guard is not None:
            self.budget_guard = outer

    def record_until(
        self, mark: Mark, at: datetime, parent: tuple[str | None, bool | None]
    ) -> Record:
        """The record of the time until `mark`, which was at `at`, with an id of its own."""
        self._seal(mark)
        self._window = self._window._replace(ended_at=at)
        run_id, record_id = self.session.new_ids()
        return self._record_of((record_id, run_id, *parent), mark, _OK)

    @property
    def ended(self) -> Window:
        """The window of its row, once that has ended."""
        return self._window

    def restart(self, mark: Mark, at: datetime) -> None:
        """Count from `mark` on, which was at `at`; what was used before is in another row."""
        assert self.node is not None
        if self.budget_guard is not None and self.budget_guard.guards(self):
            self.budget_guard.add_earlier(self.record_until(mark, at, (None, None)))
        self._start, self._started_at = mark, at
        self.node.restart(mark)
        if self.power_series is not None:
            self.begin_timeline()

    def time_of(self, mark: Mark) -> datetime:
        """The wall-clock time of a mark that was made just now, or some time ago."""
        ago_s = self.session.sampler.counts.at_s - mark.counts.at_s
        return self.session.sampler.clock.now_utc() - timedelta(seconds=ago_s)


class Span(SpanRow):
    """A named window of time whose energy and emissions are counted.

    Made by `Tracker.span`, `Span.span` and `track`; opened and closed by `with` or `async with`, or
    by `open` and `close`, in the same thread or in another.

    Attributes:
        name: the name in its records.
        labels: the user's own labels, written as JSON.
        record_id: the id of its record; None before it is opened.
    """

    is_block = False  # whether it was opened by `with`, which will close it
    has_passed = False  # whether it was let through unmeasured
    _is_torn = False  # whether a handler has raised in a change of the tree
    _held: Sequence[Record] = ()

    def span(self, name: str, *, labels: Mapping[str, Any] | None = None) -> Span:
        """A child of this span, to be opened with `with`; its energy is part of this one's."""
        return Span(self.session, name, labels=labels, parent=self)

    @property
    def parent(self) -> Span | None:
        """The enclosing span; None for a root."""
        return self._parent

    around = parent

    @property
    def clock(self) -> Clock:
        """The clock that times the span."""
        return self.session.sampler.clock

    @property
    def is_open(self) -> bool:
        """Whether the span is being counted, in this process."""
        begun = self._start is not None and self._end is None
        return begun and self._epoch == self.session.sampler.epoch

    @property
    def record(self) -> Record | None:
        """The finished record; None while the span is open, and in a forked child."""
        if self.has_passed:
            return self._unmeasured()
        if self._record is None and self._end is not None:
            record = self._build(self._end, self._outcome)
            self._record = record if self.budget_check is None else self.budget_check(record)
        return self._record

    def snapshot(self) -> Record:
        """A record of the span so far, from any thread; the final record once it has ended.

        Raises:
            RuntimeError: the span has not been opened.
        """
        if self.has_passed:
            return self._unmeasured()
        if self._start is None:
            raise RuntimeError(f"span {self.name!r} has not been opened yet; use `with`")
        with self.session.sampler.lock:
            if self._end is None:  # another thread may just have closed it
                mark = self._mark()
                self._seal(mark)
                return self._build(mark, _OK)
        record = self.record
        assert record is not None
        return record

    def timeline(self) -> list[PowerRow]:
        """Power over time so far, a row for each bin and component, in order of time.

        Only a root span opened with the setting `timeline` keeps one; for others, and before the
        span is opened, the list is empty. The energies of a component add up to the record's.
        """
        if self.power_series is None:
            return []
        from carbontrack.tracking.timeline import with_timeline

        return with_timeline(self)[1].rows()

    def enter(self) -> Span:
        """Enter the block; see `BudgetedBlock.enter`."""
        self.is_block = True
        return super().enter()

    def open(self) -> Span:
        """Start counting. A second call does nothing."""
        if self._start is not None:
            return self
        if must_pass():
            self.has_passed = True
            pass_through(self.name)
            return self
        try:
            if dead:
                end_abandoned()
            here.busy = True
            self._open()
            here.busy = False
            return self
        except BaseException as error:
            here.busy = False
            self.close(*outcome_of(error))
            raise

    def _open(self) -> None:
        session, sampler = self.session, self.session.sampler
        if session.ledger.waits_for_grid:
            session.ledger.refresh(sampler.clock)
        elsewhere = NO_PARENT if self._parent is not None else session.parent_now()
        with sampler.lock:  # the parent too: it may end in another thread
            try:
                self._begin(elsewhere)
            except BaseException:
                self._repair()
                raise
        if self._parent is None and session.keeps_checkpoints:
            sampler.uninterrupted(partial(session.keep, self))
        self._before = _skip_closed(current.get())
        current.set(self)

    def _begin(self, elsewhere: tuple[str | None, bool | None]) -> None:
        session, sampler = self.session, self.session.sampler
        parent = self._parent = _parent_of(self)
        self.parent_id, self.parent_holds = elsewhere if parent is None else (parent.row_id, True)
        mark = sampler.hold(session.ledger, self)
        self._take_ids(sampler.clock.now_utc())
        self._begin_budget(parent, sampler)
        node = Node(self, parent.node if parent is not None else None, mark)
        self._start, self._epoch, self.node = mark, sampler.epoch, node
        node.join()
        if parent is None:
            session.root_opened(self)

    def _repair(self) -> None:
        """A handler has raised in a change of what is open; the sampler's lock is held."""
        session = self.session
        self._is_torn = True
        if self._start is None:  # it has not begun, so there is nothing to be ended
            session.sampler.release(session.ledger, self)
        recount(session.sampler)

    def close(self, status: Status = "ok", error: str | None = None) -> None:
        """Stop counting, and write the record of a root. A second call does nothing."""
        self._close(EndStatus(status, error))

    def _close(self, outcome: EndStatus, *, written: bool = True) -> None:
        if must_pass():
            end_later(self, outcome)
            return
        try:
            here.busy = True
            self._finish(outcome, written=written)
            here.busy = False
            if dead:
                end_abandoned()
        except BaseException as error:
            here.busy = False
            outside = from_outside(error) if isinstance(error, Exception) else error
            if outside is None:
                self._give_up()
                return
            self._outcome = again = EndStatus(*outcome_of(outside))
            self._finish(again, written=written)
            raise outside

    def _give_up(self) -> None:
        _log.exception("the end of span %r could not be counted", self.name)
        self._epoch = -1  # it has ended all the same; its last checkpoint will be recovered
        self.session.forget_root(self)
        if current.get() is self:
            current.set(_skip_closed(self._before))

    def interrupt(self) -> None:
        """The program ends: close as interrupted, the spans inside first."""
        if self.node is not None and self.is_open:
            with self.session.sampler.lock:
                inner = [node.owner for node in self.node.children]
            for span in inner:
                span.interrupt()
        self.close("interrupted")

    def discard(self) -> None:
        """Stop counting and write nothing, as there is nothing to report."""
        self._close(EndStatus("interrupted"), written=False)

    def _finish(self, outcome: EndStatus, *, written: bool) -> None:
        """End it, from wherever an earlier call was interrupted."""
        if self._end is None and not self._has_stopped(outcome):
            return
        self.handle = None
        outlived = self._left[:1] != [[]]  # none are left where another thread has ended it
        if current.get() is self:
            current.set(_skip_closed(self._before))
        elif outlived and self._left:
            leave_overlapping(self)
        if outlived or self._may_have_row():
            write = partial(self._write_rows, written=written)
            self.session.sampler.uninterrupted(write)
        else:
            self._left.clear()

    def _may_have_row(self) -> bool:
        if self._parent is None or self.session.spans == "all":
            return True
        return self.is_kept or self.call_site is not None or bool(self._held)

    def _has_stopped(self, outcome: EndStatus) -> bool:
        """Take the last mark; False if it is not open."""
        if not self.is_open:
            return False
        session, sampler = self.session, self.session.sampler
        if session.ledger.waits_for_grid:
            session.ledger.refresh(sampler.clock)
        session.look_for_parents()
        with sampler.lock:
            if self.node is None or self._end is not None:
                return False
            try:
                self._stop(self.node, outcome)
            except BaseException:
                self._repair()
                raise
        return True

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
        site = self.call_site if self._window.duration_s < OWN_ROW_S else None
        written = written and site is None
        has_row = written and session.sinks and (self._parent is None or session.spans == "all")
        if has_row and self._parent is not None:
            keep_around(self)
        ended = self.row_id, self._window.end.at_s
        session.span_closed(self, self.record if has_row else None, ended, written=written)
        if site is not None:
            site.credit_span(self)

    def _stop(self, node: Node, outcome: EndStatus) -> None:
        """Take the last mark, and make what outlives the span independent of it.

        The sampler's lock is held.
        """
        session = self.session
        if self.covered:
            keep_awake_for(self)
        mark = session.sampler.last_mark(session.ledger, self)
        held = list(self._held)
        if session.remote_parents is not None:
            held += follow_parents(self, session.remote_parents, mark, is_end=True)
        if self._is_torn:
            node.finish_leaving(mark)
            recount(session.sampler)
        outliving = [inner.owner for inner in node.leave(mark)]
        self._seal(mark)
        self.extend_timeline(mark)
        if self._row_id is not None:
            self._claim_row_id()
        if outliving:
            held += hand_over(self, outliving, mark)
        if self.covered:
            release(self, mark.counts.at_s)
        # last, and at once: from now on any thread may build the record, and write it
        self._outcome, self._end, self._held, self._left = outcome, mark, held, [outliving]

    def _unmeasured(self) -> Record:
        from carbontrack.tracking.noop import NoOpSpan

        return NoOpSpan(self.name, labels=self.labels).snapshot()

    def pause(self) -> None:
        """Pause counting while the body of a generator is suspended."""
        with self.session.sampler.lock:
            if self.is_open and self.node is not None:
                try:
                    self.node.pause(self._mark())
                except BaseException:
                    self._repair()
                    raise

    def resume(self) -> None:
        """Resume counting."""
        with self.session.sampler.lock:
            if self.is_open and self.node is not None:
                try:
                    self.node.resume(self._mark())
                except BaseException:
                    self._repair()
                    raise

    def _mark(self) -> Mark:
        return self.session.sampler.mark(self.session.ledger)

    def continue_from(self, used: PriorUsage) -> None:
        """Open as a root with what a call has used so far; the sampler's lock is held."""
        session, sampler = self.session, self.session.sampler
        self.parent_id, self.parent_holds = session.parent_now(looks=False)
        try:
            now = sampler.hold(session.ledger, self)
            self._take_ids(sampler.clock.now_utc() - timedelta(seconds=used.began_ago_s))
            node = Node(self, None, now, used.sums)
            self._start, self._epoch, self.node = used.start(now), sampler.epoch, node
            node.join()
            session.root_opened(self)
        except BaseException:
            self._repair()
            raise

    def measured(self) -> tuple[Sums, Window, datetime, bool]:
        """A finished span's sums, its window, when that began, and whether it failed."""
        assert self._end is not None
        failed = self._outcome.status != "ok"
        return self.sums(self._end), self._window, self._started_at, failed

    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint of an open span; None once it has ended."""
        return self.current_checkpoint() if self.is_open else None

    def current_checkpoint(self) -> Checkpoint:
        """The record so far, or the final one, with its timeline."""
        if self.power_series is None:
            return Checkpoint(self.snapshot())
        from carbontrack.tracking.timeline import timeline_object, with_timeline

        record, timeline = with_timeline(self)
        return Checkpoint(record, timeline_object(record, timeline))

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed" if self._end is not None else "not opened"
        return f"<Span {self.name!r} {state}>"

    def _repr_html_(self) -> str:
        record = self.snapshot() if self.is_open else self.record
        if record is None:
            return plain_html(repr(self))
        return record_html(record, state="still open" if self.is_open else None)


def _parent_of(span: Span) -> Span | None:
    """The open span that becomes a span's parent, if any."""
    session = span.session
    around = span.parent or innermost()
    if around is None or around.session is not session:
        return None
    parent: Span | None = nearest_open(around)
    return parent


def _skip_closed(around: Any) -> Any:
    # A span that was closed in another context is still referenced in this one; keeping it would
    # build a chain of all spans ever opened here.
    while isinstance(around, Span) and around._end is not None:
        around = around._before
    return around
