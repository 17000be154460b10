"""Files of Parquet as one relation of records, with the types that reports need.

Others than carbontrack write such files too, so each column is taken by its name and read as what
it should be, and one that a file lacks is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from carbontrack.errors import ConfigError
from carbontrack.record import NUMBER_COLUMNS, TRUTH_COLUMNS
from carbontrack.report.frame import IDS, TIMES
from carbontrack.report.nesting import MACHINE, UNKNOWN_MS
from carbontrack.report.scale.engine import Engine

RECORDS = "records"
"""The view of all rows that hold a record."""
_NUMERIC = frozenset(
    f"{sign}{kind}"
    for kind in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
    for sign in ("", "U")
) | {"FLOAT", "DOUBLE", "DECIMAL"}
_UNKNOWN = f"CAST({UNKNOWN_MS} AS BIGINT)"
_FILE_ROWS_BITS = 40
"""Rows of a file that have numbers of their own."""
_TIME = r"^\d{4}-\d\d-\d\d([T ]|$)"
_ROUNDED = r"^\d([.,]\d+)?E[+-]\d+$"


def make_view(
    engine: Engine, files: Sequence[Path], wanted: Sequence[str], since_ms: int | None = None
) -> int:
    """Make the view `records` of the files; how many rows hold no record.

    With `since_ms`, it has the rows that started then, in milliseconds since 1970, or later.

    Beside the wanted columns it has `seq`, which grows in the order of files and of their rows, and
    the columns that `scale.once` needs.

    Raises:
        ConfigError: a file cannot be read, or a column holds something else than it should.
    """
    source = (
        f"read_parquet([{', '.join(_quoted(_no_pattern(file)) for file in files)}], "
        "union_by_name = true, hive_partitioning = false)"
    )
    types = {name: kind for name, kind, *_ in engine.rows(f"DESCRIBE FROM {source}")}
    columns = {name: _column(name, types.get(name)) for name in (*IDS, *TIMES, *wanted)}
    cells = ", ".join(f"{sql} AS {name}" for name, sql in columns.items())
    seq = f"(file_index::BIGINT << {_FILE_ROWS_BITS}) + file_row_number AS seq"
    whole = _whole(types)
    engine.run(f"CREATE VIEW typed AS SELECT {seq}, {cells}, {whole} AS is_whole FROM {source}")
    since = "" if since_ms is None else f" AND started_at >= {since_ms}"
    engine.run(f"CREATE VIEW {RECORDS} AS SELECT *, {_RULE} FROM typed WHERE is_whole{since}")
    return int(engine.rows("SELECT count(*) FROM typed WHERE NOT is_whole")[0][0])


def _hashed(name: str) -> str:
    return f"CASE WHEN {name} IS NULL THEN 0::UBIGINT ELSE hash({name}) END"


_RULE = f"""
    {_hashed("record_id")} AS rid, {_hashed("run_id")} AS run, {_hashed("parent_id")} AS pid,
    CASE WHEN host_id IS NULL THEN -1::BIGINT ELSE (hash(host_id) >> 2)::BIGINT END AS host,
    coalesce(parent_holds, -1::TINYINT) AS holds,
    coalesce(started_at, {_UNKNOWN}) AS start_ms, coalesce(ended_at, {_UNKNOWN}) AS end_ms,
    coalesce(scope = '{MACHINE}', false) AS is_machine,
    coalesce(status = 'recovered', false) AS recovered,
    parent_id IS NOT NULL AND parent_id <> record_id AND parent_id <> run_id AS is_child
"""
"""What decides whether a row counts, as numbers; as in `nesting.Columns`."""


def _column(name: str, kind: str | None) -> str:
    """The SQL that reads a column of this type."""
    if kind is None or kind == '"NULL"':
        return f"CAST(NULL AS {_type_of(name)})"
    read: Callable[[str, str], str | None] = _text
    if name in NUMBER_COLUMNS:
        read = _number
    elif name in TRUTH_COLUMNS:
        read = _truth
    elif name in TIMES:
        read = _time
    sql = read(f'"{name}"', kind.split("(")[0])
    if sql is None:
        raise ConfigError(f"the column {name} of the Parquet files cannot contain {kind}")
    return sql


def _type_of(name: str) -> str:
    if name in NUMBER_COLUMNS:
        return "DOUBLE"
    return "TINYINT" if name in TRUTH_COLUMNS else "BIGINT" if name in TIMES else "VARCHAR"


def _number(cell: str, kind: str) -> str | None:
    return f"nullif(CAST({cell} AS DOUBLE), 'nan'::DOUBLE)" if kind in _NUMERIC else None


def _truth(cell: str, kind: str) -> str | None:
    if kind == "BOOLEAN" or kind in _NUMERIC:
        return f"CAST(CAST({cell} AS BOOLEAN) AS TINYINT)"
    text = f"lower(trim({cell}))"
    known = f"CASE WHEN {cell} <> '' THEN ({text} IN ('true', '1', '1.0'))::TINYINT END"
    return known if kind == "VARCHAR" else None


def _time(cell: str, kind: str) -> str | None:
    if kind in ("TIMESTAMP WITH TIME ZONE", "TIMESTAMP"):
        return f"epoch_ms({cell})"
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return f"epoch_ms(CAST({cell} AS TIMESTAMP))"
    return f"epoch_ms(TRY_CAST({cell} AS TIMESTAMPTZ))" if kind == "VARCHAR" else None


def _text(cell: str, kind: str) -> str | None:
    if kind.startswith(("STRUCT", "MAP", "JSON")) or kind.endswith("]"):
        return f"CAST(to_json({cell}) AS VARCHAR)"
    return None if kind == "BLOB" else f"nullif(CAST({cell} AS VARCHAR), '')"


def _whole(types: dict[str, str]) -> str:
    """Whether a row has ids and a start, and nothing that a spreadsheet has made useless."""
    conditions = ["record_id IS NOT NULL", "run_id IS NOT NULL"]
    texts = [name for name in (*IDS, *TIMES) if types.get(name) == "VARCHAR"]
    for name in texts:
        is_time = name in TIMES
        matches = f'regexp_matches("{name}", {_quoted(_TIME if is_time else _ROUNDED)})'
        conditions.append(f"coalesce({'' if is_time else 'NOT '}{matches}, true)")
    if types.get("started_at") in ("VARCHAR", None):
        conditions.append('"started_at" IS NOT NULL' if "started_at" in types else "false")
    return " AND ".join(f"({condition})" for condition in conditions)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _no_pattern(file: Path) -> str:
    """The path as a pattern that only this file has."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in str(file.absolute()))
