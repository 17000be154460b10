"""Rows on their way into an archive, in tables of DuckDB: sorted out there.

What does not fit into the memory that DuckDB may use is kept on the disk, so any number of
rows can be told apart by their ids, and sorted. Of several rows with one id the finished one stays
rather than its checkpoint, of these the one that ends last, and of these always the same one,
whatever the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.record import COLUMNS
from carbontrack.report.archive.layout import ALL_COLUMNS, FEATURE, TIMES, UNKNOWN, staged_schema
from carbontrack.report.scale.engine import import_duckdb

if TYPE_CHECKING:
    import pyarrow as pa

MEMORY = "512MB"
"""What DuckDB may use by default; the tables of a block of text come on top."""
_BATCH = 10_000
_NAMES = ", ".join(f'"{name}"' for name in (*COLUMNS, "extra"))
_CONTENT = f"hash({_NAMES})"
_MONTH = f"coalesce(strftime(make_timestamp(started_at), '%Y-%m'), '{UNKNOWN}')"
_FINISHED = "status IS DISTINCT FROM 'recovered'"
_BEST_FIRST = "finished DESC, ended_at DESC NULLS LAST, content DESC"
_NESTED = """CASE
    WHEN parent_id IS NULL OR parent_id IN (record_id, run_id) THEN false ELSE parent_holds
END"""
_NO_TIME = "(-9223372036854775808)::BIGINT"


class Staging:
    """Rows of sources, compared with those of an archive.

    First `add` all of the sources, then `keep_one_per_id`, then `compare` with the archive, then
    `drop_known`. What is left is new, or replaces a row of the archive.
    """

    def __init__(self, folder: Path, *, memory: str = MEMORY) -> None:
        self._connection = import_duckdb(FEATURE).connect(
            # tables that do not fit go to `temp_directory`; in the path of a database file, DuckDB
            # would take what is behind a "?" for options
            ":memory:",
            config={
                "memory_limit": memory,
                "temp_directory": str(folder / "spilled"),
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )
        empty = staged_schema().empty_table()
        self._connection.register("block", empty)
        self._run(f"CREATE TABLE staged AS {_STAGED} LIMIT 0")
        self._run(
            "CREATE TABLE known (record_id VARCHAR, month VARCHAR, finished BOOLEAN, "
            "ended_at BIGINT, content UBIGINT)"
        )

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def add(self, table: pa.Table) -> None:
        """Add the rows of a table with the columns of `staged_schema`."""
        self._connection.register("block", table)
        self._run(f"INSERT INTO staged {_STAGED}")
        self._connection.unregister("block")

    def keep_one_per_id(self) -> int:
        """Drop all rows of an id but one; how many were dropped."""
        self._run(
            "CREATE TABLE repeated AS SELECT record_id FROM staged "
            "GROUP BY record_id HAVING count(*) > 1"
        )
        return self._number(
            "DELETE FROM staged WHERE rowid IN (SELECT place FROM (SELECT rowid AS place, "  # noqa: S608
            f"row_number() OVER (PARTITION BY record_id ORDER BY {_BEST_FIRST}) AS nth "
            "FROM staged WHERE record_id IN (FROM repeated)) WHERE nth > 1)"
        )

    def compare(self, months: Mapping[str, Path]) -> None:
        """Note which rows of an archive have an id that is staged.

        Ids are looked up in all months; the other columns are read only where one is found.
        """
        if not months:
            return
        files = ", ".join(_file(path) for path in months.values())
        self._run(
            f"CREATE TABLE met AS SELECT record_id, filename FROM read_parquet([{files}], "  # noqa: S608
            "filename = true) WHERE record_id IN (SELECT record_id FROM staged)"
        )
        met = {name for (name,) in self._rows("SELECT DISTINCT filename FROM met")}
        for month, path in months.items():
            if str(path) in met:
                self._run(
                    f"INSERT INTO known SELECT record_id, {_text(month)}, {_FINISHED}, ended_at, "  # noqa: S608
                    f"{_CONTENT} FROM ({_rows_of(path)}) WHERE record_id IN "
                    f"(SELECT record_id FROM met WHERE filename = {_text(str(path))})"
                )

    def drop_known(self) -> int:
        """Drop what the archive has already, or has better; how many were dropped."""
        rank = "{0}.finished::INT, coalesce({0}.ended_at, " + _NO_TIME + "), {0}.content"
        better = f"row({rank.format('staged')}) > row({rank.format('known')})"
        dropped = self._number(
            "DELETE FROM staged WHERE rowid IN (SELECT staged.rowid FROM staged "  # noqa: S608
            f"JOIN known USING (record_id) WHERE NOT {better})"
        )
        self._run("DELETE FROM known WHERE record_id NOT IN (SELECT record_id FROM staged)")
        return dropped

    def changes(self) -> dict[str, tuple[int, int]]:
        """By month, how many rows come in, and how many of the archive's go."""
        found = self._rows(
            "SELECT month, sum(came)::BIGINT, sum(went)::BIGINT FROM ("
            "SELECT month, 1 AS came, 0 AS went FROM staged UNION ALL "
            "SELECT month, 0, 1 FROM known) GROUP BY month ORDER BY month"
        )
        return {month: (came, went) for month, came, went in found}

    def replaced(self) -> int:
        """How many rows of the archive are replaced."""
        return self._number("SELECT count(DISTINCT record_id) FROM known")

    def month(self, month: str, file: Path | None) -> Iterator[Any]:
        """The rows of a month as they will be, in order, in batches of Arrow."""
        names = ", ".join(f'"{name}"' for name in ALL_COLUMNS)
        staged = f"SELECT {names} FROM staged WHERE month = {_text(month)}"  # noqa: S608
        if file is not None:
            gone = f"SELECT record_id FROM known WHERE month = {_text(month)}"  # noqa: S608
            kept = f"SELECT {names} FROM ({_rows_of(file)}) WHERE record_id NOT IN ({gone})"  # noqa: S608
            staged = f"{kept} UNION ALL {staged}"
        ordered = f"FROM ({staged}) ORDER BY started_at NULLS LAST, record_id"
        yield from self._connection.sql(ordered).to_arrow_reader(_BATCH)

    def _run(self, query: str) -> None:
        self._rows(query)

    def _number(self, query: str) -> int:
        """The number that a query finds, or that of the rows that it changes."""
        return int(self._rows(query)[0][0])

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._connection.execute(query).fetchall()
        return found


