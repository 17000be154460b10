"""Files that a spreadsheet saved again: read as they were written, or a sentence says why not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from carbontrack.record import NUMBER_COLUMNS, TRUTH_COLUMNS, Record
from carbontrack.report.frame import HOW, load
from carbontrack.report.read import CsvBlocks, iter_records, read_records
from carbontrack.report.spreadsheet import as_utf8
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import HOSTILE, a_record

LOCALES: dict[str, dict[str, Any]] = {
    "semicolons": {"delimiter": ";"},
    "tabs": {"delimiter": "\t"},
    "quotes everywhere": {"quotes_all": True},
    "Windows lines": {"newline": "\r\n"},
    "a mark of UTF-8": {"encoding": "utf-8-sig"},
    "UTF-16": {"encoding": "utf-16"},
    "UTF-16, the other order": {"encoding": "utf-16-be", "mark": "\ufeff"},
    "decimal commas": {"decimal": ","},
    "LibreOffice": {
        "delimiter": ";",
        "decimal": ",",
        "quotes_all": True,
        "truth": ("WAHR", "FALSCH"),
    },
    "Excel, CSV": {
        "delimiter": ";",
        "decimal": ",",
        "newline": "\r\n",
        "encoding": "utf-8-sig",
        "truth": ("VRAI", "FAUX"),
    },
    "Excel, Unicode text": {
        "delimiter": "\t",
        "decimal": ",",
        "newline": "\r\n",
        "encoding": "utf-16-le",
        "mark": "\ufeff",
        "truth": ("TRUE", "FALSE"),
    },
}


def saved_again(
    source: Path,
    target: Path,
    *,
    delimiter: str = ",",
    decimal: str = ".",
    newline: str = "\n",
    encoding: str = "utf-8",
    mark: str = "",
    quotes_all: bool = False,
    truth: tuple[str, str] = ("true", "false"),
    trimmed: int = 0,
) -> Path:
    """Write a file's cells as a spreadsheet does, without the last `trimmed` of each row."""
    names, *rows = csv.reader(io.StringIO(source.read_bytes().decode(), newline=""))
    words = dict(zip(("true", "false"), truth, strict=True))
    lines = [names]
    for row in rows:
        cells = [
            cell.replace(".", decimal).replace("e", "E")
            if name in NUMBER_COLUMNS
            else words.get(cell, cell)
            if name in TRUTH_COLUMNS
            else cell
            for name, cell in zip(names, row, strict=True)
        ]
        assert not any(cells[len(cells) - trimmed :])
        lines.append(cells[: len(cells) - trimmed])
    special = {delimiter, '"', "\r", "\n"}
    text = mark
    for line in lines:
        written = (
            '"' + cell.replace('"', '""') + '"' if quotes_all or special & {*cell} else cell
            for cell in line
        )
        text += delimiter.join(written) + newline
    target.write_bytes(text.encode(encoding))
    return target


def written(path: Path, records: Sequence[Record]) -> Path:
    path.write_bytes(HEADER + b"".join(record_line(record.to_row()) for record in records))
    return path


def some_records() -> list[Record]:
    return [
        a_record(
            n,
            name=name,
            parent_id=f"run-7f3a:{n - 1}" if n % 3 else None,
            parent_holds=(None, True, False)[n % 3],
            emissions_g=None if n % 4 else 1234.5,
            carbontrack="1.0.0",
        )
        for n, name in enumerate(HOSTILE)
    ]


@pytest.mark.parametrize("locale", LOCALES)
def test_every_record_comes_back(tmp_path: Path, locale: str) -> None:
    """Separators, decimals, encodings, line ends and words of a country: equal records."""
    records = some_records()
    source = written(tmp_path / "runs.csv", records)
    target = saved_again(source, tmp_path / "again.csv", **LOCALES[locale])
    assert list(iter_records(target)) == records
    assert read_records(target).attrs["skipped_lines"] == 0
    ours, again = load([source], extra=HOW), load([target], extra=HOW)
    assert (again.skipped_lines, again.not_added) == (0, ours.not_added)
    assert sorted(again.frame["name"]) == sorted(ours.frame["name"])
    kinds = [name for name in ours.frame if ours.frame[name].dtype != "category"]
    pd.testing.assert_frame_equal(again.frame[kinds], ours.frame[kinds], check_exact=False)


def blocks(path: Path, block_bytes: int) -> Iterator[Any]:
    with path.open("rb") as file:
        yield from CsvBlocks(
            as_utf8(file), ("record_id", "duration_s", "parent_holds"), block_bytes
        )


@pytest.mark.parametrize("locale", [name for name in LOCALES if name != "quotes everywhere"])
def test_large_files_of_any_locale_are_read_in_blocks(tmp_path: Path, locale: str) -> None:
    """What is whole goes to pandas in blocks, also with semicolons and in UTF-16."""
    how = LOCALES[locale] | ({"truth": ("TRUE", "FALSE")} if "truth" in LOCALES[locale] else {})
    records = [a_record(n, parent_holds=bool(n % 2), carbontrack="1.0.0") for n in range(500)]
    target = saved_again(written(tmp_path / "runs.csv", records), tmp_path / "again.csv", **how)
    found = list(blocks(target, 1 << 16))
    frames = [block for block in found if not isinstance(block, list)]
    assert sum(map(len, frames)) == 500
    assert sum(frame["duration_s"].sum() for frame in frames) == 750.0
    ids = [one for frame in frames for one in frame["record_id"]]
    assert ids == [record.record_id for record in records]


