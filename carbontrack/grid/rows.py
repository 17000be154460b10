"""Rows of the shipped tables, found by their first column without parsing the whole file.

The tables have no quoting: only their last column may contain a comma. To find a line in 20 kB of
text costs microseconds; a csv reader and its import cost milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from carbontrack.system.files import package_text


def row(table: str, key: str) -> dict[str, str] | None:
    """The row of `table` whose first column is exactly `key`, by column name; or None."""
    if not key or "," in key or "\n" in key:
        return None
    text = _text(table)
    start = text.find(f"\n{key},")
    if start < 0:
        return None
    end = text.find("\n", start + 1)
    return _cells(text[: text.index("\n")], text[start + 1 : end])


def key_of(table: str, cells: str) -> str | None:
    """The first column of the first row that contains `cells`, given with commas: ",FRA,"."""
    text = _text(table)
    found = text.find(cells)
    if found < 0:
        return None
    start = text.rfind("\n", 0, found + 1) + 1
    return text[start : text.index(",", start)]


def rows(table: str) -> Iterator[dict[str, str]]:
    """Every row of `table`, in its order."""
    header, *lines = _text(table).splitlines()
    return (_cells(header, line) for line in lines)


@cache
def source(number: str) -> str:
    """The full text of a source that rows name by its number."""
    found = row("sources", number)
    return found["text"] if found else number


@cache
def _text(table: str) -> str:
    return package_text(f"data/{table}.csv")


def _cells(header: str, line: str) -> dict[str, str]:
    columns = header.split(",")
    return dict(zip(columns, line.split(",", len(columns) - 1), strict=True))
