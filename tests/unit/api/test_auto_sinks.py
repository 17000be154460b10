"""`auto(sinks=…)`: sinks of the program's own beside the outputs of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

import carbontrack
from carbontrack.report.read import iter_records
from carbontrack.testing import MemorySink


def test_sinks_get_what_the_outputs_get(tmp_path: Path) -> None:
    """Each record goes to the file and to the sink, which is closed with the tracker."""
    sink = MemorySink()
    output = tmp_path / "runs.csv"
    with (
        carbontrack.auto(output=output, region="FR", sinks=[sink]) as tracker,
        tracker.span("train"),
    ):
        pass
    assert [record.name for record in sink.records] == ["train"]
    assert [record.name for record in iter_records(output)] == ["train"]


def test_what_is_no_sink_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """The error says what a sink has; a name of an output is meant for `output`."""
    with pytest.raises(carbontrack.ConfigError, match="sinks must have a method `write`"):
        carbontrack.auto(output=tmp_path / "runs.csv", sinks=["mlflow:"])  # type: ignore[list-item]
    assert not (tmp_path / "runs.csv").exists()
