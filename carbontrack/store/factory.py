"""The store of an address: a file of SQLite, or a database of PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from carbontrack.errors import ConfigError, nearest
from carbontrack.store.base import Store
from carbontrack.system.clock import Clock
from carbontrack.system.urls import shown

POSTGRESQL: Final = ("postgresql", "postgres")
SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")
_FORMS = "'team.db', 'sqlite:FILE' or 'postgresql://USER@HOST/DATABASE'"


def open_store(address: str, *, clock: Clock | None = None) -> Store:
    """The store at an address, with its tables brought to this version.

    `address` is a file's name that ends in .db, .sqlite or .sqlite3, "sqlite:" and any file's name,
    or a URL of PostgreSQL with any of libpq's parameters. Any number of processes may open it at a
    time, and a new one too.

    Raises:
        ConfigError: there can be no store; the message has the reason and what to do.
        MissingExtra: the library of PostgreSQL is not installed.
        StoreUnavailable: the engine does not respond now.
    """
    scheme, colon, rest = address.partition(":")
    if "://" in address and scheme != "sqlite":
        if scheme in POSTGRESQL:
            from carbontrack.store.postgres import PostgresStore  # few need it

            return PostgresStore(address, clock=clock)
        raise ConfigError(
            f"cannot keep a store in {shown(address)}: an address is {_FORMS}"
            f"{nearest(scheme, POSTGRESQL)}"
        )
    from carbontrack.store.sqlite import SqliteStore  # imports SQLite

    if colon and scheme == "sqlite":
        if not rest or rest.startswith("//"):
            raise ConfigError(f"cannot keep a store in {address!r}: an address is {_FORMS}")
        return SqliteStore(Path(rest).expanduser().absolute(), clock=clock)
    path = Path(address).expanduser().absolute()
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"cannot keep a store in {address!r}: an address is {_FORMS}; "
            f"a file's name ends in {', '.join(SUFFIXES)}"
        )
    return SqliteStore(path, clock=clock)
