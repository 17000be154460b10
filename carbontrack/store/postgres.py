"""The store in a database of PostgreSQL, for many receivers and long retention.

A batch is copied into a temporary table and inserted from there, in one transaction. One connection
writes, another one answers short questions, and each stream of rows has its own. A connection that
was lost is made anew by the next call, so PostgreSQL may go and come back; an attempt on a stale
connection is repeated at once, which is safe because everything written here may be written twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from carbontrack.errors import ConfigError, MissingExtra, StoreFull, StoreUnavailable
from carbontrack.store.base import NAMES, ON_CONFLICT, READABLE, Store
from carbontrack.store.migrations import MIGRATIONS, TABLES, migrate, version_of
from carbontrack.store.rows import KINDS
from carbontrack.system.clock import Clock
from carbontrack.system.urls import shown

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")
CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_S: Final = 60
"""The longest statement of a batch or a question."""
STREAM_TIMEOUT_S: Final = 600
"""The longest wait for the next rows of a stream: a table may be searched for the first of them."""
_ATTEMPTS = 4
"""Of a transaction that others keep from ending, or that meets a stale connection."""
_FETCHED_ROWS = 1000
_LOCK = 0x6361726274726163
"""The advisory lock of migrations: "carbtrac"."""
_STAGING = "carbontrack_staging"
_COPY = f"COPY pg_temp.{_STAGING} ({NAMES}) FROM STDIN"
_INSERT = (
    f"INSERT INTO records ({NAMES}) SELECT {NAMES} FROM pg_temp.{_STAGING} "  # noqa: S608 - constants
    f"ORDER BY project, record_id {ON_CONFLICT}"
)
_DELETE = (
    "DELETE FROM records WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM records WHERE project = ? AND received_at < ? LIMIT ?))"
)
_PARAMETERS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "application_name": "carbontrack",
    # a host that is gone without a word is noticed (libpq, "Parameter Key Words")
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_SESSION = (
    "SELECT set_config('TimeZone', 'UTC', false), "
    "set_config('statement_timeout', %s, false), "
    "set_config('idle_in_transaction_session_timeout', %s, false), "
    # what is answered as stored has to be on the disk, whatever the server's default is
    "set_config('synchronous_commit', CASE current_setting('synchronous_commit') "
    "WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)"
)


class PostgresStore(Store):
    """A store in the tables of a database, in the first schema of the connection's search_path.

    `url` is a URL of libpq, with its password or without: libpq's password file and environment
    serve too. Connect to the server itself or to a pooler that keeps sessions.

    Raises:
        ConfigError: the database holds other tables of these names, or those of a newer version,
            or may not be written, or is not in UTF-8.
        MissingExtra: psycopg is not installed.
        StoreUnavailable: there is no connection.
    """

    _expressions = {
        name: f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        for name in READABLE
        if KINDS.get(name, "time" if name == "received_at" else "") == "time"
    } | {name: f"{name}::text" for name in ("labels", "extra")}

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        super().__init__(shown(url), clock)
        self._psycopg = _library()
        try:
            given = self._psycopg.conninfo.conninfo_to_dict(url)
        except self._psycopg.ProgrammingError as error:
            raise ConfigError(
                f"cannot keep a store in {self.address}: this is not a PostgreSQL URL, or a "
                "parameter after its '?' is not one of libpq's"
            ) from error
        self._parameters: dict[str, Any] = {**_PARAMETERS, **given}
        self._writer = _Session(self._staged)
        self._reader = _Session(self._connected)
        self._prepare()

    def close(self) -> None:
        """End the connections; a second call does nothing."""
        for session in (self._writer, self._reader):
            with session.lock:
                session.close()

    def _insert(self, rows: Sequence[Sequence[Any]]) -> int:
        def insert(connection: psycopg.Connection[Any]) -> int:
            with connection.transaction(), connection.cursor() as cursor:
                with cursor.copy(_COPY) as copy:
                    for row in rows:
                        copy.write_row(row)
                return cursor.execute(_INSERT).rowcount

        return self._using(self._writer, insert)

    def _delete(self, project: str, before: str, limit: int) -> int:
        return self._write(_DELETE, (project, before, limit))

    def _read(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        query = _numbered(statement)
        return self._using(self._reader, lambda found: found.execute(query, values).fetchall())

    def _write(self, statement: str, values: Sequence[Any]) -> int:
        query = _numbered(statement)
        return self._using(self._writer, lambda found: found.execute(query, values).rowcount)

    def _stream(
        self, statement: str, values: Sequence[Any]
    ) -> Generator[tuple[Any, ...], None, None]:
        with self._told():
            connection = self._connected(STREAM_TIMEOUT_S)
            # the transaction is never ended: what is left early is closed with its connection
            try:
                connection.execute("BEGIN READ ONLY")
                with connection.cursor(name="rows") as cursor:
                    cursor.itersize = _FETCHED_ROWS
                    yield from cursor.execute(_numbered(statement), values)
            finally:
                connection.close()

    # -- connections -----------------------------------------------------------------------------

    def _using(self, session: _Session, do: Callable[[psycopg.Connection[Any]], T]) -> T:
        """The result of one transaction; it is tried again where that may help at once."""
        errors = self._psycopg.errors
        with session.lock, self._told():
            for attempt in range(1, _ATTEMPTS + 1):
                was_open = session.open is not None
                try:
                    return do(session.connected())
                except (errors.DeadlockDetected, errors.SerializationFailure):
                    if attempt == _ATTEMPTS:
                        raise
                except self._psycopg.OperationalError:
                    is_lost = session.open is None or session.open.broken or session.open.closed
                    session.close()
                    if not (was_open and is_lost):
                        raise
                except self._psycopg.Error:
                    session.close()
                    raise
        raise AssertionError("the last attempt has an end")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An error of PostgreSQL as carbontrack's, without a value of any record."""
        try:
            yield
        except self._psycopg.Error as error:
            is_full = isinstance(error, self._psycopg.errors.DiskFull)
            kind = StoreFull if is_full else StoreUnavailable
            reason = error.diag.message_primary or str(error).partition("\n")[0]
            raise kind(f"{self.address}: {reason or type(error).__name__}") from error

    def _connected(self, timeout_s: float = STATEMENT_TIMEOUT_S) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any]
        connection = self._psycopg.connect(**self._parameters, autocommit=True)
        try:
            timeout = f"{timeout_s * 1000:.0f}"
            connection.execute(_SESSION, (timeout, timeout))
        except BaseException:
            connection.close()
            raise
        return connection

    def _staged(self) -> psycopg.Connection[Any]:
        """A connection with the table that batches are copied into."""
        connection = self._connected()
        try:
            connection.execute(
                f"CREATE TEMPORARY TABLE {_STAGING} (LIKE records) ON COMMIT DELETE ROWS"
            )
        except BaseException:
            connection.close()
            raise
        return connection

    # -- tables ----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Bring the tables to this version; a look is enough where they are.

        Raises:
            ConfigError: it cannot be done; the message has the reason.
        """
        psycopg = self._psycopg
        with self._told():
            connection = self._connected()
            try:
                self._migrate(connection)
                self._staged().close()
            except (ConfigError, psycopg.errors.InsufficientPrivilege) as error:
                reason = str(error).partition("\n")[0]
                raise ConfigError(f"cannot keep a store in {self.address}: {reason}") from error
            finally:
                connection.close()

    def _migrate(self, connection: psycopg.Connection[Any]) -> None:
        def execute(statement: str) -> list[tuple[Any, ...]]:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

        ((encoding,),) = execute("SHOW server_encoding")
        if encoding != "UTF8":
            raise ConfigError(f"its encoding is {encoding}; make a database with ENCODING 'UTF8'")
        if version_of(execute, _present(connection)) == MIGRATIONS[-1].version:
            return
        with connection.transaction():
            execute("SET LOCAL statement_timeout = 0")  # an index takes long on many rows
            execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
            migrate(execute, _present(connection), "postgresql")


class _Session:
    """A connection that is kept from call to call, and made anew where it was lost."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self.lock = threading.Lock()
        self.open: psycopg.Connection[Any] | None = None
        self._connect = connect

    def connected(self) -> psycopg.Connection[Any]:
        if self.open is None or self.open.closed:
            self.open = self._connect()
        return self.open

    def close(self) -> None:
        connection, self.open = self.open, None
        if connection is not None:
            connection.close()


def _present(connection: psycopg.Connection[Any]) -> set[str]:
    # as of one moment: functions such as to_regclass see each table of a migration by itself, or
    # what they have once not found
    found = connection.execute(
        "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE relname = ANY(%s) AND nspname = ANY(current_schemas(false))",
        [[*TABLES]],
    )
    return {name for (name,) in found}


def _numbered(statement: str) -> str:
    """The statement with psycopg's placeholders; ours have no other "?", and no "%"."""
    return statement.replace("?", "%s")


def _library() -> Any:
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        raise MissingExtra("psycopg", "server", "a store in PostgreSQL") from error
    return psycopg
