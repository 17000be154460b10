"""The interface of a store, whichever engine has its rows.

`Store` has all that is the same on every engine. An engine adds how a batch is inserted, how rows
are streamed, and how a statement is run; placeholders are "?" here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from carbontrack.errors import ConfigError, nearest
from carbontrack.record import COLUMNS
from carbontrack.store.rows import StoredRow, object_of, once_each, time_text
from carbontrack.store.tokens import (
    May,
    Token,
    checked_may,
    checked_project,
    id_in,
    is_same,
    new_token,
    parts_of,
)
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.values import NamedTuple

RETENTION_BATCH_ROWS: Final = 5_000
"""Rows deleted in one transaction, between which others may write."""
READABLE: Final = (*COLUMNS, "received_at", "extra")
"""What `Store.rows` selects."""
INSERTED: Final = ("project", *COLUMNS, "extra", "received_at")
"""What `Store.add` writes, in the order of its values."""
_UPDATED = ", ".join(
    f'"{name}" = excluded."{name}"' for name in INSERTED if name not in ("project", "record_id")
)
ON_CONFLICT: Final = (
    f"ON CONFLICT (project, record_id) DO UPDATE SET {_UPDATED} "
    "WHERE records.status = 'recovered' AND excluded.status <> 'recovered'"
)
"""A finished record replaces a recovered one, whichever came first."""
NAMES: Final = ", ".join(f'"{name}"' for name in INSERTED)
_NO_HASH = "0" * 64
_LONGEST_DAYS = 365_000.0
_MOST_A_MINUTE = 1_000_000_000


class Added(NamedTuple):
    """The result of adding a batch.

    Attributes:
        stored: rows that are new, or that replace a recovered one.
        repeated: rows that were stored before, or twice in the batch.
    """

    stored: int
    repeated: int


class Project(NamedTuple):
    """The limits of a project; None is no limit.

    Attributes:
        name: as tokens have it.
        quota_records_per_min: how many records a minute it may send.
        retention_days: days after its arrival at which a record is deleted.
    """

    name: str
    quota_records_per_min: int | None = None
    retention_days: float | None = None


class Store(ABC):
    """The records of projects, their limits and their tokens.

    Any thread may use it, and any number of processes may have one of the same address; each
    process opens its own. Any method raises `StoreUnavailable` if the engine does not answer, and
    none raises anything else for valid arguments.
    """

    address: str
    """Where it is, as it may be shown."""
    _expressions: Mapping[str, str] = {}
    """What is selected for a column, where that is not the column itself."""

    def __init__(self, address: str, clock: Clock | None = None) -> None:
        self.address = address
        self._clock = clock or SystemClock()

    # -- records ---------------------------------------------------------------------------------

    def add(self, project: str, rows: Sequence[StoredRow]) -> Added:
        """Add a batch, in one transaction that is on the disk when this returns.

        A stored record is left unchanged, unless it was recovered and this one is finished. After
        an error the state of the batch is unknown; it may be added again.

        Raises:
            ConfigError: the name of the project is invalid.
            StoreUnavailable: the engine does not answer.
            StoreFull: it has no room.
        """
        checked_project(project)
        once = once_each(rows)
        if not once:
            return Added(0, 0)
        received_at = time_text(self._clock.now_utc())
        stored = self._insert([(project, *row.cells, received_at) for row in once])
        return Added(stored, len(rows) - stored)

    def rows(
        self,
        project: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        columns: Sequence[str] | None = None,
    ) -> Generator[dict[str, Any], None, None]:
        """The rows of a project, one after another, as of one moment and in no order.

        A row is what a line of JSON lines would hold, with `received_at` and the columns of newer
        versions; or, with `columns`, these alone. `since` and `until` bound `started_at`; `until`
        is excluded. Memory is bounded, whatever the number of rows. An iterator that is left
        early must be closed.

        Raises:
            ConfigError: there is no such column, or the name of the project is invalid.
            StoreUnavailable: the engine does not answer, at the start or in between.
        """
        names = READABLE if columns is None else tuple(columns)
        for name in names:
            if name not in READABLE:
                raise ConfigError(f"records have no column {name!r:.80}{nearest(name, READABLE)}")
        selected = ", ".join(self._expressions.get(name, f'"{name}"') for name in names)
        statement = f"SELECT {selected} FROM records WHERE project = ?"  # noqa: S608 - columns are known
        values = [checked_project(project)]
        for bound, sign in ((since, ">="), (until, "<")):
            if bound is not None:
                statement += f" AND started_at {sign} ?"
                values.append(time_text(bound))
        return self._objects(names, statement, values)

    def _objects(
        self, names: Sequence[str], statement: str, values: Sequence[Any]
    ) -> Generator[dict[str, Any], None, None]:
        with closing(self._stream(statement, values)) as found:
            for cells in found:
                yield object_of(dict(zip(names, cells, strict=True)))

    def count(self, project: str | None = None) -> int:
        """How many records there are, of a project or of all; takes long where there are many."""
        where, values = ("", []) if project is None else (" WHERE project = ?", [project])
        return int(self._read(f"SELECT count(*) FROM records{where}", values)[0][0])  # noqa: S608 - fixed

    def apply_retention(
        self, now: datetime | None = None, *, batch_rows: int = RETENTION_BATCH_ROWS
    ) -> int:
        """Delete the records that are older than their project keeps them; returns how many.

        Their age counts from their arrival by the receiver's clock, since clocks of clients may be
        wrong. It works in batches, between which others may write.
        """
        now = now or self._clock.now_utc()
        deleted = 0
        for project in self.projects():
            if project.retention_days is None:
                continue
            try:
                before = time_text(now - timedelta(days=project.retention_days))
            except OverflowError:  # nothing is so old
                continue
            while batch := self._delete(project.name, before, batch_rows):
                deleted += batch
        return deleted

    # -- projects --------------------------------------------------------------------------------

    def project(self, name: str) -> Project:
        """The limits of a project; none for one that has no settings.

        Raises:
            ConfigError: the name of the project is invalid.
        """
        found = self._read(f"{_PROJECTS} WHERE name = ?", [checked_project(name)])
        return Project(*found[0]) if found else Project(name)

    def projects(self) -> list[Project]:
        """All projects that have tokens or settings, by name."""
        return [Project(*row) for row in self._read(f"{_PROJECTS} ORDER BY name", [])]

    def set_project(self, project: Project) -> None:
        """Set the limits of a project, which is made if it is new.

        Raises:
            ConfigError: a limit or the name is invalid.
        """
        quota, days = project.quota_records_per_min, project.retention_days
        is_whole = isinstance(quota, int) and not isinstance(quota, bool)
        if quota is not None and not (is_whole and 1 <= quota <= _MOST_A_MINUTE):
            raise ConfigError(
                "quota_records_per_min must be a whole number from 1 to {_MOST_A_MINUTE}, or None, "
                "not {quota!r:.40}"
            )
        is_number = isinstance(days, (int, float)) and not isinstance(days, bool)
        if days is not None and not (is_number and 0.0 < days <= _LONGEST_DAYS):
            raise ConfigError(
                f"retention_days must be more than 0 and at most {_LONGEST_DAYS:.0f}, or None, "
                f"not {days!r:.40}"
            )
        self._write(
            f"{_NEW_PROJECT} DO UPDATE SET quota_records_per_min = excluded.quota_records_per_min, "
            "retention_days = excluded.retention_days",
            [checked_project(project.name), quota, days, self._now()],
        )

    # -- tokens ----------------------------------------------------------------------------------

    def create_token(self, project: str, may: May = "ingest") -> str:
        """A new token for a project, which is made if it is new; its text is not stored.

        Raises:
            ConfigError: that is no name of a project, or no kind of token.
        """
        text, token_id, hashed = new_token()
        values = [token_id, checked_project(project), checked_may(may), hashed, self._now()]
        self._write(f"{_NEW_PROJECT} DO NOTHING", [project, None, None, self._now()])
        self._write(
            "INSERT INTO tokens (id, project, may, secret_sha256, created_at) "
            "VALUES (?, ?, ?, ?, ?)",
            values,
        )
        return text

    def token(self, text: str) -> Token | None:
        """The token with that text; None for one that is unknown or revoked, or no token."""
        parts = parts_of(text)
        if parts is None:
            return None
        found = self._read(f"{_TOKENS}, secret_sha256 FROM tokens WHERE id = ?", [parts[0]])
        *facts, hashed = found[0] if found else (None,) * 5 + (_NO_HASH,)
        if not is_same(hashed, parts[1]) or facts[-1] is not None:
            return None
        return Token(*facts)

    def tokens(self) -> list[Token]:
        """All tokens, those that are revoked too, by project and age."""
        found = self._read(f"{_TOKENS} FROM tokens ORDER BY project, created_at, id", [])
        return [Token(*row) for row in found]

    def has_tokens(self) -> bool:
        """Whether there is any token, including revoked ones."""
        return bool(self._read("SELECT 1 FROM tokens LIMIT 1", []))

    def revoke(self, token: str) -> bool:
        """Refuse a token, given by its id or its text, from now on; False if there is none."""
        return bool(
            self._write(
                "UPDATE tokens SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?",
                [self._now(), id_in(token)],
            )
        )

    # -- the engine ------------------------------------------------------------------------------

    def check(self) -> None:
        """Ask the engine for a trivial answer.

        Raises:
            StoreUnavailable: there is no answer.
        """
        self._read("SELECT 1", [])

    @abstractmethod
    def close(self) -> None:
        """Release files and connections; a second call does nothing."""

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _now(self) -> str:
        return time_text(self._clock.now_utc().astimezone(timezone.utc))

    @abstractmethod
    def _insert(self, rows: Sequence[Sequence[Any]]) -> int:
        """Insert rows with the columns `INSERTED`, by `ON_CONFLICT`; how many were written."""

    @abstractmethod
    def _delete(self, project: str, before: str, limit: int) -> int:
        """Delete up to `limit` rows that have arrived before; how many were deleted."""

    @abstractmethod
    def _read(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The rows that a statement selects; few."""

    @abstractmethod
    def _write(self, statement: str, values: Sequence[Any]) -> int:
        """Run a statement in a transaction of its own; how many rows it has changed."""

    @abstractmethod
    def _stream(
        self, statement: str, values: Sequence[Any]
    ) -> Generator[tuple[Any, ...], None, None]:
        """The rows that a statement selects, some at a time, as of one moment."""


_PROJECTS = "SELECT name, quota_records_per_min, retention_days FROM projects"
_TOKENS = "SELECT id, project, may, created_at, revoked_at"
_NEW_PROJECT = (
    "INSERT INTO projects (name, quota_records_per_min, retention_days, created_at) "
    "VALUES (?, ?, ?, ?) ON CONFLICT (name)"
)
