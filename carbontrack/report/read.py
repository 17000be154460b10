"""Records back from where a sink put them.

CSV text to rows, past whatever a killed process, a full disk or an editor left in between.

The rows of a file in each of the formats that sinks write, chosen by its ending.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from carbontrack.errors import ConfigError, MissingExtra
from carbontrack.record import COLUMNS, NUMBER_COLUMNS, Record
from carbontrack.sinks.csv_file import restored
from carbontrack.system.log import LOGGER

if TYPE_CHECKING:
    import pandas as pd


LINE_LIMIT = 1 << 20
"""Bytes of a line, and characters of a row, above which it is taken for garbage."""

CsvRow = dict[str, str]


def text_lines(file: BinaryIO) -> Iterator[str | None]:
    """The lines of the file, without a byte order mark; None for one that is too long."""
    first = True
    while line := file.readline(LINE_LIMIT):
        if len(line) == LINE_LIMIT and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(LINE_LIMIT)
            yield None
            continue
        yield line.decode("utf-8-sig" if first else "utf-8", errors="replace")
        first = False


class CsvRows:
    """The rows of a CSV file as column to text, and None for each line that belongs to no row.

    A row may run over several lines, where a cell holds line feeds. A torn row can end inside a
    quoted cell, and would then swallow the rows after it; so when lines that were taken together
    make no row, only the first of them is given up, and reading goes on with the second.
    """

    def __init__(self, lines: Iterator[str | None], header: tuple[str, ...] = COLUMNS) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self._header = header

    @property
    def holds_lines(self) -> bool:
        """Whether lines were taken from the iterator that are still to be read as rows."""
        return bool(self._again)

    def __iter__(self) -> Iterator[CsvRow | None]:
        while (taken := self._take()) is not None:
            cells = _parsed("".join(taken)) if taken else None
            if cells == []:
                continue
            if cells and "record_id" in cells and "run_id" in cells:
                self._header = tuple(cells)
            elif cells and len(cells) == len(self._header):
                pairs = zip(self._header, cells, strict=True)
                yield {name: restored(name, cell) for name, cell in pairs}
            else:
                self._again.extendleft(reversed(taken[1:]))
                yield None

    def _take(self) -> list[str] | None:
        """The next lines that seem to make a row; none if too long; None at the end."""
        line = self._next()
        if line is None:
            return []
        if line == "":
            return None
        taken, quotes, size = [line], line.count('"'), len(line)
        while quotes % 2 and size < LINE_LIMIT:
            line = self._next()
            if not line:
                break
            taken.append(line)
            quotes += line.count('"')
            size += len(line)
        return taken

    def _next(self) -> str | None:
        return self._again.popleft() if self._again else next(self._lines, "")


def _parsed(text: str) -> list[str] | None:
    """The cells of one row; [] for an empty line, None if the text is not exactly one row."""
    if not text.strip("\r\n"):
        return []
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error:
        # its limit for a cell, 128 KiB, is the whole process's, and so not ours to change
        return _long_cells(text) if len(text) > csv.field_size_limit() else None
    return rows[0] if len(rows) == 1 else None


_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n][^,\r\n]*|))(,|\Z)')


def _long_cells(text: str) -> list[str] | None:
    """The cells of one row, whatever their length; None if the text is not exactly one row."""
    text = text.rstrip("\r\n")
    cells: list[str] = []
    at = 0
    while found := _CELL.match(text, at):
        quoted, bare, comma = found.groups()
        cells.append(bare if quoted is None else quoted.replace('""', '"'))
        if not comma:
            return cells
        at = found.end()
    return None


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


AnyPath = str | os.PathLike[str]
OnSkip = Callable[[str], None]
"""Called with the reason for each line that holds no record."""
_WHOLE_COLUMNS = frozenset(f.name for f in fields(Record) if str(f.type).split(" ")[0] == "int")


def iter_records(path: AnyPath, *, on_skip: OnSkip | None = None) -> Iterator[Record]:
    """The records of one file, in its order, one at a time.

    Lines that hold no record, such as the torn end of a killed writer, are passed over and told
    to `on_skip`. Files of older schema versions are read too.

    Raises:
        OSError: the file cannot be opened.
        ConfigError: the name has an ending that no sink writes.
    """
    place = Path(path).expanduser()
    rows = ROWS.get(place.suffix.lower())
    if rows is None:
        raise ConfigError(f"cannot read {place}: known endings are {', '.join(ROWS)}")
    skip = on_skip or _ignore
    for row in rows(place):
        if row is None:
            skip("not a whole row")
            continue
        try:
            yield Record.from_row(row)
        except (ValueError, TypeError, OverflowError) as error:
            skip(str(error))


def read_records(*paths: AnyPath) -> pd.DataFrame:
    """All records of the files as one pandas frame, a row each, typed.

    Numbers are float64, whole numbers Int64, `started_at` and `ended_at` are times in UTC,
    `labels` holds dicts. A record that is there twice, because a delivery was repeated, counts
    once; a record recovered from a checkpoint gives way to the finished one. How many lines were
    passed over stands in `frame.attrs["skipped_lines"]`, and a warning in the log names the file.

    Raises:
        MissingExtra: pandas is not installed.
        OSError: a file cannot be opened.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("pandas", "analysis", "read_records") from error
    if not paths:
        raise ConfigError("read_records needs a file to read, for example 'emissions.csv'")
    records, skipped = _all_records(paths)
    columns: dict[str, Any] = {
        name: _typed(pd, name, [getattr(record, name) for record in records]) for name in COLUMNS
    }
    from carbontrack.report.notebook import frame_class

    frame: pd.DataFrame = frame_class()(columns)
    frame.attrs["skipped_lines"] = skipped
    return frame


def distinct(records: Iterable[Record]) -> list[Record]:
    """The records without exact repetitions, and without checkpoints of runs that did finish."""
    records = list(records)
    finished = {record.record_id for record in records if record.status != "recovered"}
    seen: set[str] = set()
    kept = []
    for record in records:
        if record.status == "recovered" and record.record_id in finished:
            continue
        if (content := repr(record)) not in seen:
            seen.add(content)
            kept.append(record)
    return kept


def _all_records(paths: Iterable[AnyPath]) -> tuple[list[Record], int]:
    records: list[Record] = []
    skipped = 0
    for path in paths:
        reasons: list[str] = []
        records += iter_records(path, on_skip=reasons.append)
        if reasons:
            skipped += len(reasons)
            LOGGER.warning(
                "%s: passed over %d lines that hold no record; the first: %s",
                path,
                len(reasons),
                reasons[0],
            )
    return distinct(records), skipped


def _typed(pd: Any, name: str, cells: list[object]) -> Any:
    if name in _WHOLE_COLUMNS:
        return pd.array(cells, dtype="Int64")
    if name in NUMBER_COLUMNS:
        return pd.array(cells, dtype="float64")
    column = pd.Series(cells, dtype=object)
    if name in ("started_at", "ended_at"):
        return pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601")
    return column


def _ignore(_: str) -> None:
    return
