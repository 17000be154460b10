"""How old the shipped tables are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from carbontrack.grid import rows

_YEARS = {
    "intensity": "year",
    "intensity_direct": "year",
    "intensity_marginal": "year",
    "water": "year",
    "cloud_regions": "pue_year",
    "generation_factors": "year",
}
"""Table -> the column with the year that a row's figure describes."""


@dataclass(frozen=True, slots=True)
class Edition:
    """A table's size, and the years its figures describe; `most` is the commonest."""

    table: str
    rows: int
    oldest: int
    most: int
    newest: int


def editions() -> list[Edition]:
    """The age of every table of figures, by table."""
    found = []
    for table, column in _YEARS.items():
        years = [int(row[column]) for row in rows.rows(table) if row[column]]
        most = Counter(years).most_common(1)[0][0]
        found.append(Edition(table, len(years), min(years), most, max(years)))
    return found
