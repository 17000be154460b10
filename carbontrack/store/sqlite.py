"""The store in one file of SQLite, with a write-ahead log.

One connection writes, another one answers short questions, and each stream of rows has its own:
with a write-ahead log readers do not wait for writers (sqlite.org/wal.html). A commit is on the
disk when it returns (`synchronous = FULL`). Other processes are waited for.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from carbontrack.errors import ConfigError, StoreFull, StoreUnavailable
from carbontrack.store.base import INSERTED, NAMES, ON_CONFLICT, Store
from carbontrack.store.migrations import MIGRATIONS, TABLES, migrate, version_of
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.interrupts import pass_on

BUSY_TIMEOUT_S: Final = 10.0
"""The longest wait for another process's transaction."""
_FileId = tuple[int, int]
_CACHE_KIB = 32 << 10
_LOG_LIMIT_BYTES = 64 << 20
"""What the write-ahead log is cut to when it has been written back."""
_FETCHED_ROWS = 500
_INSERT = f"INSERT INTO records ({NAMES}) VALUES ({', '.join('?' * len(INSERTED))}) {ON_CONFLICT}"  # noqa: S608 - constants
_DELETE = (
    "DELETE FROM records WHERE rowid IN "
    "(SELECT rowid FROM records WHERE project = ? AND received_at < ? LIMIT ?)"
)


class SqliteStore(Store):
    """A store in a file, which is created if it does not exist.

    Raises:
        ConfigError: no store can be there; the message has the reason and what to do.
        StoreUnavailable: another process holds the file for longer than `busy_timeout_s`.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(str(path), clock)
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._prepared: _FileId | None = None
        self._writer = _Kept()
        self._reader = _Kept()
        if not path.parent.is_dir():
            raise ConfigError(f"cannot keep a store in {path}: there is no directory {path.parent}")
        try:
            with self._using(self._writer, is_first=True):
                pass
        except StoreUnavailable as error:
            if isinstance(error.__cause__, sqlite3.OperationalError) and _is_busy(error.__cause__):
                raise
            raise ConfigError(
                f"cannot keep a store in {path}: {error.__cause__ or error}; name another file"
            ) from error

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        for kept in (self._writer, self._reader):
            with kept.lock:
                kept.close()

    def _insert(self, rows: Sequence[Sequence[Any]]) -> int:
        with self._using(self._writer) as connection, _transaction(connection):
            before = connection.total_changes
            connection.executemany(_INSERT, rows)
            return connection.total_changes - before

    def _delete(self, project: str, before: str, limit: int) -> int:
        return self._write(_DELETE, (project, before, limit))

    def _read(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._using(self._reader) as connection:
            return connection.execute(statement, values).fetchall()

    def _write(self, statement: str, values: Sequence[Any]) -> int:
        with self._using(self._writer) as connection, _transaction(connection):
            return connection.execute(statement, values).rowcount

    def _stream(
        self, statement: str, values: Sequence[Any]
    ) -> Generator[tuple[Any, ...], None, None]:
        kept = _Kept()
        try:
            with self._using(kept) as connection:
                found = connection.execute(statement, values)
                while some := found.fetchmany(_FETCHED_ROWS):
                    yield from some
        finally:
            kept.close()

    @contextmanager
    def _using(self, kept: _Kept, *, is_first: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection for one call; errors of SQLite are raised as carbontrack's."""
        with kept.lock:
            try:
                if kept.open is None or kept.file != self._file():
                    kept.close()
                    kept.open = self._connected(is_first=is_first)
                    kept.file = self._file()
                yield kept.open
            except sqlite3.Error as error:
                kept.close()
                if _is_full(error):
                    reason = f"{self._path}: {error}; is the disk or a quota full?"
                    raise StoreFull(reason) from error
                raise StoreUnavailable(f"{self._path}: {error}") from error

    def _file(self) -> _FileId | None:
        """The identity of the file: a removed file still accepts rows, which would be lost."""
        try:
            found = self._path.stat()
        except OSError as error:
            pass_on(error)
            return None
        return found.st_dev, found.st_ino

    def _connected(self, *, is_first: bool) -> sqlite3.Connection:
        if self._file() is None:
            if not is_first:
                raise StoreUnavailable(
                    f"{self._path} is gone; restore it, or start again without it"
                )
            self._make()
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            _set_log(connection, self._busy_timeout_s)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # without it macOS only tells the disk
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT_BYTES}")
            if self._prepared != self._file():
                self._prepare(connection)
                self._prepared = self._file()
        except ConfigError as error:
            connection.close()
            if is_first:
                raise
            raise StoreUnavailable(str(error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _make(self) -> None:
        """An empty file, which is an empty database, for its owner alone: it will have hashes."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            pass_on(error)
            reason = f"cannot keep a store in {self._path}: {error.strerror}"
            raise ConfigError(f"{reason}; name another file") from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Bring the tables to this version; a look is enough where they are."""

        def execute(statement: str) -> list[tuple[Any, ...]]:
            return connection.execute(statement).fetchall()

        try:
            if version_of(execute, _present(connection)) < MIGRATIONS[-1].version:
                with _transaction(connection):
                    migrate(execute, _present(connection), "sqlite")
        except ConfigError as error:
            raise ConfigError(f"cannot keep a store in {self._path}: {error}") from error


class _Kept:
    """A connection that is kept from call to call, and which file it has opened."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: sqlite3.Connection | None = None
        self.file: _FileId | None = None

    def close(self) -> None:
        connection, self.open = self.open, None
        if connection is not None:
            connection.close()


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """An exclusive transaction; rolled back if anything is raised."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _set_log(connection: sqlite3.Connection, limit_s: float) -> None:
    """Take the write-ahead log; for this change SQLite does not wait for others by itself."""
    late_at_s = SystemClock.monotonic_s() + limit_s
    pause = threading.Event()
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or SystemClock.monotonic_s() > late_at_s:
                raise
            pause.wait(0.01)
            continue
        if mode != "wal":
            raise sqlite3.OperationalError("its file system does not support a write-ahead log")
        return


def _present(connection: sqlite3.Connection) -> set[str]:
    found = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    return {name for (name,) in found} & {*TABLES}


def _is_busy(error: sqlite3.Error) -> bool:
    return "locked" in str(error) or "busy" in str(error)


def _is_full(error: sqlite3.Error) -> bool:
    """Whether there is no room; a quota lets a write fail, of which Python 3.10 knows no more."""
    is_refused = getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_WRITE"
    return is_refused or "disk is full" in str(error)
