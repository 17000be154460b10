"""An archive of records: what is in it, what is added, and back to CSV."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.record import COLUMNS, SCHEMA
from carbontrack.report.archive.compact import compact, preview
from carbontrack.report.archive.layout import ALL_COLUMNS, archive_schema
from carbontrack.report.archive.restore import to_csv
from carbontrack.report.archive.sources import ArrowBlocks
from carbontrack.report.frame import load
from carbontrack.report.read import iter_records, read_records
from carbontrack.report.totals import totals
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.archives import cells_in, contents_of, files_in, rows_in, write_source
from tests.support.records import HOSTILE, a_record

GOLDEN = Path(__file__).parents[3] / "golden"
DECEMBER = {"started_at": "2026-12-01T00:00:00.000000Z", "ended_at": "2026-12-01T00:00:02.000000Z"}
LAYOUT = """\
schema int64, record_id string, run_id string, parent_id string, name string, labels string, \
status string, error string, started_at timestamp[us, tz=UTC], ended_at timestamp[us, tz=UTC], \
duration_s double, calls int64, cpu_kwh double, gpu_kwh double, ram_kwh double, other_kwh double, \
energy_kwh double, energy_low_kwh double, energy_high_kwh double, machine_kwh double, \
emissions_g double, emissions_low_g double, emissions_high_g double, water_l double, \
embodied_g double, region string, region_basis string, intensity_g_per_kwh double, \
intensity_low_g_per_kwh double, intensity_high_g_per_kwh double, intensity_source string, \
intensity_year int64, pue double, basis string, cpu_basis string, gpu_basis string, \
ram_basis string, meters string, coverage double, max_gap_s double, missed_reads int64, \
faults string, scope string, idle string, cpu_share double, cpu_model string, cpu_threads int64, \
cpu_tdp_w double, gpu_models string, gpu_count int64, ram_gib double, host_id string, pid int64, \
rank int64, world_size int64, cloud_provider string, cloud_region string, os string, \
python string, carbontrack string, parent_holds bool, job_id string, attempt int64, \
local_rank int64, task_id string, market_emissions_g double, abiotic_kg_sb double, nested bool, \
extra string"""


def archived(folder: Path, *records: object, ending: str = "csv") -> Path:
    """A new archive of some records."""
    source = write_source(folder / f"source.{ending}", records)  # type: ignore[arg-type]
    compact([source], folder / "archive")
    return folder / "archive"


def test_the_layout_is_that_of_the_page(tmp_path):
    """Names and types of the columns, folders and files are a contract with whoever reads them."""
    from pyarrow import parquet

    folder = archived(tmp_path, a_record(), a_record(1, **DECEMBER))
    assert [*contents_of(folder)] == [
        ".lock",
        "carbontrack-archive.json",
        "month=2026-11/records.parquet",
        "month=2026-12/records.parquet",
    ]
    file = parquet.ParquetFile(folder / "month=2026-11" / "records.parquet")
    assert ", ".join(f"{f.name} {f.type}" for f in file.schema_arrow) == LAYOUT
    assert file.schema_arrow.metadata[b"carbontrack.schema"] == str(SCHEMA).encode()
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.schema_arrow.equals(archive_schema(), check_metadata=True)


def test_a_row_has_the_types_of_its_columns_and_null_for_unknown(tmp_path):
    """Times are times, unknown is null, and labels are JSON."""
    (row,) = rows_in(archived(tmp_path, a_record()))
    assert row["started_at"] == datetime(2026, 11, 24, 3, tzinfo=timezone.utc)
    assert row["ram_kwh"] == 0.1 + 0.2
    assert row["gpu_kwh"] is None
    assert json.loads(row["labels"]) == {"fold": 3, "model": "ridge"}
    assert row["pid"] == 4242
    assert {row["month"]} == {"2026-11"}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "db"])
def test_a_round_trip_gives_the_rows_of_the_source(tmp_path, ending):
    """Whatever is in a record, of every format, is in the CSV that an archive becomes again."""
    records = [a_record(n, name=name, labels={name: n}) for n, name in enumerate(HOSTILE)]
    records += [
        a_record(
            100,
            schema=3,
            calls=None,
            pid=1 << (62 if ending == "db" else 70),
            ended_at="2026-11-24",
        ),
        a_record(101, started_at="2026-02-30T00:00:00Z", parent_holds=True, parent_id="else:1"),
        a_record(102, started_at="2026-11-30T23:30:00-05:00", labels={}, error="'=1+1"),
        a_record(
            103,
            cpu_kwh=float("inf"),
            gpu_kwh=-0.0,
            ram_kwh=5e-324,
            started_at="2026-11-24 03:00:00",
        ),
        a_record(104, name="\ud800 lone", labels={"\ud800": "\x00"}),
    ]
    source = write_source(tmp_path / f"source.{ending}", records)
    compact([source], tmp_path / "archive")
    to_csv([tmp_path / "archive"], tmp_path / "back.csv")
    # JSON can hold a lone surrogate, and CSV only its escape
    expected = cells_in(write_source(tmp_path / "expected.csv", iter_records(source)))
    assert len(expected) == len(records)
    assert cells_in(tmp_path / "back.csv") == expected


@pytest.mark.parametrize("version", [1, 2])
def test_older_files_are_read(tmp_path, version):
    """The columns that a schema had not are unknown."""
    source = GOLDEN / f"schema-{version}.csv"
    to_csv([source], tmp_path / "back.csv")
    assert cells_in(tmp_path / "back.csv") == cells_in(source)


def test_a_report_of_the_restored_rows_is_that_of_the_source(tmp_path):
    """Nested rows, machines measured twice, checkpoints and repetitions count as before."""
    by_hour = [f"2026-{m}-24T{h:02d}:00:00.000000Z" for m in (11, 12) for h in range(12)]
    records = [
        a_record(
            n,
            run_id=f"run-{n // 3}",
            parent_id=f"run-7f3a:{n - 1}" if n % 3 else None,
            parent_holds=(None, True, False)[n % 3],
            scope="machine" if n % 4 == 0 else "process",
            host_id=f"host-{n % 2}",
            started_at=by_hour[n % 20],
            ended_at=by_hour[n % 20 + 3],
            status="recovered" if n % 5 == 0 else "ok",
            cpu_basis=("measured", "modelled")[n % 2],
            basis=("measured", "modelled", "assumed")[n % 3],
            cpu_kwh=None if n % 7 == 0 else n / 7,
            energy_kwh=None if n % 11 == 0 else n / 3,
        )
        for n in range(60)
    ]
    source = write_source(tmp_path / "source.csv", [*records, *records[:9], a_record(5, calls=2)])
    compact([source], tmp_path / "archive")
    to_csv([tmp_path / "archive"], tmp_path / "back.csv")
    before, after = (load([path]) for path in (source, tmp_path / "back.csv"))
    assert (before.repeated, after.repeated) == (10, 0)
    assert before.not_added.nested > 0
    assert before.not_added.overlapping > 0
    for by in ("name", "host", "day"):
        for one, other in zip(totals(before.frame, by), totals(after.frame, by), strict=True):
            assert_same(asdict(one), asdict(other))
    assert_same(asdict(before.not_added), asdict(after.not_added))


def assert_same(one: dict, other: dict) -> None:
    """Texts and None are equal, and numbers to twelve digits."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = pytest.approx(other[name], rel=1e-12) if isinstance(value, float) else other[name]
        assert value == same, name


