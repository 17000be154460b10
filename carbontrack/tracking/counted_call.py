"""One call that is being counted: its `with` statement, and the energy attributed to it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any

from carbontrack.record import Status
from carbontrack.sampling.counts import Joules
from carbontrack.sampling.ledger import NOTHING, Ledger, Sums, add_joules
from carbontrack.system.clock import process_cpu_s
from carbontrack.system.interrupts import from_outside
from carbontrack.system.reentrance import here
from carbontrack.tracking.apportion import NO_USAGE, CallUsage, PriorUsage
from carbontrack.tracking.block import outcome_of
from carbontrack.tracking.handle import ExitMethod, Handle
from carbontrack.tracking.session import Session

_log = logging.getLogger("carbontrack")


def leave(
    call: CountedCall,
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _trace: TracebackType | None,
) -> None:
    """End a call; no error of carbontrack reaches the program."""
    try:
        try:
            if error is None:
                call.end()
            else:
                call.end(*outcome_of(error))
        except BaseException as failure:
            call.fail(failure)
    except RecursionError:  # too little stack for us; the program itself may still succeed
        return


class CountedCall:
    """One call that is being counted; its body runs inside of `with`."""

    __slots__ = ("handle",)

    handle: Handle | None
    """The handle of the `with` statement around the body."""

    def resume(self) -> None:
        """The body starts or resumes."""

    def pause(self) -> None:
        """The body is suspended."""

    def end(self, status: Status = "ok", error: str | None = None) -> None:
        """The body has ended; a second call does what the first has not done."""

    def drop(self) -> None:
        """Stop counting it, because counting has failed."""

    def abandon(self) -> None:
        """End it, because its `with` statement is over and has not done so."""
        self.end("interrupted")

    def tear(self) -> None:
        """A signal handler has raised in an edge, which is done again."""

    def __enter__(self) -> CountedCall:
        try:
            try:
                self.resume()
            except BaseException as error:
                self.fail(error)
        except RecursionError:  # too little stack for us; the program itself may still succeed
            pass
        return self

    __exit__: Any = ExitMethod(leave)

    def step(self, edge: Callable[[], None]) -> None:
        """Pause or resume; no error of carbontrack reaches the program."""
        try:
            try:
                edge()
            except BaseException as error:
                self.fail(error)
        except RecursionError:
            return

    def fail(self, error: BaseException) -> None:
        """An edge has raised: pass on exceptions from outside, log carbontrack's own."""
        here.thread.busy = False
        outside = from_outside(error) if isinstance(error, Exception) else error
        if outside is not None:
            self.tear()
            self.end(*outcome_of(outside))
            try:
                raise outside
            finally:
                del outside, error  # its traceback refers to this frame
        self.handle = None
        self.drop()
        if not isinstance(error, RecursionError):
            _log.exception("a call could not be counted")


class CallAccount(CountedCall):
    """A call's usage and its energy, in addition to the state of its body.

    Attributes:
        site: the call site of its function.
        single: whether it is credited with its own part of the energy.
    """

    __slots__ = (
        "_began_s", "_cpu_s", "_ended", "_machine_j", "_marked_s", "_ran_s", "_running",
        "_started_s", "_sums", "_unsettled", "single", "site",
    )  # fmt: skip

    site: Any
    single: bool
    grows: Any = True
    """Whether it becomes a span when it is long."""
    _started_s: float
    _cpu_s: float | None
    """The process's CPU seconds at the last mark; None if they were not requested."""

    @property
    def ledger(self) -> Ledger:
        """The ledger whose policy and grid apply."""
        ledger: Ledger = self.site.ledger
        return ledger

    @property
    def session(self) -> Session:
        """The session of the call's tracker."""
        session: Session = self.site.session
        return session

    def ran_for_s(self, now_s: float) -> float:
        """How long the body has run, without suspensions."""
        before_s = self._ran_s if self.single else 0.0
        return before_s + (now_s - self._started_s if self._running else 0.0)

    def take_sums(self) -> tuple[Sums, Joules, float]:
        """What the call has used, and how long it ran; it has ended."""
        return self._sums, self._machine_j, self._ran_s

    def mark_ended(self) -> None:
        """It is in the window of its function."""
        self._ended = True
        self._be_done()

    def _be_done(self) -> None:
        """Stop counting it as a call: it has ended, or is a span."""
        # in this order, as a tick looks whether what it has found running still is
        self.site.under_way.pop(self, None)
        self.site.apportioner.single.pop(id(self), None)

    def _stop(self, now_s: float) -> None:
        self.site.under_way.pop(self, None)
        ran_s, unsettled = self.ran_for_s(now_s), self.unsettled(now_s, process_cpu_s())
        self._ran_s, self._unsettled, self._running = ran_s, unsettled, False

    def _settle_last(self) -> None:
        self.become_single()
        self.site.sampler.sample()
        self._settle_now()

    def _settle_now(self) -> None:
        """Be credited up to the last reading; it is single."""
        site = self.site
        if self._running:
            self._stop(site.sampler.counts.at_s)
        site.apportioner.settle()

    def _use_so_far(self) -> PriorUsage:
        """What it has used up to the reading just made, which is its span's first."""
        self._settle_now()
        began_ago_s = self.site.sampler.counts.at_s - self._began_s
        return PriorUsage(self._sums, self._machine_j, self._ran_s, began_ago_s)

    def unsettled(self, now_s: float, cpu_s: float) -> CallUsage:
        """The body's usage since the last call of `usage`."""
        left = self._unsettled if self.single else NO_USAGE
        if not self._running:
            return left
        ran_s = max(0.0, now_s - self._marked_s)
        used_s = 0.0 if self._cpu_s is None else cpu_s - self._cpu_s
        return CallUsage(left.ran_s + ran_s, left.cpu_s + used_s)

    def become_single(self) -> None:
        """Be credited singly from now on; the sampler's lock is held."""
        if not self.single:
            self._sums: Sums = NOTHING
            self._machine_j: Joules = ()
            self._began_s, self._ran_s, self._unsettled = self._started_s, 0.0, NO_USAGE
            self.single = True
        # if it is already: a tick has left it to its own thread, which has not ended it
        self.site.apportioner.single[id(self)] = self

    def usage(self, now_s: float, cpu_s: float) -> CallUsage | None:
        """The body's usage since the last call of this method."""
        usage = self.unsettled(now_s, cpu_s)
        self._unsettled = NO_USAGE
        self._marked_s, self._cpu_s = now_s, cpu_s
        return usage if usage.ran_s > 0.0 else None

    def credit(self, sums: Sums, machine_j: Joules) -> None:
        """Add this call's part of the energy."""
        joules = add_joules(self._machine_j, machine_j)
        self._sums, self._machine_j = self._sums.plus(sums), joules
