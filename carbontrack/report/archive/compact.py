"""Sources into an archive: what is new is added, and only the months that it changes are written.

Nothing of the archive is changed before all files of the new state are on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from carbontrack.errors import SinkError
from carbontrack.report.archive.folder import ArchiveFolder, check_archive, open_archive
from carbontrack.report.archive.layout import (
    FEATURE,
    TIMES,
    archive_schema,
    import_arrow,
    is_archive,
    month_files,
)
from carbontrack.report.archive.sources import check_parquet, source_files, tables_of
from carbontrack.report.archive.staging import MEMORY, Staging
from carbontrack.report.read import NO_ROW
from carbontrack.report.scale.engine import import_duckdb

GROUP_ROWS = 100_000
"""Rows of a row group of Parquet."""
_LEVEL = 9
"""Of zstd: 3 % smaller than its default, and not slower to read."""
OnSource = Callable[["SourceRead"], None]
"""Called after each file that was read."""


@dataclass(slots=True)
class SourceRead:
    """What was found in a source.

    Attributes:
        path: the file.
        records: the records in it.
        skipped_lines: lines that hold no record.
        reason: why the first of these does not.
    """

    path: Path
    records: int = 0
    skipped_lines: int = 0
    reason: str | None = None

    def skip(self, reason: str) -> None:
        """Count a line that holds no record."""
        self.skipped_lines += 1
        if self.reason is None or (self.reason == NO_ROW != reason):
            self.reason = reason


@dataclass(frozen=True, slots=True)
class Month:
    """A month's file after the run: its records, its bytes, and whether the run wrote it."""

    records: int
    bytes: int
    is_written: bool


