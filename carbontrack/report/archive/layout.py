"""The layout of an archive: its folders and files, its columns and types, and a record as a row.

    FOLDER/carbontrack-archive.json         marks the folder as an archive
    FOLDER/month=2026-11/records.parquet    the records that began in that month, in UTC
    FOLDER/month=unknown/records.parquet    those whose start is no time

The columns are those of the record, each with its type, and two more. `nested` is what the row
itself says of its parent: true where it has one that holds it, null where it does not say. `extra`
is a JSON object: the cells of columns that this version does not know, and the text of those that
their column's type cannot hold exactly, such as a time without an offset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.record import (
    COLUMNS,
    NUMBER_COLUMNS,
    SCHEMA,
    TRUTH_COLUMNS,
    Cell,
    Record,
    plain,
)
from carbontrack.report.parquet import import_pyarrow
from carbontrack.values import fields_of

if TYPE_CHECKING:
    import pyarrow as pa

FEATURE = "carbontrack compact"
MARK = "carbontrack-archive.json"
MARK_TEXT = '{"format": "carbontrack-archive", "version": 1}\n'
FILE_NAME = "records.parquet"
WORK_FOLDER = ".compacting"
"""What a run needs on its way; nobody reads it."""
UNKNOWN = "unknown"
"""The month of rows whose start is no time."""
TIMES = ("started_at", "ended_at")
ALL_COLUMNS = (*COLUMNS, "nested", "extra")
"""The columns of an archive, in order."""
WHOLE_COLUMNS = frozenset(n for n, f in fields_of(Record).items() if str(f.type).startswith("int"))
SCHEMA_KEY = b"carbontrack.schema"
_KNOWN = frozenset(COLUMNS)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_US = timedelta(microseconds=1)
_MOST_WHOLE = 1 << 63


def is_archive(folder: Path) -> bool:
    """Whether a folder is an archive."""
    return (folder / MARK).is_file()


def month_files(folder: Path) -> dict[str, Path]:
    """The files of an archive by month, in the order of time; rows without a time come last."""
    found = {path.parent.name[6:]: path for path in folder.glob(f"month=*/{FILE_NAME}")}
    return dict(sorted(found.items()))


def import_arrow() -> Any:
    """The module pyarrow.

    Raises:
        MissingExtra: it is not installed.
    """
    return import_pyarrow(FEATURE)


def archive_schema() -> pa.Schema:
    """The columns of a file of an archive, and what it says of itself."""
    pa = import_arrow()
    types = {name: pa.timestamp("us", "UTC") for name in TIMES} | {"nested": pa.bool_()}
    fields = [(name, types.get(name) or _type_of(pa, name)) for name in ALL_COLUMNS]
    return pa.schema(
        fields, metadata={b"carbontrack.archive": b"1", SCHEMA_KEY: str(SCHEMA).encode()}
    )


def staged_schema() -> pa.Schema:
    """The columns of rows on their way into an archive: times are microseconds since 1970."""
    pa = import_arrow()
    names = (*COLUMNS, "extra")
    return pa.schema([(n, pa.int64() if n in TIMES else _type_of(pa, n)) for n in names])


def _type_of(pa: Any, name: str) -> Any:
    if name in TRUTH_COLUMNS:
        return pa.bool_()
    if name in WHOLE_COLUMNS:
        return pa.int64()
    return pa.float64() if name in NUMBER_COLUMNS else pa.string()


# -- from a record to a row --------------------------------------------------------------------


def staged_table(rows: Iterable[tuple[Record, Mapping[str, object]]]) -> pa.Table:
    """A table of records; each comes with the row that it was read from."""
    pa = import_arrow()
    cells = [_staged_row(record, row) for record, row in rows]
    schema = staged_schema()
    columns = list(zip(*cells, strict=True)) or [()] * len(schema)
    arrays = [pa.array(col, kind.type) for col, kind in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def _staged_row(record: Record, row: Mapping[str, object]) -> list[object]:
    cells: dict[str, Any] = dict(record.to_row())
    extra = {
        str(name): plain(cell)
        for name, cell in row.items()
        if name not in _KNOWN and cell is not None and cell != ""
    }
    for name, cell in cells.items():
        if name in TIMES:
            cells[name] = microseconds_of(cell)
            if cells[name] is None or time_text(cells[name]) != cell:
                extra[name] = cell
        elif name in WHOLE_COLUMNS and cell is not None:
            fits = -_MOST_WHOLE <= cell < _MOST_WHOLE
            cells[name] = int(cell) if fits else None
            if not fits:
                extra[name] = plain(cell)
        elif isinstance(cell, str):
            cells[name] = cell.encode(errors="backslashreplace").decode()
    return [*cells.values(), extra_text(extra)]


def extra_text(extra: Mapping[str, object]) -> str | None:
    """What the column `extra` holds; None for nothing."""
    if not extra:
        return None
    text = json.dumps(extra, ensure_ascii=False, sort_keys=True, allow_nan=False)
    return text.encode(errors="backslashreplace").decode()


def microseconds_of(text: str) -> int | None:
    """A time as microseconds since 1970; one without an offset is in UTC; None if it is none."""
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
        utc = at.replace(tzinfo=timezone.utc) if at.tzinfo is None else at
        return (utc - _EPOCH) // _US if _has_a_month(utc) else None
    except (ValueError, OverflowError):
        return None


def _has_a_month(at: datetime) -> bool:
    """Whether it lies, in UTC, in a year that a `datetime` can have."""
    at.astimezone(timezone.utc)
    return True


def time_text(us: int) -> str:
    """A time as carbontrack writes it; another text of it is kept in `extra`."""
    at = (_EPOCH + us * _US).replace(tzinfo=None)
    return at.isoformat(timespec="microseconds") + "Z"


# -- and back ----------------------------------------------------------------------------------


def cells_by_column(batch: Any) -> tuple[list[list[Any]], list[dict[str, Any]]]:
    """The record's columns of some rows of an archive as lists, and what is in `extra` of each.

    Cells that their column could not hold exactly are as they were.
    """
    columns: list[list[Any]] = []
    for name in COLUMNS:
        if name not in batch.schema.names:
            columns.append([None] * batch.num_rows)  # of an older version
            continue
        column = batch[name]
        if name in TIMES:
            numbers = column.cast("int64").to_pylist()
            columns.append([None if us is None else time_text(us) for us in numbers])
        else:
            columns.append(column.to_pylist())
    extras = [{} if text is None else json.loads(text) for text in batch["extra"].to_pylist()]
    for at, extra in enumerate(extras):
        for name in _KNOWN & extra.keys():
            columns[_PLACES[name]][at] = extra.pop(name)
    return columns, extras


_PLACES: Mapping[str, int] = {name: place for place, name in enumerate(COLUMNS)}


def rows_by_name(columns: Sequence[Sequence[Cell]]) -> Iterable[dict[str, Cell]]:
    """The rows of some columns as column to cell."""
    return (dict(zip(COLUMNS, cells, strict=True)) for cells in zip(*columns, strict=True))
