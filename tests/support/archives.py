"""What is in an archive, read as any Parquet reader would, and sources for one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from carbontrack.record import Record
from carbontrack.report.read import iter_records
from carbontrack.sinks.csv_file import HEADER, record_line
from carbontrack.sinks.jsonl import json_line, record_object
from carbontrack.sinks.sqlite import SqliteSink


def write_source(path: Path, records: Iterable[Record]) -> Path:
    """A file of records in the format that its ending says."""
    if path.suffix == ".csv":
        path.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
    elif path.suffix == ".jsonl":
        path.write_bytes(b"".join(json_line(record_object(r)) for r in records))
    else:
        sink = SqliteSink(path)
        for record in records:
            sink.write(record)
        sink.close()
    return path


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """The rows of all months' files, in their order, with the month of each."""
    from pyarrow import parquet

    found = []
    for path in sorted(folder.glob("month=*/records.parquet")):
        month = path.parent.name.removeprefix("month=")
        found += [row | {"month": month} for row in parquet.ParquetFile(path).read().to_pylist()]
    return found


def files_in(folder: Path) -> Mapping[str, tuple[bytes, int]]:
    """Every file of a folder by its path in it: its content, and which file it is."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_ino)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path in it."""
    return {name: content for name, (content, _) in files_in(folder).items()}


def cells_in(csv: Path) -> dict[str, dict[str, Any]]:
    """The rows of a CSV file by their id, as the package reads them."""
    return {record.record_id: record.to_row() for record in iter_records(csv)}
