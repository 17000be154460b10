"""Records back from where a sink put them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError, MissingExtra
from carbontrack.notices import LOGGER
from carbontrack.records import COLUMNS, NUMBER_COLUMNS, Record
from carbontrack.report.rows import ROWS

if TYPE_CHECKING:
    import pandas as pd

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
    from carbontrack.report.records_frame import frame_class

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
