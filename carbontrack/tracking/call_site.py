"""The call site: one decorated function in one session, its window of short calls, its rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime, timedelta
from functools import partial
from sys import is_finalizing
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from carbontrack.record import Record, plain
from carbontrack.sampling.counts import Counts, Joules
from carbontrack.sampling.ledger import NOTHING, Ledger, Sums, add_joules
from carbontrack.system.forking import remember
from carbontrack.system.interrupts import pass_on
from carbontrack.system.reentrance import busily, must_pass
from carbontrack.tracking.apportion import NO_USAGE, Apportioner, CallUsage
from carbontrack.tracking.checkpoints import Checkpoint
from carbontrack.tracking.record_builder import EndStatus, Subject
from carbontrack.tracking.session import Session
from carbontrack.tracking.span import Span

if TYPE_CHECKING:
    from carbontrack.tracking.remote_parent import RemoteParents

_log = logging.getLogger("carbontrack")


class EndedCall(Protocol):
    """A call that was credited singly and is added to the window of its function."""

    def take_sums(self) -> tuple[Sums, Joules, float]:
        """Its usage, and how long it ran."""
        ...

    def mark_ended(self) -> None:
        """It has been added."""
        ...


_PER_CALL = 3  # numbers that a finished call leaves
COLLECT_AT = 128 * _PER_CALL  # of these numbers are collected at once


class CallTotals(NamedTuple):
    """The total usage of short calls, up to some moment.

    Attributes:
        calls, failed: how many there were, and how many of them failed.
        ran_s: how long they ran together.
        sums: their energy and emissions.
        machine_j: each meter's energy for the whole machine while they ran.
    """

    calls: int = 0
    failed: int = 0
    ran_s: float = 0.0
    sums: Sums = NOTHING
    machine_j: Joules = ()

    def at(self, part: float, later: CallTotals) -> CallTotals:
        """The totals at a part of the time until `later`, with calls spread evenly."""
        return CallTotals(
            self.calls + round((later.calls - self.calls) * part),
            self.failed + round((later.failed - self.failed) * part),
            *later._weighed(part, self, 1.0 - part),
        )

    def minus(self, earlier: CallTotals) -> CallTotals:
        """The totals after `earlier`."""
        calls, failed = self.calls - earlier.calls, self.failed - earlier.failed
        return CallTotals(calls, failed, *self._weighed(1.0, earlier, -1.0))

    def _weighed(
        self, weight: float, other: CallTotals, its_weight: float
    ) -> tuple[float, Sums, Joules]:
        own_j, its_j = Sums(self.machine_j).times(weight), Sums(other.machine_j).times(its_weight)
        return (
            self.ran_s * weight + other.ran_s * its_weight,
            self.sums.times(weight).plus(other.sums.times(its_weight)),
            own_j.plus(its_j).ours_j,
        )


class CallWindow:
    """The sums of one function's short calls since the window began."""

    def __init__(
        self,
        record_id: str,
        start: Counts,
        started_at: datetime,
        parent: tuple[str | None, bool | None],
    ) -> None:
        self.record_id = record_id
        self.start = start
        self.started_at = self._opened_at = started_at
        self.parent = parent
        """The parent's id, and whether its record contains the calls."""
        self.ended_at: datetime | None = None
        """When it ended; None: now."""
        self.seen = (start.at_s, CallTotals())
        """What there was when a parent in another process was last seen open, and when that was."""
        self.calls = self.failed = 0
        self.ran_s = 0.0
        self.sums = NOTHING
        self.machine_j: Joules = ()
        self.kept: Record | None = None
        """The first record that was kept in the journal."""
        self.kept_calls = 0
        """The number of calls in the last one."""

    @property
    def totals(self) -> CallTotals:
        """The usage of its calls so far."""
        return CallTotals(self.calls, self.failed, self.ran_s, self.sums, self.machine_j)

    def divided(
        self, at_s: float, end: Counts, parent: tuple[str | None, bool | None], record_id: str
    ) -> list[CallWindow]:
        """The calls before and after `at_s`, when the parent changed to `parent`.

        Assuming that they were spread evenly since the window was last seen. One call is counted in
        one of the rows, though its energy is in both. `record_id` is for the second of two.
        """
        seen_at_s, seen = self.seen
        part = (at_s - seen_at_s) / max(1e-9, end.at_s - seen_at_s)
        held = seen.at(min(1.0, max(0.0, part)), self.totals)
        rest = self.totals.minus(held)
        at = self._opened_at + timedelta(seconds=max(0.0, at_s - self.start.at_s))
        first, later = self._with(held, self.record_id), self._with(rest, record_id)
        first.ended_at = later.started_at = at
        later.parent = parent
        if first.is_empty:
            later.record_id = self.record_id
        return [part for part in (first, later) if not part.is_empty]

    def add(self, sums: Sums, machine_j: Joules, length_s: float, *, failed: bool) -> None:
        """Add one call, all or nothing of it."""
        sums, machine_j = self.sums.plus(sums), add_joules(self.machine_j, machine_j)
        calls, failures, ran_s = self.calls + 1, self.failed + failed, self.ran_s + length_s
        self.sums, self.machine_j = sums, machine_j
        self.calls, self.failed, self.ran_s = calls, failures, ran_s

    @property
    def is_empty(self) -> bool:
        """Whether nothing was summed."""
        return not self.calls and sum(self.sums.ours_j) <= 0.0

    def _with(self, totals: CallTotals, record_id: str) -> CallWindow:
        window = CallWindow(record_id, self.start, self.started_at, self.parent)
        window.calls, window.failed, window.ran_s, window.sums, window.machine_j = totals
        return window


