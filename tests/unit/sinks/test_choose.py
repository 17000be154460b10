"""From an output's name to its sink."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.sinks.factory import sink_for


def test_the_ending_chooses_whatever_its_case(tmp_path: Path) -> None:
    """`.CSV` is `.csv`."""
    assert isinstance(sink_for(tmp_path / "RUNS.CSV"), CsvSink)
    assert isinstance(sink_for(str(tmp_path / "runs.csv")), CsvSink)


@pytest.mark.parametrize("output", ["runs", "runs.xlsx", "", "runs.csv.gz"])
def test_an_unknown_ending_is_refused_with_the_known_ones(output: str) -> None:
    """An ending that no sink writes is an error that names those that are written."""
    with pytest.raises(ConfigError, match=r"\.csv"):
        sink_for(output)
