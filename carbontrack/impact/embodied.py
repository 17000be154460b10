"""Embodied emissions of the hardware, for the share of its lifetime that some work takes.

They are reported beside the operational emissions and never added to them. `embodied_g` looks up an
item of the table; `rates_g_per_h` are the hourly rates of a machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from carbontrack.errors import ConfigError
from carbontrack.meters.meter import Hardware
from carbontrack.system.files import package_text

EMBODIED_TABLE = "data/embodied.csv"
HOURS_PER_YEAR = 8766.0
"""365.25 days."""
LIFETIME_YEARS = 4.0
"""Cloud Carbon Footprint's lifetime of a server (35,040 h), which its figures for parts assume."""
SHORTEST_YEARS, LONGEST_YEARS = 3.0, 6.0
"""EcoLogits and BoaviztAPI write hardware off in 3 years; Microsoft, Google and Amazon in 6 (their
10-K reports for 2023 and 2024)."""
GB_PER_GIB = 1.073741824


class Amount(NamedTuple):
    """A figure with the interval around it; the unit is in the name of what holds it."""

    best: float
    low: float
    high: float


def embodied_g(
    item: str, count: float, hours: float, *, lifetime_years: float | None = None
) -> Amount:
    """Embodied grams of CO2e of `count` of an item, for the share of its life that `hours` take.

    Items: "gpu:h100", "gpu:a100", "gpu:b200", "gpu:datacenter", "gpu:consumer" (cards), "cpu"
    (sockets) and "ram" (GB). The share is hours over lifetime, as if the hardware were never idle,
    so the result is a lower bound for hardware that often is. The interval takes the table's low
    end over the longest lifetime and its high end over the shortest; a given lifetime replaces
    both.

    Raises:
        ConfigError: no such item, or the lifetime is not above 0.
    """
    if item not in _embodied():
        raise ConfigError(
            f"no table has the embodied emissions of {item!r}; known are {', '.join(_embodied())}"
        )
    if lifetime_years is not None and not lifetime_years > 0.0:
        raise ConfigError(f"lifetime_years must be above 0, not {lifetime_years!r}")
    mass = _embodied()[item]
    hours_lived = count * hours * 1e3 / HOURS_PER_YEAR
    return Amount(
        best=mass.best * hours_lived / (lifetime_years or LIFETIME_YEARS),
        low=mass.low * hours_lived / (lifetime_years or LONGEST_YEARS),
        high=mass.high * hours_lived / (lifetime_years or SHORTEST_YEARS),
    )


def embodied_item(gpu_name: str, kind: str) -> str | None:
    """The item of the table for a card: its own, else that of its kind; None if it has neither."""
    words = gpu_name.lower().split()
    own = (f"gpu:{word}" for word in words if f"gpu:{word}" in _embodied())
    by_kind = f"gpu:{kind}" if f"gpu:{kind}" in _embodied() else None
    is_tpu = "tpu" in words  # not built like a card, and no figure for it is published
    return None if is_tpu else next(own, by_kind)


def total(amounts: Iterable[Amount]) -> Amount | None:
    """The sum of several, their intervals added: the sources share their methods and errors."""
    parts = list(amounts)
    if not parts:
        return None
    return Amount(
        sum(part.best for part in parts),
        sum(part.low for part in parts),
        sum(part.high for part in parts),
    )


def rates_g_per_h(
    hardware: Hardware, *, lifetime_years: float | None = None, utilisation: float = 1.0
) -> Mapping[str, float] | None:
    """Embodied grams of CO2e for an hour of each part of a machine, "cpu", "gpu" and "ram".

    `utilisation` is the share of its life in which the hardware is in use; the embodied emissions
    of its idle time are allocated to the work. None where any part of the machine is unknown: its
    processor, how much memory there is, or a card without a figure. A figure for some of the parts
    would be taken for the whole machine's.

    Raises:
        ConfigError: `lifetime_years` or `utilisation` is not above 0.
    """
    if not utilisation > 0.0:
        raise ConfigError(f"utilisation must be above 0, not {utilisation!r}")
    if hardware.cpu_sockets is None or hardware.ram_gib is None:
        return None
    counts = {"cpu": ("cpu", hardware.cpu_sockets), "ram": ("ram", hardware.ram_gib * GB_PER_GIB)}
    rates = {
        part: embodied_g(item, count, 1.0, lifetime_years=lifetime_years).best / utilisation
        for part, (item, count) in counts.items()
    }
    items = [_card_item(name) for name in hardware.gpu_models]
    if len(items) < (hardware.gpu_count or 0) or None in items:
        return None
    cards = [embodied_g(i, 1, 1.0, lifetime_years=lifetime_years).best for i in items if i]
    return rates | ({"gpu": sum(cards) / utilisation} if cards else {})


def _card_item(name: str) -> str | None:
    # 252 rows that only machines with a card read
    from carbontrack.impact.hardware import find_gpu

    try:
        card = find_gpu(name)
    except ConfigError:
        return None
    return embodied_item(card.name, card.kind)


@cache
def _embodied() -> dict[str, Amount]:
    found = {}
    for line in package_text(EMBODIED_TABLE).splitlines()[1:]:
        item, _unit, best, low, high, _rest = line.split(",", 5)
        found[item] = Amount(float(best), float(low), float(high))
    return found
