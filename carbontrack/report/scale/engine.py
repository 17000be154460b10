"""DuckDB, within bounds of memory: what does not fit is put into a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carbontrack.errors import ConfigError, MissingExtra
from carbontrack.values import NamedTuple

THREADS = 4


class EngineLimits(NamedTuple):
    """What may be in memory at once; Python, numpy and the sums come on top.

    Attributes:
        memory_mb: what DuckDB holds before it spills.
        batch_rows: rows that are handed to Python at once.
    """

    memory_mb: int = 256
    batch_rows: int = 1 << 17


FEATURE = "carbontrack report on Parquet, a database or more than a few hundred megabytes"


def import_duckdb(feature: str = FEATURE) -> Any:
    """The module duckdb, for what needs it.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "scale", feature) from error
    return duckdb


class Engine:
    """A database of one process, empty at first, that spills into a folder.

    Each statement has a session of its own, so that others can run while a result is read in
    batches. All see the same tables.
    """

    def __init__(self, folder: Path, limits: EngineLimits) -> None:
        self._duckdb = import_duckdb()
        self._batch_rows = limits.batch_rows
        self._connection = self._duckdb.connect(
            config={
                "memory_limit": f"{limits.memory_mb}MB",
                "temp_directory": str(folder / "spilled"),
                # nothing is fetched, and no variable of Python is taken for a table
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
            }
        )
        threads = min(THREADS, int(self.rows("SELECT current_setting('threads')")[0][0]))
        self.run(f"SET GLOBAL threads = {threads}")

    def close(self) -> None:
        """Free what it holds."""
        self._connection.close()

    def run(self, statement: str) -> None:
        """Run a statement without a result.

        Raises:
            ConfigError: a file cannot be read to its end, or nothing is left on the disk.
        """
        self.rows(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query that has few.

        Raises:
            ConfigError: as `run`.
        """
        with self._session() as session:
            found: list[tuple[Any, ...]] = session.execute(query).fetchall()
        return found

    def batches(self, query: str) -> Iterator[Any]:
        """The rows of a query as record batches of Arrow.

        Raises:
            ConfigError: as `run`.
        """
        rows = self._batch_rows
        with self._session() as session, session.sql(query).to_arrow_reader(rows) as reader:
            yield from (batch for batch in reader if len(batch))

    def table(self, query: str) -> Any:
        """The rows of a query as a table of Arrow.

        Raises:
            ConfigError: as `run`.
        """
        with self._session() as session:
            return session.sql(query).to_arrow_table()

    def insert(self, table: str, columns: Any) -> None:
        """Add rows to a table: a table of Arrow with its columns."""
        with self._session() as session:
            session.register("inserted", columns)
            session.execute(f"INSERT INTO {table} SELECT * FROM inserted")

    @contextmanager
    def _session(self) -> Iterator[Any]:
        try:
            with self._connection.cursor() as session:
                session.execute("SET TimeZone = 'UTC'")
                session.execute("SET enable_progress_bar = false")  # it would be on stdout
                yield session
        except self._duckdb.Error as error:
            raise _told(error) from error


def _told(error: Exception) -> ConfigError:
    return ConfigError(f"the records cannot be read: {str(error).splitlines()[0]}")