class Callee(NamedTuple):
    """A decorated function: the name and labels of its rows, and its code.

    A function that is defined and decorated again at each call of an enclosing one counts as the
    same function each time, because it runs the same code.
    """

    name: str
    labels: Mapping[str, Any]
    code: Hashable

    @property
    def key(self) -> Hashable:
        """The key that distinguishes decorated functions."""
        return self.name, repr(plain(self.labels)), self.code


class CallRows:
    """The rows of one decorated function in one session: the window of its short calls, their ids.

    Args:
        session: the session whose sinks get the rows.
        callee: the function.
        budget_check: called with each row before it is written; marks a row over its budget.
        inside: it is for calls inside spans, whose rows name the span that includes them.
    """

    def __init__(
        self,
        session: Session,
        callee: Callee,
        budget_check: Callable[[Record], Record] | None,
        *,
        inside: bool,
    ) -> None:
        self.session = session
        self._inside = inside
        self.name = callee.name
        self.labels = callee.labels
        self.window: CallWindow | None = None
        self.finished: list[float] = []
        """Length, CPU seconds and failure of each ended call, in no tuples, which are collected."""
        self._usage = NO_USAGE
        self.budget_check = budget_check
        self._next_id: str | None = None
        """The id of the next window, if it has one already."""
        self.lent: Any = None
        """A weak reference to the last call that has claimed the id of a window."""
        self.closed = False
        self.sampler = session.sampler
        self.under_way = session.sampler.under_way
        self.apportioner = Apportioner.of(session.sampler)
        self.now_s = session.sampler.clock.monotonic_s
        self.collect_at = COLLECT_AT
        """How many numbers make the thread that has left the last ones collect them."""

    @property
    def ledger(self) -> Ledger:
        """The ledger whose policy and grid apply."""
        return self.session.ledger

    def open_window(self) -> None:
        """Begin a window for a call that begins, unless the session has ended in the meantime.

        A call that ends after that writes its row itself; see `catch_up`.
        """
        if not is_finalizing():  # when a thread that was stopped for good may have the lock
            self.sampler.uninterrupted(self._open_window)

    def _open_window(self) -> None:
        self.ledger.refresh(self.sampler.clock)
        self.session.parent_now()
        with self.sampler.lock:
            if not self.closed:
                self.hold_window()

    def hold_window(self) -> CallWindow:
        """The window, which keeps the sampler awake until its row is written."""
        with self.sampler.lock:
            if self.window is None:
                try:
                    mark = self.sampler.hold(self.ledger, self)
                    self.apportioner.begin(self.ledger)
                    self.apportioner.sites.add(self)  # type: ignore[arg-type]
                    self.window = self._new_window(mark.counts)
                except BaseException:
                    self._give_up_window()
                    raise
            return self.window

    def _give_up_window(self) -> None:
        """A signal handler has raised while a window was opened; the lock is held."""
        if self.window is None:
            self.apportioner.sites.discard(self)
            self.sampler.release(self.ledger, self)

    def collect(self) -> None:
        """Add the finished calls to the window."""
        with self.sampler.lock:
            if self.window is not None and self.finished:
                busily(partial(self._collect, self.window))

    def _collect(self, window: CallWindow) -> None:
        # Only the lock's holder removes calls; those added meanwhile wait for the next time.
        if not (ended := list(self.finished)):  # a finalizer's call has collected them
            return
        count, failed = len(ended) // _PER_CALL, int(sum(ended[2::_PER_CALL]))
        whole_s, used_s = sum(ended[::_PER_CALL]), sum(ended[1::_PER_CALL])
        usage = CallUsage(self._usage.ran_s + whole_s, self._usage.cpu_s + used_s)
        sums = window.calls + count, window.failed + failed, window.ran_s + whole_s, usage, ()
        left, these = self.finished, slice(0, len(ended))
        # by one statement without a call, in which no handler of a signal runs
        window.calls, window.failed, window.ran_s, self._usage, left[these] = sums

    def _new_window(self, start: Counts) -> CallWindow:
        clock = self.sampler.clock
        self.now_s, started_at = clock.monotonic_s, clock.now_utc()  # another, if one went back
        if self.session.keeps_checkpoints and not self.closed:
            self.collect_at = 1
        record_id, self._next_id = self._next_id or self.session.new_ids()[1], None
        return CallWindow(record_id, start, started_at, self.session.parent_now(looks=False))

    def row_id(self) -> str:
        """The id of the row that short calls go to; a call inside one names it as its parent.

        A call that has claimed it gives it back unless it turns out to be long. Until then all
        receive it, because the window has no other id in the end.
        """
        with self.sampler.lock:
            lent: Any = None if self.lent is None else self.lent()
            if lent is not None and lent.may_be_short:
                return str(lent.record_id)
            if self.window is not None:
                return self.window.record_id
            if self._next_id is None:
                self._next_id = self.session.new_ids()[1]
            return self._next_id

    def claim(self, row_id: str | None) -> bool:
        """Give this id to the row of a long call, if no short call is in the row that has it."""
        with self.sampler.lock:
            window = self.window
            if window is not None and window.record_id == row_id and not window.calls:
                window.record_id = self.session.new_ids()[1]
                return True
            if row_id is not None and row_id == self._next_id:
                self._next_id = None
                return True
            return False

    def _give_back(self, row_id: str | None) -> None:
        """A call that has claimed this id has turned out to be short."""
        kept = None
        with self.sampler.lock:
            self.lent, window = None, self.window
            if window is None:
                self._next_id = row_id
            elif row_id is not None:  # the id that it has now was told to nobody
                kept, window.kept, window.kept_calls = window.kept, None, 0
                window.record_id = row_id
        if kept is not None:
            self.session.drop_checkpoint(kept.record_id)

    def _records(self, window: CallWindow, end: Counts) -> list[Record]:
        """The row of a window; two if another record started or stopped including its calls."""
        parents, before = self.session.parents, window.parent
        if parents is None or self._inside or bool(before[1]) == bool(parents.holds):
            return [self._record(window, end)]
        after = (parents.parent_id, True) if parents.holds else (before[0], False)
        parts = window.divided(parents.changed_at_s, end, after, self.session.new_ids()[1])
        return [self._record(part, end) for part in parts]

    def _deliver(self, record: Record) -> None:
        if self.budget_check is not None:
            try:
                record = self.budget_check(record)
            except Exception as error:  # the row itself must be written
                pass_on(error)
                _log.exception("the budget of %s could not be checked", self.name)
        self.session.deliver(record)

    def _record(self, window: CallWindow, end: Counts) -> Record:
        builder, failed = self.session.builder, window.failed
        ids = (window.record_id, self.session.run_id, *window.parent)
        subject = Subject(*ids, self.name, self.labels, window.started_at)
        error = f"{failed} of {window.calls} calls failed" if failed else None
        outcome = EndStatus("error" if failed else "ok", error, window.calls)
        ended = builder.window(window.start, end, window.ran_s, window.machine_j)
        if window.ended_at is not None:
            ended = ended._replace(ended_at=window.ended_at)
        return builder.build(subject, ended, window.sums, outcome)


