"""JSON that every parser takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carbontrack.record import COLUMNS, Record
from carbontrack.sinks.jsonl import json_line, record_object
from tests.support.records import HOSTILE, a_record


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def strictly(line: bytes) -> dict[str, object]:
    return json.loads(line.decode(), parse_constant=refuse)


@pytest.mark.parametrize("text", [*HOSTILE, "a\0b", "x\udcff"], ids=range(len(HOSTILE) + 2))
def test_any_text_is_one_line_and_comes_back(text: str) -> None:
    """Even NUL and lone surrogates survive, as escapes, in one line of UTF-8."""
    record = a_record(name=text, labels={text: text})
    line = json_line(record_object(record))

    assert line.count(b"\n") == 1
    assert Record.from_row(strictly(line)) == record


def test_every_column_is_there_and_unknown_is_null() -> None:
    """The keys are the columns in their order; None is null and labels are an object."""
    row = strictly(json_line(record_object(a_record(gpu_kwh=None))))

    assert tuple(row) == COLUMNS
    assert row["gpu_kwh"] is None
    assert row["labels"] == {"fold": 3, "model": "ridge"}


def test_what_json_lacks_is_null_or_text() -> None:
    """NaN and infinities are null at any depth; a path is its text."""
    nan, inf = float("nan"), float("inf")
    record = a_record(energy_kwh=nan, labels={"deep": [1.0, (nan, {"x": -inf})], "at": Path("/a")})
    row = strictly(json_line(record_object(record)))

    assert row["energy_kwh"] is None
    assert row["labels"] == {"deep": [1.0, [None, {"x": None}]], "at": "/a"}
