"""What a client may send, and what becomes of it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from carbontrack.record import COLUMNS, LABELS_LIMIT, NAME_LIMIT, Record
from carbontrack.sinks.jsonl import record_object
from carbontrack.store.rows import ID_LIMIT, KINDS, object_of, once_each, stored_row, time_text
from tests.support.records import HOSTILE, a_record
from tests.support.stores import a_row

SENT = record_object(a_record())


def stored(**changes: Any) -> dict[str, Any]:
    """What the store would give back of the record with these changes."""
    row = stored_row(SENT | changes)
    return object_of(dict(zip((*COLUMNS, "extra"), row.cells, strict=True)))


def test_a_record_is_kept_as_it_is():
    """Each column holds what was sent; times are in UTC with all digits."""
    times = {
        "started_at": "2026-11-24T03:00:00.000000Z",
        "ended_at": "2026-11-24T03:00:01.500000Z",
    }
    assert stored() == SENT | times
    assert Record.from_row(stored()) == Record.from_row(SENT | times)


def test_each_column_has_a_kind():
    """Every column of the record is stored, by the type that the record has."""
    assert tuple(KINDS) == COLUMNS
    numbers = {name for name, kind in KINDS.items() if kind == "number"}
    assert numbers == {name for name in numbers if "int" not in Record.__annotations__[name]}
    assert (KINDS["calls"], KINDS["energy_kwh"], KINDS["labels"]) == ("whole", "number", "json")
    assert (KINDS["parent_holds"], KINDS["started_at"], KINDS["name"]) == ("truth", "time", "text")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_come_back_unchanged(name: str):
    """Whatever letters a name has."""
    assert stored(name=name, labels={name: name})["name"] == name
    assert stored(name=name, labels={name: name})["labels"] == {name: name}


def test_what_no_engine_has_is_replaced():
    """U+0000 and halves of a surrogate pair are no text of PostgreSQL."""
    row = stored(name="a\0b\ud800", labels={"k\0": ["\0", "\udfff", {"deep": "ü\0"}]})
    assert row["name"] == "a\ufffdb\\ud800"
    assert row["labels"] == {"k\ufffd": ["\ufffd", "\\udfff", {"deep": "ü\ufffd"}]}


def test_a_label_that_spells_an_escape_is_no_such_letter():
    """A backslash and "u0000" are six letters."""
    assert stored(labels={"path": "C:\\u0000"})["labels"] == {"path": "C:\\u0000"}


def test_what_is_missing_is_unknown():
    """Only what a record must have is asked for; its defaults are those of a record."""
    least = {name: SENT[name] for name in ("record_id", "run_id", "name", "started_at", "ended_at")}
    cells = dict(zip(COLUMNS, stored_row(least).cells, strict=False))
    known = {name: cell for name, cell in cells.items() if cell is not None}
    assert known.keys() == {*least, "schema", "status", "calls", "labels"}
    assert (cells["schema"], cells["status"], cells["calls"]) == (2, "ok", 1)
    assert stored(calls=None, error="", status="")["calls"] is None
    assert stored(error="")["error"] is None
    assert stored(status="")["status"] == "ok"


@pytest.mark.parametrize("missing", ["record_id", "run_id", "name", "started_at", "ended_at"])
def test_what_a_record_must_have_is_asked_for(missing: str):
    """Without it, or empty, the record is refused by the column's name."""
    for left in ({k: v for k, v in SENT.items() if k != missing}, SENT | {missing: ""}):
        with pytest.raises(ValueError, match=f"has no {missing}"):
            stored_row(left)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"energy_kwh": float("nan")}, "not finite"),
        ({"energy_kwh": float("-inf")}, "not finite"),
        ({"energy_kwh": 10**400}, "too large"),
        ({"energy_kwh": "1.5"}, "not a number"),
        ({"energy_kwh": True}, "not a number"),
        ({"pid": 1.5}, "not a whole number"),
        ({"pid": True}, "not a whole number"),
        ({"pid": 1 << 63}, "64 bits"),
        ({"parent_holds": 1}, "neither true nor false"),
        ({"name": 7}, "not a text"),
        ({"name": "n" * (NAME_LIMIT + 1)}, f"the limit is {NAME_LIMIT}"),
        ({"record_id": "i" * (ID_LIMIT + 1)}, f"the limit is {ID_LIMIT}"),
        ({"record_id": ["i"]}, "not a text"),
        ({"started_at": "yesterday"}, "not a time"),
        ({"started_at": 1764471600}, "not a time"),
        ({"ended_at": "9999-12-31T23:59:59-14:00"}, "out of range"),
        ({"labels": "{}"}, "JSON object"),
        ({"labels": {"x": float("nan")}}, "JSON"),
        ({"labels": {"x": "l" * LABELS_LIMIT}}, f"the limit is {LABELS_LIMIT}"),
        ({f"new_{n}": n for n in range(200)}, "not columns"),
        ({"new": "n" * 100_000}, "not columns"),
        ({"new": [[[]] * 100] * 400}, "not columns.*more than 32768 values"),
        ({"labels": {str(n): 0 for n in range(40_000)}}, "more than 32768 values"),
        ({"new": float("inf")}, "not columns"),
    ],
)
def test_what_is_wrong_is_refused_with_its_reason(changes: dict[str, Any], reason: str):
    """The reason names the column and is short, whatever was sent."""
    with pytest.raises(ValueError, match=reason) as caught:
        stored_row(SENT | changes)
    told = str(caught.value)
    assert len(told) < 300
    assert "column" in told


