"""Any record survives CSV, whatever its text and numbers."""

from __future__ import annotations

import csv
import io
import sys

import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from carbontrack.record import COLUMNS, Record
from carbontrack.report.read import CsvRows, WholeCsvBlocks, _long_cells, records_in, text_lines
from carbontrack.report.typed import frame_of_records, joined
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import HOSTILE, a_record

UNWRITABLE = [chr(code) for code in range(0xD800, 0xE000)] + ["\0"]
text = st.text(st.characters(exclude_characters=UNWRITABLE), min_size=1, max_size=1000)
hostile = st.one_of(st.sampled_from(HOSTILE), st.text("=+-@'\t\r\n\",;x", min_size=1), text)
number = st.none() | st.floats(allow_nan=False, allow_infinity=False)
whole = st.none() | st.integers(-(2**53), 2**53)
records = st.builds(
    a_record,
    st.integers(0, 9),
    name=hostile,
    error=st.none() | hostile,
    cpu_model=st.none() | hostile,
    labels=st.dictionaries(text, st.none() | st.booleans() | st.integers() | hostile, max_size=3),
    energy_kwh=number,
    emissions_g=number,
    missed_reads=whole,
    pid=whole,
)


def read_back(content: bytes) -> list[Record | None]:
    rows = CsvRows(text_lines(io.BytesIO(content)))
    return [None if row is None else Record.from_row(row) for row in rows]


@given(st.lists(records, max_size=5))
@example([a_record(name="'=1"), a_record(name="''"), a_record(labels={"": "\n"})])
def test_records_come_back_equal(written: list[Record]) -> None:
    """Reading what was written gives the same records, with the same floats to the last bit."""
    content = HEADER + b"".join(record_line(record.to_row()) for record in written)

    assert read_back(content) == written


@pytest.mark.slow
@given(st.lists(records, max_size=5), st.sampled_from([1, 700, 1 << 20]))
@example([a_record(0, name="'=1"), a_record(1, pid=7), a_record(2, labels={"": "\n"})], 1 << 20)
def test_blocks_come_back_as_their_records(written: list[Record], block_bytes: int) -> None:
    """The fast way makes the columns that records make which are read one by one."""
    content = HEADER + b"".join(record_line(record.to_row()) for record in written)
    blocks = WholeCsvBlocks(io.BytesIO(content), COLUMNS, block_bytes)
    frames = [
        frame_of_records(list(records_in(block, pytest.fail))) if isinstance(block, list) else block
        for block in blocks
    ]

    pd.testing.assert_frame_equal(joined(frames), frame_of_records(written), check_exact=True)


@given(st.text('a",\r\n', min_size=1))
def test_long_rows_are_read_as_short_ones(row: str) -> None:
    """Rows too long for Python's reader are split by our own; on all others the two agree."""
    assume(row.strip("\r\n"))  # an empty line is told apart before
    try:
        rows = list(csv.reader([row], strict=True))
    except csv.Error:
        rows = []

    assert _long_cells(row) == (rows[0] if len(rows) == 1 else None)


@given(st.text(min_size=1), st.text())
def test_any_python_text_makes_a_readable_file(name: str, error: str) -> None:
    """Even NUL and lone surrogates leave UTF-8 text with one row in it."""
    content = HEADER + record_line(a_record(name=name, error=error, labels={name: error}).to_row())
    content.decode("utf-8")

    assert len(read_back(content)) == 1


@settings(max_examples=200)
@given(st.lists(records, min_size=1, max_size=3), st.data())
def test_a_row_cut_anywhere_costs_only_itself(written: list[Record], data: st.DataObject) -> None:
    """A torn row at any place leaves all other rows readable."""
    torn = record_line(data.draw(records).to_row())
    cut = data.draw(st.integers(1, len(torn) - 2))
    content = HEADER + torn[:cut] + b"\n" + b"".join(record_line(r.to_row()) for r in written)
    rows = CsvRows(text_lines(io.BytesIO(content)))
    ids = [row["record_id"] for row in rows if row is not None and row.get("carbontrack") == ""]

    assert ids[-len(written) :] == [record.record_id for record in written]


def test_the_reader_needs_no_recursion() -> None:
    """Ten thousand torn lines in a row are passed over one by one."""
    content = (
        HEADER + b'1,"torn\n' * (10 * sys.getrecursionlimit()) + record_line(a_record().to_row())
    )

    assert [row for row in read_back(content) if row] == [a_record()]
