"""The lean frame of reports: every record once, roots only, whatever state the files are in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.record import Record
from carbontrack.report.frame import load
from carbontrack.report.read import CsvBlocks, iter_records
from carbontrack.report.totals import keys_of
from carbontrack.sinks.csv_file import HEADER, record_line
from carbontrack.sinks.factory import sink_for
from carbontrack.sinks.jsonl import json_line, record_object
from tests.support.records import HOSTILE, a_record


def lines_of(records: Sequence[Record]) -> bytes:
    return b"".join(record_line(record.to_row()) for record in records)


def written(path: Path, records: Sequence[Record]) -> Path:
    path.write_bytes(HEADER + lines_of(records))
    return path


def rows_by_blocks(path: Path, block_bytes: int) -> Iterator[tuple[str, str]]:
    with path.open("rb") as file:
        for block in CsvBlocks(file, ("record_id", "name", "energy_kwh"), block_bytes):
            if isinstance(block, list):
                yield from ((row["record_id"], row["name"]) for row in block if row)
            else:
                names = [name.removeprefix("'") for name in block["name"]]
                yield from zip(block["record_id"], names, strict=True)


@pytest.mark.parametrize("block_bytes", [1, 700, 5000, 1 << 20])
def test_blocks_hold_the_same_rows_as_the_careful_reader(tmp_path: Path, block_bytes: int) -> None:
    """Torn rows, hostile names and cells of several lines: in blocks or one by one, same rows."""
    records = [a_record(n, name=name) for n, name in enumerate(HOSTILE * 3)]
    whole = lines_of(records)
    torn = record_line(a_record(9001, name='has a "quote, and').to_row())[:90] + b"\n"
    short = record_line(a_record(9002).to_row()).rsplit(b",", 3)[0] + b"\n"
    path = tmp_path / "runs.csv"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER + whole + torn + whole + short + whole + b"1,last")
    careful = [(record.record_id, record.name) for record in iter_records(path)]
    assert len(careful) == 3 * len(records)
    assert sorted(rows_by_blocks(path, block_bytes)) == sorted(careful)


def test_a_header_in_the_middle_changes_the_columns(tmp_path: Path) -> None:
    """Files that were put together, with columns in another order, are read with their own."""
    path = written(tmp_path / "runs.csv", [a_record(1)])
    with path.open("ab") as file:
        file.write(b"record_id,run_id,name,started_at,ended_at,energy_kwh\n")
        file.write(b"x,y,older,2025-01-01T00:00:00Z,2025-01-01T00:00:01Z,2.5\n")
    frame = load([path]).frame
    assert dict(zip(frame["name"], frame["energy_kwh"], strict=True)) == {
        "train": 1.5e-05,
        "older": 2.5,
    }


def test_a_cell_that_is_no_number_costs_its_row_only(tmp_path: Path) -> None:
    """One invalid row is skipped and counted; the others of its block stay."""
    path = written(tmp_path / "runs.csv", [a_record(n) for n in range(5)])
    path.write_bytes(path.read_bytes().replace(b"1.5e-05", b"oops", 1))
    loaded = load([path])
    assert (len(loaded.frame), loaded.skipped_lines) == (4, 1)


def test_rows_inside_others_are_left_out(tmp_path: Path) -> None:
    """A child of a span, or of another process's run, is not counted beside its parent."""
    records = [
        a_record(1, run_id="run-a"),
        a_record(2, run_id="run-a", parent_id=a_record(1).record_id),
        a_record(3, run_id="run-b", parent_id="run-a"),
        a_record(4, run_id="run-c", parent_id="elsewhere"),
    ]
    loaded = load([written(tmp_path / "runs.csv", records)])
    assert (len(loaded.frame), loaded.nested) == (2, 2)


def test_a_repeated_record_counts_once_and_the_finished_one_wins(tmp_path: Path) -> None:
    """Deliveries are repeated, and checkpoints outlive their runs; neither is counted twice."""
    finished = a_record(1, energy_kwh=2.0)
    checkpoint = a_record(1, energy_kwh=1.0, status="recovered")
    lost = a_record(2, energy_kwh=0.5, status="recovered")
    for order in (
        [finished, checkpoint, lost, finished, lost],
        [lost, checkpoint, finished, finished, lost],
    ):
        loaded = load([written(tmp_path / "runs.csv", order)])
        assert sorted(loaded.frame["energy_kwh"]) == [0.5, 2.0]
        assert loaded.repeated == 3


def test_every_format_and_a_directory_of_them(tmp_path: Path) -> None:
    """CSV, JSON lines and SQLite lead to the same frame; a directory holds any of them."""
    records = [a_record(n, name=name) for n, name in enumerate(HOSTILE)]
    written(tmp_path / "one.csv", records)
    (tmp_path / "two.jsonl").write_bytes(
        b"".join(json_line(record_object(a_record(100 + n))) for n in range(3))
    )
    (tmp_path / "deeper").mkdir()
    sink = sink_for(str(tmp_path / "deeper" / "three.db"))
    sink.write(a_record(200))
    sink.close()
    (tmp_path / "notes.txt").write_text("not mine")
    assert len(load([tmp_path]).frame) == len(records) + 4


def test_labels_are_keys(tmp_path: Path) -> None:
    """A label's text is its key; other values are their JSON; records without it have none."""
    values = ["a", "=1+1", 3, True, None]
    records = [a_record(n, labels={"k": value}) for n, value in enumerate(values)]
    frame = load([written(tmp_path / "runs.csv", records)], extra=["labels"]).frame
    keys = [key if isinstance(key, str) else None for key in keys_of(frame, "label:k")]
    assert keys == ["a", "=1+1", "3", "true", None]


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A missing file, an unknown ending and an empty directory each have their own error."""
    with pytest.raises(FileNotFoundError):
        load([tmp_path / "none.csv"])
    with pytest.raises(ConfigError, match="known endings"):
        load([tmp_path / "runs.xlsx"])
    with pytest.raises(ConfigError, match="contains no file"):
        load([tmp_path])


def test_names_come_back_as_they_were(tmp_path: Path) -> None:
    """Hostile names, with leading quotes too, are the same after each format, torn or whole."""
    records = [a_record(n, name=name) for n, name in enumerate(HOSTILE)]
    whole = written(tmp_path / "whole.csv", [r for r in records if "\r" not in r.name])
    mixed = written(tmp_path / "mixed.csv", records)
    lines = tmp_path / "lines.jsonl"
    lines.write_bytes(b"".join(json_line(record_object(record)) for record in records))
    for path in (whole, mixed, lines):
        expected = [r.name for r in records if path is not whole or "\r" not in r.name]
        assert sorted(load([path]).frame["name"]) == sorted(expected)


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    """The last report of progress is all bytes of all files."""
    paths = [written(tmp_path / f"{n}.csv", [a_record(n)]) for n in range(3)]
    told: list[tuple[int, int]] = []
    load(paths, progress=lambda so_far, of: told.append((so_far, of)))
    size = sum(path.stat().st_size for path in paths)
    assert told[-1] == (size, size)
    assert json.dumps(told) == json.dumps(sorted(told))
