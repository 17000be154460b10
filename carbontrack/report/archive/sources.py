"""Sources of an archive, read into tables of its columns: files of records, and archives.

Intact blocks of CSV become columns at once; all else goes by records, one at a time. Both ways lead
to the same rows: what is no record to `carbontrack.read_records` is none here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError
from carbontrack.record import (
    COLUMNS,
    CONVERTERS,
    NUMBER_COLUMNS,
    REQUIRED,
    SCHEMA,
    TIMELINE_SUFFIX,
    TRUTH_COLUMNS,
    Record,
)
from carbontrack.report.archive.layout import (
    SCHEMA_KEY,
    TIMES,
    WHOLE_COLUMNS,
    WORK_FOLDER,
    cells_by_column,
    extra_text,
    import_arrow,
    is_archive,
    month_files,
    rows_by_name,
    staged_schema,
    staged_table,
)
from carbontrack.report.database import sqlite_rows
from carbontrack.report.read import ROWS, CsvBlocks, OnSkip, Row, records_in, rows_of
from carbontrack.report.spreadsheet import as_utf8
from carbontrack.report.typed import cell_text

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = ".parquet"
_SQLITE = frozenset(ending for ending, read in ROWS.items() if read is sqlite_rows)
_ROWS_AT_ONCE = 5_000
_EXACT = 1 << 53
"""Whole numbers up to here are the same as floats, by which readers of text take them."""
_TIME = r"^(?:[1-9]\d{3}|0[1-9]\d\d)-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"
"""A time as carbontrack writes it."""
_ROUNDED = r"^\d(?:[.,]\d+)?E[+-]\d+$"
_DEFAULTS: dict[str, Any] = {"schema": SCHEMA, "status": "ok"}
"""What an empty cell stands for, where that is not unknown."""


def source_files(paths: Sequence[Path], into: Path) -> list[Path]:
    """The files of records among files, folders and archives, each once; none inside `into`.

    Raises:
        OSError: a file is not there.
        ConfigError: the ending of a file says of no format; a folder holds none.
    """
    target = into.resolve()
    found: dict[Path, Path] = {}
    for path in paths:
        for file in _files(path.expanduser()):
            whole = file.resolve()
            if target not in whole.parents and whole != target:
                found.setdefault(whole, file)
    return list(found.values())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        if is_archive(path):
            return list(month_files(path).values())
        next(path.iterdir(), None)  # rglob would skip a folder that may not be read
        found = sorted(file for file in path.rglob("*") if _holds_records(file))
        if not found:
            raise ConfigError(f"{path} contains no file that ends in {', '.join((*ROWS, PARQUET))}")
        return found
    if path.suffix.lower() not in (*ROWS, PARQUET):
        raise ConfigError(f"cannot read {path}: known endings are {', '.join((*ROWS, PARQUET))}")
    if not _holds_records(path):
        raise ConfigError(f"{path} contains timelines; name the file of records next to it")
    path.stat()  # a missing file is an error before any other is read
    return [path]


def _holds_records(file: Path) -> bool:
    is_known = file.suffix.lower() in (*ROWS, PARQUET)
    return (
        is_known
        and not file.name.lower().endswith(TIMELINE_SUFFIX)
        and WORK_FOLDER not in file.parts
    )


def tables_of(path: Path, on_skip: OnSkip) -> Iterator[pa.Table]:
    """The records of a file, in tables of the columns that `staged_schema` names.

    `on_skip` is called with the reason for each line that holds no record.

    Raises:
        OSError: the file cannot be read.
        ConfigError: it is no Parquet file of records, or of a newer version; or a database that
            cannot be read to its end.
    """
    ending = path.suffix.lower()
    if ending == ".csv":
        with path.open("rb") as file:
            for block in ArrowBlocks(as_utf8(file), COLUMNS):
                if isinstance(block, list):
                    yield from _tables(block, on_skip)
                else:
                    yield block
    elif ending == PARQUET:
        yield from _tables(parquet_rows(path), on_skip)
    else:
        is_sqlite = ending in _SQLITE
        rows = sqlite_rows(path, every_column=True, to_the_end=True) if is_sqlite else rows_of(path)
        yield from _tables(rows, on_skip)


def _tables(rows: Iterable[Row | None], on_skip: OnSkip) -> Iterator[pa.Table]:
    pairs = _with_records(rows, on_skip)
    while some := list(islice(pairs, _ROWS_AT_ONCE)):
        yield staged_table(some)


def _with_records(
    rows: Iterable[Row | None], on_skip: OnSkip
) -> Iterator[tuple[Record, Mapping[str, object]]]:
    for row in rows:
        for record in records_in((row,), on_skip):
            assert row is not None
            yield record, row


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a file of an archive.

    Raises:
        OSError: it cannot be read.
        ConfigError: it holds no records, or was written by a newer version.
    """
    pa = import_arrow()
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            check_parquet(path, file.schema_arrow)
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                columns, extras = cells_by_column(batch)
                for row, extra in zip(rows_by_name(columns), extras, strict=True):
                    yield extra | row
    except pa.ArrowInvalid as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def check_parquet(path: Path, schema: Any) -> None:
    """Refuse a Parquet file that is not of an archive, or of one of a newer version.

    Raises:
        ConfigError: it is one.
    """
    said = (schema.metadata or {}).get(SCHEMA_KEY, b"")
    if not said.isdigit():
        raise ConfigError(f"cannot read {path}: it was not written by carbontrack compact")
    if int(said) > SCHEMA:
        raise ConfigError(
            f"cannot read {path}: a newer carbontrack has written it (schema {int(said)}, "
            f"and this one knows {SCHEMA}); update carbontrack"
        )


