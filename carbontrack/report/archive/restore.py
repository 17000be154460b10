"""An archive as a CSV file again, as carbontrack writes it: each record once, in order of time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from carbontrack.errors import ConfigError, SinkError
from carbontrack.record import COLUMNS
from carbontrack.report.archive.compact import Compacted, OnSource, SourceRead, compact
from carbontrack.report.archive.folder import open_archive
from carbontrack.report.archive.layout import (
    cells_by_column,
    import_arrow,
    is_archive,
    month_files,
)
from carbontrack.report.archive.sources import check_parquet
from carbontrack.report.archive.staging import MEMORY
from carbontrack.sinks.csv_file import HEADER, csv_line, line_of_cells, text_cell
from carbontrack.sinks.jsonl import json_line
from carbontrack.system.interrupts import pass_on

CSV = ".csv"
_BATCH = 10_000


def to_csv(
    sources: Sequence[Path],
    into: Path,
    *,
    on_source: OnSource = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
    memory: str = MEMORY,
) -> Compacted:
    """Write the records of archives, or of any sources, to a new CSV file, each record once.

    Columns that this version does not know are behind those that it knows.

    Raises:
        ConfigError: the file is there already, or a source is not what it should be.
        MissingExtra, OSError: as `compact`.
        SinkError: it could not be written, and is not there.
    """
    import_arrow()
    _check_new(into)
    beside = into.with_name(f".{into.name}.compacting")
    with open_archive(beside, on_wait) as folder:
        _check_new(into)
        try:
            archive, found = beside, Compacted()
            if len(sources) == 1 and is_archive(sources[0]):
                archive = sources[0]
            else:
                archive = folder.work / "archive"
                found = compact(sources, archive, on_source=on_source, memory=memory)
            count = _written(archive, folder.work / "draft.csv", into)
            found.added, found.months = count, {}
            found.sources = found.sources or [SourceRead(archive, count)]
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return found


def _check_new(into: Path) -> None:
    if into.exists() or into.is_symlink():
        raise ConfigError(f"--into {into}: it exists already; name a new file, or remove it")
    if not into.absolute().parent.is_dir():
        raise ConfigError(f"--into {into}: there is no directory {into.parent} to write it to")


def _written(archive: Path, draft: Path, into: Path) -> int:
    """Write the file, which has its name only when it is whole; how many records it has."""
    files = [*month_files(archive).values()]
    try:
        with draft.open("wb") as file:
            count = _write(files, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, into)  # replaces nothing
        except FileExistsError:
            raise
        except OSError as error:
            pass_on(error)
            draft.replace(into)  # a file system without links
    except OSError as error:
        raise SinkError(f"{into} could not be written: {error.strerror or error}") from error
    return count


def _write(files: Iterable[Path], out: BinaryIO) -> int:
    files = list(files)
    unknown = _unknown_columns(files)
    out.write(csv_line([*COLUMNS, *unknown]) if unknown else HEADER)
    count = 0
    for columns, extras in _batches(files, None):
        for cells, extra in zip(zip(*columns, strict=True), extras, strict=True):
            line = line_of_cells(cells)
            if unknown:
                more = ",".join(text_cell(_text(extra.get(name))) for name in unknown)
                line = line[:-1] + b"," + (more + "\n").encode(errors="backslashreplace")
            out.write(line)
            count += 1
    return count


def _batches(
    files: Iterable[Path], names: list[str] | None
) -> Iterator[tuple[list[list[Any]], list[dict[str, Any]]]]:
    from pyarrow import parquet

    for path in files:
        with parquet.ParquetFile(path) as file:
            check_parquet(path, file.schema_arrow)
            for batch in file.iter_batches(batch_size=_BATCH, columns=names):
                yield cells_by_column(batch)


def _unknown_columns(files: Iterable[Path]) -> list[str]:
    """The names of all columns that this version does not know."""
    found: set[str] = set()
    for _, extras in _batches(files, ["extra"]):
        for extra in extras:
            found |= extra.keys() - {*COLUMNS}
    return sorted(found)


def _text(cell: object) -> str:
    if cell is None or isinstance(cell, str):
        return cell or ""
    return json_line(cell).decode().rstrip("\n")
