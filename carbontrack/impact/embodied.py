"""Embodied impact of the hardware, for the share of its lifetime that a run uses.

Two quantities: embodied emissions in grams of CO2e, and the use of scarce minerals and metals in
kilograms of antimony equivalents (kg Sb eq). They are reported in addition to the operational
emissions and never added to them. `embodied_g` and `abiotic_kg_sb` look up an item of the table;
`rates_per_h` are the hourly rates of a machine; `spread_of` is the interval of a machine as
multiples of its figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, lru_cache

from carbontrack.errors import ConfigError
from carbontrack.interval import Interval, product
from carbontrack.meters.cpu_lines import line_of
from carbontrack.meters.meter import Hardware
from carbontrack.record import WHOLE_MACHINE
from carbontrack.system.files import package_text
from carbontrack.units import format_grams, format_with_interval

EMBODIED_TABLE = "data/embodied.csv"
HOURS_PER_YEAR = 8766.0
"""365.25 days."""
LIFETIME_YEARS = 4.0
"""Cloud Carbon Footprint's lifetime of a server (35,040 h), which its figures for parts assume."""
SHORTEST_YEARS, LONGEST_YEARS = 3.0, 6.0
"""EcoLogits and BoaviztAPI depreciate hardware over 3 years; Microsoft, Google and Amazon over 6
(their 10-K reports for 2023 and 2024)."""
GB_PER_GIB = 1.073741824
SERVER = {"motherboard": 0.5, "psu": 1.0, "chassis": 0.5, "assembly": 0.5, "ssd": 1.0}
"""What a server has in addition to sockets, memory and cards, for each socket: half of a rack
server's board, chassis and assembly, one of its two power supplies, and one of its two drives of 1
TB."""
CLIENT = {"motherboard": 1.0, "ssd": 1.0}
"""The same for a laptop or desktop: the table has no case and no power adapter for them."""
TYPICAL = Hardware(cpu_model="Xeon", cpu_sockets=2.0, ram_gib=384.0 / GB_PER_GIB)
"""The rack server whose intervals stand for those of any machine: two sockets and 384 GB."""

AS_ANTIMONY = (
    "the use of scarce minerals and metals by manufacturing the hardware, expressed as the amount "
    "of antimony that would be as scarce; known within a factor of three to ten"
)
"""The meaning of an amount in Sb eq."""


def embodied_g(
    item: str, count: float, hours: float, *, lifetime_years: float | None = None
) -> Interval:
    """Embodied grams of CO2e of `count` of an item, for the share of its life that `hours` take.

    Items: "gpu:h100", "gpu:a100", "gpu:b200", "gpu:datacenter", "gpu:consumer" (cards), "cpu"
    (sockets), "ram" (GB), "ssd" and "hdd" (drives), "motherboard", "psu", "chassis", "assembly",
    and "server:ai" (a server for eight cards, without them). The share is hours over lifetime, as
    if the hardware were never idle, so the result is a lower bound for hardware that often is. The
    table's interval and that of the lifetime, 3 to 6 years, are independent; a given lifetime has
    none.

    Raises:
        ConfigError: no such item, or the lifetime is not above 0.
    """
    return _for_hours(made_kg_co2e(item), count * 1e3, hours, lifetime_years)


def abiotic_kg_sb(
    item: str, count: float, hours: float, *, lifetime_years: float | None = None
) -> Interval | None:
    """The same in kg Sb eq: scarce minerals and metals; None where no data set has the item.

    Raises:
        ConfigError: as for `embodied_g`.
    """
    kg_sb = made_kg_sb(item)
    return None if kg_sb is None else _for_hours(kg_sb, count, hours, lifetime_years)


def abiotic_of(items: Iterable[tuple[str | None, float]], hours: float) -> Interval | None:
    """The kg Sb eq of several items, each with its count; None where one of them has no figure."""
    found = [abiotic_kg_sb(item, n, hours) if item else None for item, n in items]
    known = [each for each in found if each is not None]
    return added(known) if len(known) == len(found) else None


