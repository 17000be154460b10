"""From an output's name to its sink."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.report.read import iter_records
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.sinks.factory import sink_for
from tests.support.records import a_record


def test_the_ending_chooses_whatever_its_case(tmp_path: Path) -> None:
    """`.CSV` is `.csv`."""
    assert isinstance(sink_for(tmp_path / "RUNS.CSV"), CsvSink)
    assert isinstance(sink_for(str(tmp_path / "runs.csv")), CsvSink)


@pytest.mark.parametrize("output", ["runs", "runs.xlsx", "", "runs.csv.gz"])
def test_an_unknown_ending_is_refused_with_the_known_ones(output: str) -> None:
    """An ending that no sink writes is an error that names those that are written."""
    with pytest.raises(ConfigError, match=r"\.csv"):
        sink_for(output)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "sqlite"])
def test_a_file_that_does_not_exist_yet_is_created_through_a_link(
    tmp_path: Path, ending: str
) -> None:
    """A link to a new file on another volume, or through a second link, stays and is followed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "runs").symlink_to(f"data/second.{ending}")
    (tmp_path / f"data/second.{ending}").symlink_to(f"all.{ending}")
    output = tmp_path / f"emissions.{ending}"
    output.symlink_to("runs")
    for number in range(2):
        sink = sink_for(output)
        sink.write(a_record(number))
        sink.close()

    assert output.is_symlink()
    assert {file.name for file in (tmp_path / "data").iterdir()} == {
        f"all.{ending}",
        f"second.{ending}",
    }
    assert list(iter_records(tmp_path / f"data/all.{ending}")) == [a_record(0), a_record(1)]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "sqlite"])
def test_a_link_into_a_folder_that_is_not_there_is_refused(tmp_path: Path, ending: str) -> None:
    """The error names the folder of the file behind the link, not that of the link."""
    output = tmp_path / f"emissions.{ending}"
    output.symlink_to("unmounted/all.csv")

    with pytest.raises(ConfigError, match=f"directory {tmp_path}/unmounted does not exist"):
        sink_for(output)