@pytest.mark.parametrize("body", [None, 3, "text", [SENT]])
def test_a_record_is_an_object(body: Any):
    """Anything else is refused."""
    with pytest.raises(ValueError, match="JSON object"):
        stored_row(body)


def test_columns_of_newer_versions_are_kept():
    """They come back beside the known ones, but no key decides about a column of the store."""
    row = stored(new_kwh=1.5, nested={"a": [1]}, project="theirs", received_at="1970", extra={})
    assert row == stored() | {"new_kwh": 1.5, "nested": {"a": [1]}}


def test_labels_of_any_depth_are_taken():
    """What is nested too deep for engines is cut, as the record's sinks do."""
    deep: Any = "end"
    for _ in range(500):
        deep = {"in": deep}
    assert json.dumps(stored(labels=deep)["labels"]).count("in") < 32
    shallow = {"in": {"in": {"in": [1, 2]}}}
    assert stored(labels=shallow)["labels"] == shallow


def test_times_sort_as_texts():
    """In any zone, with any digits; without a zone it is UTC."""
    east = timezone(timedelta(hours=5, minutes=30))
    assert time_text(datetime(2026, 1, 1, 5, 30, tzinfo=east)) == "2026-01-01T00:00:00.000000Z"
    assert time_text(datetime(7, 1, 1)) == "0007-01-01T00:00:00.000000Z"
    for sent in ("2026-01-01T05:30:00+05:30", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000"):
        assert stored(started_at=sent)["started_at"] == "2026-01-01T00:00:00.000000Z"
    for digits in ("5", "50", "500", "500000", "500000999"):
        sent = f"2026-01-01T00:00:00.{digits}Z"
        assert stored(started_at=sent)["started_at"] == "2026-01-01T00:00:00.500000Z"


def test_a_batch_is_made_of_distinct_records():
    """The first finished row of an id, or else the first row; in the order of the ids."""
    rows = [
        a_row(2, status="recovered"),
        a_row(1, status="recovered", name="first"),
        a_row(1, status="recovered", name="second"),
        a_row(2, name="finished"),
        a_row(2, name="repeated"),
        a_row(2, status="recovered"),
    ]
    kept = [(row.record_id, row.cells[COLUMNS.index("name")]) for row in once_each(rows)]
    assert kept == [("run-7f3a:1", "first"), ("run-7f3a:2", "finished")]
