"""What every live service has in common, and the words for what its figures mean."""

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
        name: as people know it: "Electricity Maps".
        zone: the service's own name of the zone.
        signal: "average", the mix of all plants, or "marginal", the plants that follow demand.
        counts: "lifecycle", "direct", or "unstated".
        poll_s: how often new figures are worth asking for.
    """

    name: str
    zone: str
    signal: Signal
    counts: str
    poll_s: float

    def fetch(self, get: Get, now: datetime) -> Iterable[Slot]:
        """What the service says of the present, and of the future where that costs nothing."""
        ...

    def forecast(self, get: Get, now: datetime) -> Iterable[Slot]:
        """What the service expects of the next hours."""
        ...


def items(answer: Any, *keys: str) -> list[Any]:
    """The list that lies under the keys of an answer.

    Raises:
        FetchFailed: the answer has another shape; nothing is read into it.
    """
    for key in keys:
        if not isinstance(answer, dict) or key not in answer:
            raise FetchFailed(f"the answer has no {'.'.join(keys)!r}")
        answer = answer[key]
    if not isinstance(answer, list):
        raise FetchFailed(f"the answer's {'.'.join(keys)!r} is no list")
    return answer
