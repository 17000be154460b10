"""The SQLite sink: a record is there once, and the database stays whole."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.record import COLUMNS
from carbontrack.report.read import iter_records
from carbontrack.sinks.sqlite import SqliteSink
from tests.support.records import a_record


def test_a_record_that_arrives_twice_is_there_once(tmp_path: Path) -> None:
    """A repeated delivery of one record changes nothing."""
    sink = SqliteSink(tmp_path / "runs.sqlite")
    for _ in range(3):
        sink.write(a_record(1))
    sink.close()

    assert list(iter_records(tmp_path / "runs.sqlite")) == [a_record(1)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0), (1, 0, 1), (0, 0, 1)])
def test_a_finished_record_replaces_what_was_recovered_of_it(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Whichever comes first, and however often: the table has the finished one."""
    versions = (
        a_record(1, status="recovered", energy_kwh=0.5),
        a_record(1, status="ok", energy_kwh=2.0),
    )
    sink = SqliteSink(tmp_path / "runs.sqlite")
    for number in order:
        sink.write(versions[number])
    sink.close()

    assert list(iter_records(tmp_path / "runs.sqlite")) == [versions[1]]


def test_numbers_can_be_added_in_sql(tmp_path: Path) -> None:
    """Columns hold numbers, not their text."""
    sink = SqliteSink(tmp_path / "runs.sqlite")
    sink.write(a_record(1, emissions_g=1.5))
    sink.write(a_record(2, emissions_g=2.0))
    sink.close()
    with closing(sqlite3.connect(tmp_path / "runs.sqlite")) as connection:
        (total,) = connection.execute("SELECT sum(emissions_g) FROM carbontrack_records").fetchone()

    assert total == 3.5


def test_an_older_table_is_given_the_new_columns(tmp_path: Path) -> None:
    """Rows of an older version stay, and newer ones join them."""
    with closing(sqlite3.connect(tmp_path / "runs.sqlite")) as connection:
        connection.execute("CREATE TABLE carbontrack_records (record_id TEXT PRIMARY KEY, name)")
        connection.execute("INSERT INTO carbontrack_records VALUES ('old', 'older')")
        connection.commit()
    sink = SqliteSink(tmp_path / "runs.sqlite")
    sink.write(a_record())
    sink.close()
    with closing(sqlite3.connect(tmp_path / "runs.sqlite")) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(carbontrack_records)")}

    assert columns == set(COLUMNS)
    assert list(iter_records(tmp_path / "runs.sqlite")) == [a_record()]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Construction says so, and the file is left as it is."""
    (tmp_path / "runs.db").write_text("dear diary, " * 100)

    with pytest.raises(ConfigError, match="not a database"):
        SqliteSink(tmp_path / "runs.db")
    assert (tmp_path / "runs.db").read_text().startswith("dear diary")


def test_a_database_without_our_table_holds_no_record(tmp_path: Path) -> None:
    """Another program's database is read as one unreadable thing, not as an error."""
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        connection.execute("CREATE TABLE other (x)")
    skipped: list[str] = []

    assert list(iter_records(tmp_path / "runs.db", on_skip=skipped.append)) == []
    assert len(skipped) == 1


def test_records_wait_while_another_program_holds_the_lock(tmp_path: Path) -> None:
    """A database locked for longer than our patience costs no record."""
    sink = SqliteSink(tmp_path / "runs.sqlite", busy_timeout_s=0.01)
    sink.write(a_record(1))
    with closing(sqlite3.connect(tmp_path / "runs.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        sink.write(a_record(2))
        waiting = sink.pending_ids
        other.execute("COMMIT")
    sink.write(a_record(3))
    sink.close()

    assert waiting == (a_record(2).record_id,)
    assert len(list(iter_records(tmp_path / "runs.sqlite"))) == 3


def test_a_deleted_database_is_made_again(tmp_path: Path) -> None:
    """Records go on into a new file, not into the deleted one."""
    sink = SqliteSink(tmp_path / "runs.sqlite")
    sink.write(a_record(1))
    for path in tmp_path.iterdir():
        path.unlink()
    sink.write(a_record(2))
    sink.close()

    assert list(iter_records(tmp_path / "runs.sqlite")) == [a_record(2)]
