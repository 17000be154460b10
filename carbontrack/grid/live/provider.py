"""What all live services have in common: the protocol, and the kinds of their figures."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, Protocol

from carbontrack.grid.live.web import FetchFailed, Get
from carbontrack.grid.series import Slot

Signal = Literal["average", "marginal"]


class Provider(Protocol):
    """One service for one zone.

    Attributes:
        name: the service's name for people: "Electricity Maps".
        zone: the service's own name of the zone.
        signal: "average", the mix of all plants, or "marginal", the plants that follow demand.
        counts: "lifecycle", "direct", or "unstated".
        poll_s: the time between two requests for new figures.
    """

    name: str
    zone: str
    signal: Signal
    counts: str
    poll_s: float

    def fetch(self, get: Get, now: datetime) -> Iterable[Slot]:
        """The present figures, and the forecast where it comes in the same answer."""
        ...

    def forecast(self, get: Get, now: datetime) -> Iterable[Slot]:
        """The forecast for the next hours."""
        ...


def items(answer: Any, *keys: str) -> list[Any]:
    """The list under these keys of an answer.

    Raises:
        FetchFailed: the answer has another structure.
    """
    for key in keys:
        if not isinstance(answer, dict) or key not in answer:
            raise FetchFailed(f"the answer has no {'.'.join(keys)!r}")
        answer = answer[key]
    if not isinstance(answer, list):
        raise FetchFailed(f"the answer's {'.'.join(keys)!r} is not a list")
    return answer
