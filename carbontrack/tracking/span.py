"""The span: a named window between two marks in the ledgers, with a parent.

A span measures nothing itself. What it got is its own time as a leaf, plus what its children got;
so nested and overlapping spans add up to what the process used, and no joule is in two leaves.

What can be seen of a span besides its record: a line of text, and its power over time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from carbontrack.record import Record, Status, checked_name
from carbontrack.sampling.amounts import NOTHING, Sums, sub_joules
from carbontrack.sampling.ledger import Mark
from carbontrack.system.clock import Clock
from carbontrack.tracking.budget import Guarded
from carbontrack.tracking.context import current, nearest_open
from carbontrack.tracking.record_builder import Course, rfc3339
from carbontrack.tracking.session import Session
from carbontrack.tracking.tree import OWN_ROW_S, Node, Used

if TYPE_CHECKING:
    from carbontrack.sampling.amounts import Sums
    from carbontrack.tracking.timeline import Curve, PowerRow, Timeline


class Looks:
    """The side of a span that is looked at.

    Attributes:
        curve: the series of what had been used by when; None where none is kept.
    """

    curve: Curve | None = None

    if TYPE_CHECKING:  # what the span itself knows
        name: str
        _start: Mark | None
        _end: Mark | None

        @property
        def session(self) -> Session:  # noqa: D102
            ...

        @property
        def is_open(self) -> bool:  # noqa: D102
            ...

        @property
        def record(self) -> Record | None:  # noqa: D102
            ...

        def snapshot(self) -> Record:  # noqa: D102
            ...

        def _got(self, mark: Mark) -> Sums: ...

    @property
    def clock(self) -> Clock:
        """By which the span is timed."""
        return self.session.sampler.clock

    def timeline(self) -> list[PowerRow]:
        """Power over time so far, a row for each bin and component, in the order of time.

        Only a root span that was opened with the setting `timeline` keeps one; for others, and
        before the opening, the list is empty. The energies of a component add up to the record's.
        """
        found = self.whole_timeline()
        return [] if found is None else found.rows()

    def whole_timeline(self) -> Timeline | None:
        """The timeline in one piece; None where none is kept."""
        return self.so_far()[1]

    def so_far(self) -> tuple[Record | None, Timeline | None]:
        """The record of the time so far and the timeline that belongs to it."""
        if self.curve is None:
            return None, None
        from carbontrack.tracking.timeline import timeline_of

        session = self.session
        with session.sampler.lock:
            record = self.snapshot() if self._end is None else self.record
            if self._end is None:
                self.draw(Mark(session.sampler.counts, session.ledger.account))
            edges = list(self.curve.edges)
        if record is None:
            return None, None
        return record, timeline_of(edges, session.meters(), record)

    def begin_curve(self) -> None:
        """Keep a timeline from the span's beginning on."""
        assert self._start is not None
        from carbontrack.tracking.timeline import Curve  # only those who ask for it load it

        self.curve = Curve.begin(self._start.counts)

    def draw(self, mark: Mark) -> None:
        """Take an instant into the timeline; the sampler's lock is held."""
        if self.curve is not None and self._end is None:
            self.curve.go_on(mark.counts, self._got(mark).ours_j)

    def _state(self) -> str:
        return "open" if self.is_open else "closed" if self._end is not None else "not opened"

    def __repr__(self) -> str:
        return f"<Span {self.name!r} {self._state()}>"

    def _repr_html_(self) -> str:
        from carbontrack.record import plain_html, record_html  # for notebooks alone

        record = self.snapshot() if self.is_open else self.record
        if record is None:
            return plain_html(repr(self))
        return record_html(record, state="still open" if self.is_open else None)


_log = logging.getLogger("carbontrack")


