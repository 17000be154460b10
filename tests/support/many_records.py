"""Records with everything that a sum looks at, in each format that a report reads."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from carbontrack.record import COLUMNS, NUMBER_COLUMNS, Record
from carbontrack.report.frame import Loaded, Summed, load
from carbontrack.report.totals import RecordSums
from carbontrack.sinks.csv_file import HEADER, record_line
from carbontrack.sinks.sqlite import TABLE
from tests.support.records import HOSTILE, a_record

KWH = st.none() | st.floats(0.0, 10.0).map(lambda kwh: round(kwh, 6))
BASIS = st.sampled_from(["measured", "modelled", "assumed", None, "of another kind"])
RUNS = ("run-a", "run-b", "run-c")
IDS = tuple(f"{run}:{number}" for run in RUNS for number in range(4))


def _time(second: int) -> str:
    begin = datetime(2026, 11, 24, 23, 59, tzinfo=timezone.utc)
    return (begin + timedelta(seconds=second)).isoformat().replace("+00:00", ".000Z")


@st.composite
def records(draw: Callable[..., Any]) -> Record:
    """A record that may repeat, hold, overlap or lack whatever it can."""
    record_id = draw(st.sampled_from(IDS))
    start_s = draw(st.integers(0, 90))
    energy_kwh, known = draw(KWH), draw(st.booleans())
    span = {"started_at": _time(start_s), "ended_at": _time(start_s + draw(st.integers(0, 60)))}
    if draw(st.integers(0, 9)) == 0:
        span["ended_at"] = "2026-11-24T23:99:99Z"
    facts = {
        "record_id": record_id,
        "run_id": record_id.partition(":")[0],
        "parent_id": draw(st.none() | st.sampled_from([*RUNS, *IDS, "elsewhere"])),
        "parent_holds": draw(st.sampled_from([None, True, False])),
        "name": draw(st.sampled_from(["train", "test", *HOSTILE[1:14]])),
        "labels": {"model": draw(st.sampled_from(["a", "b", 3, None]))},
        "status": draw(st.sampled_from(["ok", "ok", "recovered", "error"])),
        "calls": draw(st.none() | st.integers(0, 9)),
        "duration_s": draw(KWH),
        **{f"{part}_kwh": draw(KWH) for part in ("cpu", "gpu", "ram", "other")},
        "energy_kwh": energy_kwh,
        "energy_low_kwh": energy_kwh * 0.7 if known and energy_kwh is not None else None,
        "energy_high_kwh": energy_kwh * 1.9 if known and energy_kwh is not None else None,
        "emissions_g": draw(KWH),
        "water_l": draw(KWH),
        "embodied_g": draw(KWH),
        "abiotic_kg_sb": draw(KWH),
        "market_emissions_g": draw(KWH),
        "region": draw(st.sampled_from(["FR", "DE", None])),
        "intensity_g_per_kwh": draw(st.sampled_from([56.0, 400.0, None])),
        "intensity_low_g_per_kwh": draw(st.sampled_from([50.0, 300.0, None])),
        "intensity_high_g_per_kwh": draw(st.sampled_from([60.0, 500.0, None])),
        **{name: draw(BASIS) for name in ("basis", "cpu_basis", "gpu_basis", "ram_basis")},
        "faults": draw(st.sampled_from([None, "gpu_unmeasured:1", "zones_closed:2;x:1"])),
        "scope": draw(st.sampled_from(["machine", "machine", "process", None])),
        "cpu_model": draw(st.sampled_from(["EPYC", "Xeon", None])),
        "gpu_models": draw(st.sampled_from([None, "NVIDIA A100-SXM4-80GB", "a card"])),
        "host_id": draw(st.sampled_from(["here", "here", "there", None])),
    }
    return a_record(**(facts | span))


def lists_of_records(least: int = 8, most: int = 24) -> st.SearchStrategy[list[Record]]:
    return st.lists(records(), min_size=least, max_size=most)


def as_csv(folder: Path, rows: Sequence[Record]) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(HEADER + b"".join(record_line(row.to_row()) for row in rows))
    return path


def as_json_lines(folder: Path, rows: Sequence[Record]) -> Path:
    path = folder / "rows.jsonl"
    cells = ({**row.to_row(), "labels": dict(row.labels)} for row in rows)
    path.write_text("".join(json.dumps(one) + "\n" for one in cells), encoding="utf-8")
    return path


def as_sqlite(folder: Path, rows: Sequence[Record]) -> Path:
    path = folder / "rows.db"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE {TABLE} ({', '.join(COLUMNS)})")
        marks = ", ".join("?" * len(COLUMNS))
        cells = [tuple(row.to_row().values()) for row in rows]
        connection.executemany(f"INSERT INTO {TABLE} VALUES ({marks})", cells)
    connection.close()
    return path


def as_parquet(folder: Path, rows: Sequence[Record]) -> Path:
    """Texts as they are, also of times, as a frame that was saved may have them."""
    return _parquet(folder / "rows.parquet", rows, typed=False)


def as_typed_parquet(folder: Path, rows: Sequence[Record]) -> Path:
    """Times as times, as an archive has them."""
    return _parquet(folder / "typed.parquet", rows, typed=True)


FORMATS = (as_csv, as_json_lines, as_sqlite, as_parquet, as_typed_parquet)


def _parquet(path: Path, rows: Sequence[Record], *, typed: bool) -> Path:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for name in COLUMNS:
        cells: Any = [row.to_row()[name] for row in rows]
        kind = pa.string()
        if name == "parent_holds":
            kind = pa.bool_()
        elif name in NUMBER_COLUMNS:
            kind = pa.float64() if name.endswith(("_kwh", "_g", "_s", "_sb")) else None
            cells = cells if kind is None else [None if x is None else float(x) for x in cells]
        elif typed and name in ("started_at", "ended_at"):
            cells = pd.to_datetime(cells, utc=True, errors="coerce", format="ISO8601")
            kind = pa.timestamp("us", tz="UTC")
        columns[name] = pa.array(cells, kind, from_pandas=True)
    pq.write_table(pa.table(columns), path)
    return path


def in_memory(loaded: Loaded, by: str) -> Summed:
    """The sums of what pandas has read: what others must agree with."""
    sums = RecordSums(by)
    sums.add(loaded.frame)
    left_out = loaded.skipped_lines, loaded.repeated, loaded.not_added, loaded.reason
    return Summed(sums, len(loaded.frame), *left_out)


def by_pandas(path: Path, by: str) -> Summed:
    """The sums of a file as a small one is read."""
    return in_memory(load([path], extra=("labels",)), by)


def assert_same(found: Summed, expected: Summed, by: str) -> None:
    """Equal in what was left out, and to 1e-12 in each figure of each group."""
    assert (found.records, found.repeated) == (expected.records, expected.repeated)
    _assert_close(asdict(found.not_added), asdict(expected.not_added))
    if not expected.records:
        return
    assert found.sums.modelled_on() == expected.sums.modelled_on()
    assert found.sums.uncounted() == expected.sums.uncounted()
    for way in (None, by):
        ours, theirs = (
            {total.key: total.to_dict() for total in one.sums.totals(way)}
            for one in (found, expected)
        )
        assert ours.keys() == theirs.keys()
        for key, total in ours.items():
            _assert_close(total, theirs[key])


def _assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, figure in found.items():
        other = expected[name]
        if isinstance(figure, float) and isinstance(other, float):
            assert math.isclose(figure, other, rel_tol=1e-12, abs_tol=1e-15), name
        else:
            assert figure == other, name
