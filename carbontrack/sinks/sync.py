"""Delivery of records from the journals of exited processes, as `carbontrack sync` does it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from carbontrack.errors import ConfigError
from carbontrack.sinks.delivery import Delivery, Queue, rate_of
from carbontrack.sinks.factory import is_url
from carbontrack.sinks.journal.file import JournalFile
from carbontrack.sinks.journal.journal import SEND, OnUnreadable, leftover_journals
from carbontrack.sinks.outbox import Outbox, waiting
from carbontrack.sinks.post import Poster, PostResult, checked_url, is_unencrypted, token_for
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.forking import OwnThread
from carbontrack.system.interrupts import suppressed
from carbontrack.system.log import LOGGER
from carbontrack.system.urls import shown

_LONGEST_WAIT_S = 60.0
"""The longest wait that a server is granted while a person waits for the command."""
AT_ONCE = 16
"""The most addresses that are sent to at the same time."""
ATTEMPTS = 5
"""Failures in a row after which delivery to an address stops."""


@dataclass(frozen=True, slots=True)
class Drained:
    """The result for one address.

    Attributes:
        url: the address.
        delivered: how many records arrived.
        refused: how many became dead letters.
        remaining: how many still wait.
        trouble: why the last attempt failed, if it did.
    """

    url: str = field(repr=False)
    delivered: int = 0
    refused: int = 0
    remaining: int = 0
    trouble: str | None = None


def drain(
    state_dir: Path,
    url: str | None = None,
    token: str | None = None,
    *,
    outputs: Iterable[str] = (),
    timeout_s: float = 10.0,
    clock: Clock | None = None,
    on_unreadable: OnUnreadable | None = None,
) -> list[Drained]:
    """Deliver the records in the journals of exited processes, to one address or to all.

    Processes that run deliver their own. Addresses do not wait for each other.

    Args:
        state_dir: the state directory.
        url: only what is for this address.
        token: sent to `url`, and to the servers of `outputs`, and to no other: the addresses in the
            journals are not trusted.
        outputs: the addresses that were given together with the token.
        timeout_s: the longest time of a request.
        clock: the time source.
        on_unreadable: called with a journal that cannot be read, by default the log is.
    """
    clock = clock or SystemClock()
    named = (*outputs, *((url,) if url else ()))

    def new_drain(address: str) -> AddressDrain:
        own_token = checked_for(address, token, named)
        poster = Poster(address, token=own_token, timeout_s=timeout_s, clock=clock)
        rate = rate_of(address)
        delivery = Delivery(poster, state_dir=state_dir, batch=200, clock=clock, rate=rate)
        return AddressDrain(delivery)

    drains = _Drains(state_dir, url, new_drain)
    report = on_unreadable
    while drains.collect(leftover_journals(state_dir, clock, on_unreadable=report)):
        drains.deliver()
        report = _already_told
    return drains.results()


def checked_for(address: str, token: str | None, named: Iterable[str]) -> str | None:
    """The token for an address, if it may have it; warns if it is sent unencrypted."""
    found = token_for(address, token, named)
    if found is not None and is_unencrypted(address):
        LOGGER.warning("the token for %s is sent unencrypted; use https://", shown(address))
    return found


def is_meant(address: str, url: str | None) -> bool:
    """Whether `url` chooses this address, which is shown without its query."""
    return url is None or url in (address, shown(address))


def _already_told(path: Path, error: OSError) -> None:
    """The journal could not be read the first time either."""


class _Drains:
    """The deliveries to all addresses, each with what waits for it in an outbox of its own."""

    def __init__(
        self, state_dir: Path, url: str | None, new_drain: Callable[[str], AddressDrain]
    ) -> None:
        self._state_dir, self._url, self._new_drain = state_dir, url, new_drain
        self._drains: dict[str, AddressDrain] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._taken: set[tuple[Path, str]] = set()
        """Journals and addresses: what is still there could not be noted as sent, or be read."""
        self._left: dict[tuple[Path, str], int] = {}
        """How many records were left in a journal for an address."""

    def collect(self, files: Iterator[JournalFile]) -> bool:
        """Move what waits to the outboxes; False if there is nothing, or nothing new."""
        # one journal at a time: there may be more of them than this process may have files open
        for file in files:
            is_kept = False
            try:
                is_kept = self._take_all(file)
            finally:
                if not is_kept:
                    file.close()
        return bool(self._outboxes)

    def deliver(self) -> None:
        """Deliver what is in the outboxes, to all addresses at the same time."""
        in_parallel(
            [partial(self._deliver, address, box) for address, box in self._outboxes.items()]
        )
        self._outboxes = {}

    def results(self) -> list[Drained]:
        """The result for each address, in the order in which they were found."""
        left = Counter[str]()
        for (_, address), count in self._left.items():
            left[address] += count
        return [drain.result(address, left[address]) for address, drain in self._drains.items()]

    def _take_all(self, file: JournalFile) -> bool:
        """Move the records of one journal; True if an outbox keeps the journal itself."""
        for address in dict.fromkeys(key[1] for key in file.keys(SEND)):
            place = file.path, address
            if not is_url(address) or not is_meant(address, self._url) or place in self._taken:
                continue
            if address not in self._drains:
                self._drains[address] = self._new_drain(address)
            if not self._drains[address].is_given_up and self._has_room_for(address):
                outbox = self._outboxes.setdefault(address, Outbox(self._state_dir, address))
                with suppressed(OSError):  # what does not fit in is left for the next round
                    is_kept = outbox.take(file)
                    self._taken.add(place)
                    if is_kept:
                        return True
                if not len(outbox):
                    del self._outboxes[address]
            self._left[place] = len(waiting(file, address))
        return False

    def _has_room_for(self, address: str) -> bool:
        return address in self._outboxes or len(self._outboxes) < AT_ONCE

    def _deliver(self, address: str, outbox: Outbox) -> None:
        queue = outbox.queue
        assert queue is not None
        self._drains[address].deliver(queue)
        self._left[queue.file.path, address] = queue.count()
        outbox.close()


def in_parallel(jobs: Sequence[Callable[[], None]]) -> None:
    """Do the jobs in threads, at most `AT_ONCE` at a time, and wait for all of them."""
    waiting_jobs = deque(jobs)

    def work() -> None:
        with suppressed(IndexError):
            while True:
                waiting_jobs.popleft()()

    threads = [OwnThread(work, "carbontrack-sync") for _ in jobs[:AT_ONCE]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class AddressDrain:
    """Delivery to one address, queue after queue, until the address is given up.

    Attributes:
        is_given_up: whether it has failed so often that nothing more is sent to it.
        trouble: why the last attempt failed, if it did.
    """

    def __init__(self, delivery: Delivery) -> None:
        self.is_given_up = False
        self.trouble: str | None = None
        self._delivery = delivery
        self._failures = 0
        try:
            checked_url(delivery.url)
        except ConfigError:
            self.is_given_up, self.trouble = True, "records cannot be sent to this address"

    def deliver(self, queue: Queue) -> None:
        """Deliver what waits in one queue, unless the address is given up; never raises."""
        try:
            while not self.is_given_up and (result := self._delivery.step([queue])) is not None:
                self._note(result)
        except Exception as error:  # in a thread of its own, where nobody would hear of it
            # only the type: the text might contain the URL's query
            self.trouble, self.is_given_up = f"an internal error: {type(error).__name__}", True

    def result(self, url: str, remaining: int) -> Drained:
        """The counts, of which this class does not know what remains, and the last error."""
        delivery = self._delivery
        return Drained(url, delivery.delivered, delivery.refused, remaining, self.trouble)

    def _note(self, result: PostResult) -> None:
        if result.verdict == "later":
            self._failures, self.trouble = self._failures + 1, result.reason
            long = result.wait_s is not None and result.wait_s > _LONGEST_WAIT_S
            self.is_given_up = long or self._failures >= ATTEMPTS
        else:
            self._failures, self.trouble = 0, None
        if not self.is_given_up:
            self._delivery.wait_after(result)
