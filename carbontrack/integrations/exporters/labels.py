"""The labels of exported metrics: few, short, and encodable."""

from __future__ import annotations

from carbontrack.api.live import LiveFigures
from carbontrack.system.interrupts import suppressed
from carbontrack.system.log import OnceLog
from carbontrack.units import joules_from

MOST_NAMES, LONGEST, OTHER = 200, 200, "(other)"
Key = tuple[str, ...]


class BoundedKeys:
    """The values of labels: each is a short text.

    Beyond 200 different ones the rest is "(other)".
    """

    def __init__(self) -> None:
        self._known: set[Key] = set()
        self._log = OnceLog()

    def of(self, *contents: object) -> Key:
        """The labels with these values, which are any objects."""
        key = tuple(map(label_text, contents))
        if key in self._known or len(self._known) < MOST_NAMES:
            self._known.add(key)
            return key
        self._log.say(f"more than {MOST_NAMES} names are exported; the rest is {OTHER}")
        return (OTHER,) * len(key)

    def open_sums(self, look: LiveFigures) -> dict[tuple[str, Key], float]:
        """The energy, in joules, and the emissions, in grams, so far of open blocks, by name."""
        sums: dict[tuple[str, Key], float] = {}
        for row in look.open_blocks:
            key = self.of(row.name)
            figures = {"energy": joules_from(row.energy_kwh), "emissions": row.emissions_g}
            for name, value in figures.items():
                if value is not None:
                    sums[name, key] = sums.get((name, key), 0.0) + value
        return sums


def label_text(content: object) -> str:
    """A label's value as a short, encodable text."""
    text = "?"
    with suppressed(Exception):
        text = str(content)
    return text[:LONGEST].encode(errors="replace").decode()
