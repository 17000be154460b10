"""Tables of any age, made by several processes at once, and databases that cannot be a store."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from carbontrack.errors import ConfigError, StoreUnavailable
from carbontrack.record import COLUMNS
from carbontrack.sinks.jsonl import record_object
from carbontrack.store.factory import open_store
from carbontrack.store.migrations import MIGRATIONS, VERSIONS, Migration, migrate
from carbontrack.store.rows import stored_row
from tests.support.records import a_record
from tests.support.stores import a_row, execute, make_older

pytestmark = pytest.mark.xdist_group("postgres")

RELEASED = {
    ("sqlite", 1): "8b86981562af2250",
    ("sqlite", 2): "0a6df561c78466cc",
    ("postgresql", 1): "3931301ce2f46e42",
    ("postgresql", 2): "0a6df561c78466cc",
}
"""Hashes of the statements of each migration: what stores have gone through is never edited."""
OLD_ROW = (
    "INSERT INTO records (project, record_id, run_id, name, labels, status, started_at, ended_at, "
    "received_at, energy_kwh) VALUES ('team', 'old', 'run', 'train', '{\"a\": 1}', 'ok', "
    "'2026-01-01T00:00:00.000000Z', '2026-01-01T01:00:00.000000Z', "
    "'2026-01-01T02:00:00.000000Z', 1.5)"
)


def test_a_migration_is_never_edited():
    """Each has a hash here; whoever adds one adds its hash."""
    found = {
        (dialect, one.version): hashlib.sha256(
            "\n".join(one.statements(dialect)).encode()
        ).hexdigest()[:16]
        for one in MIGRATIONS
        for dialect in ("sqlite", "postgresql")
    }
    assert found == RELEASED
    assert [one.version for one in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_the_tables_have_every_column_of_the_record(address: str):
    """Whoever adds a column to the record adds a migration that adds it to the tables."""
    open_store(address).close()
    assert _columns(address) == {"project", *COLUMNS, "received_at", "extra"}


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_tables_of_any_age_are_brought_to_this_version(address: str, version: int):
    """From the oldest on; the rows that they have are kept, and new ones are taken."""
    if version:
        make_older(address, MIGRATIONS[:version])
        execute(address, OLD_ROW)
    with open_store(address) as store:
        assert store.add("team", [a_row(1)]).stored == 1
        found = {row["record_id"]: row for row in store.rows("team")}
        assert len(found) == 1 + bool(version)
        if version:
            old = {name: cell for name, cell in found["old"].items() if cell is not None}
            assert (old["energy_kwh"], old["labels"]) == (1.5, {"a": 1})
            assert old["started_at"] == "2026-01-01T00:00:00.000000Z"
        store.create_token("team")
    applied = execute(address, f"SELECT version FROM {VERSIONS} ORDER BY version")
    assert [number for (number,) in applied] == [one.version for one in MIGRATIONS]
    assert {"records_by_start", "records_by_arrival"} <= _indices(address)


def _new_column(dialect: str) -> tuple[str, ...]:
    """What the next migration may look like: a new column, with what older servers have kept."""
    if dialect == "sqlite":
        kept, rest = "json_extract(extra, '$.new_kwh')", "json_remove(extra, '$.new_kwh')"
        return (
            "ALTER TABLE records ADD COLUMN new_kwh REAL",
            f"UPDATE records SET new_kwh = {kept}, extra = nullif({rest}, '{{}}') "
            f"WHERE {kept} IS NOT NULL",
        )
    return (
        "ALTER TABLE records ADD COLUMN new_kwh DOUBLE PRECISION",
        "UPDATE records SET new_kwh = (extra ->> 'new_kwh')::float8, "
        "extra = nullif(extra - 'new_kwh', '{}'::jsonb) WHERE extra ? 'new_kwh'",
    )


def test_a_store_that_is_open_is_migrated_by_others(address: str):
    """An older process goes on writing while a newer one makes a column of what it has kept."""
    new = {"new_kwh": 2.5}
    with open_store(address) as store:
        sent = record_object(a_record(1))
        other = record_object(a_record(2)) | {"newer_still": True}
        store.add("team", [stored_row(sent | new), stored_row(other | new), a_row(3)])
        added = Migration(MIGRATIONS[-1].version + 1, _new_column)
        _migrate_by_hand(address, (*MIGRATIONS, added))
        assert store.add("team", [a_row(4)]).stored == 1
        found = {row["record_id"]: row.get("newer_still") for row in store.rows("team")}
    assert [found[f"run-7f3a:{number}"] for number in (1, 2, 3, 4)] == [None, True, None, None]
    columns = execute(address, "SELECT new_kwh, extra IS NULL FROM records ORDER BY record_id")
    assert columns == [(2.5, True), (2.5, False), (None, True), (None, True)]


def test_newer_tables_are_refused(address: str):
    """The error says what to do, and nothing is changed."""
    open_store(address).close()
    execute(address, f"INSERT INTO {VERSIONS} VALUES (99, 'later')")
    with pytest.raises(ConfigError, match=r"version 99.*up to \d.*upgrade"):
        open_store(address)


def test_tables_of_others_are_refused(address: str):
    """Whose name is one of ours; others are left alone."""
    execute(address, "CREATE TABLE customers (name TEXT)")
    execute(address, "CREATE TABLE projects (title TEXT)")
    with pytest.raises(ConfigError, match="'projects' that carbontrack did not create"):
        open_store(address)
    execute(address, "DROP TABLE projects")
    open_store(address).close()


def test_a_migration_that_fails_leaves_nothing(address: str):
    """The tables are as they were, and the next start tries again."""
    broken = Migration(2, lambda _: ("CREATE TABLE half (a TEXT)", "CREATE TABLE ) broken"))
    make_older(address, MIGRATIONS[:1])
    with pytest.raises(Exception, match="syntax"):
        _migrate_by_hand(address, (MIGRATIONS[0], broken))
    assert execute(address, f"SELECT version FROM {VERSIONS}") == [(1,)]
    with open_store(address) as store:
        assert store.add("team", [a_row(1)]).stored == 1


def test_several_processes_make_one_store(address: str):
    """Each starts at once, none fails, and all of their rows are there."""
    program = (
        "import sys\n"
        "from carbontrack.store.factory import open_store\n"
        "from tests.support.stores import a_row\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with open_store(sys.argv[1]) as store:\n"
        "    store.add('team', [a_row(int(sys.argv[2]))])\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    assert [one.stdout.readline() for one in writers] == ["ready\n"] * 3  # type: ignore[union-attr]
    for one in writers:
        one.stdin.write("\n")  # type: ignore[union-attr]
        one.stdin.flush()  # type: ignore[union-attr]
    for one in writers:
        one.communicate(timeout=120)
        assert one.returncode == 0
    with ThreadPoolExecutor(6) as pool:  # and those of one process
        stores = list(pool.map(lambda _: open_store(address), range(6)))
    assert {store.count("team") for store in stores} == {3}
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("team.csv", "'team.db', 'sqlite:FILE' or"),
        ("", "'team.db', 'sqlite:FILE' or"),
        ("sqlite:", "'team.db', 'sqlite:FILE' or"),
        ("sqlite:///team.db", "'team.db', 'sqlite:FILE' or"),
        ("mysql://root:secret@host/db", "cannot keep a store in mysql://host/db"),
        ("postgresq://u:secret@host/db", "did you mean 'postgresql'"),
        ("postgresql://u:secret@host/db?sslmod=require", "not one of libpq's"),
        ("nowhere/team.db", "there is no directory"),
    ],
)
def test_addresses_of_no_store(address: str, reason: str):
    """Each is refused with what an address is; a password is not repeated."""
    with pytest.raises(ConfigError, match=reason) as caught:
        open_store(address)
    assert "secret" not in str(caught.value)


def test_a_password_is_not_repeated():
    """Not by the error of a server that does not answer, nor as the store's address."""
    url = "postgresql://team:secret@127.0.0.1:1/db?password=secret&connect_timeout=2"
    with pytest.raises(StoreUnavailable, match=r"postgresql://127\.0\.0\.1:1/db") as caught:
        open_store(url)
    shown = "".join(traceback.format_exception(caught.value)).replace(url, "")
    assert "secret" not in shown


