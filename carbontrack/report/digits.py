"""Numbers of documents in one given unit, with three significant digits and no exponent.

In running text `carbontrack.units` chooses the unit of each figure. In a column of a paper's table,
or on a label, all figures have one unit, so that they can be compared at a glance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor, log10
from statistics import median

from carbontrack.values import NamedTuple

_SMALLEST = 1e-6
"""Of a smaller figure only this bound is printed."""


class Unit(NamedTuple):
    """A unit: its name, and how many base units (joules, grams, seconds) it is."""

    name: str
    size: float


ENERGY = (
    Unit("MWh", 3.6e9),
    Unit("kWh", 3.6e6),
    Unit("Wh", 3.6e3),
    Unit("J", 1.0),
    Unit("mJ", 1e-3),
)
MASS = (Unit("t", 1e6), Unit("kg", 1e3), Unit("g", 1.0), Unit("mg", 1e-3), Unit("µg", 1e-6))
TIME = (Unit("h", 3600.0), Unit("min", 60.0), Unit("s", 1.0), Unit("ms", 1e-3))
WH = ENERGY[2]


def three_digits(amount: float) -> str:
    """A number with three significant digits: "0.00142", "1.42", "1,420"."""
    if amount == 0.0:
        return "0"
    if 0.0 < amount < _SMALLEST:
        return f"<{_SMALLEST:f}"
    digits = 2 - floor(log10(abs(amount)))
    rounded = round(amount, digits)  # 999.6 becomes a number of four digits
    return f"{rounded:,.{max(0, 2 - floor(log10(abs(rounded))))}f}"


def interval_in(
    low: float | None, high: float | None, unit: Unit, *, between: str = " to "
) -> str | None:
    """Both ends in one unit, without its name: "1.20 to 1.80"; None where one is unknown."""
    if low is None or high is None:
        return None
    return f"{three_digits(low / unit.size)}{between}{three_digits(high / unit.size)}"


def unit_for(amounts: Iterable[float | None], units: Sequence[Unit]) -> Unit:
    """The largest unit of which the median of the known amounts is at least one, else the last."""
    known = [abs(amount) for amount in amounts if amount]
    size = median(known) if known else 1.0
    return next((unit for unit in units if size >= 0.9995 * unit.size), units[-1])
