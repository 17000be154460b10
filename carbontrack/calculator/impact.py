"""Beside the grams of the electricity: the water it took, and the making of the hardware.

Both stand beside the operational emissions and are never added to them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from carbontrack.errors import ConfigError
from carbontrack.grid import rows

EMBODIED_TABLE = Path(__file__).parent.parent / "data" / "embodied.csv"

HOURS_PER_YEAR = 8766.0
"""365.25 days."""
LIFETIME_YEARS = 4.0
"""Cloud Carbon Footprint's lifetime of a server (35,040 h), which its figures for parts assume."""
SHORTEST_YEARS, LONGEST_YEARS = 3.0, 6.0
"""EcoLogits and BoaviztAPI write hardware off in 3 years; Microsoft, Google and Amazon in 6 (their
10-K reports for 2023 and 2024)."""
GB_PER_GIB = 1.073741824


@dataclass(frozen=True, slots=True)
class Amount:
    """A figure with the interval around it; the unit stands in the name of what holds it."""

    best: float
    low: float
    high: float


def embodied_g(
    item: str, count: float, hours: float, *, lifetime_years: float | None = None
) -> Amount:
    """Grams of CO2e of making `count` of an item, for the share of its life that `hours` take.

    Items: "gpu:h100", "gpu:a100", "gpu:b200", "gpu:datacenter", "gpu:consumer" (cards), "cpu"
    (sockets) and "ram" (GB). The share is hours over lifetime, as if the hardware were never idle,
    so it is a lower bound for hardware that often is. The interval takes the table's low end over
    the longest lifetime and its high end over the shortest; a given lifetime replaces both.

    Raises:
        ConfigError: no such item, or the lifetime is not above 0.
    """
    if item not in _embodied():
        raise ConfigError(
            f"no table has the making of {item!r}; known are {', '.join(_embodied())}"
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
    """The row that stands for a card: its own, else that of its kind; None where none does."""
    words = gpu_name.lower().split()
    own = (f"gpu:{word}" for word in words if f"gpu:{word}" in _embodied())
    by_kind = f"gpu:{kind}" if f"gpu:{kind}" in _embodied() else None
    is_tpu = "tpu" in words  # made unlike a card; no figure of its own is published
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


def water_l_per_kwh(zone: str) -> float | None:
    """Litres that generating one kWh consumes in a place, reservoirs' evaporation left out.

    A place below a country, or a cloud's region, takes its country's figure. Indicative: the
    generation mix times the medians of Macknick et al. (2012).
    """
    cloud = rows.row("cloud_regions", zone) if ":" in zone else None
    zone = cloud["zone"] if cloud else zone
    place = rows.row("zones", zone)
    found = rows.row("water", zone) or (rows.row("water", place["parent"]) if place else None)
    return float(found["l_per_kwh"]) if found and found["l_per_kwh"] else None


def site_water_l_per_kwh(zone: str) -> float | None:
    """Litres that a cloud region's site consumes per kWh of its computers (its WUE), if known."""
    cloud = rows.row("cloud_regions", zone) if ":" in zone else None
    return float(cloud["wue_l_per_kwh"]) if cloud and cloud["wue_l_per_kwh"] else None


@cache
def _embodied() -> dict[str, Amount]:
    with EMBODIED_TABLE.open(newline="", encoding="utf-8") as lines:
        return {
            line["item"]: Amount(
                float(line["kg_co2e"]), float(line["low_kg_co2e"]), float(line["high_kg_co2e"])
            )
            for line in csv.DictReader(lines)
        }
