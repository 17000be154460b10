"""`carbontrack compact`: what it prints, and how it ends."""

from __future__ import annotations

import json
import sys

import pytest

from carbontrack.cli import main
from tests.support.archives import contents_of, rows_in, write_source
from tests.support.records import a_record


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A file of two records and a line that holds none, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = write_source(tmp_path / "runs.csv", [a_record(), a_record(1)])
    with path.open("a") as file:
        file.write("torn\n")
    return path


def test_it_says_what_it_has_done(source, capsys):
    """Facts on stdout, what was passed over on stderr."""
    assert main(["compact", "runs.csv", "--into", "archive", "--verbose"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("archive: 2 records, ")
    assert out.splitlines()[1:] == [
        "2 added, 0 replaced, 0 already there, 0 repeated; 1 of 1 month written",
        "2026-11: 2 records, written",
    ]
    assert err.splitlines() == [
        "carbontrack: runs.csv: passed over 1 line without a record; the first: not a whole row",
        "carbontrack: runs.csv: 2 records",
    ]


def test_json_has_the_same_facts(source, capsys):
    """With the names that the commands page gives."""
    assert main(["compact", "runs.csv", "--into", "archive", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("months").keys() == {"2026-11"}
    assert found == {
        "into": "archive",
        "dry_run": False,
        "records": 2,
        "added": 2,
        "replaced": 0,
        "unchanged": 0,
        "repeated": 0,
        "skipped_lines": 1,
        "sources": [
            {"path": "runs.csv", "records": 2, "skipped_lines": 1, "reason": "not a whole row"}
        ],
    }


def test_a_dry_run_writes_nothing(source, capsys):
    """It says what would be done, of a new archive and of one that is there."""
    assert main(["compact", "runs.csv", "--into", "archive", "--dry-run"]) == 0
    assert "2 would be added" in capsys.readouterr().out
    assert not (source.parent / "archive").exists()
    main(["compact", "runs.csv", "--into", "archive"])
    before = contents_of(source.parent)
    write_source(source, [a_record(2)])
    before["runs.csv"] = source.read_bytes()
    capsys.readouterr()
    assert main(["compact", "runs.csv", "--into", "archive", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("archive: 3 records\n1 would be added")
    assert contents_of(source.parent) == before
    assert main(["compact", "archive", "--into", "x.csv", "--dry-run"]) == 2


def test_a_name_of_csv_restores(source, capsys):
    """From an archive, or straight from any sources."""
    main(["compact", "runs.csv", "--into", "archive"])
    capsys.readouterr()
    assert main(["compact", "archive", "--into", "back.csv"]) == 0
    assert capsys.readouterr().out == "back.csv: 2 records\n"
    assert main(["compact", "runs.csv", "archive", "--into", "all.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 2
    assert (source.parent / "all.csv").read_bytes() == (source.parent / "back.csv").read_bytes()
    assert main(["compact", "archive", "--into", "back.csv"]) == 2
    assert "it exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.csv", "--into", "archive"], "nowhere.csv: No such file or directory"),
        (["runs.txt", "--into", "archive"], "known endings are .csv, "),
        (["runs.timeline.jsonl", "--into", "archive"], "contains timelines"),
        (["empty", "--into", "archive"], "empty contains no file that ends in .csv"),
        (["runs.csv", "--into", "."], "something other than a carbontrack archive"),
        (["runs.csv", "--into", "no/archive"], "there is no directory no"),
        (["runs.csv", "--into", "no/x.csv"], "there is no directory no"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(source, capsys, arguments, said):
    """With what, and why; the exit code is that of bad usage."""
    (source.parent / "empty").mkdir()
    assert main(["compact", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (source.parent / "archive").exists()


@pytest.mark.parametrize("library", ["duckdb", "pyarrow"])
def test_without_a_library_it_names_the_extra(source, capsys, monkeypatch, library):
    """And makes no folder."""
    monkeypatch.setitem(sys.modules, library, None)
    assert main(["compact", "runs.csv", "--into", "archive"]) == 1
    assert 'pip install "carbontrack[scale]"' in capsys.readouterr().err
    assert not (source.parent / "archive").exists()


def test_an_archive_may_be_empty(source, capsys):
    """Of a source without records there is a folder, and no month."""
    source.write_text("torn\n")
    assert main(["compact", "runs.csv", "--into", "archive"]) == 0
    assert rows_in(source.parent / "archive") == []
    assert main(["compact", "archive", "--into", "back.csv"]) == 0
    assert main(["compact", "archive", "--into", "other"]) == 0