@dataclass(slots=True)
class Compacted:
    """What a run has done.

    Attributes:
        added: records that the archive had not.
        replaced: records of the archive that gave way, a checkpoint to the finished one.
        unchanged: records of the sources that it had already.
        repeated: rows of the sources whose record is in them once more.
        months: by month, all files of the archive.
        sources: the files that were read.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    repeated: int = 0
    months: dict[str, Month] = field(default_factory=dict)
    sources: list[SourceRead] = field(default_factory=list)

    @property
    def records(self) -> int:
        """All records of the archive."""
        return sum(month.records for month in self.months.values())

    @property
    def bytes(self) -> int:
        """The size of all its files."""
        return sum(month.bytes for month in self.months.values())

    @property
    def skipped_lines(self) -> int:
        """The lines of all sources that hold no record."""
        return sum(source.skipped_lines for source in self.sources)


def compact(
    sources: Sequence[Path],
    into: Path,
    *,
    on_source: OnSource = lambda _: None,
    on_wait: Callable[[], None] = lambda: None,
    memory: str = MEMORY,
) -> Compacted:
    """Add the records of the sources to the archive `into`, which is made if it is not there.

    `memory` is what DuckDB may use, such as "512MB". `on_wait` is called if another run has to end
    first.

    Raises:
        MissingExtra: DuckDB or pyarrow is not installed.
        ConfigError: a source or `into` is not what it should be.
        OSError: a source cannot be read.
        SinkError: the archive could not be written, and is as it was.
    """
    import_arrow()
    import_duckdb(FEATURE)
    check_archive(into)
    files = source_files(sources, into)
    with open_archive(into, on_wait) as folder, _told(into):
        with closing(Staging(folder.work, memory=memory)) as staging:
            found = _staged(staging, files, into, on_source)
            changes = staging.changes()
            _write(staging, folder, changes)
        folder.commit()
        found.months = _months(into, changes)
    return found


def preview(
    sources: Sequence[Path],
    into: Path,
    *,
    on_source: OnSource = lambda _: None,
    memory: str = MEMORY,
) -> Compacted:
    """As `compact`, but nothing is written; `months` has the records that there would be.

    Raises:
        as `compact`.
    """
    import_arrow()
    import_duckdb(FEATURE)
    check_archive(into)
    files = source_files(sources, into)
    with (
        TemporaryDirectory() as work,
        _told(into),
        closing(Staging(Path(work), memory=memory)) as staging,
    ):
        found = _staged(staging, files, into, on_source)
        months = _months(into, {})
        for month, (came, went) in staging.changes().items():
            before = months.get(month)
            records = (before.records if before else 0) + came - went
            months[month] = Month(records, before.bytes if before else 0, is_written=True)
    found.months = dict(sorted(months.items()))
    return found


@contextmanager
def _told(into: Path) -> Iterator[None]:
    """What DuckDB and Arrow raise, as errors that say what became of the archive."""
    try:
        yield
    except import_duckdb(FEATURE).Error as error:
        first = str(error).partition("\n")[0]
        raise SinkError(f"{into} is unchanged: {first}") from error
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(into)):
            raise  # a source
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise SinkError(f"{into} could not be written: {reason}") from error


def _staged(staging: Staging, files: Iterable[Path], into: Path, on_source: OnSource) -> Compacted:
    found = Compacted()
    for path in files:
        source = SourceRead(path)
        for table in tables_of(path, source.skip):
            source.records += len(table)
            staging.add(table)
        found.sources.append(source)
        on_source(source)
    found.repeated = staging.keep_one_per_id()
    months = month_files(into) if is_archive(into) else {}
    for file in months.values():
        _check(file)
    staging.compare(months)
    found.unchanged = staging.drop_known()
    found.replaced = staging.replaced()
    came = sum(came for came, _ in staging.changes().values())
    found.added = came - found.replaced
    return found


def _check(file: Path) -> None:
    from pyarrow import parquet

    check_parquet(file, parquet.read_schema(file))


def _write(staging: Staging, folder: ArchiveFolder, changes: dict[str, tuple[int, int]]) -> None:
    """Write the new files of the months that change, as drafts.

    Raises:
        SinkError: a file has not the rows that it should have.
    """
    from pyarrow import parquet

    present = month_files(folder.path)
    for month, (came, went) in changes.items():
        file = present.get(month)
        expected = came - went + (parquet.read_metadata(file).num_rows if file else 0)
        draft = folder.draft(month)
        if not expected:
            draft.touch()
            continue
        written = _write_month(draft, staging.month(month, file))
        if written != expected:
            raise SinkError(
                f"{folder.path} is unchanged: {month} would have {written} records instead of "
                f"{expected}; is a record in it twice?"
            )


def _write_month(path: Path, batches: Iterable[Any]) -> int:
    """Write the rows in groups of `GROUP_ROWS`, so that the same rows make the same file."""
    from pyarrow import parquet

    pa = import_arrow()
    schema = archive_schema()
    waiting: list[Any] = []
    count = total = 0
    with parquet.ParquetWriter(path, schema, compression="zstd", compression_level=_LEVEL) as out:
        for batch in batches:
            waiting.append(batch)
            count += batch.num_rows
            while count >= GROUP_ROWS:
                table = pa.Table.from_batches(waiting)
                out.write_table(_final(pa, table.slice(0, GROUP_ROWS), schema), GROUP_ROWS)
                waiting = table.slice(GROUP_ROWS).to_batches()
                count -= GROUP_ROWS
                total += GROUP_ROWS
        if count:
            out.write_table(_final(pa, pa.Table.from_batches(waiting), schema), GROUP_ROWS)
    return total + count


def _final(pa: Any, table: Any, schema: Any) -> Any:
    """The rows with the types of an archive."""
    columns = [table[name] for name in schema.names]
    for name in TIMES:
        place = schema.get_field_index(name)
        columns[place] = columns[place].cast(schema.field(name).type)
    return pa.table([c.combine_chunks() for c in columns], schema=schema)


def _months(into: Path, changes: dict[str, Any]) -> dict[str, Month]:
    from pyarrow import parquet

    files = month_files(into) if is_archive(into) else {}
    return {
        month: Month(parquet.read_metadata(file).num_rows, file.stat().st_size, month in changes)
        for month, file in files.items()
    }
