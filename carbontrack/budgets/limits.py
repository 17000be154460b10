"""From markers to limits: what one test may use, how often it runs, what is billed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from carbontrack.errors import ConfigError
from carbontrack.settings import nearest
from carbontrack.units import Kind, Quantity, parse_quantity

Scope = Literal["call", "all"]
_KEYS = ("emissions", "energy", "repeat", "scope")


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for a test; None is "nobody said"."""

    emissions: Quantity | None = None
    energy: Quantity | None = None
    repeat: int | None = None
    scope: Scope | None = None

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The limits there are."""
        return tuple(limit for limit in (self.emissions, self.energy) if limit is not None)

    @property
    def says_nothing(self) -> bool:
        """Whether nobody said anything, neither what holds nor how to measure."""
        return all(getattr(self, key) is None for key in _KEYS)

    @property
    def text(self) -> str | None:
        """The limits in words; None where there is none."""
        return " and ".join(limit.text for limit in self.quantities) or None

    def over(self, wider: Limits) -> Limits:
        """These, and what they leave open from the wider ones: the nearest wins per quantity."""
        missing = {key: getattr(wider, key) for key in _KEYS if getattr(self, key) is None}
        return replace(self, **missing)


def layered(from_near_to_far: Sequence[Limits]) -> Limits:
    """What holds where several have a say: for each thing the nearest that says something."""
    found = Limits()
    for wider in from_near_to_far:
        found = found.over(wider)
    return found


def of_quantity(quantity: Quantity | None) -> Limits:
    """The limits that one quantity makes."""
    if quantity is None:
        return Limits()
    if quantity.kind == "emissions":
        return Limits(emissions=quantity)
    return Limits(energy=quantity)


def of_marker(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Limits:
    """Read one marker.

    Raises:
        ConfigError: it holds something that is no quantity, or says one thing twice.
    """
    found: dict[str, Any] = {}
    for text in args:
        quantity = parse_quantity(text)
        if quantity.kind in found:
            raise ConfigError(f"says two times how much {quantity.kind} is allowed")
        found[quantity.kind] = quantity
    for key, given in kwargs.items():
        if key not in _KEYS:
            raise ConfigError(f"has no argument {key!r}{nearest(key, _KEYS)}")
        if given is None:
            continue
        if key in found:
            raise ConfigError(f"says two times how much {key} is allowed")
        found[key] = _argument(key, given)
    if not found:
        raise ConfigError("says nothing; write a quantity, such as '5 mg' or '20 J'")
    return Limits(**found)


def _argument(key: str, given: Any) -> Any:
    if key == "repeat":
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= 1000:
            raise ConfigError(f"repeat={given!r} is not a whole number from 1 to 1000")
        return given
    if key == "scope":
        if given not in ("call", "all"):
            raise ConfigError(f"scope={given!r} is neither 'call' nor 'all'")
        return given
    return _of_kind("emissions" if key == "emissions" else "energy", given)


def _of_kind(kind: Kind, text: Any) -> Quantity:
    quantity = parse_quantity(text)
    if quantity.kind != kind:
        raise ConfigError(f"{kind}={text!r} is a quantity of {quantity.kind}")
    return quantity
