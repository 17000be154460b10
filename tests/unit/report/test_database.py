"""Databases that others have made: read within bounds, and never run or changed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.report.database import ROW_LIMIT_BYTES, sqlite_rows
from carbontrack.report.read import iter_records, records_in
from carbontrack.sinks.sqlite import TABLE, SqliteSink
from tests.support.records import a_record

FOREVER = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) AS x FROM n"
)


def read(path: Path, *, limit_s: float = 10.0) -> tuple[list[str], int]:
    """The ids of the records in a database, and how many rows were passed over."""
    skipped: list[str] = []
    rows = sqlite_rows(path, limit_s=limit_s)
    return [record.record_id for record in records_in(rows, skipped.append)], len(skipped)


def written(path: Path, count: int = 3) -> Path:
    """A database with so many records of ours."""
    sink = SqliteSink(path)
    for number in range(count):
        sink.write(a_record(number))
    sink.close()
    return path


def changed(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


VIEW = f"CREATE VIEW {TABLE} AS {FOREVER}"


@pytest.mark.parametrize("make", [VIEW, f"CREATE VIRTUAL TABLE {TABLE} USING fts5(record_id)"])
def test_only_a_table_is_read_or_written(
    tmp_path: Path, make: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A view or a virtual table of its name runs what its maker wrote: it is never asked."""
    try:
        path = changed(tmp_path / "runs.db", make)
    except sqlite3.OperationalError as error:  # an SQLite without full-text search
        pytest.skip(str(error))
    assert read(path) == ([], 1)
    assert "a view or a virtual table, not a table" in caplog.text
    with pytest.raises(ConfigError, match="a view or a virtual table"):
        SqliteSink(path)


def test_a_column_that_is_computed_is_not_asked_for(tmp_path: Path) -> None:
    """Its text would be made as long as its maker likes, each time it is read."""
    path = written(tmp_path / "runs.db")
    changed(
        path,
        f'ALTER TABLE {TABLE} DROP COLUMN "error"',
        f'ALTER TABLE {TABLE} ADD COLUMN "error" AS (hex(zeroblob(400000000)))',
    )
    assert read(path) == ([a_record(number).record_id for number in range(3)], 0)


def test_a_wait_for_a_row_has_a_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A table without ids of rows must be sorted whole: what takes too long is given up."""
    path = changed(
        tmp_path / "runs.db",
        f"CREATE TABLE {TABLE} (record_id, rowid, _rowid_, oid)",
        f"WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300000) "
        f"INSERT INTO {TABLE} SELECT x, -x, x, x FROM n",
    )
    assert read(path, limit_s=0.0) == ([], 1)
    assert "interrupted" in caplog.text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="SQLite's limits can be set from 3.11 on")
def test_a_row_that_is_too_long_is_passed_over(tmp_path: Path) -> None:
    """The first one, one in the middle, and the last one; those between them are read."""
    path = written(tmp_path / "runs.db", 5)
    for number in (1, 3, 5):
        changed(
            path,
            f"UPDATE {TABLE} SET error = hex(zeroblob({ROW_LIMIT_BYTES})) WHERE rowid = {number}",
        )
    assert read(path) == ([a_record(1).record_id, a_record(3).record_id], 3)


def inner_page(child: int, *, size: int = 512, cells: int = 84) -> bytes:
    """An inner page whose cells all lead to one page (sqlite.org/fileformat.html, 1.6)."""
    cell = child.to_bytes(4, "big") + b"\x01"
    at = size - len(cell)
    head = b"\x05\0\0" + cells.to_bytes(2, "big") + at.to_bytes(2, "big") + b"\0"
    head += child.to_bytes(4, "big") + at.to_bytes(2, "big") * cells
    return head.ljust(at, b"\0") + cell


def test_a_page_that_is_handed_out_again_and_again_has_an_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A made-up tree in which each page stands 84 times has millions of rows in some kilobytes."""
    path = tmp_path / "runs.db"
    changed(path, "PRAGMA page_size = 512", f"CREATE TABLE {TABLE} (record_id)")
    changed(
        path,
        f"WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300) "
        f"INSERT INTO {TABLE} SELECT x FROM n",
    )
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master").fetchone()
    content = path.read_bytes()
    pages = [content[at : at + 512] for at in range(0, len(content), 512)]
    leaf, *inner = [number for number, page in enumerate(pages, 1) if page[0] == 13 and number > 1]
    for page, child in zip((root, *inner[:3]), (*inner[:3], leaf), strict=True):
        pages[page - 1] = inner_page(child)
    path.write_bytes(b"".join(pages))
    rows = sum(1 for _ in sqlite_rows(path))

    assert "more rows than its length allows" in caplog.text
    assert rows <= 1001 + len(content) // 4


@pytest.mark.parametrize("name", ["a?b#c%20d.db", "mode=rwc&x.db", "ü ö.db", "%2e%2e.sqlite"])
def test_a_name_is_a_name(tmp_path: Path, name: str) -> None:
    """What a URI would take for a query or an escape is a part of the name."""
    path = written(tmp_path / name, 1)
    assert read(path) == ([a_record(0).record_id], 0)
    assert {one.name.removesuffix("-wal").removesuffix("-shm") for one in tmp_path.iterdir()} == {
        name
    }


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """Not even a trigger or the file's last page."""
    path = written(tmp_path / "runs.db")
    before = path.read_bytes()
    read(path)
    assert path.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Opening a pipe would wait for a writer for ever."""
    make(tmp_path / "runs.db")
    code = (
        "import sys; from carbontrack.report.read import iter_records; "
        "list(iter_records(sys.argv[1]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "runs.db"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60.0,
    )
    assert "it is not a regular file" in ran.stderr


def test_a_trigger_that_never_ends_does_not_hold_a_writer(tmp_path: Path) -> None:
    """Writing a row is given up after a while, and the row waits as beside a full disk."""
    path = written(tmp_path / "runs.db", 1)
    changed(
        path,
        "CREATE TABLE numbers (x)",
        f"CREATE TRIGGER endless AFTER INSERT ON {TABLE} "
        f"BEGIN INSERT INTO numbers SELECT max(x) FROM ({FOREVER}); END",
    )
    sink = SqliteSink(path, write_limit_s=0.01)
    sink.write(a_record(1))

    assert sink.pending_ids == (a_record(1).record_id,)
    changed(path, "DROP TRIGGER endless")
    sink.close()
    assert [record.record_id for record in iter_records(path)] == [
        a_record(number).record_id for number in range(2)
    ]
