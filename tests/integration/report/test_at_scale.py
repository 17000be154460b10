"""Reports that DuckDB reads: the same answers in bounded memory, and nothing of it elsewhere."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from benchmarks.large_reports import write_folder
from carbontrack.cli import main
from carbontrack.errors import ConfigError
from carbontrack.record import Record
from carbontrack.report.frame import IDS, NUMBERS, TEXTS, TIMES
from carbontrack.report.postgres import address_of
from carbontrack.report.read import iter_records, read_records
from carbontrack.report.scale.choice import are_distinct, chosen
from carbontrack.report.scale.engine import EngineLimits
from carbontrack.report.scale.sums import summed
from carbontrack.report.sources import sources_of
from carbontrack.sinks.csv_file import HEADER, record_line
from carbontrack.sinks.jsonl import JsonlSink, record_object
from carbontrack.store.factory import open_store
from carbontrack.store.rows import StoredRow, stored_row
from tests.support.many_records import (
    as_csv,
    as_parquet,
    as_typed_parquet,
    assert_same,
    by_pandas,
    lists_of_records,
)
from tests.support.records import HOSTILE, a_record

pytest.importorskip("duckdb", reason="needs the extra scale")

PEAK = """
import resource, sys
from carbontrack.report.scale.engine import EngineLimits
from carbontrack.report.scale.sums import summed
from carbontrack.report.sources import sources_of
limits = EngineLimits(memory_mb=64, batch_rows=1 << 14)
found = summed(sources_of(sys.argv[1:]), "name", limits=limits)
print(found.records, found.repeated, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
class Without(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("duckdb", "pyarrow"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
from carbontrack.cli import main
sys.exit(main(sys.argv[1:]))
"""
LOADED = """
import sys
from carbontrack.cli import main
code = main(sys.argv[1:])
heavy = {"duckdb", "pyarrow", "psycopg"} & {name.partition(".")[0] for name in sys.modules}
print(sorted(heavy), file=sys.stderr)
"""


def reported(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["report", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def run_in(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def damaged(path: Path) -> Path:
    """Torn, quoted, apostrophed and concatenated rows, and lines that are none."""
    rows = [record_line(a_record(n, name=name).to_row()) for n, name in enumerate(HOSTILE * 3)]
    torn = record_line(a_record(9001, name='has a "quote, and').to_row())[:90] + b"\n"
    whole = HEADER + b"".join(rows)
    late = record_line(a_record(9002, started_at="24.11.2026 03:00").to_row())
    wrong = record_line(a_record(9003).to_row()).replace(b"1.5,", b"long,")
    lines = (torn, b"garbage\n", whole, b'"\n', late, wrong, b"," * 90 + b"\n", rows[0], b"1,last")
    path.write_bytes(b"\xef\xbb\xbf" + whole + b"".join(lines))
    return path


def test_damaged_lines_are_skipped_and_counted_as_ever(tmp_path: Path) -> None:
    """The same lines hold a record, the texts are the same, and the first reason is told."""
    path = damaged(tmp_path / "runs.csv")
    expected = by_pandas(path, "name")
    found = summed([path], "name")

    assert expected.skipped_lines > 5
    assert (found.skipped_lines, found.reason) == (expected.skipped_lines, expected.reason)
    assert_same(found, expected, "name")


def test_lone_surrogates_of_json_are_the_escapes_of_csv(tmp_path: Path) -> None:
    """Parquet holds none, and a report of any size prints the same."""
    path = tmp_path / "runs.jsonl"
    sink = JsonlSink(path)
    sink.write(a_record(1, name="a\udcffb"))
    sink.close()
    assert [total.key for total in summed([path], "name").sums.totals("name")] == [r"a\udcffb"]


def test_rows_of_codecarbon_are_added_up_too(tmp_path: Path) -> None:
    """Its files are taken among ours."""
    head = "timestamp,project_name,run_id,duration,emissions,energy_consumed,country_iso_code\n"
    text = "2026-03-01T10:00:00,theirs,abc,3600,0.05,1.5,FRA\n"
    (tmp_path / "emissions.csv").write_text(head + text)
    as_typed_parquet(tmp_path, [a_record(1)])
    found = summed(sources_of([tmp_path]), "name")
    assert {total.key for total in found.sums.totals("name")} == {"theirs", "train"}


def test_a_circle_of_parents_leaves_no_row_out(tmp_path: Path) -> None:
    """Rows that hold each other count; what hangs on them stays inside."""

    def row(number: int, parent: int) -> Record:
        own = {"record_id": f"run-{number}:1", "run_id": f"run-{number}", "energy_kwh": 1.0}
        return a_record(**own, parent_id=f"run-{parent}:1", parent_holds=True)

    rows = [row(1, 1), row(3, 4), row(4, 5), row(5, 3), row(6, 5), row(7, 6)]
    for limits in (EngineLimits(), EngineLimits(memory_mb=64, batch_rows=1)):
        found = summed([as_typed_parquet(tmp_path, rows)], "name", limits=limits)
        assert (found.records, found.not_added.nested) == (4, 2)
        assert_same(found, by_pandas(as_csv(tmp_path, rows), "name"), "name")


def test_what_is_no_parquet_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that was cut off counts as a line without a record, and the log names it."""
    good = as_parquet(tmp_path, [a_record(1)])
    (tmp_path / "torn.parquet").write_bytes(good.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        found = summed(sources_of([tmp_path]), "name")
    assert (found.records, found.skipped_lines) == (1, 1)
    assert "torn.parquet" in caplog.text


def test_a_column_of_another_kind_is_an_error(tmp_path: Path) -> None:
    """Texts where numbers belong are not taken for unknown."""
    import pyarrow.parquet as pq

    path = as_typed_parquet(tmp_path, [a_record(1)])
    table = pq.read_table(path)
    place = table.schema.get_field_index("energy_kwh")
    pq.write_table(table.set_column(place, "energy_kwh", [["a lot"]]), path)
    with pytest.raises(ConfigError, match="energy_kwh"):
        summed([path], "name")


def test_names_of_files_are_no_patterns(tmp_path: Path) -> None:
    """A folder may be called as a pattern, or with a quote in it."""
    folder = tmp_path / "a[b]*?'c"
    folder.mkdir()
    as_typed_parquet(folder, [a_record(1)])
    assert summed(sources_of([folder]), "name").records == 1


def test_the_command_says_how_it_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parquet by DuckDB, a small file by pandas, with equal figures."""
    rows = [a_record(1), a_record(2, name="test")]
    parquet, text = as_typed_parquet(tmp_path, rows), as_csv(tmp_path, rows)
    assert main(["report", str(parquet), "--verbose"]) == 0
    assert "reads with DuckDB" in capsys.readouterr().err
    assert main(["report", str(text), "--verbose"]) == 0
    assert "reads with pandas" in capsys.readouterr().err
    assert main(["report", str(parquet), "--by", "job", "--verbose"]) == 0
    assert "reads with pandas: more than sums" in capsys.readouterr().err
    found, expected = (reported(capsys, str(path)) for path in (parquet, text))
    assert {**found, "sources": None} == {**expected, "sources": None}


def test_large_files_and_whole_rows_decide(tmp_path: Path) -> None:
    """A large CSV goes to DuckDB, and what needs each record in memory to pandas."""
    path = as_csv(tmp_path, [a_record(1)])
    assert not chosen([path]).with_duckdb
    assert chosen([path], large_bytes=10).with_duckdb
    assert not chosen([path], large_bytes=10, whole_rows=True).with_duckdb


def test_a_page_and_frames_are_made_of_parquet_too(tmp_path: Path) -> None:
    """`read_records` and `iter_records` give the records that were written."""
    rows = [a_record(1), a_record(2, name="=1+1", gpu_kwh=0.25, parent_holds=True, labels={})]
    path = as_typed_parquet(tmp_path, rows)
    assert list(iter_records(path)) == rows
    frame = read_records(path)
    assert frame.equals(read_records(as_csv(tmp_path, rows)))
    page = tmp_path / "page.html"
    assert main(["report", str(path), "--html", str(page)]) == 0
    assert page.stat().st_size > 0


def test_an_archive_alone_needs_no_look_for_repeats(tmp_path: Path) -> None:
    """Drafts in it are never read; beside another file each record counts once all the same."""
    archive = tmp_path / "archive"
    for name in ("month=2026-11", ".compacting"):
        (archive / name).mkdir(parents=True)
        written = as_typed_parquet(archive / name, [a_record(1), a_record(2)])
        written.rename(archive / name / "records.parquet")
    (archive / "carbontrack-archive.json").write_text('{"format": "carbontrack-archive"}')
    found = sources_of([archive])
    assert [source.parent.name for source in found if isinstance(source, Path)] == ["month=2026-11"]
    assert are_distinct([archive], found)
    more = as_csv(tmp_path, [a_record(2), a_record(3)])
    both = [archive, more]
    assert not are_distinct(both, sources_of(both))
    assert summed(sources_of(both), "name").records == 3


def test_without_the_extra_small_files_are_read_and_parquet_names_it(tmp_path: Path) -> None:
    """What is missing, and how to get it, is said; nothing else needs it."""
    rows = [a_record(1)]
    assert run_in(WITHOUT, "report", str(as_csv(tmp_path, rows))).returncode == 0
    done = run_in(WITHOUT, "report", str(as_typed_parquet(tmp_path, rows)))
    assert done.returncode != 0
    assert 'pip install "carbontrack[scale]"' in done.stderr


def test_a_small_report_loads_no_part_of_the_extra(tmp_path: Path) -> None:
    """pandas would load pyarrow by itself, so what loads it is looked at without it."""
    done = run_in(LOADED, "report", str(as_csv(tmp_path, [a_record(1)])))
    assert "duckdb" not in done.stderr
    assert "psycopg" not in done.stderr
    done = run_in(LOADED, "regions", "FR")
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.xdist_group("serial")
def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    """Three times the records take far less than a frame of them would."""
    peaks = {}
    for rows in (100_000, 300_000):
        folder = write_folder(tmp_path / str(rows), rows, 50_000)
        done = run_in(PEAK, str(folder))
        records, repeated, peaks[rows] = map(int, done.stdout.split())
        assert repeated == rows // 100
        assert 0.9 * rows < records < rows
    grown_bytes = (peaks[300_000] - peaks[100_000]) / 200_000
    columns = len({*IDS, *TIMES, *TEXTS, *NUMBERS, "parent_holds"})
    print(f"\n{grown_bytes:.0f} bytes a row for {columns} columns")
    assert grown_bytes <= 0.4 * 8 * columns


# -- PostgreSQL --------------------------------------------------------------------------------


def storable(rows: list[Record]) -> list[StoredRow]:
    """Those that a store takes."""
    found = []
    for row in rows:
        try:
            found.append(stored_row(record_object(row)))
        except ValueError:
            continue
    return found


@pytest.mark.xdist_group("postgres")
@settings(max_examples=4, deadline=None)
@given(rows=lists_of_records())
def test_a_database_is_reported_as_its_rows_are(postgres: Any, rows: list[Record]) -> None:
    """PostgreSQL's rows, written as JSON lines and read by pandas, have the same sums."""
    url = postgres.new_schema()
    store = open_store(url)
    store.add("team", storable([*rows, a_record(1, name="'=1+1", labels={"model": "'a"})]))
    kept = list(store.rows("team"))
    store.close()
    path = postgres.folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    for by in ("name", "label:model"):
        found = summed([address_of(url)], by, distinct=True)
        assert_same(found, by_pandas(path, by), by)


@pytest.mark.xdist_group("postgres")
def test_projects_keep_their_records_apart(
    postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One id in two projects is two records; a project can be asked for by its name."""
    store = open_store(postgres_url)
    parent = a_record(1, run_id="a", record_id="a:1", energy_kwh=4.0)
    child = replace(parent, record_id="a:2", parent_id="a:1", parent_holds=True, run_id="b")
    store.add("ours", storable([parent, child]))
    store.add("theirs", storable([replace(parent, energy_kwh=1.0)]))
    store.close()
    every = reported(capsys, postgres_url)
    assert (every["total"]["energy_kwh"], every["total"]["runs"], every["nested"]) == (5.0, 2, 1)
    theirs = reported(capsys, f"{postgres_url}&project=theirs")
    assert theirs["total"]["energy_kwh"] == 1.0


@pytest.mark.xdist_group("postgres")
def test_a_password_is_never_shown(postgres: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither as a source nor in an error."""
    url = postgres.new_schema().replace("postgres@", "postgres:se-cret@")
    assert main(["report", url]) != 0
    said = capsys.readouterr()
    assert "no table 'records'" in said.err
    open_store(url).close()
    assert main(["report", url]) != 0
    lost = "postgresql://me:se-cret@127.0.0.1:1/nothing?connect_timeout=1"
    assert main(["report", lost]) != 0
    more = capsys.readouterr()
    assert "cannot read the records in postgresql://127.0.0.1:1/nothing" in more.err
    assert "se-cret" not in said.err + said.out + more.err + more.out