_STAGED = (
    f"SELECT {_NAMES}, {_NESTED} AS nested, {_MONTH} AS month, {_FINISHED} AS finished, "  # noqa: S608
    f"{_CONTENT} AS content FROM block"
)


def _rows_of(file: Path) -> str:
    """A query of a month's file: times as microseconds, null for columns that it lacks."""
    from pyarrow import parquet

    present = {*parquet.read_schema(file).names}
    kinds = {field.name: field.type for field in staged_schema()}
    cells = []
    for name in ALL_COLUMNS:
        if name not in present:
            kind = _DUCK_TYPES.get(str(kinds.get(name)), "BOOLEAN")
            cells.append(f'NULL::{kind} AS "{name}"')
        elif name in TIMES:
            cells.append(f'epoch_us("{name}") AS "{name}"')
        else:
            cells.append(f'"{name}"')
    return f"SELECT {', '.join(cells)} FROM read_parquet({_file(file)})"  # noqa: S608


_DUCK_TYPES = {"int64": "BIGINT", "double": "DOUBLE", "string": "VARCHAR", "bool": "BOOLEAN"}


def _file(path: Path) -> str:
    """A file's name in a query, where signs of patterns stand for themselves."""
    return _text("".join(f"[{sign}]" if sign in "[*?" else sign for sign in str(path)))


def _text(content: str) -> str:
    return "'" + content.replace("'", "''") + "'"
