"""Records as rows of an SQLite database, where a record that arrives twice is stored once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from carbontrack.errors import ConfigError, SinkError
from carbontrack.record import (
    COLUMNS,
    LINE_LIMIT,
    NUMBER_COLUMNS,
    TRUTH_COLUMNS,
    Cell,
    Record,
    shortened,
)
from carbontrack.sinks.buffered import BufferedSink
from carbontrack.sinks.files import path_for_this_machine
from carbontrack.system.clock import SystemClock
from carbontrack.system.forking import PerProcess
from carbontrack.system.interrupts import reentrant_lock

if TYPE_CHECKING:
    import sqlite3

    from carbontrack.sinks.journal.journal import Journal

TABLE = "carbontrack_records"
"""A name that is unlikely to clash in a database with other tables."""

_TYPES = dict.fromkeys(COLUMNS, "TEXT") | dict.fromkeys(
    (*NUMBER_COLUMNS, *TRUTH_COLUMNS), "NUMERIC"
)
_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
_UPDATE = ", ".join(f'"{name}" = excluded."{name}"' for name in COLUMNS if name != "record_id")
_INSERT = (
    f"INSERT INTO {TABLE} ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608 - constants
    # a finished record is more than what was recovered of it, whichever came first
    f"ON CONFLICT (record_id) DO UPDATE SET {_UPDATE} "
    f"WHERE {TABLE}.status = 'recovered' AND excluded.status <> 'recovered'"
)


_STEPS = 1_000_000
"""SQLite instructions between two checks of the clock; a row needs some hundred."""


def no_table(connection: sqlite3.Connection, *, or_none: bool = False) -> str | None:
    """The reason why there is no table of carbontrack's to read rows from; None if there is one.

    A view or a virtual table would run code of its author; neither has its own pages.
    `or_none`: the name may also not exist.

    Raises:
        DatabaseError: it cannot be determined.
    """
    found = connection.execute(
        "SELECT type, rootpage FROM sqlite_master WHERE name = ? COLLATE NOCASE "
        "AND type IN ('table', 'view')",
        (TABLE,),
    ).fetchall()
    if not found:
        return None if or_none else f"it has no table {TABLE}"
    if any(kind != "table" or not page for kind, page in found):
        return f"{TABLE} in it is a view or a virtual table, not a table"
    return None


class _Connection:
    """The connection of one process, which must not be carried over a fork."""

    def __init__(self) -> None:
        self.lock = reentrant_lock()  # reentrant: a finalizer may write during a write
        self.open: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close it; the next write opens another."""
        if self.open is not None:
            self.open.close()
            self.open = None


class SqliteSink(BufferedSink[tuple[Cell, ...]]):
    """A database file with one row for each record in the table `carbontrack_records`.

    Any number of threads, processes and runs may write to one file at a time. Missing columns are
    added to a table of an older version. A write waits up to `busy_timeout_s` for another process,
    and takes up to `write_limit_s`, because a trigger that another program has added might never
    end; after that the record waits in memory.

    Raises:
        ConfigError: no database can be written at `path`; the message has the reason and what
            to do.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout_s: float = 2.0,
        write_limit_s: float = 2.0,
        journal: Journal | None = None,
        procfs: Path = Path("/proc"),
    ) -> None:
        super().__init__(_row, self._insert, journal=journal)
        self._busy_timeout_s = busy_timeout_s
        self._write_limit_s = write_limit_s
        self._late_at_s = float("inf")
        self._path = path_for_this_machine(path, procfs=procfs)
        # A child that closed an inherited connection, or let it be collected, would drop the locks
        # of its parent (sqlite.org/howtocorrupt.html, 2.6): it keeps it here, unused.
        self._inherited: list[_Connection] = []
        self._connection = PerProcess(_Connection, abandon=self._inherited.append)
        if self._path.exists():
            self._check()

    @property
    def path(self) -> Path:
        """The database file, absolute."""
        return self._path

    def rest(self) -> None:
        """Close the connection while nothing is measured; a later write opens it again."""
        connection = self._connection.state
        if connection is not None:
            with connection.lock:
                connection.close()

    def close(self) -> None:
        """Write the waiting records and close the connection; a later write opens it again."""
        try:
            super().close()
        finally:
            connection = self._connection.get()
            with connection.lock:
                connection.close()

    def _insert(self, row: tuple[Cell, ...]) -> None:
        import sqlite3

        connection = self._connection.get()
        with connection.lock:
            try:
                if connection.open is None or not self._path.exists():
                    connection.close()
                    connection.open = self._connected()
                self._late_at_s = SystemClock.monotonic_s() + self._write_limit_s
                connection.open.execute(_INSERT, row)
            except sqlite3.Error as error:
                connection.close()
                raise SinkError(str(error)) from error

    def _is_late(self) -> bool:
        return SystemClock.monotonic_s() > self._late_at_s

    def _connected(self) -> sqlite3.Connection:
        import sqlite3

        connection = sqlite3.connect(
            self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        self._late_at_s = SystemClock.monotonic_s() + self._write_limit_s
        connection.set_progress_handler(self._is_late, _STEPS)
        try:
            # write-ahead log: a killed writer leaves the database intact, and no write waits for
            # the disk (sqlite.org/wal.html)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            _prepare(connection)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _check(self) -> None:
        import sqlite3

        connection = sqlite3.connect(self._path, timeout=self._busy_timeout_s)
        try:
            reason = no_table(connection, or_none=True)
        except sqlite3.OperationalError:
            return  # busy: it is a database, and writes wait
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"cannot write records to {self._path}: {error}; choose another output"
            ) from error
        finally:
            connection.close()
        if reason is not None:
            raise ConfigError(
                f"cannot write records to {self._path}: {reason}; choose another output"
            )


def _prepare(connection: sqlite3.Connection) -> None:
    """Create the table, or add the columns that a table of an older version lacks."""
    columns = ", ".join(f'"{name}" {kind}' for name, kind in _TYPES.items())
    connection.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} ({columns}, PRIMARY KEY (record_id))")
    present = {row[1] for row in connection.execute(f"PRAGMA table_info({TABLE})")}
    for name in COLUMNS:
        if name not in present:
            connection.execute(f'ALTER TABLE {TABLE} ADD COLUMN "{name}" {_TYPES[name]}')


def _row(record: Record) -> tuple[Cell, ...]:
    cells = record.to_row().values()
    if max(len(cell) for cell in cells if isinstance(cell, str)) > LINE_LIMIT:
        cells = shortened(record).to_row().values()
    return tuple(
        cell.encode(errors="backslashreplace").decode() if isinstance(cell, str) else cell
        for cell in cells
    )
