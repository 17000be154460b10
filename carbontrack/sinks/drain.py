"""Sending what ended processes have left in their journals: the work of `carbontrack sync`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carbontrack.clock import Clock, SystemClock
from carbontrack.journal import SEND, orphans
from carbontrack.sinks.choose import is_url
from carbontrack.sinks.delivery import Delivery, OrphanQueue
from carbontrack.sinks.post import Poster

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
) -> list[Drained]:
    """Deliver what waits in the journals of ended processes, for one address or for all.

    The addresses are those in the journals; `token` is sent to each of them. Processes that live
    deliver their own.
    """
    clock = clock or SystemClock()
    files = list(orphans(state_dir, clock))
    try:
        urls = dict.fromkeys(key[1] for file in files for key in file.keys(SEND) if is_url(key[1]))
        return [
            _drained(
                address,
                [OrphanQueue(file, address) for file in files],
                Delivery(
                    Poster(address, token=token, timeout_s=timeout_s, clock=clock),
                    state_dir=state_dir,
                    batch=200,
                    clock=clock,
                ),
            )
            for address in urls
            if url is None or address == url
        ]
    finally:
        for file in files:
            file.close()


def _drained(url: str, queues: list[OrphanQueue], delivery: Delivery) -> Drained:
    failures = 0
    trouble = None
    while failures < ATTEMPTS and (outcome := delivery.step(queues)) is not None:
        trouble = None
        if outcome.verdict == "later":
            failures, trouble = failures + 1, outcome.reason
            if outcome.wait_s is not None and outcome.wait_s > _LONGEST_WAIT_S:
                break
        else:
            failures = 0
        if failures < ATTEMPTS:
            delivery.patient(outcome)
    remaining = sum(_waiting(queue, url) for queue in queues)
    return Drained(url, delivery.delivered, delivery.refused, remaining, trouble)


_LONGEST_WAIT_S = 60.0
"""What a server may ask of somebody who sits before a terminal."""


def _waiting(queue: OrphanQueue, url: str) -> int:
    return sum(key[1] == url for key in queue.file.keys(SEND))