def test_files_that_are_no_store(tmp_path: Path):
    """Text, a folder, a file that may not be written: the error names the file and why."""
    (tmp_path / "text.db").write_text("record_id,run_id\n" * 100)
    (tmp_path / "folder.db").mkdir()
    for name, reason in (("text.db", "not a database"), ("folder.db", "unable to open")):
        with pytest.raises(ConfigError, match=reason) as caught:
            open_store(str(tmp_path / name))
        assert name in str(caught.value)
    assert (tmp_path / "text.db").read_text().startswith("record_id")


def test_a_file_is_for_its_owner(tmp_path: Path):
    """It holds names of people's runs; whoever wants to share it may."""
    with open_store(f"sqlite:{tmp_path / 'team'}") as store:
        store.add("team", [a_row()])
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes.keys() == {"team", "team-wal", "team-shm"}
    assert set(modes.values()) == {0o600}


def test_a_file_that_is_removed_takes_no_rows(tmp_path: Path):
    """Rows in it would be nobody's; one that is put in its place is used."""
    path = tmp_path / "team.db"
    with open_store(str(path)) as store, open_store(str(tmp_path / "other.db")) as other:
        store.add("team", [a_row(1)])
        other.add("team", [a_row(2)])
        other.close()
        for part in ("team.db", "team.db-wal", "team.db-shm"):
            (tmp_path / part).unlink(missing_ok=True)
        with pytest.raises(StoreUnavailable, match="is gone"):
            store.add("team", [a_row(3)])
        with pytest.raises(StoreUnavailable, match="is gone"):
            store.count()
        (tmp_path / "other.db").rename(path)
        store.add("team", [a_row(3)])
        assert {row["record_id"] for row in store.rows("team")} == {"run-7f3a:2", "run-7f3a:3"}


