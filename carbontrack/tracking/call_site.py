"""A decorated function in one tracker: its window of short calls, and the rows that it writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from carbontrack.record import Record, plain
from carbontrack.sampling.counts import Counts, Joules
from carbontrack.sampling.ledger import NOTHING, Ledger, Sums, add_joules
from carbontrack.tracking.apportion import NO_USAGE, Apportioner, CallUsage
from carbontrack.tracking.record_builder import EndStatus, Subject
from carbontrack.tracking.session import Checkpoint, Session
from carbontrack.tracking.span import Span


class CallWindow:
    """The sums of one function's short calls, and where its window began."""

    def __init__(
        self, record_id: str, start: Counts, started_at: datetime, parent_id: str | None
    ) -> None:
        self.record_id = record_id
        self.start = start
        self.started_at = started_at
        self.parent_id = parent_id
        self.calls = self.failed = 0
        self.ran_s = 0.0
        self.sums = NOTHING
        self.machine_j: Joules = ()


class Callee(NamedTuple):
    """A decorated function: what its rows are called, and what it runs.

    A function that is made and decorated anew each time, inside of another, is the same function
    each time: it runs the same code.
    """

    name: str
    labels: Mapping[str, Any]
    code: Hashable

    @property
    def key(self) -> Hashable:
        """What tells it apart from others."""
        return self.name, repr(plain(self.labels)), self.code


