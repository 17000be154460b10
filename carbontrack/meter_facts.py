"""What records say of each meter, made anew when a meter or a look has something else to say."""

from __future__ import annotations

from collections.abc import Sequence

from carbontrack.attribution.policy import Attribution
from carbontrack.bank import Slot
from carbontrack.boards import Boards
from carbontrack.figures import MeterFacts, facts_of


class FactsOfMeters:
    """The facts under one policy; remembered, since most never change and every span asks."""

    def __init__(self, attribution: Attribution) -> None:
        self._idle_basis = attribution.idle_basis()
        self._shares = attribution.scope == "process"
        self._known: list[tuple[float, float]] = []
        self._facts: list[MeterFacts] = []

    def of(self, slots: Sequence[Slot], boards: Boards) -> Sequence[MeterFacts]:
        """What the records say of each meter, in the order of every tuple of joules."""
        doubt = boards.doubt if boards and self._shares else _no_doubt
        now = [(slot.meter.relative_uncertainty, doubt(place)) for place, slot in enumerate(slots)]
        if now != self._known:
            self._known = now
            self._facts = [
                facts_of(
                    slot.meter, stands_in=slot.stands_in, idle_basis=self._idle_basis, doubt=doubt
                )
                for slot, (_, doubt) in zip(slots, now, strict=True)
            ]
        return self._facts


def _no_doubt(_place: int) -> float:
    return 0.0