class ArrowBlocks(CsvBlocks):
    """The rows of a CSV file in blocks: tables of an archive's columns, or lists of rows."""

    def _is_clean(self, block: bytes) -> bool:
        try:
            return super()._is_clean(block)
        except ImportError:  # numpy, which only pandas brings
            return False

    def _parsed(self, block: bytes) -> Iterator[Any]:
        pa = import_arrow()
        if self._layout.delimiter == ",":  # other separators are a spreadsheet's
            try:
                yield _typed(self._texts(block))
            except (pa.ArrowInvalid, ValueError, TypeError, ArithmeticError, RecursionError):
                pass  # line by line it is found out which row holds no record
            else:
                return
        yield from self._line_by_line(block)

    def _texts(self, block: bytes) -> Any:
        from pyarrow import csv

        names = list(self._layout.names)
        pa = import_arrow()
        return csv.read_csv(
            BytesIO(block),
            csv.ReadOptions(column_names=names, block_size=len(block) + 1),
            csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[""],
                strings_can_be_null=True,
            ),
        )  # fmt: skip


def _typed(texts: Any) -> Any:
    """The table of columns of text.

    Raises:
        ValueError: a cell is not as carbontrack writes it; `ArrowInvalid` is one.
    """
    pa = import_arrow()
    if len(set(texts.column_names)) < len(texts.column_names):
        raise ValueError("two columns have one name")
    columns = []
    for kind in staged_schema():
        name = kind.name
        if name == "extra":
            columns.append(_unknown_cells(pa, texts))
        elif name not in texts.column_names:
            default = 1 if name == "calls" else "{}" if name == "labels" else _DEFAULTS.get(name)
            if name in REQUIRED:
                raise ValueError(f"the rows have no {name}")
            columns.append(pa.repeat(pa.scalar(default, kind.type), len(texts)))
        else:
            columns.append(_column(pa, name, texts[name].combine_chunks(), kind.type))
    return pa.table(columns, schema=staged_schema())


def _column(pa: Any, name: str, texts: Any, kind: Any) -> Any:
    from pyarrow import compute

    if name in REQUIRED and texts.null_count:
        raise ValueError(f"a row has no {name}")
    if name in TIMES:
        return _times(pa, texts)
    if name == "labels":
        return _converted(pa, name, texts).fill_null("{}")
    if name in TRUTH_COLUMNS:
        return _converted(pa, name, texts)
    if name in NUMBER_COLUMNS:
        found = texts.cast(kind)
        if name in WHOLE_COLUMNS and len(found) > found.null_count:
            ends = compute.min_max(found)
            if ends["min"].as_py() < -_EXACT or ends["max"].as_py() > _EXACT:
                raise ValueError(f"column {name!r} has a number that a float cannot hold")
    else:
        if name.endswith("_id") and compute.any(_matches(texts, _ROUNDED)).as_py():
            raise ValueError(f"column {name!r} may be rounded")
        is_marked = compute.starts_with(texts, "'")
        found = compute.if_else(is_marked, compute.utf8_slice_codeunits(texts, 1), texts)
    return found.fill_null(_DEFAULTS[name]) if name in _DEFAULTS else found


def _matches(texts: Any, pattern: str) -> Any:
    from pyarrow import compute

    return compute.match_substring_regex(texts, pattern)


def _times(pa: Any, texts: Any) -> Any:
    from pyarrow import compute

    if not compute.all(_matches(texts, _TIME)).as_py():
        raise ValueError("a time is not as carbontrack writes it")
    return texts.cast(pa.timestamp("us", "UTC")).cast(pa.int64())


def _converted(pa: Any, name: str, texts: Any) -> Any:
    """The column, each distinct text of it converted once, by the record's own converter."""
    found = texts.dictionary_encode()
    convert: Callable[[object], Any] = CONVERTERS[name]
    values = [convert(cell_text(name, text)) for text in found.dictionary.to_pylist()]
    if name == "labels":
        values = [_labels_text(labels) for labels in values]
    kind = pa.string() if name == "labels" else pa.bool_()
    return pa.array(values, kind).take(found.indices)


def _labels_text(labels: Mapping[str, Any]) -> str:
    record = Record(record_id="", run_id="", name="", started_at="", ended_at="", labels=labels)
    return str(record.to_row()["labels"]).encode(errors="backslashreplace").decode()


def _unknown_cells(pa: Any, texts: Any) -> Any:
    """What `extra` holds of columns that this version does not know."""
    names = [name for name in texts.column_names if name not in CONVERTERS]
    if not names:
        return pa.nulls(len(texts), pa.string())
    rows = texts.select(names).to_pylist()
    cells = [
        extra_text({name: cell_text(name, cell) for name, cell in row.items() if cell is not None})
        for row in rows
    ]
    return pa.array(cells, pa.string())
