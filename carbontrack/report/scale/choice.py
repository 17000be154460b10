"""Whether a report is read with DuckDB, and why."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from carbontrack.report.archive.layout import FILE_NAME, is_archive
from carbontrack.report.parquet import ENDING
from carbontrack.report.read import AnyPath
from carbontrack.report.sources import Source, size_bytes
from carbontrack.values import NamedTuple

LARGE_BYTES = 500_000_000
"""Of files of other formats than Parquet; about a million rows. pandas makes a frame of fewer in
less time, and in no more memory than DuckDB takes for any number."""
_INSTALL = 'pip install "carbontrack[scale]" for less memory'


class HowRead(NamedTuple):
    """How records are read, and why."""

    with_duckdb: bool
    why: str


def chosen(
    sources: Sequence[Source], *, whole_rows: bool = False, large_bytes: int = LARGE_BYTES
) -> HowRead:
    """How the records of these sources are read.

    `whole_rows` says that more than sums is asked for, so that the records have to be in memory.
    """
    if whole_rows:
        return HowRead(with_duckdb=False, why="more than sums needs all records in memory")
    if any(not isinstance(source, Path) for source in sources):
        return HowRead(with_duckdb=True, why="a database of PostgreSQL may be of any size")
    if any(source.suffix.lower() == ENDING for source in sources if isinstance(source, Path)):
        return HowRead(with_duckdb=True, why="Parquet is its format")
    size = sum(map(size_bytes, sources))
    told = f"{size / 1e6:,.0f} MB, and {large_bytes / 1e6:,.0f} MB or more are too much for memory"
    if size < large_bytes:
        return HowRead(with_duckdb=False, why=f"{size / 1e6:,.1f} MB fit into memory")
    if find_spec("duckdb") is None or find_spec("pyarrow") is None:
        return HowRead(with_duckdb=False, why=f"{told}, but DuckDB is not installed: {_INSTALL}")
    return HowRead(with_duckdb=True, why=told)


def are_distinct(paths: Sequence[AnyPath], sources: Sequence[Source]) -> bool:
    """Whether no record is in there twice: one archive alone, or one database alone."""
    if len(paths) != 1:
        return False
    if all(not isinstance(source, Path) for source in sources):
        return True
    folder = Path(paths[0]).expanduser()
    if not is_archive(folder):
        return False
    months = {source for source in sources if isinstance(source, Path)}
    return all(file.name == FILE_NAME and file.parent.parent == folder for file in months) and len(
        months
    ) == len(sources)
