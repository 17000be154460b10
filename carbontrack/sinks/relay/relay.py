"""The work of a relay: one thread gathers records and sends them, over one connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from carbontrack.sinks.delivery import Delivery, Queue, RequestRate
from carbontrack.sinks.journal.journal import OnUnreadable
from carbontrack.sinks.journal.recovery import OpenSink
from carbontrack.sinks.post import Poster
from carbontrack.sinks.relay.gather import Gathering, RelayOutbox
from carbontrack.sinks.relay.rows import MOST_RECORDS
from carbontrack.sinks.relay.spool import Spool
from carbontrack.sinks.sync import AddressDrain
from carbontrack.system.clock import Clock
from carbontrack.system.forking import OwnThread
from carbontrack.system.http import load_requests
from carbontrack.system.interrupts import pass_on
from carbontrack.values import NamedTuple

LOOK_S = 5.0
"""Seconds between two looks at the journals."""
_ENOUGH, _LINGER_S = 200, 1.0
"""New records are sent when there are so many, or after so many seconds."""
_GRACE_S = 0.5


class RelayPlan(NamedTuple):
    """What a relay sends, from where and to where.

    Attributes:
        url: the server's address.
        token: the token for it.
        state_dir: where the relay keeps what it has accepted, and dead letters.
        folders: finds the state directories, this one included, whose journals it sends.
        addresses: further addresses in the journals whose records go to the server.
        space_bytes: the most that accepted records take on disk.
        batch: the most records in one request.
        open_sink: opens the other outputs of killed runs.
    """

    url: str
    token: str | None
    state_dir: Path
    folders: Callable[[], Sequence[Path]]
    addresses: Sequence[str]
    space_bytes: int
    open_sink: OpenSink
    batch: int = MOST_RECORDS

    def __repr__(self) -> str:
        return f"RelayPlan(state_dir={self.state_dir!r})"  # and no token


class RelayCounts(NamedTuple):
    """How many records came and went, and why some wait.

    Attributes:
        accepted: through the endpoint.
        gathered: from journals of ended processes.
        recovered: killed runs that were turned into records.
        delivered: arrived at the server.
        refused: became dead letters.
        waiting: still here.
        trouble: why; None where the last request succeeded.
    """

    accepted: int
    gathered: int
    recovered: int
    delivered: int
    refused: int
    waiting: int
    trouble: str | None


class Relay:
    """Gathers and sends until it is stopped or, once, until nothing is left.

    Attributes:
        spool: gets what the endpoint accepts.
        is_over: set when the thread has ended.
        has_all: whether, when it had ended, nothing was left to be sent.
    """

    def __init__(self, plan: RelayPlan, *, clock: Clock, on_unreadable: OnUnreadable) -> None:
        self.spool = Spool(plan.state_dir, plan.url, limit_bytes=plan.space_bytes, clock=clock)
        self.is_over, self.has_all = threading.Event(), False
        self._clock, self._batch = clock, plan.batch
        self._wake = threading.Event()
        self._look_at_s, self._linger_s = float("-inf"), _LINGER_S
        self._is_outbox_first = False
        self._thread: OwnThread | None = None
        self._last: RelayCounts | None = None
        addresses = list(dict.fromkeys((plan.url, *plan.addresses)))
        self._outbox = RelayOutbox(plan.state_dir, *addresses)
        self._gathering = Gathering(
            plan.folders,
            addresses,
            (self._outbox, self.spool),
            open_sink=plan.open_sink,
            clock=clock,
            on_unreadable=on_unreadable,
        )
        poster = Poster(plan.url, token=plan.token, timeout_s=10.0, clock=clock)
        self._delivery = Delivery(
            poster, state_dir=plan.state_dir, batch=plan.batch, clock=clock, rate=RequestRate()
        )

    def start(self, *, once: bool = False) -> None:
        """Start the thread.

        Raises:
            ImportError: requests cannot be loaded.
        """
        load_requests()
        self._thread = OwnThread(self._work_once if once else self._work, "carbontrack-relay")
        self._thread.start()

    def wake(self) -> None:
        """Let the thread look whether there is something to send."""
        self._wake.set()

    def stop(self, within_s: float) -> None:
        """Send what can be sent in some seconds, and end; the rest waits on disk."""
        self._delivery.finish_by(self._clock.monotonic_s() + within_s)
        self._wake.set()
        self.wait(within_s + _GRACE_S)

    def wait(self, at_most_s: float) -> bool:
        """Wait for the thread's end; whether it has ended."""
        return self._clock.wait(self.is_over, at_most_s)

    def counts(self) -> RelayCounts:
        """The counts by now, or at the end; for any thread."""
        if self._last is not None:
            return self._last
        gathering, delivery = self._gathering, self._delivery
        waiting = self.spool.count() + self._count_outbox()
        return RelayCounts(
            self.spool.accepted,
            gathering.gathered,
            gathering.recovered,
            delivery.delivered,
            delivery.refused,
            waiting,
            delivery.trouble if waiting else None,
        )

    def _count_outbox(self) -> int:
        queue = self._outbox.queue  # which the other thread may set to None meanwhile
        return 0 if queue is None else queue.count()

    def _work(self) -> None:
        is_done = False
        try:
            self._delivery.run(self._queues, self._wake)
            is_done = True
        finally:
            self._end(is_done=is_done)

    def _work_once(self) -> None:
        self._linger_s, is_done = 0.0, False
        try:
            self._send_all(AddressDrain(self._delivery))
            is_done = True
        finally:
            self._end(is_done=is_done)

    def _send_all(self, drain: AddressDrain) -> None:
        is_last = False
        while not drain.is_given_up and not self._is_late():
            self._look_at_s = float("-inf")
            queues = [queue for queue in self._queues() if queue.peek(1)]
            for queue in queues:
                drain.deliver(queue)
            gathering = self._gathering
            is_empty = not queues and not gathering.is_in_round and not gathering.found_in_round
            if is_empty and is_last:
                return
            is_last = is_empty

    def _is_late(self) -> bool:
        return self._clock.monotonic_s() >= self._delivery.deadline_s

    def _queues(self) -> Sequence[Queue]:
        """What can be sent now; for the thread that sends."""
        is_ending = self._delivery.stop.is_set()
        if not (self._outbox.queue and self._outbox.queue.peek(1)):
            self._outbox.close()
            if self._gathering.is_in_round or (not is_ending and self._is_time_to_look()):
                self._gathering.fill(self._batch)
        linger_s = 0.0 if is_ending else self._linger_s
        found = self.spool.queues(enough=_ENOUGH, within_s=linger_s)
        self._is_outbox_first = not self._is_outbox_first  # neither waits for ever for the other
        outbox = [*filter(None, [self._outbox.queue])]
        return [*outbox, *found] if self._is_outbox_first else [*found, *outbox]

    def _is_time_to_look(self) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s < self._look_at_s and not self._gathering.needs_round:
            return False
        self._look_at_s = now_s + LOOK_S
        return True

    def _end(self, *, is_done: bool) -> None:
        try:
            self._last = counts = self.counts()
            is_left = self._gathering.is_in_round or self._gathering.needs_round
            self.has_all = is_done and not (counts.waiting or is_left)
            self._outbox.close()
            self.spool.close()
        except OSError as error:
            pass_on(error)
        finally:
            self.is_over.set()
