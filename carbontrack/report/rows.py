"""The rows of a file in each of the formats that sinks write, chosen by its ending."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from carbontrack.report.csv_lines import CsvRows, text_lines

Row = Mapping[str, object]
"""Column to cell, as values or as text."""


def csv_rows(path: Path) -> Iterator[Row | None]:
    """The rows of a CSV file; None for each line that belongs to none."""
    with path.open("rb") as file:
        yield from CsvRows(text_lines(file))


def json_rows(path: Path) -> Iterator[Row | None]:
    """The objects of a file with one JSON object in each line; None for any other line."""
    with path.open("rb") as file:
        for line in text_lines(file):
            if line is not None and not line.strip():
                continue
            yield _json_object(line)


def sqlite_rows(path: Path) -> Iterator[Row | None]:
    """The rows of the table in an SQLite database, in the order of their arrival."""
    import sqlite3

    path.open("rb").close()  # what cannot be read is told by its name
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        connection.row_factory = sqlite3.Row
        rows = connection.execute("SELECT * FROM carbontrack_records ORDER BY rowid")
        for row in rows:
            yield {name: row[name] for name in row.keys()}  # noqa: SIM118 - a Row is no mapping
    except sqlite3.DatabaseError:
        yield None
    finally:
        connection.close()


def _json_object(line: str | None) -> Row | None:
    try:
        found = None if line is None else json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


ROWS: dict[str, Callable[[Path], Iterator[Row | None]]] = {
    ".csv": csv_rows,
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".sqlite": sqlite_rows,
    ".sqlite3": sqlite_rows,
    ".db": sqlite_rows,
}
"""The reader for each ending."""
