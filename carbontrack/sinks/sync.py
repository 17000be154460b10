"""Delivery of records from the journals of ended processes, as `carbontrack sync` does it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from carbontrack.sinks.delivery import Delivery, LeftoverQueue, Queue
from carbontrack.sinks.factory import is_url, trouble_of_address
from carbontrack.sinks.journal.journal import SEND, OnUnreadable, leftover_journals
from carbontrack.sinks.post import Poster, PostResult
from carbontrack.system.clock import Clock, SystemClock

_LONGEST_WAIT_S = 60.0
"""The longest wait that a server is granted while a person waits for the command."""
ATTEMPTS = 5
"""Failures in a row after which an address is given up."""


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

    url: str
    delivered: int = 0
    refused: int = 0
    remaining: int = 0
    trouble: str | None = None


def drain(
    state_dir: Path,
    url: str | None = None,
    token: str | None = None,
    *,
    timeout_s: float = 10.0,
    clock: Clock | None = None,
    on_unreadable: OnUnreadable | None = None,
) -> list[Drained]:
    """Deliver the records in the journals of ended processes, to one address or to all.

    The addresses are those in the journals; `token` is sent to each of them. Processes that run
    deliver their own. A journal that cannot be read goes to `on_unreadable`, by default to the log.
    """
    clock = clock or SystemClock()
    drains: dict[str, AddressDrain] = {}
    # one journal at a time: there may be more of them than this process may have files open
    for file in leftover_journals(state_dir, clock, on_unreadable=on_unreadable):
        with closing(file):
            for address in dict.fromkeys(key[1] for key in file.keys(SEND) if is_url(key[1])):
                if url is not None and address != url:
                    continue
                if address not in drains:
                    poster = Poster(address, token=token, timeout_s=timeout_s, clock=clock)
                    drains[address] = AddressDrain(
                        Delivery(poster, state_dir=state_dir, batch=200, clock=clock),
                        trouble_of_address(address),
                    )
                drains[address].deliver(LeftoverQueue(file, address))
    return [drain.result(address) for address, drain in drains.items()]


class CountedQueue(Queue, Protocol):
    """A queue that knows how much waits in it."""

    def count(self) -> int:
        """How many records wait."""
        ...


class AddressDrain:
    """Delivery to one address, journal after journal, until the address is given up.

    `trouble` is why nothing can be sent there: it is given up from the start.
    """

    def __init__(self, delivery: Delivery, trouble: str | None = None) -> None:
        self._delivery = delivery
        self._failures = 0
        self._remaining = 0
        self._trouble = trouble
        self._is_given_up = trouble is not None

    def deliver(self, queue: CountedQueue) -> None:
        """Deliver what waits in one queue, unless the address is given up; count what is left."""
        while not self._is_given_up and (result := self._delivery.step([queue])) is not None:
            self._note(result)
        self._remaining += queue.count()

    def result(self, url: str) -> Drained:
        """The counts, and the last error."""
        delivery = self._delivery
        return Drained(url, delivery.delivered, delivery.refused, self._remaining, self._trouble)

    def _note(self, result: PostResult) -> None:
        if result.verdict == "later":
            self._failures, self._trouble = self._failures + 1, result.reason
            long = result.wait_s is not None and result.wait_s > _LONGEST_WAIT_S
            self._is_given_up = long or self._failures >= ATTEMPTS
        else:
            self._failures, self._trouble = 0, None
        if not self._is_given_up:
            self._delivery.wait_after(result)
