"""Sums made with DuckDB are those of pandas, whatever the records are and however they came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbontrack.record import Record
from carbontrack.report.scale.engine import EngineLimits
from carbontrack.report.scale.sums import summed
from tests.support.many_records import FORMATS, as_csv, assert_same, by_pandas, lists_of_records

pytest.importorskip("duckdb", reason="needs the extra scale")

SMALL = EngineLimits(memory_mb=256, batch_rows=2)
"""Parts so small that what belongs together comes in several."""
WAYS = st.sampled_from(["name", "region", "day", "host", "label:model"])


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    rows=lists_of_records(),
    by=WAYS,
    written=st.sampled_from(FORMATS),
    limits=st.sampled_from([SMALL, EngineLimits()]),
)
def test_sums_are_those_of_pandas(
    rows: list[Record], by: str, written: Callable[..., Path], limits: EngineLimits
) -> None:
    """Any basis, nothing known, repeats, checkpoints, nested rows, circles, shared machines."""
    with TemporaryDirectory() as text:
        folder = Path(text)
        found = summed([written(folder, rows)], by, limits=limits)
        assert_same(found, by_pandas(as_csv(folder, rows), by), by)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(rows=lists_of_records(), cut=st.integers(1, 7), by=WAYS)
def test_files_of_several_formats_are_one(rows: list[Record], cut: int, by: str) -> None:
    """What belongs together may lie in files of different formats, the later one to win."""
    with TemporaryDirectory() as text:
        folder = Path(text)
        parts = []
        for number, part in enumerate((rows[:cut], rows[cut:])):
            (folder / str(number)).mkdir()
            written = FORMATS[(number + cut) % len(FORMATS)]
            parts.append(written(folder / str(number), part))
        found = summed(parts, by, limits=SMALL)
        assert_same(found, by_pandas(as_csv(folder, rows), by), by)
