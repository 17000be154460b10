"""A decorated function in one tracker: its window of short calls, and the rows that it writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from carbontrack.record import Record, plain
from carbontrack.sampling.amounts import NOTHING, Joules, Sums, add_joules
from carbontrack.sampling.counts import Counts
from carbontrack.sampling.ledger import Ledger
from carbontrack.tracking.apportion import NO_CLAIM, Claim, Pool
from carbontrack.tracking.record_builder import rfc3339
from carbontrack.tracking.session import Session
from carbontrack.tracking.span import Span


class Window:
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
        judge: called with each row before it is written; a budget sits here.
    """

    def __init__(
        self,
        session: Session,
        callee: Callee,
        *,
        window_s: float,
        judge: Callable[[Record], Record] | None = None,
    ) -> None:
        self.session = session
        self.name = callee.name
        self.labels = callee.labels
        self.window: Window | None = None
        self.finished: deque[tuple[float, float, bool]] = deque()
        """Length, CPU seconds and failure of calls that have ended; deques take
        appends from any thread."""
        self._window_s = window_s
        self.judge = judge
        self._claimed = NO_CLAIM
        self.closed = False
        self.tells = session.circumstances.relatives is not None
        """Whether the next call tells child processes that they are counted with it."""
        self.teller: Any = None
        """The call that does."""
        self.sampler = session.sampler
        self.pool = Pool.of(session.sampler)
        self.now_s = session.sampler.clock.monotonic_s

    @classmethod
    def of(
        cls,
        session: Session,
        callee: Callee,
        *,
        window_s: float,
        judge: Callable[[Record], Record] | None,
    ) -> CallSite:
        """The one in this session, made at the first asking."""
        key = (callee.key, window_s, judge)
        with session.sampler.lock:
            site = session.sites.get(key)
            if not isinstance(site, CallSite):
                site = session.sites[key] = cls(session, callee, window_s=window_s, judge=judge)
            return site

    @property
    def ledger(self) -> Ledger:
        """Whose policy and grid hold."""
        return self.session.ledger

    # -- windows ----------------------------------------------------------------------------

    def open_window(self) -> Window:
        """Begin to sum; keeps the sampler awake until the row is written."""
        self.ledger.refresh(self.sampler.clock)
        with self.sampler.lock:
            if self.window is None:
                mark = self.sampler.hold(self.ledger)
                self.pool.begin(self.ledger)
                self.pool.sites.add(self)
                self.window = self._new_window(mark.counts)
            return self.window

    def _new_window(self, start: Counts) -> Window:
        started_at = self.sampler.clock.now_utc()
        record_id = self.session.new_record_id()
        return Window(record_id, start, started_at, self.session.parent_id)

    def fold(self) -> None:
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
            before = self._claimed
            self._claimed = Claim(before.ran_s + sum(ran_s), before.cpu_s + sum(cpu_s))

    def claim(self, now_s: float, cpu_s: float) -> Claim | None:  # noqa: ARG002 - the protocol's
        """The short calls that have ended since the last asking."""
        self.fold()
        claim, self._claimed = self._claimed, NO_CLAIM
        return claim if claim.ran_s > 0.0 else None

    def grant(self, sums: Sums, machine_j: Joules) -> None:
        """The part of the short calls."""
        window = self.window
        if window is not None:
            window.sums = window.sums.plus(sums)
            window.machine_j = add_joules(window.machine_j, machine_j)

    def absorb(self, sums: Sums, machine_j: Joules, length_s: float, *, failed: bool) -> None:
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

    def absorb_span(self, span: Span) -> None:
        """Take in a call that had to become a span because somebody looked at it."""
        sums, course, failed = span.measured()
        if self.window is not None and self.window.parent_id != span.parent_id:
            self.write_row()  # a row belongs to one parent
        self.absorb(sums, course.machine_j, course.duration_s, failed=failed)
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
            self.fold()
            if self._claimed.ran_s > 0.0:
                self.sampler.sample()
                self.pool.settle()
            # First take the window away, then look: a call that begins meanwhile sees one or the
            # other, and is either seen here or opens a window itself.
            self.window = None
            end = self.sampler.counts
            if self._under_way() or self.finished:
                self.window = self._new_window(end)
            else:
                self.pool.sites.discard(self)
                self.sampler.release(self.ledger)
            record = self._record(window, end) if window.calls else None
        if record is not None:
            self._deliver(record)
            self.session.forget(record.record_id)

    def checkpoint(self) -> Record | None:
        """The row so far, for the journal; None where nothing has been summed."""
        with self.sampler.lock:
            window = self.window
            if window is None or not window.calls:
                return None
            return self._record(window, self.sampler.counts)

    def _deliver(self, record: Record) -> None:
        self.session.deliver(record if self.judge is None else self.judge(record))

    def _under_way(self) -> bool:
        return any(call.site is self for call in list(self.sampler.under_way.values()))

    def _record(self, window: Window, end: Counts) -> Record:
        session, failed = self.session, window.failed
        ending = session.ending(window.start, end, window.ran_s, window.machine_j)
        return Record(
            record_id=window.record_id,
            run_id=session.run_id,
            parent_id=window.parent_id,
            name=self.name,
            labels=self.labels,
            status="error" if failed else "ok",
            error=f"{failed} of {window.calls} calls failed" if failed else None,
            started_at=rfc3339(window.started_at),
            ended_at=rfc3339(ending.ended_at),
            duration_s=window.ran_s,
            calls=window.calls,
            **session.figures(window.sums, ending),
        )

    # -- calls ------------------------------------------------------------------------------

    def tell_children(self, call: object) -> None:
        """Have processes that are started from now on know that they are counted with this run.

        The first call does, and then those that follow one that a tick has seen: of short calls
        none starts a process, or each would pay for the telling.
        """
        self.tells, self.teller = False, call
        relatives = self.session.circumstances.relatives
        if relatives is not None:
            relatives.opened(id(call), self.session.run_id)

    def tell_no_more(self, *, lasted: bool) -> None:
        """That call has ended, or is suspended."""
        call, self.teller, self.tells = self.teller, None, lasted
        relatives = self.session.circumstances.relatives
        if relatives is not None:
            relatives.closed(id(call))

    def close(self) -> None:
        """End what is under way as interrupted, and write the last row."""
        with self.sampler.lock:
            calls: list[Any] = [*self.sampler.under_way.values(), *self.pool.single.values()]
        for call in calls:
            if call.site is self:
                call.end("interrupted")
        self.write_row()
        self.closed = True

    def forget_parent(self) -> None:
        """Begin at zero in a child process."""
        self.pool.sites.discard(self)
        self.window = self.teller = None
        self.finished.clear()
        self._claimed = NO_CLAIM
