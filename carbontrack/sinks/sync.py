"""Sending what ended processes have left in their journals: the work of `carbontrack sync`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carbontrack.sinks.delivery import Delivery, OrphanQueue
from carbontrack.sinks.factory import is_url
from carbontrack.sinks.journal.journal import SEND, OnTrouble, orphans
from carbontrack.sinks.post import Outcome, Poster
from carbontrack.system.clock import Clock, SystemClock

ATTEMPTS = 5
"""Failures in a row after which an address is left for another time."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What came of one address.

    Attributes:
        url: the address.
        delivered: records that arrived.
        refused: records that were set aside in the dead letters.
        remaining: records that still wait.
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
    on_trouble: OnTrouble | None = None,
) -> list[Drained]:
    """Deliver what waits in the journals of ended processes, for one address or for all.

    The addresses are those in the journals; `token` is sent to each of them. Processes that live
    deliver their own. A journal that cannot be opened is told to `on_trouble`, or else to the log.
    """
    clock = clock or SystemClock()
    lines: dict[str, _Line] = {}
    # one journal at a time: there may be more of them than this process may have files open
    for file in orphans(state_dir, clock, on_trouble=on_trouble):
        try:
            for address in dict.fromkeys(key[1] for key in file.keys(SEND) if is_url(key[1])):
                if url is not None and address != url:
                    continue
                if address not in lines:
                    poster = Poster(address, token=token, timeout_s=timeout_s, clock=clock)
                    lines[address] = _Line(
                        Delivery(poster, state_dir=state_dir, batch=200, clock=clock)
                    )
                lines[address].work_off(OrphanQueue(file, address))
        finally:
            file.close()
    return [line.drained(address) for address, line in lines.items()]


class _Line:
    """What waits for one address, journal after journal, until the address is given up."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._failures = 0
        self._remaining = 0
        self._trouble: str | None = None
        self._is_given_up = False

    def work_off(self, queue: OrphanQueue) -> None:
        """Deliver what waits in one journal, as long as there is hope; count what is left."""
        while not self._is_given_up and (outcome := self._delivery.step([queue])) is not None:
            self._note(outcome)
        self._remaining += queue.count()

    def drained(self, url: str) -> Drained:
        """What has come of it."""
        delivery = self._delivery
        return Drained(url, delivery.delivered, delivery.refused, self._remaining, self._trouble)

    def _note(self, outcome: Outcome) -> None:
        if outcome.verdict == "later":
            self._failures, self._trouble = self._failures + 1, outcome.reason
            long = outcome.wait_s is not None and outcome.wait_s > _LONGEST_WAIT_S
            self._is_given_up = long or self._failures >= ATTEMPTS
        else:
            self._failures, self._trouble = 0, None
        if not self._is_given_up:
            self._delivery.patient(outcome)


_LONGEST_WAIT_S = 60.0
"""What a server may ask of somebody who sits before a terminal."""
