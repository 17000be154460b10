"""Rows of an SQLite database, which anyone may have made: read, never written, and in bounds.

A database can hold more than data: a view or a virtual table of our table's name runs what its
maker wrote, a page may be part of many others, a cell may fill the memory, another process may hold
a lock. So the table must be a table, its columns stored ones, and each row comes within a limit of
time.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from carbontrack.errors import ConfigError
from carbontrack.record import COLUMNS
from carbontrack.sinks.sqlite import TABLE, no_table
from carbontrack.system.clock import SystemClock
from carbontrack.system.log import LOGGER

if TYPE_CHECKING:
    import sqlite3

ROW_LIMIT_S = 10.0
"""The longest wait for a row."""
ROW_LIMIT_BYTES = 1 << 22
"""The length above which a row is not taken for a record."""
_STEPS = 100_000
"""Instructions of SQLite between two looks at the clock, which take some milliseconds."""
_LEAST_ROW_BYTES = 4
_STORE = (
    "it is the store of `carbontrack serve`, not a file of records: that server shows the totals "
    "of a project, on its page and at /v1/report"
)
_LIMIT_LENGTH = 0
"""SQLITE_LIMIT_LENGTH (sqlite.org/c3ref/c_limit_attached.html)."""


def sqlite_rows(
    path: Path,
    *,
    limit_s: float = ROW_LIMIT_S,
    every_column: bool = False,
    to_the_end: bool = False,
) -> Iterator[Mapping[str, object] | None]:
    """The rows of the table in an SQLite database, in the order of their arrival.

    `every_column`: also those that this version does not know. None for a row that is too long, and
    for the rest where it cannot be read; the log says why. With `to_the_end` that is an error, for
    those who may remove the database afterwards.

    Raises:
        ConfigError: it cannot be read to its end, and has to be.
        OSError: it cannot be opened, or is no regular file.
    """
    import sqlite3

    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    path.open("rb").close()  # an error names the file
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=min(5.0, limit_s))
    try:
        yield from _rows(connection, _most_rows(path), limit_s, every_column=every_column)
    except sqlite3.DatabaseError as error:
        if to_the_end:
            raise ConfigError(f"cannot read {path}: {error}") from error
        LOGGER.warning("%s: %s; the rest of it is skipped", path, error)
        yield None
    finally:
        connection.close()


def _most_rows(path: Path) -> int:
    """More rows than a file of that length can hold: a manipulated file may never end."""
    log = path.with_name(f"{path.name}-wal")
    length = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
    return 1000 + length // _LEAST_ROW_BYTES


def _rows(
    connection: sqlite3.Connection, most: int, limit_s: float, *, every_column: bool
) -> Iterator[Mapping[str, object] | None]:
    """The rows; each time one is asked for, the limit of time begins.

    Raises:
        DatabaseError: no more can be read.
    """
    import sqlite3

    late_at_s = SystemClock.monotonic_s() + limit_s
    connection.set_progress_handler(lambda: SystemClock.monotonic_s() > late_at_s, _STEPS)
    connection.text_factory = lambda text: text.decode(errors="replace")
    if hasattr(connection, "setlimit"):  # from Python 3.11 on
        connection.setlimit(_LIMIT_LENGTH, ROW_LIMIT_BYTES)
    connection.execute("PRAGMA trusted_schema = OFF")
    if (reason := no_table(connection)) is not None:
        raise sqlite3.DatabaseError(_STORE if _is_store(connection) else reason)
    names, last = _stored_columns(connection, every_column=every_column), None
    found = _selected(connection, names, last)
    for _ in range(most):
        late_at_s = SystemClock.monotonic_s() + limit_s
        try:
            row = next(found, None)
        except sqlite3.DataError:  # this one is too long, or the one after it, which is looked at
            row = _single(connection, names, last)
            found = _selected(connection, names, row and row[0])
        if row is None:
            return
        last = row[0]
        yield dict(zip(names, row[1:], strict=True)) if len(row) > 1 else None
    raise sqlite3.DatabaseError("it has more rows than its length allows")


def _is_store(connection: sqlite3.Connection) -> bool:
    """Whether a receiver keeps records in it: those of several projects, each with its rights."""
    found = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' "
        "AND name IN ('records', 'projects', 'tokens')"
    )
    return bool(found.fetchone() == (3,))


def _stored_columns(connection: sqlite3.Connection, *, every_column: bool) -> list[str]:
    """Our columns that are in the table, without those that are computed when they are read.

    Behind them, on demand, those of newer versions.
    """
    found = connection.execute(f"PRAGMA table_xinfo({TABLE})")
    stored = {name: None for _, name, *_, hidden in found if hidden == 0}
    ours = [name for name in COLUMNS if name in stored]
    return [*ours, *(name for name in stored if name not in ours)] if every_column else ours


def _selected(
    connection: sqlite3.Connection, names: list[str], last: object, *, end: str = ""
) -> Iterator[tuple[object, ...]]:
    """The number and the columns of each row after the last one that was read."""
    columns = "".join(f', "{name.replace(chr(34), chr(34) * 2)}"' for name in names)
    after = "" if last is None else "WHERE rowid > ?"
    query = f"SELECT rowid{columns} FROM {TABLE} {after} ORDER BY rowid {end}"  # noqa: S608 - ours
    # `execute` reads a row already; `yield from` would close the cursor after its connection
    for row in connection.execute(query, () if last is None else (last,)):  # noqa: UP028
        yield row


def _single(
    connection: sqlite3.Connection, names: list[str], last: object
) -> tuple[object, ...] | None:
    """The row after the last one, if there is one; only its number where it is too long."""
    import sqlite3

    try:
        return next(_selected(connection, names, last, end="LIMIT 1"), None)
    except sqlite3.DataError:
        return next(_selected(connection, [], last, end="LIMIT 1"), None)
