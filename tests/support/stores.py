"""Rows for a store, and tables of an older version."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from carbontrack.record import Record
from carbontrack.sinks.jsonl import record_object
from carbontrack.store.base import Store
from carbontrack.store.migrations import TABLES, Migration, migrate
from carbontrack.store.rows import StoredRow, stored_row
from tests.support.records import a_record


def a_row(number: int = 0, **changes: Any) -> StoredRow:
    """The row of a finished record; `number` makes ids of its own."""
    return stored_row(record_object(a_record(number, **changes)))


def rows_of(records: list[Record]) -> list[StoredRow]:
    """The rows of records, as a client sends them."""
    return [stored_row(record_object(record)) for record in records]


def content(store: Store, project: str) -> dict[str, dict[str, Any]]:
    """The rows of a project by their ids, without the time of their arrival."""
    found = list(store.rows(project))
    for row in found:
        del row["received_at"]
    by_id = {row["record_id"]: row for row in found}
    assert len(by_id) == len(found), "a record is there twice"
    return by_id


def make_older(address: str, migrations: tuple[Migration, ...]) -> None:
    """The tables that an older version has made."""
    if address.startswith("postgresql:"):
        import psycopg

        with psycopg.connect(address, autocommit=True) as connection:

            def execute(statement: str) -> list[Any]:
                found = connection.execute(statement)
                return found.fetchall() if found.description else []

            migrate(execute, set(), "postgresql", migrations=migrations)
        return
    file = sqlite3.connect(Path(address), isolation_level=None)
    present = {name for (name,) in file.execute("SELECT name FROM sqlite_master")} & {*TABLES}
    migrate(lambda text: file.execute(text).fetchall(), present, "sqlite", migrations=migrations)
    file.close()


def execute(address: str, statement: str) -> list[tuple[Any, ...]]:
    """What an administrator's statement answers, past the store."""
    if address.startswith("postgresql:"):
        import psycopg

        with psycopg.connect(address, autocommit=True) as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []
    file = sqlite3.connect(Path(address), isolation_level=None)
    try:
        return file.execute(statement).fetchall()
    finally:
        file.close()
