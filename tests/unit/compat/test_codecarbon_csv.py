"""CodeCarbon's file: its columns in any order, rows whole, and no file of others spoilt."""

from __future__ import annotations

import csv
import os
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from carbontrack.compat.codecarbon.csv_rows import append_row, header_of, replace_rows, update_row
from carbontrack.compat.codecarbon.data import EmissionsData, TaskEmissionsData, data_of
from carbontrack.compat.codecarbon.outputs import FileOutput
from tests.support.records import HOSTILE, a_record


def a_row(**said: Any) -> EmissionsData:
    return data_of(a_record(), **{"run_id": "run-0", **said})


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_new_file_has_the_columns_in_codecarbons_order(tmp_path: Path) -> None:
    """A header and a row; what is not known is an empty cell."""
    path = tmp_path / "emissions.csv"
    append_row(path, a_row(emissions=0.25).values)

    assert header_of(path) == list(a_row().values)
    assert path.read_bytes().count(b"\n") == 2
    row = read(path)[0]
    assert (row["emissions"], row["longitude"]) == ("0.25", "")


def test_an_old_file_keeps_its_order(tmp_path: Path) -> None:
    """The columns are compared as a set, and a row is written below the right names."""
    path = tmp_path / "emissions.csv"
    names = sorted(a_row().values, reverse=True)
    path.write_bytes(b"\xef\xbb\xbf" + ",".join(names).encode() + b"\r\n")
    append_row(path, a_row(project_name="mine", duration=2.5).values)

    assert header_of(path) == names
    assert list(tmp_path.iterdir()) == [path]
    row = pd.read_csv(path).iloc[0]
    assert (row["project_name"], row["duration"], row["run_id"]) == ("mine", 2.5, "run-0")


@pytest.mark.parametrize("name", HOSTILE)
def test_every_text_is_read_back(tmp_path: Path, name: str) -> None:
    """By Python's reader of CSV, whatever stands in it, and a row is replaced all the same."""
    path = tmp_path / "emissions.csv"
    for run in ("a", "b"):
        append_row(path, a_row(run_id=run, project_name=name).values)
    update_row(path, a_row(run_id="a", project_name=name, emissions=9.0).values)

    rows = read(path)
    assert [(row["run_id"], row["project_name"]) for row in rows] == [("b", name), ("a", name)]


def test_a_file_with_other_columns_is_kept_under_another_name(tmp_path: Path) -> None:
    """The new file begins with this version's header; no earlier backup is overwritten."""
    path = tmp_path / "emissions.csv"
    for number in range(3):
        path.write_text(f"timestamp,old_{number}\n1,2\n")
        append_row(path, a_row().values)
        assert len(read(path)) == 1

    kept = [tmp_path / f"emissions.csv{end}.bak" for end in ("", "_0", "_1")]
    assert [file.read_text().splitlines()[0] for file in kept] == [
        f"timestamp,old_{number}" for number in range(3)
    ]


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    """As one that `touch` or a batch system has made."""
    path = tmp_path / "emissions.csv"
    path.touch()
    append_row(path, a_row().values)
    assert len(read(path)) == 1


@pytest.mark.parametrize("torn", ["2026-01-01T00:00:00,torn", '2026-01-01T00:00:00,"torn'])
def test_a_row_that_was_cut_off_spoils_no_other(tmp_path: Path, torn: str) -> None:
    """A killed writer's last line stays alone, in quotes or not."""
    path = tmp_path / "emissions.csv"
    append_row(path, a_row(run_id="first").values)
    with path.open("a") as file:
        file.write(torn)
    append_row(path, a_row(run_id="second").values)
    append_row(path, a_row(run_id="third").values)

    assert [row["run_id"] for row in read(path)] == ["first", None, "second", "third"]


def test_a_row_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    """A limit of the file's size stands for a full disk: the file ends with a whole row."""
    import resource
    import signal

    path = tmp_path / "emissions.csv"
    append_row(path, a_row().values)
    before = path.read_bytes()
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
        with pytest.raises(OSError, match=r"could be written|too large"):
            append_row(path, a_row().values)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before