@pytest.mark.parametrize("locale", ["Excel, CSV", "Excel, Unicode text", "Windows lines"])
def test_a_row_without_its_last_empty_cells_is_whole(tmp_path: Path, locale: str) -> None:
    """Excel leaves out separators where the last columns are empty for some rows."""
    records = [a_record(n, carbontrack="1.0.0") for n in range(3)]
    source = written(tmp_path / "runs.csv", records)
    target = saved_again(source, tmp_path / "again.csv", trimmed=7, **LOCALES[locale])
    assert list(iter_records(target)) == records
    torn = target.read_bytes()
    target.write_bytes(torn[: -len("\r\n".encode(LOCALES[locale].get("encoding", "utf-8")))])
    assert list(iter_records(target)) == records[:2]


def test_a_file_of_schema_1_with_quotes_everywhere_has_its_own_columns(tmp_path: Path) -> None:
    """A header in quotes names the columns for both readers."""
    names = ["record_id", "run_id", "name", "started_at", "ended_at", "energy_kwh"]
    row = ["a-1", "a", "old", "2025-01-01T00:00:00Z", "2025-01-01T00:00:01Z", "2,5"]
    text = "".join(";".join(f'"{cell}"' for cell in line) + "\n" for line in (names, row, row))
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    assert [record.energy_kwh for record in iter_records(path)] == [2.5, 2.5]
    assert load([path]).frame["energy_kwh"].tolist() == [2.5]


def test_a_stray_quote_in_a_header_costs_no_row(tmp_path: Path) -> None:
    """Lines are taken together for a quote that is not closed, but a header is one line."""
    records = [a_record(n) for n in range(3)]
    source = written(tmp_path / "runs.csv", records)
    target = saved_again(source, tmp_path / "again.csv", **LOCALES["LibreOffice"])
    target.write_bytes(target.read_bytes()[1:])
    assert list(iter_records(target)) == records
    assert len(load([target]).frame) == 3


def test_files_of_several_locales_behind_each_other(tmp_path: Path) -> None:
    """Each header says how the rows below it are written."""
    source = written(tmp_path / "runs.csv", [a_record(1)])
    other = written(tmp_path / "other.csv", [a_record(2)])
    target = saved_again(other, tmp_path / "again.csv", delimiter=";", decimal=",")
    target.write_bytes(source.read_bytes() + target.read_bytes() + source.read_bytes())
    assert list(iter_records(target)) == [a_record(1), a_record(2), a_record(1)]
    assert len(load([target]).frame) == 2


def test_a_file_that_was_opened_with_the_wrong_separator(tmp_path: Path) -> None:
    """Saved again where semicolons separate cells, each line is one or two quoted cells."""
    records = [a_record(n, name=name, labels={} if n else {"a;b": 1}) for n, name in names()]
    lines = written(tmp_path / "runs.csv", records).read_bytes().decode().split("\n")[:-1]
    cells = [line.split(";") for line in lines]
    most = max(map(len, cells))
    text = "".join(
        ";".join(
            '"' + cell.replace('"', '""') + '"' if '"' in cell else cell
            for cell in [*line, *[""] * (most - len(line))]
        )
        + "\r\n"
        for line in cells
    )
    target = tmp_path / "again.csv"
    target.write_bytes(text.encode())
    assert list(iter_records(target)) == records
    assert sorted(load([target]).frame["name"]) == sorted(record.name for record in records)


def names() -> Iterator[tuple[int, str]]:
    """Names in one line, as others are torn apart."""
    return enumerate(name for name in HOSTILE if not {*"\r\n"} & {*name})


DAMAGED = {
    "record_id": ("1,23457E+31", "rounded its record_id to 1,23457E"),
    "run_id": ("1.23457E+31", "rounded its run_id"),
    "parent_id": ("4E+12", "rounded its parent_id"),
    "started_at": ("24.11.2026 03:00", "its started_at is '24.11.2026 03:00', not as in 2026"),
    "ended_at": ("11/24/2026 3:00", "its ended_at is '11/24/2026 3:00'"),
    "duration_s": ("01. Mai", "column 'duration_s' cannot contain '01. Mai'"),
}


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("column", DAMAGED)
def test_what_cannot_be_undone_is_told(tmp_path: Path, column: str, delimiter: str) -> None:
    """Rounded ids and rewritten times cost their row, and one sentence says so."""
    cell, says = DAMAGED[column]
    row = a_record(2).to_row() | {column: cell}
    source = tmp_path / "runs.csv"
    whole = [record_line(one) for one in (a_record(1).to_row(), row, a_record(3).to_row())]
    source.write_bytes(HEADER + b"".join(whole))
    target = saved_again(source, tmp_path / "again.csv", delimiter=delimiter)
    if column == "duration_s":
        target.write_text(target.read_text().replace("01, Mai", cell))
    reasons: list[str] = []
    assert list(iter_records(target, on_skip=reasons.append)) == [a_record(1), a_record(3)]
    found = load([target])
    assert (len(found.frame), found.skipped_lines) == (2, 1)
    for reason in (reasons[0], found.reason):
        assert reason is not None
        assert says in reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", ["", "a;b;c\n1;2;3\n", "date\tkwh\n1\t2\n", "x" * 100, "\n\n"])
def test_a_file_of_someone_else_holds_no_record(tmp_path: Path, text: str, encoding: str) -> None:
    """A table that is not ours is no reason to guess."""
    path = tmp_path / "other.csv"
    path.write_text(text, encoding=encoding)
    found = load([path])
    assert (len(found.frame), found.reason) == (0, None)
    assert list(iter_records(path)) == []
