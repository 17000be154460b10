"""What a report is made of: files, the files of directories, and databases of PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carbontrack.errors import ConfigError
from carbontrack.record import TIMELINE_SUFFIX
from carbontrack.report.parquet import ENDING
from carbontrack.report.postgres import Address, address_of, csv_of, is_address
from carbontrack.report.read import ROWS, AnyPath, CsvBlocks, Rows, blocks_of, check_ending

if TYPE_CHECKING:
    import pandas as pd

Source = Path | Address
Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes of all files."""


def sources_of(paths: Sequence[AnyPath]) -> list[Source]:
    """The files of records among files and directories, and the databases, in their order.

    Raises:
        OSError: a file is not there.
        ConfigError: a file has an ending that no sink writes, or a directory holds none.
    """
    return [source for path in paths for source in _sources(path)]


def files_of(paths: Sequence[AnyPath]) -> list[Path]:
    """As `sources_of`, without the databases.

    Raises:
        OSError: as there.
        ConfigError: as there.
    """
    return [source for source in sources_of(paths) if isinstance(source, Path)]


def told_source(path: AnyPath) -> str:
    """The path as it may be shown: the URL of a database may contain a password."""
    return str(address_of(path)) if isinstance(path, str) and is_address(path) else str(path)


def blocks_of_source(
    source: Source, wanted: Sequence[str], on_position: Callable[[int], None]
) -> Iterator[pd.DataFrame | Rows]:
    """The source in blocks, as `read.blocks_of`."""
    if isinstance(source, Path):
        yield from blocks_of(source, wanted, on_position)
        return
    with csv_of(source, wanted) as file:
        yield from CsvBlocks(file, wanted)


def size_bytes(source: Source) -> int:
    """The length of a file; 0 for a database, of which it is not known."""
    return source.stat().st_size if isinstance(source, Path) else 0


class Position:
    """Reports how many bytes of all files have been read."""

    def __init__(self, sources: Sequence[Source], progress: Progress | None) -> None:
        self._progress = progress
        self._all = sum(map(size_bytes, sources))
        self._before = 0

    def at(self, position: int) -> None:
        """So much of the present one."""
        if self._progress is not None:
            self._progress(self._before + position, self._all)

    def done(self, source: Source) -> None:
        """All of this one."""
        self._before += size_bytes(source)
        self.at(0)


def _sources(path: AnyPath) -> list[Source]:
    if isinstance(path, str) and is_address(path):
        return [address_of(path)]
    return [*_files(Path(path).expanduser())]


def _files(path: Path) -> list[Path]:
    """The file, or the files of a directory that have an ending that sinks write."""
    if path.is_dir():
        next(path.iterdir(), None)  # rglob would skip a directory that may not be read
        found = sorted(f for f in path.rglob("*") if _holds_records(f) and not _is_draft(f, path))
        if not found:
            raise ConfigError(f"{path} contains no file that ends in {', '.join(ROWS)}")
        return found
    check_ending(path)
    if not _holds_records(path):
        raise ConfigError(f"{path} contains timelines; name the file of records next to it")
    path.stat()  # a missing file is an error before any other is read
    return [path]


def _holds_records(file: Path) -> bool:
    name = file.name.lower()
    return file.suffix.lower() in ROWS and not name.endswith(TIMELINE_SUFFIX)


def _is_draft(file: Path, folder: Path) -> bool:
    """Whether an archive that is being written has the file in a hidden folder of its own."""
    parents = file.relative_to(folder).parts[:-1]
    return file.suffix.lower() == ENDING and any(part.startswith(".") for part in parents)
