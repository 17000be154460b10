"""Decorated calls: two clock reads a call, one row for many.

A call that lasts is measured like a span. A short one only leaves its length and its CPU seconds
behind, and gets its part of the energy at the next tick (see `carbontrack.tracking.apportion`);
the row of its function's window sums them up.

A decorated call inside a span, which counts it; it has nothing to do but to be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carbontrack.record import Status
from carbontrack.sampling.amounts import NOTHING, Joules, Sums, add_joules
from carbontrack.sampling.ledger import Ledger
from carbontrack.system.clock import process_cpu_s
from carbontrack.tracking.apportion import NO_CLAIM, Claim
from carbontrack.tracking.call_site import CallSite
from carbontrack.tracking.context import current, nearest_open
from carbontrack.tracking.session import Session
from carbontrack.tracking.span import Span
from carbontrack.tracking.tree import OWN_ROW_S, Used

FOLD_AT = 128
"""So many finished calls are folded together by the thread that made the last of them."""


class Call:
    """One call of a decorated function, running or, for a generator, suspended.

    It begins cheap: two clocks are read. It becomes `single`, with a part of the energy of its own,
    when a tick finds it under way or when it is suspended; and it becomes a span when it lasts, or
    when somebody inside asks for the current one.
    """

    __slots__ = (
        "_began_s",
        "_cpu_s",
        "_ended",
        "_epoch",
        "_inside",
        "_left",
        "_machine_j",
        "_marked_s",
        "_ran_s",
        "_running",
        "_span",
        "_started_s",
        "_sums",
        "around",
        "single",
        "site",
    )

    def __init__(self, site: CallSite) -> None:
        self.site = site
        self.single = False
        self._ran_s = 0.0
        self._left = NO_CLAIM
        self._span: Span | None = None
        self._began_s = float("nan")
        self._ended = False
        self._epoch = site.sampler.epoch
        self._inside: Any = self

    @property
    def ledger(self) -> Ledger:
        """Whose policy and grid hold."""
        return self.site.ledger

    @property
    def session(self) -> Session:
        """What the call shares with the spans of its tracker."""
        return self.site.session

    @property
    def is_open(self) -> bool:
        """Whether the call is being counted, in this process."""
        if self._span is not None:
            return self._span.is_open
        return not self._ended and self._epoch == self.site.sampler.epoch

    def resume(self) -> None:
        """The body begins to run, or goes on."""
        site = self.site
        self.around: Any = current.get()
        """What was current around the body when it last went on."""
        current.set(self._inside)
        if self._span is not None:
            self._span.resume()
            return
        if self._ended or self._epoch != site.sampler.epoch:
            return
        self._running = True
        self._cpu_s = process_cpu_s()
        self._started_s = self._marked_s = site.now_s()
        site.sampler.under_way[id(self)] = self
        if site.window is None and not site.closed:
            try:
                site.open_window()
                self._started_s = self._marked_s = site.now_s()
            except BaseException:  # the call is made uncounted, and nobody will end this one
                site.sampler.under_way.pop(id(self), None)
                raise
        if self._ran_s == 0.0:
            self._began_s = self._started_s
        if site.tells:
            site.tell_children(self)

    def pause(self) -> None:
        """The body is suspended; what its consumer does meanwhile is not ours."""
        self._inside = current.get()  # a block inside may be open
        current.set(self.around)
        if self.site.teller is self:
            self.site.tell_no_more(lasted=False)
        if self._span is not None:
            self._span.pause()
            return
        if not self.is_open:
            return
        with self.site.sampler.lock:
            self.become_single()
            self._stop(self.site.now_s())

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """The body has ended, or the program does; a second end does nothing."""
        here, span, site = current.get(), self._span, self.site
        if here is self or (here is span is not None):
            current.set(self.around)
        if site.teller is self:
            site.tell_no_more(lasted=self.single)
        if span is not None:
            self._ended = True
            span.close(status, error)
            return
        if self._ended or self._epoch != site.sampler.epoch:
            return
        self._ended = True
        under_way = site.sampler.under_way
        ran_s = site.now_s() - self._marked_s
        if ran_s < OWN_ROW_S and not self.single:
            cpu_s = process_cpu_s() - self._cpu_s
            under_way.pop(id(self), None)
            if not self.single:  # a tick may have found it just before
                site.finished.append((ran_s, cpu_s, status != "ok"))
                if len(site.finished) >= FOLD_AT:
                    site.fold()
                if site.window is None:  # its row was written just now, without this call
                    site.catch_up()
                return
        self._end_single(status, error)

    def _end_single(self, status: Status, error: str | None) -> None:
        with self.site.sampler.lock:
            self._settle_last()
            span = self._become_span() if self._ran_s >= OWN_ROW_S else None
        if span is not None:
            span.close(status, error)
        else:
            self.site.absorb(self._sums, self._machine_j, self._ran_s, failed=status != "ok")

    def _settle_last(self) -> None:
        site, sampler = self.site, self.site.sampler
        self.become_single()
        sampler.sample()
        if self._running:
            self._stop(sampler.counts.at_s)
        site.pool.settle()
        site.pool.single.pop(id(self), None)

    def _become_span(self) -> Span:
        site = self.site
        began_ago_s = site.sampler.counts.at_s - self._began_s
        span = Span(site.session, site.name, labels=site.labels)
        used = Used(self._sums, self._machine_j, self._ran_s, began_ago_s)
        span.take_over(used, absorb=site.absorb_span)
        span.judge = site.judge
        self._span = span
        return span

    def ran_for_s(self, now_s: float) -> float:
        """How long the body has run by now, suspensions left out."""
        return self._ran_s + (now_s - self._started_s if self._running else 0.0)

    def promote(self) -> Span:
        """Become a span, because it lasts, or because somebody inside wants to see it."""
        with self.site.sampler.lock:
            if self._span is None:
                self._settle_last()
                self._become_span()
                if current.get() is self:
                    current.set(self._span)
        assert self._span is not None
        return self._span

    def _stop(self, now_s: float) -> None:
        self.site.sampler.under_way.pop(id(self), None)
        self._ran_s += now_s - self._started_s
        self._left = self._so_far(now_s, process_cpu_s())
        self._running = False

    def _so_far(self, now_s: float, cpu_s: float) -> Claim:
        left = self._left
        if not self._running:
            return left
        ran_s = max(0.0, now_s - self._marked_s)
        return Claim(left.ran_s + ran_s, left.cpu_s + cpu_s - self._cpu_s)

    def become_single(self) -> None:
        """Get a part of the energy of one's own from now on; the sampler's lock is held."""
        if not self.single:
            self._sums: Sums = NOTHING
            self._machine_j: Joules = ()
            self.site.pool.single[id(self)] = self
            self.single = True

    def claim(self, now_s: float, cpu_s: float) -> Claim | None:
        """What the body has run since the last asking."""
        claim = self._so_far(now_s, cpu_s)
        self._left = NO_CLAIM
        self._marked_s, self._cpu_s = now_s, cpu_s
        return claim if claim.ran_s > 0.0 else None

    def grant(self, sums: Sums, machine_j: Joules) -> None:
        """The part of this call."""
        self._sums = self._sums.plus(sums)
        self._machine_j = add_joules(self._machine_j, machine_j)


class InsideCall:
    """A decorated call inside a span: the span counts it, so there is nothing to count.

    It only remembers that it is there, and becomes a child when somebody inside asks for the
    current span.
    """

    __slots__ = ("_counted_by", "_ended", "_inside", "_labels", "_name", "_span", "around")

    def __init__(self, name: str, labels: Mapping[str, Any]) -> None:
        self._name = name
        self._labels = labels
        self._span: Span | None = None
        self._ended = False
        self._inside: Any = self

    @property
    def is_open(self) -> bool:
        """Whether the call is being made and something around it is counted."""
        return not self._ended and nearest_open(self._counted_by) is not None

    @property
    def session(self) -> Session:
        """What the span around shares with the others of its tracker."""
        session: Session = (nearest_open(self._counted_by) or self._counted_by).session
        return session

    def resume(self) -> None:
        """The body begins to run, or goes on."""
        around = current.get()
        self.around: Any = around
        """What was current around the body when it last went on."""
        # Not by way of the calls between: a function that calls itself would ask all of them.
        self._counted_by: Any = around._counted_by if type(around) is InsideCall else around
        if self._span is not None:
            self._span.resume()
        current.set(self._inside)

    def pause(self) -> None:
        """The body is suspended."""
        if self._span is not None:
            self._span.pause()
        self._inside = current.get()  # a block inside may be open
        current.set(self.around)

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """The body has ended."""
        self._ended = True
        here, span = current.get(), self._span
        if here is self or (here is span is not None):
            current.set(self.around)
        if span is not None:
            span.close(status, error)

    def promote(self) -> Span:
        """Become a child of what is around; calls between that are none yet become one first."""
        waiting: list[InsideCall] = []
        here: Any = self
        while isinstance(here, InsideCall):
            if here._span is None:
                waiting.append(here)
            here = here._span or nearest_open(here.around)
        span: Span = here.promote() if isinstance(here, Call) else here
        for call in reversed(waiting):
            span = call._become_child(span)
        return span

    def _become_child(self, parent: Span | None) -> Span:
        if parent is None:  # another thread has closed it just now
            span = Span(self.session, self._name, labels=self._labels)
        else:
            current.set(parent)
            span = parent.span(self._name, labels=self._labels)
        self._span = span.open()
        return self._span


def past_ended(here: Any) -> Any:
    """The first from here outwards that is not a call that has ended.

    A context that was copied while a call was made keeps it; a task that starts the next of its
    kind, and that one another, would hold on to all of them.
    """
    while isinstance(here, (Call, InsideCall)) and here._ended:
        here = here.around
    return here