def format_antimony(
    kg_sb: float, low_kg_sb: float | None, high_kg_sb: float | None, *, gap: str = " "
) -> str:
    """Antimony equivalents with their interval: "1.32 mg Sb eq (0.31 to 3.45 mg)"."""
    low_g, high_g = (None if kg is None else kg * 1e3 for kg in (low_kg_sb, high_kg_sb))
    return format_with_interval(kg_sb * 1e3, low_g, high_g, format_grams, of=" Sb eq", gap=gap)


def made_kg_co2e(item: str) -> Interval:
    """The kg of CO2e of manufacturing one item.

    Raises:
        ConfigError: the table has no such item.
    """
    best, low, high = _cells(item)[2:5]
    return Interval(float(best), float(low), float(high))


def made_kg_sb(item: str) -> Interval | None:
    """The kg Sb eq of manufacturing one item; None if no data set has it.

    Raises:
        ConfigError: the table has no such item.
    """
    best, low, high = _cells(item)[5:8]
    return Interval(float(best), float(low), float(high)) if best else None


def embodied_item(gpu_name: str, kind: str) -> str | None:
    """The item of the table for a card: its own, else that of its kind; None if it has neither."""
    words = gpu_name.lower().split()
    own = (f"gpu:{word}" for word in words if f"gpu:{word}" in _lines())
    by_kind = f"gpu:{kind}" if f"gpu:{kind}" in _lines() else None
    is_tpu = "tpu" in words  # not built like a card, and no figure for it is published
    return None if is_tpu else next(own, by_kind)


def added(amounts: Iterable[Interval]) -> Interval | None:
    """The sum of several, their intervals added: the sources share their methods and errors."""
    parts = list(amounts)
    if not parts:
        return None
    return Interval(
        sum(part.best for part in parts),
        sum(part.low for part in parts),
        sum(part.high for part in parts),
    )


def rates_per_h(
    hardware: Hardware, *, lifetime_years: float | None = None, utilisation: float = 1.0
) -> tuple[Mapping[str, float], Mapping[str, float] | None] | None:
    """The embodied impact of each part per hour: "cpu", "gpu", "ram", the rest "machine".

    In g CO2e and in kg Sb eq; the second is None where no set has that of a part.

    `utilisation` is the share of its life in which the hardware is in use; the embodied impact of
    its idle time is allocated to the work. None where any part of the machine is unknown: its
    processor, how much memory there is, or a card without a figure. A figure for some of the parts
    would be taken for the whole machine's.

    Raises:
        ConfigError: `lifetime_years` or `utilisation` is not above 0.
    """
    _check(lifetime_years)
    if not utilisation > 0.0:
        raise ConfigError(f"utilisation must be above 0, not {utilisation!r}")
    items = _items_of(hardware)
    if items is None:
        return None
    hours = (lifetime_years or LIFETIME_YEARS) * HOURS_PER_YEAR * utilisation
    g, kg_sb = dict.fromkeys(items, 0.0), dict.fromkeys(items, 0.0)
    knows_kg_sb = True
    for part, own in items.items():
        for item, count in own:
            cells = _cells(item)
            g[part] += float(cells[2]) * 1e3 * count / hours
            if cells[5]:
                kg_sb[part] += float(cells[5]) * count / hours
            else:
                knows_kg_sb = False
    return g, kg_sb if knows_kg_sb else None


@lru_cache(maxsize=1024)
def spread_of(gpu_models: str | None) -> tuple[Interval, Interval] | None:
    """The intervals of a machine's embodied impact, joined by ";", relative to the best estimate.

    In CO2e and in Sb eq, for sums of records, which hold the figure and the cards, and not its
    ends. The host is a rack server, the parts' intervals are added, and the lifetime's is in it.
    None where a card lacks one of the two figures.
    """
    items = [pair for own in (_items_of(TYPICAL) or {}).values() for pair in own]
    items += [(item, 1.0) for item in _card_items(gpu_models) if item is not None]
    kg_co2e = added(_times(made_kg_co2e(item), count) for item, count in items)
    known = [(found, count) for item, count in items if (found := made_kg_sb(item)) is not None]
    kg_sb = added(_times(found, count) for found, count in known)
    if None in _card_items(gpu_models) or len(known) < len(items) or not (kg_co2e and kg_sb):
        return None
    return _over_best(kg_co2e), _over_best(kg_sb)


