"""Files that are not there, or are no files, or may not be read: a sentence and bad usage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.cli import main
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

COMMANDS = {
    "report": ["report", "{}"],
    "about": ["report", "runs.csv", "--format", "modelcard", "--about", "{}"],
    "label": ["label", "{}", "--task", "text-classification", "--units", "5"],
    "compare": ["regions", "--compare", "{}"],
    "series": ["when", "--hours", "1", "--series", "{}"],
    "plug": ["calibrate", "--plug", "{}"],
    "records": ["calibrate", "--plug", "plug.csv", "--records", "{}"],
}
"""Every command that reads a file, with the place of its name."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in, with a file of records, a plug's file, and what is no file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARBONTRACK_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "runs.csv").write_bytes(HEADER + record_line(a_record().to_row()))
    (tmp_path / "plug.csv").write_text("time,watts\n0,40\n10,41\n")
    for name in ("folder.csv", "folder.db"):
        (tmp_path / name).mkdir()
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for name in ("locked.csv", "locked.db"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0)
    (tmp_path / "shut").mkdir(mode=0)
    yield tmp_path
    (tmp_path / "shut").chmod(0o700)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "name",
    [
        *("missing.csv", "missing.db", "folder.csv", "folder.db", "loop.csv", "runs.csv/x.csv"),
        *("locked.csv", "locked.db", "shut/x.csv", "shut/x.db", f"{'n' * 300}.csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_bad_usage_and_one_line(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that reads a file says in a line which one it is, and exits with 2."""
    if name.startswith(("locked", "shut")) and os.access("shut", os.R_OK):
        pytest.skip("this user may read everything")
    code = main([argument.format(name) for argument in COMMANDS[command]])
    shown = capsys.readouterr()

    assert (code, shown.out) == (2, "")
    assert shown.err.startswith("carbontrack: ")
    assert name in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("command", ["report", "label"])
def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What may not be searched is said."""
    if os.access("shut", os.R_OK):
        pytest.skip("this user may read everything")
    code = main([argument.format("shut") for argument in COMMANDS[command]])

    assert code == 2
    assert capsys.readouterr().err == "carbontrack: shut: Permission denied\n"


@pytest.mark.parametrize(
    ("command", "option"),
    [("report", ["--html", "/proc/report.html"]), ("label", ["--output", "/proc/label.json"])],
    ids=["report", "label"],
)
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder that not even root writes to")
def test_a_place_that_cannot_be_written_is_bad_usage(
    command: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the page or the label cannot be written, a line says so."""
    code = main([argument.format("runs.csv") for argument in COMMANDS[command]] + option)
    shown = capsys.readouterr()

    assert (code, shown.out) == (2, "")
    assert shown.err.startswith("carbontrack: ")
    assert "/proc" in shown.err
    assert shown.err.count("\n") == 1


def test_trouble_without_a_file_is_one_line_and_not_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the disk refuses is nobody's mistake on the command line: exit code 1."""
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    (tmp_path / "label.json").symlink_to("/dev/full")
    command = [argument.format("runs.csv") for argument in COMMANDS["label"]]
    code = main([*command, "--output", "label.json"])

    assert code == 1
    assert capsys.readouterr().err == "carbontrack: No space left on device\n"
