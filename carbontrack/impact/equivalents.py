"""Everyday activities with the same energy or emissions, each with its source and year."""

from __future__ import annotations

import csv
from functools import cache
from math import log10

from carbontrack.system.files import package_text
from carbontrack.values import Value

TABLE = "data/equivalents.csv"
LEAST, MOST = 1.0, 1000.0
"""A comparison needs a number of things in this range; others mean little to a reader."""
_EASIEST = 10.0


class Equivalent(Value):
    """One everyday activity: its name, and its energy in joules or emissions in grams."""

    id: str
    one: str
    many: str
    quantity: str
    amount: float
    year: int
    cite: str
    source: str


class EquivalentComparison(Value):
    """A number of times an everyday activity."""

    times: float
    thing: Equivalent

    @property
    def text(self) -> str:
        """As people read it: "5.6 prompts to an AI assistant (Elsworth et al. 2025)"."""
        number = f"{self.times:.2g}" if self.times < 9.95 else f"{self.times:.0f}"
        noun = self.thing.one if number == "1" else self.thing.many
        return f"{number} {noun} ({self.thing.cite})"

    @property
    def sourced(self) -> str:
        """The same with the full source and its year."""
        return f"{self.text}; {self.thing.source} [{self.thing.year}]"


@cache
def equivalents() -> tuple[Equivalent, ...]:
    """Every row of the table, in its order."""
    return tuple(
        Equivalent(
            id=row["id"],
            one=row["one"],
            many=row["many"],
            quantity=row["quantity"],
            amount=float(row["amount"]),
            year=int(row["year"]),
            cite=row["cite"],
            source=row["source"],
        )
        for row in csv.DictReader(package_text(TABLE).splitlines())
    )


def compare(
    *, energy_joules: float | None, emissions_g: float | None
) -> EquivalentComparison | None:
    """The activity whose number is nearest to ten, which is easy to grasp; None if none fits."""
    amounts = {"energy": energy_joules, "emissions": emissions_g}
    candidates = [
        EquivalentComparison(amount / thing.amount, thing)
        for thing in equivalents()
        if (amount := amounts[thing.quantity]) is not None
    ]
    fitting = [c for c in candidates if LEAST <= c.times <= MOST]
    return min(fitting, key=lambda c: abs(log10(c.times / _EASIEST)), default=None)
