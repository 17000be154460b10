"""The edges of a span: how it opens and closes, whatever is raised meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from carbontrack.record import Record, Status, unmeasured_record
from carbontrack.system.interrupts import from_outside
from carbontrack.system.reentrance import here, must_pass, pass_through
from carbontrack.tracking.apportion import OWN_ROW_S, PriorUsage
from carbontrack.tracking.block import outcome_of
from carbontrack.tracking.checkpoints import Checkpoint, OpenRow
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
from carbontrack.tracking.record_builder import EndStatus, rfc3339
from carbontrack.tracking.session import NO_PARENT
from carbontrack.tracking.span_row import SpanRow
from carbontrack.tracking.tree import Node, recount

Opening = TypeVar("Opening", bound="SpanEdges")

_log = logging.getLogger("carbontrack")


class SpanEdges(SpanRow):
    """The beginning and the end of a span.

    A handler of a signal may raise at any line of an edge. Each edge therefore first makes its
    state whole and then publishes it in one statement, and can be done again from the beginning:
    `open` and `close` do so, and then let the exception through.
    """

    is_block = False  # whether it was opened by `with`, which will close it
    has_passed = False  # whether it was let through unmeasured
    _is_torn = False  # whether a handler has raised in a change of the tree
    _held: Sequence[Record] = ()

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

    def _unmeasured(self) -> Record:
        now = rfc3339(self.session.sampler.clock.now_utc())
        return unmeasured_record(self.name, self.labels, (now, now))

    def enter(self: Opening) -> Opening:
        """Enter the block; see `BudgetedBlock.enter`."""
        self.is_block = True
        opened: Opening = super().enter()
        return opened

    def open(self: Opening) -> Opening:
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
            return self  # noqa: TRY300 - a handler of a signal may raise here too
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
            sampler.uninterrupted(partial(session.keep_first, self))
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
        else:
            self.end_here(outcome, written=written)

    def end_here(self, outcome: EndStatus, *, written: bool = True) -> None:
        """Close it, in the middle of an edge of its own call too."""
        was_busy = here.busy
        try:
            if dead and not was_busy:  # one inside of it, for instance
                end_abandoned()
            here.busy = True
            self._finish(outcome, written=written)
            here.busy = was_busy
            if dead and not was_busy:  # what a finalizer has ended meanwhile
                end_abandoned()
        except BaseException as error:
            here.busy = was_busy
            outside = from_outside(error) if isinstance(error, Exception) else error
            if outside is None:
                self._give_up()
                return
            self._outcome = again = EndStatus(*outcome_of(outside))
            self._finish(again, written=written)
            try:
                raise outside
            finally:
                del outside  # its traceback refers to this frame

    def _give_up(self) -> None:
        _log.exception("the end of span %r could not be counted", self.name)
        self._epoch = -1  # it has ended all the same; its last checkpoint will be recovered
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
        if self._end is None and not self._has_stopped(outcome):
            return
        self.handle = None
        left = self._left[:1]  # nothing is left where another thread writes the row
        if current.get() is self:
            current.set(_skip_closed(self._before))
        elif left and left[0]:
            leave_overlapping(self)
        if left and (left[0] or self._may_have_row()):
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
    while isinstance(around, SpanEdges) and around._end is not None:
        around = around._before
    return around
