"""Rows of Parquet files, such as the archives of `carbontrack compact`, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from carbontrack.errors import MissingExtra
from carbontrack.record import COLUMNS
from carbontrack.system.log import LOGGER

ENDING = ".parquet"
EXTRA = "extra"
"""The column of an archive with what its typed columns cannot hold, as JSON."""
_BATCH_ROWS = 10_000


def import_pyarrow(feature: str) -> Any:
    """The module pyarrow, for a feature of the extra `scale`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "scale", feature) from error
    return pa


def parquet_rows(path: Path) -> Iterator[Mapping[str, object] | None]:
    """The rows of a file, in its order; None for the rest where it cannot be read.

    The log says why. Times are texts, as in other files.

    Raises:
        MissingExtra: pyarrow is not installed.
        OSError: the file cannot be opened.
    """
    pa = import_pyarrow(f"reading {path}")
    with path.open("rb") as file:
        try:
            whole = pa.parquet.ParquetFile(file)
            wanted = [name for name in whole.schema_arrow.names if name in (*COLUMNS, EXTRA)]
            for batch in whole.iter_batches(_BATCH_ROWS, columns=wanted):
                yield from map(_row, batch.to_pylist())
        except (pa.ArrowException, ValueError) as error:
            LOGGER.warning("%s: %s; the rest of it is skipped", path, error)
            yield None


def _row(cells: dict[str, object]) -> dict[str, object]:
    row = {name: _cell(cell) for name, cell in cells.items() if cell is not None}
    beyond = row.pop(EXTRA, None)
    if isinstance(beyond, str):
        found = json.loads(beyond)
        row |= {name: text for name, text in found.items() if name in COLUMNS and name not in row}
    return row


def _cell(cell: object) -> object:
    if isinstance(cell, datetime):
        at = cell.replace(tzinfo=cell.tzinfo or timezone.utc).astimezone(timezone.utc)
        precision = "microseconds" if at.microsecond % 1000 else "milliseconds"
        return at.isoformat(timespec=precision).replace("+00:00", "Z")
    return None if cell != cell else cell  # noqa: PLR0124 - NaN is not itself
