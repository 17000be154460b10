"""Calls of decorated functions: two clock reads for each, and one row for many.

A long call becomes a span. A short one only stores its duration and CPU seconds, and its part of
the energy is attributed at the next tick (`carbontrack.tracking.apportion`); its function writes
one row for all short calls of a window. A call inside an open span is counted by that span.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from carbontrack.record import Status
from carbontrack.system.clock import process_cpu_s
from carbontrack.system.reentrance import here
from carbontrack.tracking.apportion import OWN_ROW_S
from carbontrack.tracking.call_site import CallSite
from carbontrack.tracking.context import current, nearest_open, set_current
from carbontrack.tracking.counted_call import CallAccount, CountedCall, leave
from carbontrack.tracking.handle import exit_method
from carbontrack.tracking.outliving import release
from carbontrack.tracking.record_builder import EndStatus
from carbontrack.tracking.session import Session
from carbontrack.tracking.span import Span

_END = sys.maxsize
"""Past the end of any list, as the start of a slice."""
_log = logging.getLogger("carbontrack")


class Call(CallAccount):
    """One call of a decorated function, running or, for a generator, suspended.

    Its start only reads a clock, or two if a tracker attributes energy by CPU seconds. It becomes
    `single`, with a separate part of the energy, when it is running at a tick or is suspended. It
    becomes a span when it is long, or when its body calls `current_span`.
    """

    __slots__ = ("__exit__", "_span", "around", "covered", "inside", "is_torn")

    around: Any
    """The current span or call outside the body when it last resumed."""

    def __init__(self, site: CallSite) -> None:
        self.site = site
        self.single = self._running = self._ended = self.is_torn = False
        self._span: Span | None = None
        self.inside: Any = None
        """The current span or call inside the body when it was last suspended; None: this one."""

    @property
    def is_open(self) -> bool:
        """Whether the call is being counted, in this process."""
        if self._span is not None:
            return self._span.is_open
        site = self.site
        return self in site.under_way or id(self) in site.apportioner.single

    def __enter__(self) -> Call:
        try:
            try:
                self.__exit__ = None  # the statement has it
                self.around, thread = current.get(), here.thread
                thread.busy = True
                current.set(self)
                thread.busy = False
                self._run(self.site)
            except BaseException as error:
                self.fail(error)
        except RecursionError:  # too little stack for us; the program itself may still succeed
            pass
        return self

    def resume(self) -> None:
        """The body resumes."""
        self.around = current.get()
        set_current(self.inside or self)
        if self._span is not None:
            self._span.resume()
        elif self.is_open:
            self._run(self.site)
            if self._ran_s == 0.0:
                self._began_s = self._started_s

    def _run(self, site: CallSite) -> None:
        self._cpu_s = process_cpu_s() if site.apportioner.counts_cpu else None
        now_s = site.now_s  # not a method: calling it in one step takes longer
        self._started_s = self._marked_s = now_s()
        self._running = True
        site.under_way[self] = self
        if site.window is None and not site.closed:
            site.open_window()
            self._started_s = self._marked_s = site.now_s()
        if site.propagates:
            site.propagate(self)

    def begin(self) -> None:
        """Begin to count, in the middle of a body that was counted by something else."""
        self.around = current.get()
        set_current(self.inside or self)
        self._run(self.site)

    def begin_elsewhere(self, at_s: float, around: Any) -> None:
        """Begin at `at_s`, for a body that runs in another context; the sampler's lock is held.

        `around` is the current span or call outside the body when it last resumed.
        """
        site = self.site
        site.hold_window()
        self._cpu_s = process_cpu_s() if site.apportioner.counts_cpu else None
        self._started_s = self._marked_s = at_s
        self._running = True
        self.around = around
        site.under_way[self] = self

    def pause(self) -> None:
        """The body is suspended; what its consumer uses in the meantime is not counted."""
        inner = current.get()  # a block inside may be open
        self.inside = None if inner is self else inner
        set_current(self.around)
        if self.site.propagating is self:
            self.site.stop_propagating(lasted=False)
        if not self.is_open:
            return
        with self.site.sampler.lock:
            if self._span is not None:  # a tick may just have made it one
                self._span.pause()
            elif self.is_open:
                self.become_single()
                self._stop(self.site.now_s())

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """The body has ended, or the program ends; a second call does what the first has not."""
        site, innermost = self.site, current.get()
        if innermost is self or (innermost is not None and innermost is self._span):
            thread = here.thread
            try:
                thread.busy = True
                current.set(self.around)
            finally:
                thread.busy = False
        self.handle = None
        if (
            self.single
            or site.propagating is self
            or site.covers
            or not self._is_summed(site, 0 if status == "ok" else 1)
        ):
            self._end_otherwise(site, status, error)

    def _end_otherwise(self, site: CallSite, status: Status, error: str | None) -> None:
        """End a call that may be more than a short one."""
        if site.propagating is self:
            site.stop_propagating(lasted=self.single)
        if self._span is not None:
            self._ended = True
            self._span.close(status, error)
        elif self.is_open or self._is_taken():
            if site.covers and self._running:
                self._release_covered()
            if self.single or not self._is_summed(site, 0 if status == "ok" else 1):
                self._end_single(status, error)

    def _is_summed(self, site: CallSite, failures: int) -> bool:
        """Add a short call's use to its function; False if it is not a short one."""
        # Whoever takes a running call out of `under_way` ends it, or makes it a span.
        if site.under_way.pop(self, None) is None and not self._is_taken():
            return False
        now_s = site.now_s
        ran_s = now_s() - self._marked_s
        if ran_s >= OWN_ROW_S or self.single:  # a tick has just made it `single`
            self._put_back(site)
            return False
        cpu_s = 0.0 if self._cpu_s is None else process_cpu_s() - self._cpu_s
        # by one statement without a call, in which no handler of a signal runs
        site.finished[_END:], self._ended = (ran_s, cpu_s, failures), True
        if len(site.finished) >= site.collect_at:
            site.collect_enough()
        if site.window is None:  # the row was written just now, without this call
            site.catch_up()
        return True

    def _put_back(self, site: CallSite) -> None:
        """Leave it to any thread that may end it, unless another thread has just done that."""
        site.under_way[self] = self
        if self._ended or self._span is not None:
            self._be_done()

    def _is_taken(self) -> bool:
        """Whether a signal handler has raised since this thread took it out."""
        return self.is_torn and self._running and not self._ended and self._span is None

    def abandon(self) -> None:
        """End it, because its `with` statement is over and has not done so."""
        self.is_torn = True
        self.end("interrupted")

    def tear(self) -> None:
        """A signal handler has raised in an edge, which is done again."""
        self.is_torn = True

    def drop(self) -> None:
        """Count it no more, as that has failed."""
        self.mark_ended()
        if current.get() is self:
            set_current(self.around)

    def _release_covered(self) -> None:
        if getattr(self, "covered", None):
            with self.site.sampler.lock:
                release(self, self.site.now_s())

    def _end_single(self, status: Status, error: str | None) -> None:
        if not sys.is_finalizing():  # when a thread that was stopped for good may have the lock
            self.site.sampler.uninterrupted(partial(self._end_single_now, status, error))
            if Span.on_close is not None and self._span is not None:
                Span.on_close(self._span)  # it was closed in another thread

    def _end_single_now(self, status: Status, error: str | None) -> None:
        with self.site.sampler.lock:
            span = self._span  # another thread may just have made it one
            if span is None:
                if not self._take():
                    return
                self._settle_last()
                span = self._become_span() if self._ran_s >= OWN_ROW_S else None
                if span is None:
                    self.site.credit_call(self, failed=status != "ok")
        if span is not None:
            self._ended = True
            span.end_here(EndStatus(status, error))
        else:
            self.site.keep_call()

    def _take(self) -> bool:
        """Claim its end; False if another thread has done so. The lock is held."""
        if self._running and (self in self.site.under_way or self._is_taken()):
            self.become_single()
            self.site.under_way.pop(self, None)
        return id(self) in self.site.apportioner.single

    def _become_span(self) -> Span:
        site = self.site
        span = Span(site.session, site.name, labels=site.labels)
        span.call_site, row_id = site, site.row_id()
        if site.claim(row_id):  # others may have been told that it is inside of this row
            span.given_id, span.has_row_id, site.lent = row_id, True, ref(span)
        span.budget_check = site.budget_check
        span.covered = getattr(self, "covered", None)
        try:
            span.continue_from(self._use_so_far)
            self._span = span
            self._be_done()
        except BaseException:  # a handler of a signal
            if span.is_open:
                self._span = span
                self._be_done()
            raise
        return span

    def promote(self) -> Any:
        """Become a span, because the call is long or its body needs the current span.

        Returns the span, or what encloses the call if it has just ended.
        """
        if self._span is None:
            self.site.sampler.uninterrupted(self._promote)
        if self._span is None:  # it ends in its own thread, just now
            return self.around
        if current.get() is self:
            set_current(self._span)
        return self._span

    def _promote(self) -> None:
        with self.site.sampler.lock:
            if self._span is None and self._take():
                self._become_span()


