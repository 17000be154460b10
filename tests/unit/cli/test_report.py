"""`carbontrack report` on the command line: tables in every format, and the page's file."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from carbontrack.cli import main
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import HOSTILE, a_record


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    records = [
        a_record(n, name=f"job {n % 2}", emissions_g=1.0 + n, energy_kwh=0.5, host_id="left")
        for n in range(4)
    ]
    path.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
    return path


def test_json_has_total_and_groups(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sums of all and of each group, the largest first."""
    assert main(["report", str(runs), "--by", "name", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["emissions_g"] == 10.0
    assert [(g["key"], g["emissions_g"], g["runs"]) for g in found["groups"]] == [
        ("job 1", 6.0, 2),
        ("job 0", 4.0, 2),
    ]


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv"])
def test_every_format_names_groups_and_sums(
    runs: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each format holds both groups and their emissions."""
    assert main(["report", str(runs), "--format", form]) == 0
    text = capsys.readouterr().out
    assert "job 0" in text
    assert ("6.0" if form == "csv" else "6.00 g") in text


def test_hostile_names_stay_in_their_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No name breaks a row of any format or becomes a formula, a tag or a macro."""
    path = tmp_path / "runs.csv"
    names = [*HOSTILE, "a | b", "<script>alert(1)</script>", r"\input{x} 100% _ $"]
    records = [a_record(n, name=name) for n, name in enumerate(names)]
    path.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
    lines = {}
    for form in ("table", "markdown", "latex", "csv"):
        assert main(["report", str(path), "--format", form]) == 0
        lines[form] = capsys.readouterr().out
    rows = [row for row in lines["markdown"].splitlines() if row.startswith("|")]
    assert len(rows) == len(names) + 3
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
    assert "<script" not in lines["markdown"].replace(r"\<script", "")
    assert lines["latex"].count(r" \\") == len(names) + 2
    assert r"\input" not in lines["latex"]
    read = list(csv.reader(io.StringIO(lines["csv"], newline="")))
    assert len(read) == len(names) + 1
    assert not [row[0] for row in read if row[0].startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_without_files_it_reads_what_a_run_here_writes(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`carbontrack report` alone reads emissions.csv, and says so where there is none."""
    monkeypatch.chdir(runs.parent)
    assert main(["report"]) == 2
    assert "emissions.csv" in capsys.readouterr().err
    runs.rename(runs.with_name("emissions.csv"))
    assert main(["report"]) == 0
    assert "job 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--by", "nmae"], "cannot group"),
        (["--format", "xlsx"], "--format"),
        (["--html", "no/such/folder/r.html"], "--html"),
    ],
)
def test_bad_usage_ends_with_2(
    runs: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong arguments are refused before anything is written."""
    assert main(["report", str(runs), *options]) == 2
    assert says in capsys.readouterr().err


def test_a_file_without_records_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file makes no report of zeros."""
    path = tmp_path / "runs.csv"
    path.write_bytes(HEADER)
    assert main(["report", str(path)]) == 2
    assert "no records" in capsys.readouterr().err
