"""The call site: one decorated function in one session, its window of short calls, its rows."""

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
    """The sums of one function's short calls since the window began."""

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
    """A decorated function: the name and labels of its rows, and its code.

    A function that is defined and decorated anew at each call of an enclosing one counts as the
    same function each time, because it runs the same code.
    """

    name: str
    labels: Mapping[str, Any]
    code: Hashable

    @property
    def key(self) -> Hashable:
        """The key by which decorated functions are told apart."""
        return self.name, repr(plain(self.labels)), self.code


class CallSite:
    """A decorated function in one session.

    Args:
        session: the session whose sinks get its rows.
        callee: the function.
        window_s: the time for which short calls are summed into one row.
        budget_check: called with each row before it is written; marks a row over its budget.
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
        """Length, CPU seconds and failure of calls that have ended; any thread may append to a
        deque."""
        self._window_s = window_s
        self.budget_check = budget_check
        self._usage = NO_USAGE
        self.closed = False
        self.propagates = session.propagator is not None
        """Whether the next call propagates this run as the parent of child processes."""
        self.propagating: Any = None
        """The call that does so now."""
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
        """The call site of this function in the session, made when first needed."""
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
        """The ledger whose policy and grid apply."""
        return self.session.ledger

    # -- windows ----------------------------------------------------------------------------

    def open_window(self) -> CallWindow:
        """Begin a window; keeps the sampler awake until its row is written."""
        self.ledger.refresh(self.sampler.clock)
        with self.sampler.lock:
            if self.window is None:
                mark = self.sampler.hold(self.ledger)
                self.apportioner.begin(self.ledger)
                self.apportioner.sites.add(self)
                self.window = self._new_window(mark.counts)
            return self.window

    def _new_window(self, start: Counts) -> CallWindow:
        clock = self.sampler.clock
        self.now_s, started_at = clock.monotonic_s, clock.now_utc()  # another, if one went back
        _, record_id = self.session.new_ids()
        return CallWindow(record_id, start, started_at, self.session.parent_id)

    def collect(self) -> None:
        """Add the finished calls to the window."""
        with self.sampler.lock:
            window, left = self.window, self.finished
            if window is None or not left:
                return
            # Only the lock's holder removes calls; those added meanwhile wait for the next time.
            ran_s, cpu_s, failed = zip(*[left.popleft() for _ in range(len(left))], strict=True)
            window.calls += len(ran_s)
            window.failed += sum(failed)
            window.ran_s += sum(ran_s)
            before = self._usage
            self._usage = CallUsage(before.ran_s + sum(ran_s), before.cpu_s + sum(cpu_s))

    def usage(self, now_s: float, cpu_s: float) -> CallUsage | None:  # noqa: ARG002 - the protocol's
        """The usage of the short calls that ended since the last call of this method."""
        self.collect()
        usage, self._usage = self._usage, NO_USAGE
        return usage if usage.ran_s > 0.0 else None

    def credit(self, sums: Sums, machine_j: Joules) -> None:
        """Add the short calls' part of the energy."""
        window = self.window
        if window is not None:
            window.sums = window.sums.plus(sums)
            window.machine_j = add_joules(window.machine_j, machine_j)

    def credit_call(self, sums: Sums, machine_j: Joules, length_s: float, *, failed: bool) -> None:
        """Add a call that was credited singly and turned out to be short."""
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
        """Open a window for a call that ended without one; after the end, write its row at once."""
        self.open_window()
        if self.closed:
            self.write_row()

    def credit_span(self, span: Span) -> None:
        """Add a short call that became a span because its body needed the current span."""
        sums, window, failed = span.measured()
        if self.window is not None and self.window.parent_id != span.parent_id:
            self.write_row()  # a row belongs to one parent
        self.credit_call(sums, window.machine_j, window.duration_s, failed=failed)
        if self.window is not None:
            self.window.parent_id = span.parent_id

    def write_row_if_due(self, now_s: float) -> None:
        """Write the row if the window is over."""
        window = self.window
        if window is not None and now_s - window.start.at_s >= self._window_s:
            self.write_row()

    def write_row(self) -> None:
        """Write the row of the window; a new window begins only if calls are running."""
        with self.sampler.lock:
            window = self.window
            if window is None:
                return
            self.collect()
            if self._usage.ran_s > 0.0:
                self.sampler.sample()
                self.apportioner.settle()
            # Remove the window first and look for running calls then: a call that begins meanwhile
            # is either seen here or opens a window itself.
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
            self.session.drop_checkpoint(record.record_id)

    def checkpoint(self) -> Checkpoint | None:
        """The row so far, for the journal; None where no call has been summed."""
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
        """Propagate this run as the parent of processes that start from now on.

        Only the first call does, and calls that follow one that was running at a tick: a short call
        hardly starts a process, and each would pay for changing the environment.
        """
        self.propagates, self.propagating = False, call
        if self.session.propagator is not None:
            self.session.propagator.inject(id(call), self.session.run_id)

    def stop_propagating(self, *, lasted: bool) -> None:
        """Stop, as the call has ended or is suspended."""
        call, self.propagating, self.propagates = self.propagating, None, lasted
        if self.session.propagator is not None:
            self.session.propagator.withdraw(id(call))

    def interrupt(self) -> None:
        """The program ends: end running calls as interrupted, and write the last row."""
        with self.sampler.lock:
            calls: list[Any] = [*self.sampler.under_way.values(), *self.apportioner.single.values()]
        for call in calls:
            if call.site is self:
                call.end("interrupted")
        self.write_row()
        self.closed = True

    def forget_parent(self) -> None:
        """Start anew in a child process."""
        self.apportioner.sites.discard(self)
        self.window = self.propagating = None
        self.finished.clear()
        self._usage = NO_USAGE
