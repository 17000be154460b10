"""Units: constants, conversions, and quantities to and from text.

Inside carbontrack energy is in joules, mass in grams of CO2e, power in watts and time in seconds;
kilowatt-hours exist in records and in print.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from carbontrack.errors import QuantityError, did_you_mean
from carbontrack.values import Value

JOULES_PER_KWH = 3.6e6
"""Joules in a kilowatt-hour, exact by definition (SI brochure, 9th edition, table 8)."""

Kind = Literal["emissions", "energy"]

_UNITS: dict[str, tuple[Kind, float]] = {
    # grams
    "ug": ("emissions", 1e-6),
    "mg": ("emissions", 1e-3),
    "g": ("emissions", 1.0),
    "kg": ("emissions", 1e3),
    "t": ("emissions", 1e6),
    # joules
    "mJ": ("energy", 1e-3),
    "J": ("energy", 1.0),
    "kJ": ("energy", 1e3),
    "MJ": ("energy", 1e6),
    "GJ": ("energy", 1e9),
    "mWh": ("energy", 3.6),
    "Wh": ("energy", 3600.0),
    "kWh": ("energy", JOULES_PER_KWH),
    "MWh": ("energy", 3.6e9),
}
_QUANTITY = (  # compiled when it is first used, as few programs have a budget
    r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµμ]+)\s*(CO2e?q?)?\s*"
)


class Quantity(Value):
    """An amount of emissions, in grams of CO2e, or of energy, in joules."""

    kind: Kind
    amount: float

    @property
    def text(self) -> str:
        """The amount in its most readable unit: "5 mg CO2e", "120 J"."""
        if self.kind == "emissions":
            return f"{format_grams(self.amount)} CO2e"
        return format_joules(self.amount)


def parse_quantity(text: str) -> Quantity:
    """Read "5 mg", "0.4 kWh", "120 J" or "2 kg CO2e".

    Units are mg g kg t for emissions and mJ J kJ MJ mWh Wh kWh MWh for energy; the case matters
    only where two units differ by it (mJ and MJ, mWh and MWh).

    Raises:
        QuantityError: the text is not a quantity, or its amount is negative or not finite.
    """
    match = re.fullmatch(_QUANTITY, text) if isinstance(text, str) else None
    if match is None:
        raise QuantityError(
            f"{text!r} is not a quantity; write a number and a unit, such as '5 mg', '120 J' "
            "or '0.4 kWh'"
        )
    number, unit, suffix = match.groups()
    kind, factor = _unit(unit.replace("µ", "u").replace("μ", "u"), text)
    if suffix and kind != "emissions":
        raise QuantityError(f"{text!r} mixes a unit of energy with CO2e; write one or the other")
    amount = float(number) * factor
    if not 0.0 <= amount < float("inf"):
        raise QuantityError(f"{text!r} must be zero or more, and finite")
    return Quantity(kind, amount)


def _unit(unit: str, text: str) -> tuple[Kind, float]:
    if unit in _UNITS:
        return _UNITS[unit]
    near = [name for name in _UNITS if name.lower() == unit.lower()]
    if len(near) == 1:
        return _UNITS[near[0]]
    hint = did_you_mean(near, form=str) if near else f"; units are {', '.join(_UNITS)}"
    raise QuantityError(f"{text!r} has the unknown unit {unit!r}{hint}")


def kwh_from(joules: float) -> float:
    """Kilowatt-hours in `joules`."""
    return joules / JOULES_PER_KWH


def joules_from(kwh: float | None) -> float | None:
    """Joules in `kwh`; None stays None."""
    return None if kwh is None else kwh * JOULES_PER_KWH


def grams_from(joules: float, g_per_kwh: float) -> float:
    """Grams of CO2e of `joules` on a grid that emits `g_per_kwh`."""
    return joules / JOULES_PER_KWH * g_per_kwh


def format_grams(grams: float, *, like: float | None = None) -> str:
    """Grams in a unit that leaves one to three digits before the point: "3.21 mg".

    With `like`, the unit is the one that so many grams would have. A figure with an interval takes
    that of the upper end, `like=high`, so that all three have one unit and three digits at most.
    The same holds for joules and watts.
    """
    steps = ((1e6, "t"), (1e3, "kg"), (1.0, "g"), (1e-3, "mg"), (1e-6, "µg"))
    return _scaled(grams, steps, like)


def format_joules(joules: float, *, like: float | None = None) -> str:
    """Energy in joules below a watt-hour and in watt-hours above: "812 J", "1.35 kWh"."""
    if abs(joules if like is None else like) < 3600.0:
        return _scaled(joules, ((1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")), like)
    return _scaled(joules, ((3.6e9, "MWh"), (3.6e6, "kWh"), (3600.0, "Wh")), like)


def format_watts(watts: float, *, like: float | None = None) -> str:
    """Power: "35.2 W"."""
    return _scaled(watts, ((1e6, "MW"), (1e3, "kW"), (1.0, "W"), (1e-3, "mW")), like)


def format_seconds(seconds: float) -> str:
    """A duration: "380 ms", "21.4 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 1.0:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def format_interval(
    low: float,
    high: float,
    form: Callable[..., str] | str,
    *,
    like: float | None = None,
    unit: bool = True,
) -> str:
    """The ends of an interval with the unit once: "1.20 to 1.80 Wh".

    Both ends are in the unit of the upper one: "0.05 to 2.20 mg", never "51.0 to 2199 µg". Where
    the figure stands in front of them, print it in the same unit: `form(best, like=high)`.

    Args:
        low: the lower end.
        high: the upper end.
        form: `format_grams` or `format_joules`; for plain numbers a format such as ".3g".
        like: the figure inside the interval; its unit counts where it is larger than `high`.
        unit: False leaves the unit out: "1.20 to 1.80".
    """
    if isinstance(form, str):
        return f"{low:{form}} to {high:{form}}"
    widest = high if like is None else max(high, like)
    first, last = form(low, like=widest).partition(" ")[0], form(high, like=widest)
    return f"{first} to {last if unit else last.partition(' ')[0]}"


def format_best(
    best: float, low: float | None, high: float | None, form: Callable[..., str]
) -> str:
    """A figure whose interval stands apart from it, in the unit that `format_interval` has there.

    The interval is that of `format_interval(low, high, form, like=best)`. Where an end is unknown
    there is none, and the figure has a unit of its own.
    """
    return form(best) if low is None or high is None else form(best, like=max(best, high))


def format_with_interval(
    best: float,
    low: float | None,
    high: float | None,
    form: Callable[..., str],
    *,
    of: str = "",
    gap: str = " ",
) -> str:
    """A figure with its interval where that is known: "1.50 Wh (1.20 to 1.80 Wh)".

    `of` is what it is an amount of, such as " CO2e", and `gap` stands before the bracket.
    """
    text = f"{format_best(best, low, high, form)}{of}"
    if low is None or high is None:
        return text
    return f"{text}{gap}({format_interval(low, high, form, like=best)})"


def _scaled(amount: float, steps: tuple[tuple[float, str], ...], like: float | None = None) -> str:
    size = abs(amount if like is None else like)
    # 0.9995 of a step already prints as 1.00 of it with three digits
    factor, unit = next(((f, u) for f, u in steps if size >= 0.9995 * f), steps[-1])
    value = amount / factor
    if value == 0.0:
        return f"0 {unit}"
    if 0.0 < value < 0.005:
        return f"<0.01 {unit}"  # 0.00 would say that there is nothing
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"