def call_of(site: CallSite) -> Call:
    """A call for a `with` statement, which finds its exit method in it."""
    call = Call(site)
    call.__exit__ = exit_method(leave, call)  # in a slot: a descriptor in Python takes longer
    return call


class CoveredCall(CountedCall):
    """A decorated call inside a span or call, which counts it.

    For a generator it switches the current span between body and consumer. When what counts it ends
    first, what is around that counts it; where nothing is, it is a call of its own from then on.

    Args:
        outer: the span or call that counts it.
        new_site: returns the call site of its function in a session.
    """

    __slots__ = (
        "_around", "_began_in", "_covered", "_inside", "_new_site", "_outer", "_own", "_runs",
    )  # fmt: skip

    def __init__(self, outer: Any, new_site: Callable[[Session], CallSite]) -> None:
        self._began_in: Any = current.get()
        self._inside: Any = self._began_in
        self._around: Any = self._began_in
        self._new_site = new_site
        self._own: Call | None = None
        self._runs = True
        self._outer: Any = outer
        self._covered: set[CoveredCall] | None = None

    def resume(self) -> None:
        """The body starts or resumes."""
        self._runs = True
        self._around = current.get()
        if self._covered is None:
            self._covered = _cover(self._outer, self)
        if self._own is None and (self._outer.is_open or self._outer.session.closed):
            if self._inside is not self._around:
                set_current(self._inside)
            return
        self._resume_own()

    def _resume_own(self) -> None:
        session = self._outer.session
        with session.sampler.lock:
            is_new = self._own is None
            own = self._own = self._own or Call(self._new_site(session))
            if is_new and nearest_open(self._inside) is not None:  # a block inside of it is open
                own.inside = self._inside
        if is_new:
            own.begin()
        else:
            own.resume()

    def pause(self) -> None:
        """The body is suspended; a block inside may be open."""
        self._runs = False
        if self._own is not None:
            self._own.pause()
            return
        self._inside = current.get()
        if self._inside is not self._around:
            set_current(self._around)

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """The body has ended; a span that it leaves open stays current."""
        self._runs = False
        self.handle = None
        try:
            (self._covered or set()).remove(self)
        except KeyError:  # what counts it is ending, in another thread: wait for that
            if not sys.is_finalizing():
                with self._outer.session.sampler.lock:
                    pass
        if self._own is not None:
            self._own.end(status, error)
        if self._around is not self._began_in and _is_around(current.get(), self._began_in):
            set_current(self._around)

    def drop(self) -> None:
        """Count it no more, as that has failed."""
        (self._covered or set()).discard(self)
        if self._own is not None:
            self._own.drop()

    def open_window(self) -> None:
        """Open the window of a call that is about to be a root; the sampler's lock is held."""
        session = self._outer.session
        if self._runs and not session.closed:
            self._new_site(session).hold_window()

    def outlive(self, around: Any, at_s: float) -> None:
        """What counts the call has ended at `at_s`; the sampler's lock is held.

        A suspended generator becomes a call of its own when it resumes.
        """
        if around is not None:
            self._outer = around
            self._covered = _cover(around, self)
        elif self._runs and self._own is None and not self._outer.session.closed:
            own = Call(self._new_site(self._outer.session))
            own.begin_elsewhere(at_s, self._around)
            self._own = own  # last: `end` may come at any time in the body's thread


def _cover(outer: Any, call: CoveredCall) -> set[CoveredCall]:
    """Have a span or call hand over `call` if it ends first; returns those that it counts."""
    outer = getattr(outer, "_span", None) or outer  # a call that has become a span
    covered = getattr(outer, "covered", None)
    if covered is None:
        with outer.session.sampler.lock:
            covered = getattr(outer, "covered", None)
            if covered is None:
                covered = outer.covered = set()
                if isinstance(outer, Call):
                    outer.site.covers = True
    covered.add(call)
    found: set[CoveredCall] = covered
    return found


def _is_around(outer: Any, here: Any) -> bool:
    """Whether `outer` is `here`, or stands around it; nothing stands around everything."""
    while here is not outer and here is not None:
        here = here._before if isinstance(here, Span) else here.around
    return here is outer


def skip_ended(here: Any) -> Any:
    """The first span or call from here outwards that is not a call that has ended.

    A context copied during a call keeps a reference to it. In a chain of tasks, each started by the
    one before, these references would keep all calls alive.
    """
    while isinstance(here, Call) and here._ended:
        here = here.around
    return here
