"""The tables of a store, as a numbered list of changes that is only ever added to.

A new store goes through all of them, an older one through those that it lacks, in one transaction
that excludes other processes. What has been released is never edited: the columns of version 1 are
written out here, though they are those of the record, because the record changes. A new column of
the record needs a migration that adds it here and fills it from `extra`, where older servers have
kept what newer clients sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Literal

from carbontrack.errors import ConfigError
from carbontrack.values import NamedTuple

Dialect = Literal["sqlite", "postgresql"]
VERSIONS: Final = "carbontrack_migrations"
TABLES: Final = (VERSIONS, "records", "projects", "tokens")
"""What this store makes, by name."""

_TYPES: dict[Dialect, dict[str, str]] = {
    "sqlite": {"text": "TEXT", "whole": "INTEGER", "number": "REAL", "truth": "INTEGER"}
    | {"time": "TEXT", "json": "TEXT"},
    "postgresql": {"text": "TEXT", "whole": "BIGINT", "number": "DOUBLE PRECISION"}
    | {"truth": "BOOLEAN", "time": "TIMESTAMPTZ", "json": "JSONB"},
}
_COLUMNS_1: Final[tuple[tuple[str, str], ...]] = (
    ("whole", "schema"),
    ("text", "record_id run_id parent_id name"),
    ("json", "labels"),
    ("text", "status error"),
    ("time", "started_at ended_at"),
    ("number", "duration_s"),
    ("whole", "calls"),
    ("number", "cpu_kwh gpu_kwh ram_kwh other_kwh energy_kwh energy_low_kwh energy_high_kwh"),
    ("number", "machine_kwh emissions_g emissions_low_g emissions_high_g water_l embodied_g"),
    ("text", "region region_basis"),
    ("number", "intensity_g_per_kwh intensity_low_g_per_kwh intensity_high_g_per_kwh"),
    ("text", "intensity_source"),
    ("whole", "intensity_year"),
    ("number", "pue"),
    ("text", "basis cpu_basis gpu_basis ram_basis meters"),
    ("number", "coverage max_gap_s"),
    ("whole", "missed_reads"),
    ("text", "faults scope idle"),
    ("number", "cpu_share"),
    ("text", "cpu_model"),
    ("whole", "cpu_threads"),
    ("number", "cpu_tdp_w"),
    ("text", "gpu_models"),
    ("whole", "gpu_count"),
    ("number", "ram_gib"),
    ("text", "host_id"),
    ("whole", "pid rank world_size"),
    ("text", "cloud_provider cloud_region os python carbontrack"),
    ("truth", "parent_holds"),
    ("text", "job_id"),
    ("whole", "attempt local_rank"),
    ("text", "task_id"),
    ("number", "market_emissions_g abiotic_kg_sb"),
)
"""The columns of the record of schema 2."""
_NEVER_NULL = {"record_id", "run_id", "name", "labels", "status", "started_at", "ended_at"}


class Migration(NamedTuple):
    """One change of the tables.

    Attributes:
        version: its number, and that of the tables after it; they count from 1.
        statements: what it executes, in the engine's dialect of SQL.
    """

    version: int
    statements: Callable[[Dialect], Sequence[str]]


def _tables(dialect: Dialect) -> Sequence[str]:
    types = _TYPES[dialect]
    own = [f"project {types['text']} NOT NULL"]
    for kind, names in _COLUMNS_1:
        own += [
            f'"{name}" {types[kind]}{" NOT NULL" if name in _NEVER_NULL else ""}'
            for name in names.split()
        ]
    own += [f"received_at {types['time']} NOT NULL", f"extra {types['json']}"]
    return (
        f"CREATE TABLE records ({', '.join(own)}, PRIMARY KEY (project, record_id))",
        f"CREATE TABLE projects (name {types['text']} PRIMARY KEY, "
        f"quota_records_per_min {types['whole']}, retention_days {types['number']}, "
        f"created_at {types['text']} NOT NULL)",
        f"CREATE TABLE tokens (id {types['text']} PRIMARY KEY, project {types['text']} NOT NULL, "
        f"may {types['text']} NOT NULL, secret_sha256 {types['text']} NOT NULL, "
        f"created_at {types['text']} NOT NULL, revoked_at {types['text']})",
    )


def _indices(_: Dialect) -> Sequence[str]:
    """What reports of some days, and the retention, look for."""
    return (
        "CREATE INDEX records_by_start ON records (project, started_at)",
        "CREATE INDEX records_by_arrival ON records (project, received_at)",
    )


MIGRATIONS: Final = (Migration(1, _tables), Migration(2, _indices))


def migrate(
    execute: Callable[[str], Sequence[Sequence[Any]]],
    present: Collection[str],
    dialect: Dialect,
    *,
    migrations: Sequence[Migration] = MIGRATIONS,
) -> None:
    """Bring the tables to the last version, inside of a transaction that excludes other processes.

    `present` has those of `TABLES` that are there.

    Raises:
        ConfigError: the tables are of a newer version than this one knows, or not ours.
    """
    version = version_of(execute, present, migrations=migrations)
    if not version:
        time_type = _TYPES[dialect]["text"]
        execute(f"CREATE TABLE {VERSIONS} (version INTEGER PRIMARY KEY, applied_at {time_type})")
    for migration in migrations:
        if migration.version > version:
            for statement in migration.statements(dialect):
                execute(statement)
            execute(
                f"INSERT INTO {VERSIONS} VALUES ({migration.version}, CURRENT_TIMESTAMP)"  # noqa: S608 - numbers
            )


def version_of(
    execute: Callable[[str], Sequence[Sequence[Any]]],
    present: Collection[str],
    *,
    migrations: Sequence[Migration] = MIGRATIONS,
) -> int:
    """The version of the tables; 0 if there are none.

    Raises:
        ConfigError: the tables are of a newer version than this one knows, or not ours.
    """
    if VERSIONS not in present:
        if present:
            raise ConfigError(
                f"it has a table {min(present)!r} that carbontrack did not create; use a separate "
                "database, or a separate schema of PostgreSQL"
            )
        return 0
    version = int(execute(f"SELECT coalesce(max(version), 0) FROM {VERSIONS}")[0][0])  # noqa: S608 - ours
    known = migrations[-1].version
    if version > known:
        raise ConfigError(
            f"its tables have version {version}, and this carbontrack supports versions up to "
            f"{known}: a newer carbontrack has changed them; upgrade carbontrack here too"
        )
    return version
