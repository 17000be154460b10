"""The row of a span: from when it counts, under which id, and whose row contains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from carbontrack.record import Record, checked_labels, checked_name
from carbontrack.sampling.counts import sub_joules
from carbontrack.sampling.ledger import Mark
from carbontrack.tracking.apportion import OWN_ROW_S
from carbontrack.tracking.block import BudgetedBlock
from carbontrack.tracking.checkpoints import OpenRow
from carbontrack.tracking.record_builder import EndFacts, EndStatus, Subject, Window
from carbontrack.tracking.session import Session
from carbontrack.tracking.tree import Node

if TYPE_CHECKING:  # loaded only where they are asked for
    from carbontrack.tracking.timeline import PowerSeries

OK = EndStatus("ok")


class SpanRow(Node, BudgetedBlock[Any]):
    """The row of a span: from when it counts, under which id, and whose row contains it."""

    session: Session
    """The session of the span's tracker."""
    given_id: str | None = None  # the id of its record, where that is not made of its number
    _number = 0
    _parent_id: str | None = None
    _holds: bool | None = None
    _row_id: str | None = None
    has_row_id = False  # whether a call has the id of the row that was meant for summed calls
    is_kept = False  # whether an inner span has a checkpoint
    first_id: str | None = None  # the id of its first checkpoints, where that was another one
    is_new = True  # whether it has no checkpoint but its first
    power_series: PowerSeries | None = None
    """The energy over time; None where no timeline is kept."""
    covered: set[Any] | None = None
    """The decorated calls that the span counts."""
    task: Any = None  # the `RunningTask` of a framework that it belongs to, if it was said
    call_site: Any = None  # the `CallSite` of a decorated call gets the span if it is short
    budget_check: Callable[[Record], Record] | None = None
    """Called with the finished record before it is written; marks one over its budget."""
    _epoch = -1
    _end: Mark | None = None
    _started_at: datetime
    _sealed: tuple[Mark, EndFacts]
    _window: Window | None = None
    _record: Record | None = None
    _outcome = OK

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        labels: Mapping[str, Any] | None = None,
        parent: Any = None,
    ) -> None:
        self.name = checked_name(name)
        self.labels: Mapping[str, Any] = checked_labels(labels) if labels else {}
        self.session = session
        self._parent = parent

    @property
    def record_id(self) -> str | None:
        """The id of its record; None before it is opened."""
        if self.given_id is None and self._epoch >= 0:
            self.given_id = f"{self._run_id}-{self._number}"
        return self.given_id

    @property
    def _run_id(self) -> str:
        return self.session.run_ids[self._epoch]

    @property
    def parent_id(self) -> str | None:
        """The `record_id` of the parent, as written in its record."""
        if self._parent_id is None and self._parent is not None and self._start is not None:
            self._parent_id = self._parent.record_id
        return self._parent_id

    def task_around(self) -> Any:
        """The `RunningTask` of the span, or of the nearest one around it that has one."""
        around: Any = self
        while around is not None and around.task is None:
            around = around._parent
        return None if around is None else around.task

    @property
    def parent_holds(self) -> bool | None:
        """Whether the record of the parent contains its energy; None where there is no parent."""
        return self._holds if self._parent is None else True

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
        if self.ended.duration_s >= OWN_ROW_S and site is not None and site.claim(self._row_id):
            self.first_id, self.given_id = self.record_id, self._row_id

    @property
    def may_be_short(self) -> bool:
        """Whether a call may yet be part of the row of summed calls; the sampler's lock is held."""
        if self._end is not None:
            return self.ended.duration_s < OWN_ROW_S
        if self._epoch < 0 or self._start is None:  # it was given up
            return False
        now = self.session.sampler.counts
        ran_s = now.at_s - self._start.counts.at_s
        return (self.ran(now)[0] if self.was_paused else ran_s) < OWN_ROW_S

    @property
    def ended(self) -> Window:
        """The window of its row, once that has ended."""
        if self._window is None:
            self._window = self._window_of(*self._sealed)
        return self._window

    def _window_at(self, mark: Mark) -> Window:
        """The window until `mark`, which is now."""
        assert self._start is not None
        return self._window_of(mark, self.session.builder.facts_now(self._start.counts.at_s))

    def _window_of(self, mark: Mark, facts: EndFacts) -> Window:
        assert self._start is not None
        start, end = self._start.counts, mark.counts
        machine_j, ran_s = sub_joules(end.energy_j, start.energy_j), end.at_s - start.at_s
        if self.was_paused:
            ran_s, machine_j = self.ran(end)
        return Window.of(start, end, ran_s, machine_j, facts)

    def _build(self, mark: Mark, window: Window, outcome: EndStatus) -> Record:
        builder = self.session.builder
        return builder.build(self._subject(), window, self.sums(mark), outcome)

    def record_at(self, mark: Mark) -> Record:
        """The record of an open span until `mark`; the sampler's lock is held."""
        return self._build(mark, self._window_at(mark), OK)

    def _subject(self) -> Subject:
        ids = (self.record_id or "", self._run_id, self.parent_id, self.parent_holds)
        return Subject(*ids, self.name, self.labels, self._started_at, self.task_around())

    def first_row(self) -> OpenRow:
        """The row of a span that has just begun: what it uses is not known yet."""
        builder = self.session.builder
        facts = builder.facts(self.session.ledger.intensity(self._started_at))
        return OpenRow(builder.first_columns(self._subject()), facts)

    def row_so_far(self) -> OpenRow | None:
        """The row of an open span by the last reading; None once it has ended."""
        builder, sampler = self.session.builder, self.session.sampler
        with sampler.lock:
            if self._end is not None:
                return None
            mark = Mark(sampler.counts, self.session.ledger.account)
            window, sums = self._window_at(mark), self.sums(mark)
        columns = builder.columns(self._subject(), window, sums, OK)
        return OpenRow(columns, builder.facts(window.grid))

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

    def change_parent(self, parent: Any, parent_id: str | None, *, holds: bool | None) -> None:
        """Have another parent from now on, with its budget."""
        self._parent, self._parent_id, self._holds = parent, parent_id, holds
        guard, outer = self.budget_guard, None if parent is None else parent.budget_guard
        if guard is not None and guard.guards(self):
            guard.outer = outer
        elif guard is not None:
            self.budget_guard = outer

    def record_until(
        self, mark: Mark, at: datetime, parent: tuple[str | None, bool | None]
    ) -> Record:
        """The record of the time until `mark`, which was at `at`, with an id of its own."""
        window = self._window_at(mark)._replace(ended_at=at)
        run_id, record_id = self.session.new_ids()
        ids = (record_id, run_id, *parent)
        subject = Subject(*ids, self.name, self.labels, self._started_at, self.task_around())
        return self.session.builder.build(subject, window, self.sums(mark), OK)

    def restart(self, mark: Mark, at: datetime) -> None:
        """Count from `mark` on, which was at `at`; what was used before is in another row."""
        if self.budget_guard is not None and self.budget_guard.guards(self):
            self.budget_guard.add_earlier(self.record_until(mark, at, (None, None)))
        self._start, self._started_at = mark, at
        self.restart_in_tree(mark)
        if self.power_series is not None:
            self.begin_timeline()

    def time_of(self, mark: Mark) -> datetime:
        """The wall-clock time of a mark that was made just now, or some time ago."""
        # by the clock, not the last reading: the thread may have waited since
        clock = self.session.sampler.clock
        return clock.now_utc() - timedelta(seconds=clock.monotonic_s() - mark.counts.at_s)
