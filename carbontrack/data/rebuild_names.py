"""Names of places and of time zones, for the rebuild."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from carbontrack.grid.names import fold

ALIASES = Path(__file__).parent / "aliases.csv"
ZONEINFO = Path("/usr/share/zoneinfo")
# names of UTC offsets, which newer editions of tzdata link to some city
NO_PLACE = frozenset(
    ("CET", "CST6CDT", "EET", "EST", "EST5EDT", "HST", "MET", "MST", "MST7MDT", "PST8PDT", "WET")
)

Line = tuple[object, ...]


def folded_names(zones: Iterable[Line]) -> list[Line]:
    """Every name and alias, folded, with the codes that it may mean."""
    index: dict[str, list[str]] = {}
    named = [(str(line[-1]), str(line[0])) for line in zones]
    named += [(name.partition(" (")[0], code) for name, code in named]
    with ALIASES.open(encoding="utf-8", newline="") as lines:
        named += [(row["name"], row["zone"]) for row in csv.DictReader(lines)]
    for name, code in named:
        codes = index.setdefault(fold(name), [])
        if code not in codes:
            codes.append(code)
    return [(name, " ".join(codes)) for name, codes in sorted(index.items())]


def time_zones() -> list[Line]:
    """The country of each named time zone and of its older names (tzdata, public domain).

    Nothing on a machine without the source files of tzdata: the table then stays as it is.
    """
    if not (ZONEINFO / "tzdata.zi").exists():
        return []
    country = {}
    for text in (ZONEINFO / "zone.tab").read_text().splitlines():
        if not text.startswith("#"):
            code, _, name = text.split("\t")[:3]
            country[name] = code
    links = [
        text.split(" ")[1:3]
        for text in (ZONEINFO / "tzdata.zi").read_text().splitlines()
        if text[:2] == "L "
    ]
    for target, name in links:
        if target in country and name not in NO_PLACE:
            country.setdefault(name, country[target])
    return sorted(country.items())
