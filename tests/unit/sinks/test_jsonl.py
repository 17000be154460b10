"""The sink that writes lines of JSON."""

from __future__ import annotations

from pathlib import Path

from carbontrack.report.read import iter_records
from carbontrack.sinks.jsonl import JsonlSink
from tests.support.records import a_record


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    """After a short write of another process, the next record is on a line of its own."""
    place = tmp_path / "runs.jsonl"
    JsonlSink(place).write(a_record(1))
    with place.open("ab") as file:
        file.write(b'{"schema": 1, "record_id": "to')
    JsonlSink(place).write(a_record(2))
    skipped: list[str] = []

    assert list(iter_records(place, on_skip=skipped.append)) == [a_record(1), a_record(2)]
    assert len(skipped) == 1


def test_lines_that_are_no_record_are_skipped(tmp_path: Path) -> None:
    """Garbage, other JSON and deep nesting are passed over and counted."""
    place = tmp_path / "runs.jsonl"
    place.write_bytes(b'garbage\n[1]\n3\n{"a": 1}\n\n' + b"[" * 100_000 + b"\n\xff\xfe\n")
    JsonlSink(place).write(a_record())
    skipped: list[str] = []

    assert list(iter_records(place, on_skip=skipped.append)) == [a_record()]
    assert len(skipped) == 6
