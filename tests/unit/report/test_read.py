"""Reading records back: all good rows, in their types, whatever stands between them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from carbontrack.errors import ConfigError
from carbontrack.record import COLUMNS, Record
from carbontrack.report.frame import load
from carbontrack.report.read import LINE_LIMIT, iter_records, read_records
from carbontrack.report.typed import distinct, frame_of_records
from carbontrack.sinks.csv_file import HEADER, csv_line, record_line
from tests.support.records import HOSTILE, a_record


def lines(*records: Record) -> bytes:
    return b"".join(record_line(record.to_row()) for record in records)


def test_columns_have_their_types(tmp_path: Path) -> None:
    """Numbers are numbers, times are UTC times, labels dicts, and unknown is missing."""
    (tmp_path / "runs.csv").write_bytes(HEADER + lines(a_record(), a_record(1, pid=None)))
    frame = read_records(tmp_path / "runs.csv")

    assert tuple(frame.columns) == COLUMNS
    assert frame["energy_kwh"].dtype == "float64"
    assert frame["pid"].dtype == "Int64"
    assert frame["started_at"].dt.tz is not None
    assert frame["ended_at"][0] - frame["started_at"][0] == pd.Timedelta(seconds=1.5)
    assert frame["labels"][0] == {"fold": 3, "model": "ridge"}
    assert frame["ram_kwh"][0] == 0.1 + 0.2
    assert frame["gpu_kwh"].isna().all()
    assert pd.isna(frame["pid"][1])
    assert frame["parent_id"][0] is None
    assert frame.attrs["skipped_lines"] == 0


def test_an_empty_file_is_an_empty_frame_of_the_same_types(tmp_path: Path) -> None:
    """Code that sums a column works before the first run too."""
    (tmp_path / "runs.csv").touch()
    frame = read_records(tmp_path / "runs.csv")

    assert len(frame) == 0
    assert tuple(frame.columns) == COLUMNS
    assert frame["energy_kwh"].dtype == "float64"
    assert str(frame["started_at"].dtype).endswith("UTC]")
    assert frame["energy_kwh"].sum() == 0


def test_several_files_are_one_frame(tmp_path: Path) -> None:
    """Files are added in the order in which they are named."""
    for number in range(3):
        (tmp_path / f"{number}.csv").write_bytes(HEADER + lines(a_record(number)))
    frame = read_records(tmp_path / "2.csv", str(tmp_path / "0.csv"), tmp_path / "1.csv")

    assert list(frame["record_id"]) == ["run-7f3a:2", "run-7f3a:0", "run-7f3a:1"]


GARBAGE = [
    b"garbage\n",
    b"\x00\x01\xff\xfe\n",
    b'1,run-7f3a:9,run-7f3a,,"torn inside a cell\n',
    b'1,run-7f3a:9,run-7f3a,,"torn, after a line feed\nin the cell\n',
    b"1,run-7f3a:9\n",
    lines(a_record(9))[:-40] + b"\n",
    lines(a_record(9)).replace(b"1.5,", b"long,"),
    lines(a_record(9)).replace(b'{""fold"": 3', b"{"),
    b'"' * 7 + b"\n",
    b"," * 500 + b"\n",
    b"x" * (LINE_LIMIT + 10) + b"\n",
    b'"\n',
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_costs_only_itself(tmp_path: Path, garbage: bytes) -> None:
    """Whatever stands between two rows, both are read, and the rest is counted."""
    before, after = a_record(1), a_record(2, name="with\nlines", labels={})
    content = HEADER + lines(before) + garbage + lines(after, a_record(3, labels={}))
    (tmp_path / "runs.csv").write_bytes(content)
    skipped: list[str] = []
    read = list(iter_records(tmp_path / "runs.csv", on_skip=skipped.append))

    assert read == [before, after, a_record(3, labels={})]
    assert len(skipped) >= 1


@pytest.mark.parametrize(
    "text", ["x" * 150_000, 'two\nlines and "quotes", ' * 8_000, "," * 150_000]
)
def test_a_long_cell_is_read_by_both_readers(tmp_path: Path, text: str) -> None:
    """A configuration kept as a label may be longer than Python's limit for a cell, 128 KiB."""
    records = [a_record(1), a_record(2, labels={"config": text}), a_record(3)]
    (tmp_path / "runs.csv").write_bytes(HEADER + lines(*records))
    loaded = load([tmp_path / "runs.csv"])

    assert list(iter_records(tmp_path / "runs.csv")) == records
    assert (len(loaded.frame), loaded.skipped_lines) == (3, 0)


def test_garbage_in_a_tenth_of_the_lines(tmp_path: Path) -> None:
    """Of a file with garbage in every tenth place, every good row is read."""
    chance = random.Random(20261124)
    rows = [a_record(n, name=chance.choice(HOSTILE)) for n in range(1000)]
    pieces = [HEADER]
    for record in rows:
        pieces.append(lines(record))
        if chance.random() < 0.1:
            pieces.append(chance.choice(GARBAGE[:10]))
    (tmp_path / "runs.csv").write_bytes(b"".join(pieces))

    assert list(iter_records(tmp_path / "runs.csv")) == rows


