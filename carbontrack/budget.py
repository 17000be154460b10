"""A budget: a limit in grams of CO2e or in joules, and a record judged by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from carbontrack.records import Record
from carbontrack.units import JOULES_PER_KWH, Quantity, parse_quantity

Outcome = Literal["within", "over", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a budget says of a record; amounts are in the limit's unit, grams or joules.

    Attributes:
        outcome: "over" where even the lower bound is over the limit; "within" where the best
            estimate is not; "inconclusive" where only the estimate is, or nothing is known.
        limit: what was allowed.
        used: the best estimate; None where it is unknown.
        low, high: the interval around it.
    """

    outcome: Outcome
    limit: Quantity
    used: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def amounts(self) -> str:
        """Used and limit: "6.1 mg CO2e of 5.0 mg CO2e"."""
        used = "unknown use" if self.used is None else Quantity(self.limit.kind, self.used).text
        return f"{used} of {self.limit.text}"

    @property
    def text(self) -> str:
        """The verdict as a sentence's end: "over budget: 6.1 mg CO2e of 5.0 mg CO2e"."""
        phrase = {"within": "within", "over": "over", "inconclusive": "not surely within"}
        return f"{phrase[self.outcome]} budget: {self.amounts}"


@dataclass(frozen=True, slots=True, init=False)
class Budget:
    """A limit on emissions or energy: `Budget("5 mg")`, `Budget("0.4 kWh")`.

    Attributes:
        limit: the most that is allowed; grams of CO2e or joules.

    Raises:
        QuantityError: the text is no quantity.
    """

    limit: Quantity

    def __init__(self, limit: str | Quantity) -> None:
        found = limit if isinstance(limit, Quantity) else parse_quantity(limit)
        object.__setattr__(self, "limit", found)

    @classmethod
    def of(cls, text: str) -> Budget:
        """A budget from text, such as "5 mg", "2 kg CO2e", "120 J" or "0.4 kWh".

        Raises:
            QuantityError: the text is no quantity.
        """
        return cls(parse_quantity(text))

    def check(self, record: Record) -> Verdict:
        """Judge a record; nothing is over the budget before the lower bound is."""
        if self.limit.kind == "emissions":
            factor = 1.0
            columns = record.emissions_g, record.emissions_low_g, record.emissions_high_g
        else:
            factor = JOULES_PER_KWH
            columns = record.energy_kwh, record.energy_low_kwh, record.energy_high_kwh
        used, low, high = (None if column is None else column * factor for column in columns)
        return Verdict(_outcome(self.limit.amount, used, low), self.limit, used, low, high)


def _outcome(limit: float, used: float | None, low: float | None) -> Outcome:
    if used is None:
        return "inconclusive"
    if (used if low is None else low) > limit:
        return "over"
    return "within" if used <= limit else "inconclusive"