def test_update_replaces_the_row_of_the_run(tmp_path: Path) -> None:
    """The other rows keep every byte; where two have the run's id, one is added."""
    path = tmp_path / "emissions.csv"
    append_row(path, a_row(run_id="other").values)
    line = path.read_bytes().splitlines(keepends=True)[1].replace(b"other", b'"other"')
    path.write_bytes(path.read_bytes() + line)
    path.chmod(0o640)
    for kg in (1.0, 2.0, 3.0):
        update_row(path, a_row(run_id="mine", emissions=kg).values)

    assert path.read_bytes().splitlines(keepends=True)[2] == line
    assert [(row["run_id"], row["emissions"]) for row in read(path)][2:] == [("mine", "3.0")]
    assert path.stat().st_mode & 0o777 == 0o640
    update_row(path, a_row(run_id="other").values)
    assert [row["run_id"] for row in read(path)] == ["other", "other", "mine", "other"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """What is rewritten or moved away is what it leads to."""
    path, link = tmp_path / "real.csv", tmp_path / "emissions.csv"
    link.symlink_to(path)
    for _ in range(2):
        update_row(link, a_row().values)

    assert link.is_symlink()
    assert len(read(path)) == 1


def test_many_writers_lose_no_row(tmp_path: Path) -> None:
    """Rows are added while others are replaced: each run has one, and the file one header."""
    path = tmp_path / "emissions.csv"

    def write(number: int) -> None:
        for kg in range(10):
            append_row(path, a_row(run_id=f"append-{number}-{kg}").values)
            update_row(path, a_row(run_id=f"update-{number}", emissions=float(kg)).values)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    runs = sorted(row["run_id"] for row in read(path))
    appended = {f"append-{number}-{kg}" for number in range(4) for kg in range(10)}
    assert runs == sorted(appended | {f"update-{number}" for number in range(4)})
    assert {row["emissions"] for row in read(path) if row["run_id"] == "update-0"} == {"9.0"}


def test_tasks_have_a_file_of_their_own(tmp_path: Path) -> None:
    """It has the rows that there are, however often it is written."""
    output = FileOutput("emissions.csv", str(tmp_path))
    rows = [TaskEmissionsData.of(name, a_row()) for name in ("load", "fit")]
    for count in (1, 2):
        output.task_out(rows[:count], "base")

    path = tmp_path / "emissions_base_run-0.csv"
    assert [row["task_name"] for row in read(path)] == ["load", "fit"]
    assert header_of(path)[:3] == ["task_name", "timestamp", "project_name"]


def test_a_place_without_room_is_said_and_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A training is not ended by its emissions file."""
    (tmp_path / "emissions.csv").mkdir()
    output = FileOutput("emissions.csv", str(tmp_path))
    output.out(a_row(), a_row())
    output.task_out([TaskEmissionsData.of("fit", a_row())], "no/such/folder")

    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all("no row was written to" in text for text in said)


def test_what_cannot_be_is_refused_when_the_output_is_made(tmp_path: Path) -> None:
    """As CodeCarbon does: the mode, and the folder."""
    with pytest.raises(ValueError, match="on_csv_write"):
        FileOutput("emissions.csv", str(tmp_path), "replace")
    with pytest.raises(OSError, match="missing"):
        FileOutput("emissions.csv", str(tmp_path / "missing"))


def test_headers_can_be_asked_for(tmp_path: Path) -> None:
    """Valid are the same columns in any order, and none at all."""
    output = FileOutput("emissions.csv", str(tmp_path))
    path, names = Path(output.save_file_path), list(a_row().values)
    for header, is_valid in ((names[::-1], True), ([], True), (names[1:], False)):
        path.write_text(",".join(header) + os.linesep if header else "")
        assert output.has_valid_headers(a_row()) is is_valid


def test_a_file_of_rows_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Nothing is left beside it."""
    path = tmp_path / "tasks.csv"
    for _ in range(2):
        replace_rows(path, [a_row().values])
    assert [file.name for file in tmp_path.iterdir()] == ["tasks.csv"]