class CallSite:
    """A decorated function in one session.

    Args:
        session: where its rows go.
        callee: the function.
        window_s: for how long short calls are summed into one row.
        budget_check: called with each row before it is written; marks one over its budget.
    """

    def __init__(
        self,
        session: Session,
        callee: Callee,
        *,
        window_s: float,
        budget_check: Callable[[Record], Record] | None = None,
    ) -> None:
        self.session = session
        self.name = callee.name
        self.labels = callee.labels
        self.window: CallWindow | None = None
        self.finished: deque[tuple[float, float, bool]] = deque()
        """Length, CPU seconds and failure of calls that have ended; deques take
        appends from any thread."""
        self._window_s = window_s
        self.budget_check = budget_check
        self._usage = NO_USAGE
        self.closed = False
        self.propagates = session.propagator is not None
        """Whether child processes started by the next call are to find this run."""
        self.propagating: Any = None
        """The call that does."""
        self.sampler = session.sampler
        self.apportioner = Apportioner.of(session.sampler)
        self.now_s = session.sampler.clock.monotonic_s

    @classmethod
    def of(
        cls,
        session: Session,
        callee: Callee,
        *,
        window_s: float,
        budget_check: Callable[[Record], Record] | None,
    ) -> CallSite:
        """The one in this session, made at the first asking."""
        key = (callee.key, window_s, budget_check)
        with session.sampler.lock:
            site = session.sites.get(key)
            if not isinstance(site, CallSite):
                site = session.sites[key] = cls(
                    session, callee, window_s=window_s, budget_check=budget_check
                )
            return site

    @property
    def ledger(self) -> Ledger:
        """Whose policy and grid hold."""
        return self.session.ledger

    # -- windows ----------------------------------------------------------------------------

    def open_window(self) -> CallWindow:
        """Begin to sum; keeps the sampler awake until the row is written."""
        self.ledger.refresh(self.sampler.clock)
        with self.sampler.lock:
            if self.window is None:
                mark = self.sampler.hold(self.ledger)
                self.apportioner.begin(self.ledger)
                self.apportioner.sites.add(self)
                self.window = self._new_window(mark.counts)
            return self.window

    def _new_window(self, start: Counts) -> CallWindow:
        started_at = self.sampler.clock.now_utc()
        _, record_id = self.session.new_ids()
        return CallWindow(record_id, start, started_at, self.session.parent_id)

    def collect(self) -> None:
        """Take in what has been left behind by finished calls."""
        with self.sampler.lock:
            window, left = self.window, self.finished
            if window is None or not left:
                return
            # Only the lock's holder takes calls out; those that come meanwhile wait for next time.
            ran_s, cpu_s, failed = zip(*[left.popleft() for _ in range(len(left))], strict=True)
            window.calls += len(ran_s)
            window.failed += sum(failed)
            window.ran_s += sum(ran_s)
            before = self._usage
            self._usage = CallUsage(before.ran_s + sum(ran_s), before.cpu_s + sum(cpu_s))

    def usage(self, now_s: float, cpu_s: float) -> CallUsage | None:  # noqa: ARG002 - the protocol's
        """The short calls that have ended since the last asking."""
        self.collect()
        usage, self._usage = self._usage, NO_USAGE
        return usage if usage.ran_s > 0.0 else None

    def credit(self, sums: Sums, machine_j: Joules) -> None:
        """The part of the short calls."""
        window = self.window
        if window is not None:
            window.sums = window.sums.plus(sums)
            window.machine_j = add_joules(window.machine_j, machine_j)

    def credit_call(self, sums: Sums, machine_j: Joules, length_s: float, *, failed: bool) -> None:
        """Take a call in that was counted on its own and turned out to be short."""
        with self.sampler.lock:
            window = self.open_window()
            window.sums = window.sums.plus(sums)
            window.machine_j = add_joules(window.machine_j, machine_j)
            window.calls += 1
            window.failed += failed
            window.ran_s += length_s
        if self.closed:
            self.write_row()

    def catch_up(self) -> None:
        """Open a window for a call that ended without one; at the end of all, write it at once."""
        self.open_window()
        if self.closed:
            self.write_row()

    def credit_span(self, span: Span) -> None:
        """Take in a call that had to become a span because somebody looked at it."""
        sums, window, failed = span.measured()
        if self.window is not None and self.window.parent_id != span.parent_id:
            self.write_row()  # a row belongs to one parent
        self.credit_call(sums, window.machine_j, window.duration_s, failed=failed)
        if self.window is not None:
            self.window.parent_id = span.parent_id

    def write_row_if_due(self, now_s: float) -> None:
        """Write the row when the window is over."""
        window = self.window
        if window is not None and now_s - window.start.at_s >= self._window_s:
            self.write_row()

    def write_row(self) -> None:
        """Write the row of what has been summed, and fall asleep unless calls are under way."""
        with self.sampler.lock:
            window = self.window
            if window is None:
                return
            self.collect()
            if self._usage.ran_s > 0.0:
                self.sampler.sample()
                self.apportioner.settle()
            # First take the window away, then look: a call that begins meanwhile sees one or the
            # other, and is either seen here or opens a window itself.
            self.window = None
            end = self.sampler.counts
            if self._under_way() or self.finished:
                self.window = self._new_window(end)
            else:
                self.apportioner.sites.discard(self)
                self.sampler.release(self.ledger)
            record = self._record(window, end) if window.calls else None
        if record is not None:
            self._deliver(record)
            self.session.forget(record.record_id)

    def checkpoint(self) -> Checkpoint | None:
        """The row so far, for the journal; None where nothing has been summed."""
        with self.sampler.lock:
            window = self.window
            if window is None or not window.calls:
                return None
            return Checkpoint(self._record(window, self.sampler.counts))

    def _deliver(self, record: Record) -> None:
        self.session.deliver(record if self.budget_check is None else self.budget_check(record))

    def _under_way(self) -> bool:
        return any(call.site is self for call in list(self.sampler.under_way.values()))

    def _record(self, window: CallWindow, end: Counts) -> Record:
        builder, failed = self.session.builder, window.failed
        ids = (window.record_id, self.session.run_id, window.parent_id)
        subject = Subject(*ids, self.name, self.labels, window.started_at)
        error = f"{failed} of {window.calls} calls failed" if failed else None
        outcome = EndStatus("error" if failed else "ok", error, window.calls)
        ended = builder.window(window.start, end, window.ran_s, window.machine_j)
        return builder.build(subject, ended, window.sums, outcome)

    # -- calls ------------------------------------------------------------------------------

    def propagate(self, call: object) -> None:
        """Have processes that are started from now on find this run as their parent.

        The first call does, and then those that follow one that a tick has seen: of short calls
        none starts a process, or each would pay for the change of the environment.
        """
        self.propagates, self.propagating = False, call
        if self.session.propagator is not None:
            self.session.propagator.inject(id(call), self.session.run_id)

    def stop_propagating(self, *, lasted: bool) -> None:
        """That call has ended, or is suspended."""
        call, self.propagating, self.propagates = self.propagating, None, lasted
        if self.session.propagator is not None:
            self.session.propagator.withdraw(id(call))

    def interrupt(self) -> None:
        """The program ends: end what is under way as interrupted, and write the last row."""
        with self.sampler.lock:
            calls: list[Any] = [*self.sampler.under_way.values(), *self.apportioner.single.values()]
        for call in calls:
            if call.site is self:
                call.end("interrupted")
        self.write_row()
        self.closed = True

    def forget_parent(self) -> None:
        """Begin at zero in a child process."""
        self.apportioner.sites.discard(self)
        self.window = self.propagating = None
        self.finished.clear()
        self._usage = NO_USAGE