class CallSite(CallRows):
    """A decorated function in one session.

    Args:
        session: the session whose sinks get its rows.
        callee: the function.
        window_s: the time for which short calls are summed into one row.
        budget_check: called with each row before it is written; marks a row over its budget.
        inside: it is for calls inside spans, whose rows name the span that includes them.
    """

    def __init__(
        self,
        session: Session,
        callee: Callee,
        *,
        window_s: float,
        budget_check: Callable[[Record], Record] | None = None,
        inside: bool = False,
    ) -> None:
        super().__init__(session, callee, budget_check, inside=inside)
        self._window_s = window_s
        self.covers = False
        """Whether a call of it has counted another function's calls as well."""
        self.propagates = session.propagator is not None
        """Whether the next call propagates this run as the parent of child processes."""
        self.propagating: Any = None
        """The call that does so now."""
        self._call_id = ""
        remember(self)  # each of them, as one without a window may have an id for the next

    def collect_enough(self) -> None:
        """Collect, because `collect_at` calls have ended; in the thread that ended the last one.

        The first call of a window is kept in the journal at once, since a worker may be killed at
        any time after it.
        """
        if must_pass():  # a tick collects them
            return
        self.collect_at = COLLECT_AT
        window, keeps = self.window, self.session.keeps_checkpoints and not self.closed
        if window is None or window.kept is not None or not keeps:
            self.collect()
        else:
            self.sampler.uninterrupted(self._keep_first)

    def _keep_first(self) -> None:
        with self.sampler.lock:
            self.collect()
            self.sampler.sample()
            self.apportioner.settle()
        self.session.keep(self)

    def unsettled(self, now_s: float, cpu_s: float) -> CallUsage:  # noqa: ARG002 - the protocol's
        """The usage of the short calls that ended since the last call of `usage`."""
        self.collect()
        return self._usage

    def usage(self, now_s: float, cpu_s: float) -> CallUsage | None:  # noqa: ARG002 - the protocol's
        """The usage of the short calls that ended since the last call of this method."""
        self.collect()
        usage, self._usage = self._usage, NO_USAGE
        return usage if usage.ran_s > 0.0 else None

    def credit(self, sums: Sums, machine_j: Joules) -> None:
        """Add the short calls' part of the energy."""
        window = self.window
        if window is not None:
            joules = add_joules(window.machine_j, machine_j)
            window.sums, window.machine_j = window.sums.plus(sums), joules

    def credit_call(self, call: EndedCall, *, failed: bool) -> None:
        """Add a call that was credited singly and turned out to be short; the lock is held."""
        window = self.hold_window()
        window.add(*call.take_sums(), failed=failed)
        call.mark_ended()

    def keep_call(self) -> None:
        """Keep what `credit_call` has added, so that it outlives the process."""
        window = self.window
        if self.closed:
            self.write_row()
        elif window is not None and window.kept is None:
            self.collect_at = COLLECT_AT
            self.session.keep(self)

    def catch_up(self) -> None:
        """Open a window for a call that ended without one; after the end, write its row at once."""
        if not must_pass():
            self.sampler.uninterrupted(self._catch_up)

    def _catch_up(self) -> None:
        self.ledger.refresh(self.sampler.clock)
        self.hold_window()
        if self.closed:
            self.write_row()

    def credit_span(self, span: Span) -> None:
        """Add a short call that became a span because its body needed the current span."""
        sums, window, started_at, failed = span.measured()
        if span.has_row_id:
            self._give_back(span.record_id)
        parent = span.row_parent()
        if self.window is not None and self.window.parent != parent:
            self.write_row()  # a row belongs to one parent
        with self.sampler.lock:
            is_new = self.window is None
            kept = self._next_id if is_new and span.is_inside_row(self._next_id) else None
            if kept is not None:  # recursion: the row of the outer call has this id, not this one
                self._next_id = None
            own = self.hold_window()
            self._next_id, own.parent = kept or self._next_id, parent
            own.started_at = min(own.started_at, started_at)
            if self._inside:  # to the end of the last call, so that the parent covers it
                own.ended_at = window.ended_at
            own.add(sums, window.machine_j, window.duration_s, failed=failed)
        self.keep_call()

    def write_row_if_due(self, now_s: float) -> None:
        """Write the row if the window is over."""
        window = self.window
        if window is not None and now_s - window.start.at_s >= self._window_s:
            self.write_row()

    def write_row(self) -> None:
        """Write the row of the window; a new window begins only if calls are running.

        After the end none does: a call that ends without a window writes its row itself, and those
        that ended meanwhile, while there was one, are written here.
        """
        self.sampler.uninterrupted(self._write_windows)

    def _write_windows(self) -> None:
        while self._write_window() and self.closed:
            pass

    def _write_window(self) -> bool:
        """Write the row of the window, if any; True if there is a new window."""
        with self.sampler.lock:
            window = self.window
            if window is None:
                return False
            self.collect()
            if self._usage.ran_s > 0.0:
                self.sampler.sample()
                self.apportioner.settle()
            # Remove the window first and look for running calls then: a call that begins meanwhile
            # is either seen here or opens a window itself.
            self.window = None
            if not window.calls:
                self._next_id = window.record_id  # others may know it as their parent's
            end = self.sampler.counts
            if self.finished or (not self.closed and self._under_way()):
                self.window = self._new_window(end)
            else:
                self.apportioner.sites.discard(self)
                self.sampler.release(self.ledger, self)
            records = self._records(window, end) if window.calls else []
            is_followed = self.window is not None
        for record in records:
            self._deliver(record)
            self.session.drop_checkpoint(record.record_id)
        return is_followed

    def follow_parents(self, parents: RemoteParents) -> None:
        """Begin a new row if another process's record starts or stops including the calls."""
        window, now = self.window, (parents.parent_id, parents.holds)
        if window is None or self._inside:
            return
        if window.parent != now and (window.parent[1] or now[1]):
            self.write_row()
            return
        with self.sampler.lock:
            self.collect()
            window.seen = (self.sampler.counts.at_s, window.totals)

    def checkpoint(self) -> Checkpoint | None:
        """The row so far, for the journal; None where no call has been summed since the last."""
        with self.sampler.lock:
            window = self.window
            if window is None or window.calls == window.kept_calls:
                return None
            record, first = self._record(window, self.sampler.counts), window.kept
            window.kept, window.kept_calls = first or record, window.calls
            return Checkpoint(record, first=first, is_sum=True)

    def _under_way(self) -> bool:
        return any(call.site is self for call in list(self.sampler.under_way.values()))

    def propagate(self, call: object) -> None:
        """Propagate this run as the parent of processes that start from now on.

        Only the first call does, and calls that follow one that was running at a tick: a short call
        hardly ever starts a process, and changing the environment for each one is costly.
        """
        call_id = self.session.new_call_id(self.row_id())
        self.propagates, self.propagating, self._call_id = False, call, call_id
        self.session.call_began(id(call), call_id)

    def stop_propagating(self, *, lasted: bool) -> None:
        """Stop, as the call has ended or is suspended."""
        self.session.call_ended(id(self.propagating), self._call_id, self.now_s())
        self.propagating, self.propagates = None, lasted

    def interrupt(self) -> None:
        """The program ends: end running calls as interrupted, and write the last row."""
        self._interrupt_calls()
        with self.sampler.lock:
            self.closed = True
        self._interrupt_calls()  # those that began meanwhile
        self.write_row()

    def _interrupt_calls(self) -> None:
        with self.sampler.lock:
            calls: list[Any] = [*self.sampler.under_way.values(), *self.apportioner.single.values()]
        for call in calls:
            if call.site is self:
                try:
                    call.end("interrupted")
                except Exception as error:  # the row of all others must be written
                    pass_on(error)
                    _log.exception("a call of %s could not be closed", self.name)

    def forget_parent(self) -> None:
        """Reset in a child process."""
        self.window = self.propagating = self._next_id = self.lent = None
        self.finished.clear()
        self._usage = NO_USAGE


def call_site_of(
    session: Session,
    callee: Callee,
    *,
    window_s: float,
    budget_check: Callable[[Record], Record] | None,
    inside: bool = False,
) -> CallSite:
    """The call site of a function in a session, made when first needed.

    `inside`: it is for calls inside spans, whose rows name the span that includes them.
    """
    key = (callee.key, window_s, budget_check, inside)
    with session.sampler.lock:
        site = session.sites.get(key)
        if not isinstance(site, CallSite):
            site = session.sites[key] = CallSite(
                session, callee, window_s=window_s, budget_check=budget_check, inside=inside
            )
        return site