def test_databases_that_cannot_be_a_store(postgres: Any):
    """Another encoding, or no right to make tables: said when it is opened."""
    latin = postgres.new_database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(ConfigError, match="encoding is LATIN1"):
        open_store(latin)
    postgres.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(ConfigError, match="permission denied"):
        open_store(postgres.url(user="guest"))
    with pytest.raises(StoreUnavailable, match='"nobody" does not exist'):
        open_store(postgres.url(user="nobody"))


def _columns(address: str) -> set[str]:
    if address.startswith("postgresql:"):
        found = execute(
            address,
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_name = 'records' AND table_schema = current_schema",
        )
    else:
        found = execute(address, "SELECT name FROM pragma_table_info('records')")
    return {name for (name,) in found}


def _indices(address: str) -> set[str]:
    if address.startswith("postgresql:"):
        statement = "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema"
    else:
        statement = "SELECT name FROM sqlite_master WHERE type = 'index'"
    return {name for (name,) in execute(address, statement)}


def _migrate_by_hand(address: str, migrations: tuple[Migration, ...]) -> None:
    """What a newer version would do."""
    if address.startswith("postgresql:"):
        import psycopg

        with psycopg.connect(address) as connection:

            def run(statement: str) -> list[Any]:
                found = connection.execute(statement)
                return found.fetchall() if found.description else []

            migrate(run, {VERSIONS}, "postgresql", migrations=migrations)
        return
    import sqlite3

    file = sqlite3.connect(address, isolation_level=None)
    try:
        file.execute("BEGIN IMMEDIATE")
        migrate(
            lambda text: file.execute(text).fetchall(), {VERSIONS}, "sqlite", migrations=migrations
        )
        file.execute("COMMIT")
    finally:
        file.close()