def g_per_kg_sb_of(gpu_models: str | None) -> tuple[float, float]:
    """Between which ratios the table's two figures lie, in grams of CO2e per kg Sb eq.

    For any part of any machine with these cards: as a component's share in a run may be anything,
    these are the ratios of the components. Lifetime and utilisation cancel out.
    """
    components = [{"cpu": 1.0}, {"ram": 1.0}, SERVER, CLIENT]
    components += [{item: 1.0} for item in _card_items(gpu_models) if item is not None]
    ratios = []
    for items in components:
        kg_sb = [(made_kg_sb(item), count) for item, count in items.items()]
        whole_kg_sb = sum(found.best * count for found, count in kg_sb if found is not None)
        kg_co2e = sum(made_kg_co2e(item).best * count for item, count in items.items())
        ratios.append(kg_co2e * 1e3 / whole_kg_sb)
    return min(ratios) * (1.0 - 1e-6), max(ratios) * (1.0 + 1e-6)


def _card_items(gpu_models: str | None) -> list[str | None]:
    return [_card_item(name) for name in (gpu_models or "").split(";") if name]


def _items_of(hardware: Hardware) -> dict[str, list[tuple[str, float]]] | None:
    """The items that a machine is made of, by component; None where any of it is unknown."""
    sockets = hardware.cpu_sockets
    line = line_of(hardware.cpu_model)
    if sockets is None or hardware.ram_gib is None or line is None:
        return None
    cards = [_card_item(name) for name in hardware.gpu_models]
    if len(cards) < (hardware.gpu_count or 0) or None in cards:
        return None
    rest = CLIENT if line == "client" else SERVER
    items = {
        "cpu": [("cpu", sockets)],
        "ram": [("ram", hardware.ram_gib * GB_PER_GIB)],
        WHOLE_MACHINE: [(item, sockets * count) for item, count in rest.items()],
    }
    return items | ({"gpu": [(item, 1.0) for item in cards if item]} if cards else {})


def _card_item(name: str) -> str | None:
    # 252 rows that only machines with a card read
    from carbontrack.meters.gpu_names import find_gpu

    card = find_gpu(name)
    return None if card is None else embodied_item(card.name, card.kind)


def _for_hours(
    made: Interval, count: float, hours: float, lifetime_years: float | None
) -> Interval:
    _check(lifetime_years)
    per_year = _per_year() if lifetime_years is None else Interval(*(3 * (1.0 / lifetime_years,)))
    return _times(product(made, per_year), count * hours / HOURS_PER_YEAR)


def _check(lifetime_years: float | None) -> None:
    if lifetime_years is not None and not lifetime_years > 0.0:
        raise ConfigError(f"lifetime_years must be above 0, not {lifetime_years!r}")


def _per_year() -> Interval:
    return Interval(1.0 / LIFETIME_YEARS, 1.0 / LONGEST_YEARS, 1.0 / SHORTEST_YEARS)


def _times(made: Interval, count: float) -> Interval:
    return Interval(made.best * count, made.low * count, made.high * count)


def _over_best(made: Interval) -> Interval:
    per_life = product(made, _per_year())
    return _times(per_life, 1.0 / per_life.best)


def _cells(item: str) -> list[str]:
    """The first cells of an item's row; the last of them holds all others."""
    line = _lines().get(item)
    if line is None:
        raise ConfigError(
            f"no table has the embodied emissions of {item!r}; known are {', '.join(_lines())}"
        )
    return line.split(",", 8)


@cache
def _lines() -> dict[str, str]:
    lines = package_text(EMBODIED_TABLE).splitlines()[1:]
    return {line.partition(",")[0]: line for line in lines}