def test_columns_of_newer_versions_are_kept(tmp_path):
    """What this version does not know is in `extra`, from each format, and comes back."""
    row = a_record().to_row() | {"schema": 3, "noise_db": 41.5, "soul": "=1"}
    cells = ",".join("" if row[n] is None else str(row[n]) for n in COLUMNS if n != "labels")
    header = ",".join([*(n for n in COLUMNS if n != "labels"), "noise_db", "soul"])
    (tmp_path / "a.csv").write_text(f"{header}\n{cells},41.5,'=1\n")
    (tmp_path / "b.jsonl").write_text(json.dumps(row | {"record_id": "b", "labels": {}}) + "\n")
    sqlite = write_source(tmp_path / "c.db", [a_record(record_id="c")])
    with sqlite3.connect(sqlite) as connection:
        for name in ("soul", 'a "quoted" name'):
            connection.execute(f"""ALTER TABLE carbontrack_records ADD COLUMN '{name}' TEXT""")
        connection.execute("""UPDATE carbontrack_records SET soul = '=1', 'a "quoted" name' = 2""")
    connection.close()
    compact([tmp_path], tmp_path / "archive")
    found = {r["record_id"]: json.loads(r["extra"]) for r in rows_in(tmp_path / "archive")}
    times = {"started_at": "2026-11-24T03:00:00.000Z", "ended_at": "2026-11-24T03:00:01.500Z"}
    assert found == {
        a_record().record_id: {"noise_db": "41.5", "soul": "=1"} | times,
        "b": {"noise_db": 41.5, "soul": "=1"} | times,
        "c": {"soul": "=1", 'a "quoted" name': "2"} | times,
    }
    to_csv([tmp_path / "archive"], tmp_path / "back.csv")
    header = (tmp_path / "back.csv").read_text().splitlines()[0]
    assert header == HEADER.decode().rstrip() + ',"a ""quoted"" name",noise_db,soul'
    compact([tmp_path / "back.csv"], tmp_path / "again")
    assert [r["soul"] for r in map(json.loads, (r["extra"] for r in rows_in(tmp_path / "again")))]


