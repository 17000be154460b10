"""Calls whose name is known only at their end: requests of a server, tasks of a queue.

A named call is a call of its `Pending` site while it runs, and one of the site with its name when
it ends. A call may report its own CPU seconds (`cpu_s`): most of many concurrent requests only
wait, and the CPU seconds of the process are not theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from carbontrack.attribution.process_tree import has_children
from carbontrack.record import NAME_LIMIT, Record, Status
from carbontrack.tracking.apportion import OWN_ROW_S, CallUsage
from carbontrack.tracking.call import Call
from carbontrack.tracking.call_site import Callee, CallSite, CallWindow, call_site_of
from carbontrack.tracking.checkpoints import Checkpoint
from carbontrack.tracking.counted_call import CallAccount
from carbontrack.tracking.session import Session
from carbontrack.tracking.span import Span

OTHER = "(other)"
"""The name of calls beyond the most names."""
_END = sys.maxsize
"""Past the end of any list, as the start of a slice."""


class Pending(CallSite):
    """The site of named calls that run; it finds the one that a call ends in.

    Its own row has the calls that never got a name, because the program ended before.

    Args:
        session: the session whose sinks get the rows.
        callee: the name and labels of calls that never got a name.
        window_s: the time for which short calls of a name are summed into one row; 0: each call has
            a row.
        most_names: the number of names with rows; all others share one.
    """

    def __init__(
        self, session: Session, callee: Callee, *, window_s: float, most_names: int
    ) -> None:
        super().__init__(session, callee, window_s=window_s or 10.0)
        self._for_each = window_s
        self._most_names = most_names
        self._named: dict[str, CallSite] = {}
        self.idle: dict[int, NamedCall] = {}
        """Calls that wait for a message, and have been credited all that they used before."""
        self._lends: str | None = None
        self.long: dict[int, NamedCall] = {}
        """Running calls that will have separate rows: they are kept in the journal."""
        self.has_new = False
        """Whether one of them has used something since the last checkpoint."""
        self._kept: Record | None = None
        self._long_since: CallWindow | None = None

    @property
    def each_has_row(self) -> bool:
        """Whether each call has a row, as there is no later tick to write a sum, or by wish."""
        return self._for_each == 0.0 or self.session.writes_each_call

    def named(self, name: str) -> CallSite:
        """The site of the calls with this name, with an open window."""
        name = name[:NAME_LIMIT]
        site = self._named.get(name)
        if site is None:
            site = self._new_name(name)
        if site.window is None and not (site.closed or self.each_has_row):
            site.open_window()  # before the call ends, so that this one has a part of the energy
        return site

    def _new_name(self, name: str) -> CallSite:
        if len(self._named) >= self._most_names and name != OTHER:
            self.session.warn(
                f"names {self.name}",
                f"there are more than {self._most_names} names of calls; starting with {name!r}, "
                f"new ones are counted together as {OTHER!r}",
            )
            return self._named.get(OTHER) or self._new_name(OTHER)
        callee = Callee(name, self.labels, "named")
        window_s = self._for_each or 10.0
        site = call_site_of(self.session, callee, window_s=window_s, budget_check=None)
        self._named[name] = site
        return site

    def write_rows(self) -> None:
        """Write the rows of all names."""
        for site in list(self._named.values()):
            site.write_row()

    def row_id(self) -> str:
        """An id for each call: the row of its sum, which may have others, is not known yet."""
        return self._lends or self.session.new_ids()[1]

    def claim(self, row_id: str | None) -> bool:  # noqa: ARG002 - as of any site
        """Each has its own."""
        return True

    def lend(self, call: NamedCall | None) -> None:
        """Have the row of `call` get the id that its child processes were told, if they were."""
        is_told = call is not None and self.propagating is call
        self._lends = self._call_id.partition("/")[0] if is_told else None

    def checkpoint(self) -> Checkpoint | None:
        """A row with what long calls under way have used so far; None where that is nothing new."""
        with self.sampler.lock:
            since = self._long_since = self._long_since or self.window
            if not self.has_new or since is None or not self.long:
                return None
            end, self.has_new = self.sampler.counts, False
            record_id = self.session.new_ids()[1] if self._kept is None else self._kept.record_id
            total = CallWindow(record_id, since.start, since.started_at, since.parent)
            for call in list(self.long.values()):
                sums, machine_j, _ = call.take_sums()
                total.add(sums, machine_j, call.ran_for_s(end.at_s), failed=False)
            record, first = self._record(total, end), self._kept
            self._kept = first or record
            return Checkpoint(record, first=first, is_sum=True)

    def has_ended(self, call: NamedCall) -> None:
        """A long call is in a row of its own now, and no more in the one that is kept."""
        if self.long.pop(id(call), None) is None or self._kept is None:
            return
        if self.long:
            self.has_new = True
            self.session.keep(self)
        else:
            kept, self._kept, self._long_since = self._kept, None, None
            self.session.drop_checkpoint(kept.record_id)

    def _interrupt_calls(self) -> None:
        with self.sampler.lock:
            idle = list(self.idle.values())
        for call in idle:
            call.end_wait()
        super()._interrupt_calls()

    def forget_parent(self) -> None:
        """Reset in a child process."""
        super().forget_parent()
        self.idle.clear()
        self.long.clear()
        self._kept = self._long_since = None


class NamedCall(Call):
    """A call that gets its name when it ends; see `end_as`.

    Args:
        pending: its site while it runs.
        cpu_s: the CPU seconds that it has used since it began, asked of any thread; None: those
            that the process uses meanwhile are shared, as among calls of decorated functions.
    """

    __slots__ = ("_pending", "_reads", "_waits_since_s")

    def __init__(self, pending: Pending, cpu_s: Callable[[], float] | None = None) -> None:
        super().__init__(pending)
        self._pending = pending
        self._reads = cpu_s
        self._waits_since_s: float | None = None
        self.handle = None

    @property
    def is_counted(self) -> bool:
        """Whether it is counted at all."""
        return True

    @property
    def is_open(self) -> bool:
        """Whether the call is being counted, in this process."""
        return id(self) in self._pending.idle or super().is_open

    @property
    def grows(self) -> bool:
        """Whether it becomes a span when it is long: what it uses is not known otherwise."""
        return self._reads is None

    def own_thread(self) -> int | None:
        """The number of the thread that measures, which works for no call."""
        return self._pending.sampler.ticker.thread_id

    def _run(self, site: CallSite) -> None:
        super()._run(site)
        if self._reads is not None:
            self._cpu_s = self._reads()

    # -- what it uses ------------------------------------------------------------------------

    def _now(self, now_s: float) -> float:
        """The time, which stands still for a call that waits."""
        return now_s if self._waits_since_s is None else min(now_s, self._waits_since_s)

    def ran_for_s(self, now_s: float) -> float:
        """How long the body has run, without waiting."""
        return super().ran_for_s(self._now(now_s))

    def unsettled(self, now_s: float, cpu_s: float) -> CallUsage:
        """The body's usage since the last call of `usage`."""
        own_s = cpu_s if self._reads is None else self._reads()
        return super().unsettled(self._now(now_s), max(own_s, self._cpu_s or 0.0))

    def usage(self, now_s: float, cpu_s: float) -> CallUsage | None:
        """The body's usage since the last call of this method; a call that waits becomes idle."""
        own_s = cpu_s if self._reads is None else max(self._reads(), self._cpu_s or 0.0)
        used = CallAccount.unsettled(self, self._now(now_s), own_s)
        self._unsettled = CallUsage(0.0, 0.0)
        self._marked_s, self._cpu_s = self._now(now_s), own_s
        if used.ran_s > 0.0 or used.cpu_s > 0.0:
            if self._running and not self.grows and self.ran_for_s(now_s) >= OWN_ROW_S:
                self._pending.long[id(self)], self._pending.has_new = self, True
            return used
        if self._waits_since_s is not None and self._running:
            self._be_done()
            self._pending.idle[id(self)] = self
        return None

    def _be_done(self) -> None:
        super()._be_done()
        self._pending.idle.pop(id(self), None)

    def begin_wait(self) -> None:
        """It waits for a message: no time counts until `end_wait`."""
        self._waits_since_s = self.site.now_s()
        if self._span is not None:
            self._span.pause()

    def end_wait(self) -> None:
        """It goes on."""
        since_s = self._waits_since_s
        if since_s is None:
            return
        waited_s = max(0.0, self.site.now_s() - since_s)
        self._started_s += waited_s
        self._marked_s += waited_s
        self._waits_since_s = None
        if self._span is not None:
            self._span.resume()
        if self._pending.idle:
            with self._pending.sampler.lock:
                if self._pending.idle.pop(id(self), None) is not None:
                    self._pending.under_way[self] = self

    # -- the end -----------------------------------------------------------------------------

    def end_as(self, name: str, status: Status = "ok", error: str | None = None) -> None:
        """The call has ended and gets this name; no error of carbontrack reaches the program."""
        try:
            try:
                self._end_as(name, status, error)
            except BaseException as failure:
                self.fail(failure)
        except RecursionError:  # too little stack for us; the program itself may still succeed
            return

    def _end_as(self, name: str, status: Status, error: str | None) -> None:
        self.end_wait()
        pending = self._pending
        if self.is_open:  # in a forked child, or after the end of the session, it is not
            # child processes were told the id of a row
            told = pending.propagating is self and has_children()
            has_row = told or pending.each_has_row
            if has_row:
                self.promote()
            if pending.propagating is self:
                pending.stop_propagating(lasted=self.single)
            if pending.covers and self._running:
                self._release_covered()
            self.site = site = pending.named(name)
            if self.single:
                self._rename(site, has_row=has_row or pending.session.spans == "all")
        self.end(status, error)

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """As of any call."""
        super().end(status, error)
        if self._pending.long:
            self._pending.has_ended(self)

    def _rename(self, site: CallSite, *, has_row: bool) -> None:
        """If it has become a span before it had a name, that is the span's from now on."""
        with site.sampler.lock:  # whoever makes it a span has done so
            span = self._span
        if span is not None and span.call_site is self._pending:
            span.name, span.has_row_id = site.name, False
            span.call_site = None if has_row else site

    def _become_span(self) -> Span:
        self._pending.lend(self)
        try:
            return super()._become_span()
        finally:
            self._pending.lend(None)

    def _is_summed(self, site: CallSite, failures: int) -> bool:
        """As of any call, with the CPU seconds that it says it has used."""
        if self._reads is None:
            return super()._is_summed(site, failures)
        if site.under_way.pop(self, None) is None and not self._is_taken():
            return False
        ran_s = site.now_s() - self._marked_s
        if ran_s >= OWN_ROW_S or self.single:  # a tick has just made it `single`
            self._put_back(site)
            return False
        cpu_s = max(0.0, self._reads() - (self._cpu_s or 0.0))
        # by one statement without a call, in which no handler of a signal runs
        site.finished[_END:], self._ended = (ran_s, cpu_s, failures), True
        if len(site.finished) >= site.collect_at:
            site.collect_enough()
        if site.window is None:  # the row was written just now, without this call
            site.catch_up()
        return True
