"""An archive of any rows: the same whatever their order, repetitions, formats and runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.record import Record
from carbontrack.report.archive.compact import compact
from carbontrack.report.archive.restore import to_csv
from carbontrack.report.nesting import one_per_id
from tests.support.archives import cells_in, contents_of, rows_in, write_source
from tests.support.records import HOSTILE, a_record

TIMES = (
    *("2026-10-31T23:59:59.999999Z", "2026-11-01T00:00:00.000000Z", "2026-11-01T00:00:00Z"),
    *("2026-11-01T01:00:00+02:00", "1969-12-31T23:59:59.5Z", "9999-12-31T23:59:59-01:00"),
    *("2026-11-24", "2026-11-31T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)  # which JSON has not
records = st.builds(
    a_record,
    st.integers(0, 3),
    status=st.sampled_from(["ok", "recovered", "error"]),
    started_at=st.sampled_from(TIMES),
    ended_at=st.sampled_from(TIMES),
    name=st.sampled_from([*HOSTILE, "train"]),
    energy_kwh=numbers,
    gpu_kwh=numbers,
    calls=st.none() | st.integers(-(1 << 53), 1 << 53),
    labels=st.dictionaries(st.sampled_from(HOSTILE), st.none() | st.integers(), max_size=2),
    parent_id=st.none() | st.sampled_from(["run-7f3a:0", "run-7f3a", "else"]),
    parent_holds=st.none() | st.booleans(),
)
runs = st.lists(st.lists(records, max_size=6), min_size=1, max_size=3)
endings = st.lists(st.sampled_from([".csv", ".jsonl"]), min_size=6, max_size=6)


def archive_of(folder: Path, found: Sequence[Sequence[Record]], kinds: Sequence[str]) -> Path:
    """An archive into which each list of records is brought by a run."""
    for number, some in enumerate(found):
        source = write_source(folder / f"{len([*folder.iterdir()])}{kinds[number]}", some)
        compact([source], folder / "archive")
    return folder / "archive"


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(runs, endings, st.randoms(use_true_random=False))
def test_order_repetition_and_runs_make_no_difference(found, kinds, chance):
    """The files of an archive depend on the set of rows alone, byte for byte."""
    rows = [record for some in found for record in some]
    shuffled = [*rows, *rows[: len(rows) // 2]]
    chance.shuffle(shuffled)
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        first = archive_of(Path(one), found, kinds)
        assert contents_of(first) == contents_of(archive_of(Path(other), [shuffled], kinds[3:]))
        before = contents_of(first)
        archive_of(Path(one), [rows], kinds[5:])
        assert contents_of(first) == before


@settings(max_examples=8, deadline=None)
@given(st.lists(records, max_size=8))
def test_each_record_is_in_it_once_as_a_report_counts_it(found):
    """The finished one rather than its checkpoint, and of several the one that ends last."""
    order = {time: at for at, time in enumerate(sorted(TIMES, key=instant))}
    by_end = sorted(found, key=lambda record: order[record.ended_at])
    with TemporaryDirectory() as folder:
        archive = archive_of(Path(folder), [found], [".csv"])
        rows = {row["record_id"]: row for row in rows_in(archive)}
        to_csv([archive], Path(folder) / "back.csv")
        back = cells_in(Path(folder) / "back.csv")
    assert len(rows) == len({record.record_id for record in found})
    for kept in one_per_id(by_end):
        row = back[kept.record_id]
        assert row in [r.to_row() for r in found]
        assert (row["status"] == "recovered") == (kept.status == "recovered")
        assert instant(str(row["ended_at"])) == instant(kept.ended_at)


def instant(text: str) -> int:
    """A time as a number; what is none comes first."""
    from carbontrack.report.archive.layout import microseconds_of

    us = microseconds_of(text)
    return -(1 << 63) if us is None else us