def test_skipped_lines_are_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The frame knows how many lines held no record, and the log names the file."""
    (tmp_path / "runs.csv").write_bytes(HEADER + lines(a_record()) + b"x\ny\n")
    frame = read_records(tmp_path / "runs.csv")

    assert len(frame) == 1
    assert frame.attrs["skipped_lines"] == 2
    assert "runs.csv: passed over 2 lines" in caplog.text


def test_every_prefix_of_a_file_is_readable(tmp_path: Path) -> None:
    """Wherever a write was cut off, the rows before it are read and nothing raises."""
    rows = [a_record(1), a_record(2, name='a "b"\nc')]
    whole = HEADER + lines(*rows)
    place = tmp_path / "runs.csv"
    for size in range(0, len(whole) + 1, 7):
        place.write_bytes(whole[:size])
        read = list(iter_records(place))
        assert read[:1] == rows[: min(1, len(read))]
        assert len(read) <= 2


def test_columns_may_stand_in_another_order(tmp_path: Path) -> None:
    """The header, not the position, says what a cell is; columns not known are ignored."""
    row = a_record().to_row()
    names = [*reversed(COLUMNS), "note"]
    cells = ["" if row.get(name) is None else str(row[name]) for name in names]
    (tmp_path / "runs.csv").write_bytes(csv_line(names) + csv_line(cells))

    assert list(iter_records(tmp_path / "runs.csv")) == [a_record()]


def test_an_older_schema_is_read(tmp_path: Path) -> None:
    """Columns that a file lacks are unknown, not an error."""
    names = ["schema", "record_id", "run_id", "name", "started_at", "ended_at", "duration_s"]
    (tmp_path / "runs.csv").write_bytes(
        csv_line(names)
        + csv_line(["0", "a", "b", "train", "2020-01-01T00:00:00Z", "", "3"])
        # the second row is complete
        + csv_line(["0", "c", "b", "train", "2020-01-01T00:00:00Z", "2020-01-01T00:00:03Z", "3"])
    )
    (record,) = iter_records(tmp_path / "runs.csv")

    assert (record.schema, record.record_id, record.energy_kwh) == (0, "c", None)


def test_files_put_behind_each_other_are_read_with_their_own_headers(tmp_path: Path) -> None:
    """`cat a.csv b.csv` makes a file that is read like the two."""
    names = ["record_id", "run_id", "name", "started_at", "ended_at", "duration_s"]
    other = csv_line(names) + csv_line(["c", "b", "old", "2020-01-01", "2020-01-01", "3"])
    (tmp_path / "runs.csv").write_bytes(HEADER + lines(a_record()) + other + HEADER)

    assert [r.name for r in iter_records(tmp_path / "runs.csv")] == ["train", "old"]


def names_of(*records: Record) -> list[tuple[str, str]]:
    """Names and statuses of what is left of the records."""
    left = distinct(frame_of_records(records))
    return list(zip(left["name"], left["status"], strict=True))


def test_a_repeated_delivery_counts_once() -> None:
    """A record that arrived twice is one; different records that share an id are both kept."""
    first, other = a_record(1, name="first"), a_record(1, name="other")
    second = a_record(2, name="second")

    assert names_of(first, second, first, other) == [
        ("first", "ok"),
        ("second", "ok"),
        ("other", "ok"),
    ]


def test_a_finished_run_replaces_its_checkpoint() -> None:
    """A recovered record gives way to the finished one, in either order, and stays without it."""
    checkpoint, finished = a_record(1, status="recovered"), a_record(1)

    assert names_of(checkpoint, finished) == [("train", "ok")]
    assert names_of(finished, checkpoint) == [("train", "ok")]
    assert names_of(checkpoint) == [("train", "recovered")]


@pytest.mark.parametrize(
    "damaged",
    [
        lambda text: text,
        lambda text: text.replace(b",", b";"),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text + b'torn, with a "\n' + text,
        lambda text: text.replace(b"run-7f3a:3,", b"7E+21,"),
        lambda text: text.replace(b"2026-11-24T03:00:00.000Z,2", b"24.11.2026,2", 1),
        lambda text: text.replace(b",0.00084,", b",much,", 2),
        lambda text: text.replace(b'""fold"": 3', b'""fold"": ,', 1),
        lambda text: text.replace(b",emissions_g,", b",emissions,"),
    ],
    ids=["none", "semicolons", "crlf", "torn", "rounded", "time", "number", "labels", "header"],
)
def test_a_block_is_read_as_its_rows_one_by_one(
    tmp_path: Path, damaged: Callable[[bytes], bytes]
) -> None:
    """What is read at once has the same cells, to the last bit, and the same lines are skipped."""
    path = tmp_path / "runs.csv"
    written = [a_record(n, ram_kwh=n / 7, pid=n or None, parent_holds=n < 3) for n in range(9)]
    path.write_bytes(damaged(HEADER + lines(*written)))
    skipped: list[str] = []
    one_by_one = distinct(frame_of_records(list(iter_records(path, on_skip=skipped.append))))
    frame = read_records(path)

    pd.testing.assert_frame_equal(pd.DataFrame(frame), one_by_one, check_exact=True)
    assert frame.attrs["skipped_lines"] == len(skipped)


def test_a_missing_file_and_an_unknown_ending_are_errors(tmp_path: Path) -> None:
    """Bad input is refused at once."""
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "absent.csv")
    with pytest.raises(ConfigError, match=r"\.csv"):
        read_records(tmp_path / "runs.xlsx")
    with pytest.raises(ConfigError, match="needs a file"):
        read_records()