class Span(Looks, Guarded["Span"]):
    """A named window of time whose energy and emissions are counted.

    Made by `Tracker.span`, `Span.span` and `track`; opened and closed by `with` or `async with`, or
    by `open` and `close`, in the same thread or in another.

    Attributes:
        name: what the records call it.
        labels: the user's own facts, written as JSON.
        record_id: the id its record has; None before it is opened.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        labels: Mapping[str, Any] | None = None,
        parent: Span | None = None,
    ) -> None:
        self.name = checked_name(name)
        self.labels: Mapping[str, Any] = dict(labels or {})
        self.record_id: str | None = None
        self._session = session
        self._parent = parent
        self._parent_id: str | None = None
        self._epoch = -1
        self._before: Any = None
        self._start: Mark | None = None
        self._node: Node | None = None
        self._end: Mark | None = None
        self._absorb: Callable[[Span], None] | None = None
        self.judge: Callable[[Record], Record] | None = None
        """Called with the finished record before anybody sees it; a budget sits here."""
        self._record: Record | None = None
        self._outcome: tuple[Status, str | None] = ("ok", None)

    # -- what users do ----------------------------------------------------------------------

    def span(self, name: str, *, labels: Mapping[str, Any] | None = None) -> Span:
        """A child of this span, to be opened with `with`; its sums go into this one."""
        return Span(self._session, name, labels=labels, parent=self)

    @property
    def parent(self) -> Span | None:
        """The span around this one; None for a root."""
        return self._parent

    around = parent

    @property
    def parent_id(self) -> str | None:
        """The `record_id` that this span's record will name as its parent's."""
        return self._parent_id

    @property
    def session(self) -> Session:
        """What this span shares with the others of its tracker."""
        return self._session

    @property
    def is_open(self) -> bool:
        """Whether the span is being counted, in this process."""
        begun = self._start is not None and self._end is None
        return begun and self._epoch == self._session.sampler.epoch

    @property
    def record(self) -> Record | None:
        """The finished record; None while the span is open, and in a forked child."""
        if self._record is None and self._end is not None:
            record = self._make_record(self._got(self._end), self._outcome)
            self._record = record if self.judge is None else self.judge(record)
        return self._record

    def snapshot(self) -> Record:
        """A record of the time so far, from any thread; of the whole once the span has ended.

        Raises:
            RuntimeError: the span has not been opened.
        """
        if self._start is None:
            raise RuntimeError(f"span {self.name!r} has not been opened yet; use `with`")
        with self._session.sampler.lock:
            if self._end is None:  # another thread may just have closed it
                mark = self._session.sampler.mark(self._session.ledger)
                self._seal(mark)
                return self._make_record(self._got(mark), ("ok", None))
        record = self.record
        assert record is not None
        return record

    def _got(self, mark: Mark) -> Sums:
        return self._node.total(mark) if self._node is not None else NOTHING

    def open(self) -> Span:
        """Begin to count. A second call does nothing."""
        if self._start is not None:
            return self
        session, sampler = self._session, self._session.sampler
        parent = self._open_parent()
        session.ledger.refresh(sampler.clock)
        with sampler.lock:
            self._start = mark = sampler.hold(session.ledger)
            self._epoch = sampler.epoch
            self._node = Node(sampler, parent._node if parent is not None else None, mark)
        self._begin_guard(parent, sampler)
        self._register(sampler.clock.now_utc(), at_once=True)
        self._before = _not_closed(current.get())
        current.set(self)
        return self

    def absorb_if_short(self, absorb: Callable[[Span], None]) -> None:
        """Let someone else sum this span up if it turns out to be short."""
        self._absorb = absorb

    def close(self, status: Status = "ok", error: str | None = None) -> None:
        """Stop counting; a root is then written. A second call does nothing."""
        try:
            self._finish(status, error, written=True)
        except Exception:
            _log.exception("the end of span %r could not be counted", self.name)
            self._epoch = -1  # it is over all the same; its last checkpoint will be recovered
            if current.get() is self:
                current.set(_not_closed(self._before))

    def discard(self) -> None:
        """Stop counting and write nothing: what was to be measured did not come about."""
        self._finish("interrupted", None, written=False)

    def _finish(self, status: Status, error: str | None, *, written: bool) -> None:
        sampler = self._session.sampler
        if not self.is_open:
            return
        self._session.ledger.refresh(sampler.clock)
        with sampler.lock:
            if self._node is None or self._end is not None:
                return
            mark = sampler.mark(self._session.ledger)
            self._node.leave(mark)
            sampler.release(self._session.ledger)
            self._seal(mark)
            self._outcome = (status, error)
            if self.curve is not None:
                self.draw(mark)
            self._end = mark  # last of all: from now on any thread may have the record made
        if current.get() is self:
            current.set(_not_closed(self._before))
        short = self._absorb is not None and self._ending.course.duration_s < OWN_ROW_S
        written = written and not short
        self._session.span_closed(self, is_root=self._parent is None, written=written)
        if short and self._absorb is not None:
            self._absorb(self)

    def pause(self) -> None:
        """Stop counting for a while: the body of a generator is suspended."""
        sampler = self._session.sampler
        with sampler.lock:
            if self.is_open and self._node is not None:
                self._node.pause(sampler.mark(self._session.ledger))

    def resume(self) -> None:
        """Count again."""
        sampler = self._session.sampler
        with sampler.lock:
            if self.is_open and self._node is not None:
                self._node.resume(sampler.mark(self._session.ledger))

    def take_over(self, used: Used, *, absorb: Callable[[Span], None]) -> None:
        """Go on, as a root, from what a call has used so far; the sampler's lock is held.

        `absorb` takes the span in at its end if it turns out to be short.
        """
        session, sampler = self._session, self._session.sampler
        self._parent_id = session.parent_id
        now = sampler.hold(session.ledger)
        counts = now.counts
        begun = counts._replace(
            at_s=counts.at_s - used.ran_s,
            energy_j=sub_joules(counts.energy_j, used.machine_j or (0.0,) * len(counts.energy_j)),
            observed_s=tuple(max(0.0, observed - used.ran_s) for observed in counts.observed_s),
        )
        self._start = Mark(begun, now.account)
        self._epoch, self._absorb = sampler.epoch, absorb
        self._node = Node(sampler, None, now, used.sums)
        started_at = sampler.clock.now_utc() - timedelta(seconds=used.began_ago_s)
        self._register(started_at, at_once=False)

    def _register(self, started_at: datetime, *, at_once: bool) -> None:
        self.record_id = self._session.new_record_id()
        self._started_at = started_at
        if self._parent is None:
            self._session.root_opened(self, at_once=at_once)

    def checkpoint(self) -> Record | None:
        """The record so far, for the journal; None once the span has ended."""
        return self.snapshot() if self.is_open else None

    def measured(self) -> tuple[Sums, Course, bool]:
        """What a finished span got, how it went, and whether it failed."""
        assert self._end is not None
        return self._got(self._end), self._ending.course, self._outcome[0] != "ok"

    # -- the tree ---------------------------------------------------------------------------

    def _open_parent(self) -> Span | None:
        around = self._parent or innermost()
        self._parent = parent = None
        self._parent_id = self._session.parent_id
        if around is not None and around._session is self._session:
            if around._epoch not in (-1, self._session.sampler.epoch):
                # The parent process counts this one with its tree; reports must not add both.
                self._parent_id = around.record_id
            parent = around.nearest_open()
            if parent is not None:
                self._parent, self._parent_id = parent, parent.record_id
        return parent

    def nearest_open(self) -> Span | None:
        """The nearest span from here outwards that is still open; itself if it is."""
        found: Span | None = nearest_open(self)
        return found

    # -- the record -------------------------------------------------------------------------

    def _seal(self, mark: Mark) -> None:
        """Keep what can only be known now; the rest of the record can wait until it is wanted."""
        assert self._start is not None
        start, end, node = self._start.counts, mark.counts, self._node
        machine_j, length_s = sub_joules(end.energy_j, start.energy_j), end.at_s - start.at_s
        ran_s = length_s
        if node is not None and node.paused_s:
            machine_j, ran_s = sub_joules(machine_j, node.paused_j), length_s - node.paused_s
        self._ending = self._session.ending(start, end, ran_s, machine_j)

    def _make_record(self, sums: Sums, outcome: tuple[Status, str | None]) -> Record:
        session, ending = self._session, self._ending
        return Record(
            record_id=self.record_id or "",
            run_id=session.run_id,
            parent_id=self._parent_id,
            name=self.name,
            labels=self.labels,
            status=outcome[0],
            error=outcome[1],
            started_at=rfc3339(self._started_at),
            ended_at=rfc3339(ending.ended_at),
            duration_s=ending.course.duration_s,
            **session.figures(sums, ending),
        )


def _not_closed(around: Any) -> Any:
    # A span that was closed in another context stays behind in this one; to hold on to it would
    # make a chain of all spans that were ever opened here.
    while isinstance(around, Span) and around._end is not None:
        around = around._before
    return around


def innermost() -> Span | None:
    """The innermost span of this context, promoted from a decorated call if need be."""
    around = current.get()
    while around is not None and not isinstance(around, Span):
        # A call may have ended, in a context that was copied while it was made.
        around = around.promote() if around.is_open else around.around
    return around


def current_span() -> Span | None:
    """The innermost open span here, or None."""
    around = innermost()
    return around.nearest_open() if around is not None else None
