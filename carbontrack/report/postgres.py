"""The records that a team's server keeps in PostgreSQL, read as rows of CSV.

The database writes them as `COPY` does, in one consistent view of the table, and nothing is kept of
what was read, so the table may be of any size. Records of several projects have ids of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from carbontrack.errors import ConfigError, MissingExtra
from carbontrack.record import COLUMNS
from carbontrack.system.urls import shown
from carbontrack.values import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMES = ("postgresql://", "postgres://")
TABLE = "records"
_IDS = ("record_id", "run_id", "parent_id")
_TIME = "timestamp with time zone"
_CONNECT_TIMEOUT_S = 10
_IN_TABLE = """
SELECT column_name, data_type FROM information_schema.columns
WHERE table_name = %s AND table_schema = ANY (current_schemas(false))
"""


class Address(NamedTuple):
    """Where a server keeps records, and of which project; None: of all.

    Attributes:
        url: of libpq, without what is ours in it; it may contain a password.
    """

    url: str
    project: str | None = None

    def __str__(self) -> str:
        return shown(self.url)

    def __repr__(self) -> str:
        return str(self)


def is_address(text: object) -> bool:
    """Whether this names a database of PostgreSQL."""
    return isinstance(text, str) and text.startswith(SCHEMES)


def address_of(text: str) -> Address:
    """The address in a URL, with `?project=NAME` where only one project is meant."""
    parts = urlsplit(text)
    asked = parse_qsl(parts.query, keep_blank_values=True)
    project = next((name for key, name in asked if key == "project"), None)
    rest = urlencode([pair for pair in asked if pair[0] != "project"])
    return Address(urlunsplit(parts._replace(query=rest)), project)


@contextmanager
def csv_of(address: Address, wanted: Sequence[str]) -> Iterator[BufferedReader]:
    """The wanted columns of the records, as a file of CSV as carbontrack writes it.

    Raises:
        MissingExtra: psycopg is not installed.
        ConfigError: the database does not answer, has no such table, or ends in the middle.
    """
    psycopg = _library()
    try:
        with psycopg.connect(address.url, connect_timeout=_CONNECT_TIMEOUT_S) as connection:
            connection.read_only = True
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            query = _query(psycopg.sql, connection, address, wanted)
            with connection.cursor() as cursor, cursor.copy(query) as copy:
                yield BufferedReader(_Copied(copy), 1 << 20)
    except psycopg.Error as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"cannot read the records in {address}: {reason}") from error


def _library() -> Any:
    try:
        import psycopg
        import psycopg.sql
    except ImportError as error:
        raise MissingExtra("psycopg", "server", "reading a database of PostgreSQL") from error
    return psycopg


def _query(sql: Any, connection: Any, address: Address, wanted: Sequence[str]) -> Any:
    types = dict(connection.execute(_IN_TABLE, (TABLE,)).fetchall())
    missing = {"project", *_IDS, "started_at"} - types.keys()
    if missing:
        raise ConfigError(
            f"there are no records in {address}: it has no table {TABLE!r} as `carbontrack serve` "
            f"makes it"
        )
    of_project = sql.SQL("true")
    several = False
    if address.project is not None:
        of_project = sql.SQL("project = {}").format(sql.Literal(address.project))
    else:
        projects = connection.execute("SELECT DISTINCT project FROM records LIMIT 2").fetchall()
        several = len(projects) > 1
    names = [name for name in COLUMNS if name in wanted and name in types]
    cells = [
        sql.SQL("{} AS {}").format(_cell(sql, name, types[name], several), sql.Identifier(name))
        for name in names
    ]
    return sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT (FORMAT csv, HEADER)").format(
        sql.SQL(", ").join(cells), sql.Identifier(TABLE), of_project
    )


def _cell(sql: Any, name: str, kind: str, several: bool) -> Any:  # noqa: FBT001
    """A column as CSV has it: times in UTC, and `'` where one would be taken off again."""
    column = sql.Identifier(name)
    if kind == _TIME:
        pattern = sql.Literal('YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        return sql.SQL("to_char({} AT TIME ZONE 'UTC', {})").format(column, pattern)
    if name in _IDS:
        return sql.SQL("project || '/' || {}").format(column) if several else column
    if kind == "boolean":
        return sql.SQL("{}::text").format(column)
    if kind in ("text", "jsonb", "character varying"):
        text = sql.SQL("{}::text").format(column)
        return sql.SQL("CASE WHEN left({0}, 1) = '''' THEN '''' || {0} ELSE {0} END").format(text)
    return column


class _Copied(RawIOBase):
    """What a database copies, as a file."""

    def __init__(self, copy: Any) -> None:
        self._parts = iter(copy)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It is only read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 at the end."""
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._rest = memoryview(part)
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)