@pytest.mark.parametrize("trouble", ["no such table", "damaged"])
def test_a_database_that_cannot_be_read_to_its_end_is_an_error(tmp_path, trouble):
    """Sources may be removed afterwards, so none is passed over; the archive is as it was."""
    folder = archived(tmp_path, a_record())
    before = contents_of(folder)
    rows = [a_record(number, error="x" * 4000) for number in range(100)]
    source = write_source(tmp_path / "runs.db", rows)
    if trouble == "damaged":
        content = source.read_bytes()
        source.write_bytes(content[: len(content) // 2].ljust(len(content), b"\xff"))
    else:
        with sqlite3.connect(source) as connection:
            connection.execute("ALTER TABLE carbontrack_records RENAME TO records")
        connection.close()
    with pytest.raises(ConfigError, match=r"cannot read .*runs\.db"):
        compact([source], folder)
    assert contents_of(folder) == before


def test_a_finished_record_replaces_its_checkpoint_in_a_later_run(tmp_path):
    """And a checkpoint that comes later replaces nothing."""
    checkpoint, finished = a_record(status="recovered", duration_s=1.0), a_record()
    folder = archived(tmp_path, checkpoint, a_record(1, **DECEMBER))
    found = compact([write_source(tmp_path / "later.csv", [finished])], folder)
    assert (found.added, found.replaced, found.unchanged) == (0, 1, 0)
    assert [m for m, month in found.months.items() if month.is_written] == ["2026-11"]
    found = compact([tmp_path / "source.csv"], folder)
    assert (found.added, found.replaced, found.unchanged) == (0, 0, 2)
    assert [row["status"] for row in rows_in(folder)] == ["ok", "ok"]


def test_a_record_that_moves_to_another_month_leaves_its_own(tmp_path):
    """A month without records has no file, and no folder."""
    folder = archived(tmp_path, a_record(status="recovered"))
    compact([write_source(tmp_path / "later.csv", [a_record(**DECEMBER)])], folder)
    assert [row["month"] for row in rows_in(folder)] == ["2026-12"]
    assert not (folder / "month=2026-11").exists()


def test_the_same_sources_again_change_no_file(tmp_path):
    """Not a byte, and no file is written anew."""
    folder = archived(tmp_path, *(a_record(n) for n in range(20)), a_record(99, **DECEMBER))
    before = files_in(folder)
    found = compact([tmp_path / "source.csv"], folder)
    assert (found.added, found.replaced, found.unchanged) == (0, 0, 21)
    assert files_in(folder) == before


def test_a_grown_source_changes_only_its_month(tmp_path):
    """What is new is added; the files of other months stay as they are."""
    folder = archived(tmp_path, a_record(), a_record(1, **DECEMBER))
    before = files_in(folder)
    with (tmp_path / "source.csv").open("ab") as file:
        file.write(record_line(a_record(2, **DECEMBER).to_row()))
    found = compact([tmp_path / "source.csv"], folder)
    assert (found.added, found.unchanged) == (1, 2)
    after = files_in(folder)
    november, december = (f"month=2026-{m}/records.parquet" for m in (11, 12))
    assert after[november] == before[november]
    assert after[december] != before[december]


def test_what_does_not_fit_into_memory_is_sorted_on_the_disk(tmp_path):
    """The files are the same, however little memory DuckDB may use."""
    line = record_line(a_record(77_777, status="recovered", **DECEMBER).to_row())
    rows = (line.replace(b"77777", b"%05d" % (n * 7919 % 15_000)) for n in range(20_000))
    (tmp_path / "source.csv").write_bytes(HEADER + b"".join(rows))
    # the last DuckDB for Python 3.10 holds some blocks of 256 KiB for each column
    memory = "32MB" if int(version("duckdb").partition(".")[0]) >= 2 else "80MB"
    spilled: list[Path] = []
    found = compact(
        [tmp_path / "source.csv"],
        tmp_path / "little",
        memory=memory,
        on_source=lambda _: spilled.extend(tmp_path.glob("**/spilled/*")),
    )
    assert spilled
    assert (found.added, found.repeated) == (15_000, 5_000)
    compact([tmp_path / "source.csv"], tmp_path / "much")
    assert contents_of(tmp_path / "little") == contents_of(tmp_path / "much")


def test_any_name_of_a_folder_will_do(tmp_path):
    """Signs of patterns and quotes in it stand for themselves."""
    folder = tmp_path / "it's [1] *? {a,b}"
    (tmp_path / "it's 1").mkdir()
    folder.mkdir()
    source = write_source(folder / "source.csv", [a_record()])
    archived(tmp_path / "it's 1", a_record(1))
    for added in (1, 0):
        assert compact([source], folder / "archive").added == added
    later = write_source(folder / "later.csv", [a_record(2)])
    assert compact([later], folder / "archive").records == 2


def test_a_row_says_what_is_known_of_its_parent(tmp_path):
    """True: a parent holds it. Null: nobody says. False: it stands for itself."""
    said = [
        (a_record(0), False),
        (a_record(1, parent_id="p", parent_holds=True), True),
        (a_record(2, parent_id="p", parent_holds=False), False),
        (a_record(3, parent_id="p"), None),
        (a_record(4, parent_id="run-7f3a", parent_holds=True), False),
        (a_record(5, parent_id="run-7f3a:5", parent_holds=True), False),
    ]
    rows = rows_in(archived(tmp_path, *(record for record, _ in said)))
    assert [(row["record_id"], row["nested"]) for row in rows] == [
        (record.record_id, nested) for record, nested in said
    ]
    assert [row["parent_id"] for row in rows] == [record.parent_id for record, _ in said]


def test_rows_without_a_time_have_a_month_of_their_own(tmp_path):
    """Their times are null, and their texts are kept."""
    (row,) = rows_in(archived(tmp_path, a_record(started_at="2026-13-01T00:00:00Z")))
    assert (row["month"], row["started_at"]) == ("unknown", None)
    assert json.loads(row["extra"])["started_at"] == "2026-13-01T00:00:00Z"


def damaged(folder: Path) -> Path:
    """A CSV file with rows that were cut off, quoted by halves, rounded, and of no type."""
    whole = [record_line(a_record(n, name=f"'{n}").to_row()) for n in range(9)]
    rounded = whole[0].replace(b"run-7f3a:0", b"1.2E+09")
    bad = whole[0].replace(b"run-7f3a:0", b"bad").replace(b"4242", b"no pid")
    lines = [HEADER, whole[0], whole[1][:70] + b"\n", whole[2], b'2,"open,quote\n', whole[3]]
    lines += [HEADER, whole[4], rounded, bad, b"\n", whole[5], whole[6][:200]]
    path = folder / "damaged.csv"
    path.write_bytes(b"".join(lines))
    return path


def test_lines_without_a_record_are_counted_as_ever(tmp_path, caplog):
    """As `read_records` counts them: cut off, open quotes, rounded ids, cells of no type."""
    source = damaged(tmp_path)
    found = compact([source], tmp_path / "archive")
    frame = read_records(source)
    assert found.skipped_lines == frame.attrs["skipped_lines"] == 5
    assert [row["name"] for row in rows_in(tmp_path / "archive")] == [*frame["name"]]


def test_codecarbons_rows_are_read(tmp_path):
    """As `carbontrack report` reads them."""
    (tmp_path / "emissions.csv").write_text(
        "timestamp,project_name,run_id,duration,emissions,energy_consumed,country_iso_code,region\n"
        "2026-11-24T03:00:00+00:00,a,r1,10,0.001,0.01,FRA,\n"
        "2026-11-24T03:00:10+00:00,a,r1,20,0.002,0.02,FRA,\n"
    )
    found = compact([tmp_path / "emissions.csv"], tmp_path / "archive")
    (row,) = rows_in(tmp_path / "archive")
    assert (found.repeated, row["energy_kwh"], row["region"]) == (1, 0.02, "FR")


def test_archives_and_folders_are_sources(tmp_path):
    """Two archives become one; of a folder that holds the target, only the rest is read."""
    folder = archived(tmp_path, a_record(), a_record(1))
    write_source(tmp_path / "more.jsonl", [a_record(2)])
    found = compact([tmp_path], folder)
    assert {source.path.name for source in found.sources} == {"source.csv", "more.jsonl"}
    compact([folder], tmp_path / "copy")
    assert contents_of(tmp_path / "copy") == contents_of(folder)


def test_an_intact_block_and_single_rows_lead_to_the_same_rows(tmp_path):
    """The fast way of CSV is the slow one, only faster."""
    records = [a_record(n, **DECEMBER, name=name) for n, name in enumerate(HOSTILE)]
    records += [a_record(n + 100, **DECEMBER, parent_holds=n % 2 == 0) for n in range(50)]
    source = write_source(tmp_path / "source.csv", records)
    with source.open("rb") as file:
        kinds = [type(block).__name__ for block in ArrowBlocks(file, COLUMNS, block_bytes=1 << 12)]
    assert {"Table", "list"} == {*kinds}
    compact([source], tmp_path / "fast")
    compact([write_source(tmp_path / "source.db", records)], tmp_path / "slow")
    assert contents_of(tmp_path / "fast") == contents_of(tmp_path / "slow")


def test_a_preview_writes_nothing(tmp_path):
    """It says what would change."""
    source = write_source(tmp_path / "source.csv", [a_record(), a_record(1)])
    found = preview([source], tmp_path / "archive")
    assert (found.added, found.records) == (2, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["source.csv"]


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    """Nothing is written among files that are not an archive's."""
    source = write_source(tmp_path / "source.csv", [a_record()])
    with pytest.raises(ConfigError, match="something other than a carbontrack archive"):
        compact([source], tmp_path)
    with pytest.raises(ConfigError, match="it is a file"):
        compact([source], source)
    with pytest.raises(ConfigError, match="there is no directory"):
        compact([source], tmp_path / "no" / "archive")
    assert [path.name for path in tmp_path.iterdir()] == ["source.csv"]


def test_a_csv_file_is_never_replaced(tmp_path):
    """The name is one for a new file."""
    folder = archived(tmp_path, a_record())
    with pytest.raises(ConfigError, match="it exists already"):
        to_csv([folder], tmp_path / "source.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "source.csv"]


def test_what_a_newer_version_has_written_is_refused(tmp_path):
    """Its columns would be lost; other Parquet files are no records."""
    import pyarrow as pa
    from pyarrow import parquet

    folder = archived(tmp_path, a_record())
    path = folder / "month=2026-11" / "records.parquet"
    table = parquet.read_table(path, partitioning=None)
    newer = {b"carbontrack.schema": str(SCHEMA + 1).encode()}
    parquet.write_table(table.replace_schema_metadata(newer), path)
    before = contents_of(folder)
    with pytest.raises(ConfigError, match="newer carbontrack"):
        compact([tmp_path / "source.csv"], folder)
    assert contents_of(folder) == before
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match="it was not written by carbontrack compact"):
        compact([tmp_path / "other.parquet"], tmp_path / "new")
    (tmp_path / "other.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ConfigError, match=r"other\.parquet"):
        compact([tmp_path / "other.parquet"], tmp_path / "new")


def test_a_month_of_an_older_version_is_read_and_written_anew(tmp_path):
    """The columns that it lacks are unknown."""
    from pyarrow import parquet

    folder = archived(tmp_path, a_record())
    path = folder / "month=2026-11" / "records.parquet"
    older = parquet.read_table(path, partitioning=None).drop_columns(["abiotic_kg_sb", "task_id"])
    parquet.write_table(older, path)
    to_csv([folder], tmp_path / "back.csv")
    assert cells_in(tmp_path / "back.csv") == cells_in(tmp_path / "source.csv")
    found = compact([write_source(tmp_path / "later.csv", [a_record(1)])], folder)
    assert (found.added, found.records) == (1, 2)
    assert parquet.ParquetFile(path).schema_arrow.names == [*ALL_COLUMNS]
