"""`carbontrack report` on the command line: tables in every format, and the page's file."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from carbontrack.cli import main
from carbontrack.sinks.csv_file import HEADER, CsvSink, record_line
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
    assert {"csv": "6.0", "latex": " 6.00 "}.get(form, "6.00 g") in text


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
    assert lines["latex"].count(r" \\") == len(names) + 3
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


def nested_and_overlapping(path: Path) -> Path:
    """A launcher, a row that it holds, two that it does not, and eight ranks on one machine."""
    launcher = a_record(0, run_id="a", energy_kwh=0.0005, host_id="left")
    inside = {"parent_id": launcher.record_id, "run_id": "b", "host_id": "left"}
    later = {"started_at": "2026-11-24T03:00:01Z", "ended_at": "2026-11-24T03:00:09Z"}
    records = [
        launcher,
        a_record(1, energy_kwh=0.0003, parent_holds=True, **inside),
        a_record(2, energy_kwh=0.001, parent_holds=False, **inside),
        a_record(3, energy_kwh=0.001, **inside | later),
        *(
            a_record(10 + n, run_id=f"rank-{n}", rank=n, energy_kwh=0.5, scope="machine", host_id=h)
            for n, h in enumerate(["right"] * 8)
        ),
    ]
    path.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
    return path


SAID = [
    "1 row (1.08 kJ) is nested in another row of these files and is not added again.",
    "8 rows of scope machine on one host overlap and count once; 3.50 kWh of theirs are not added "
    "again.",
    "1 row names a parent in these files that ran on another host or at another time, and is "
    "added.",
]


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "statement"])
def test_what_is_not_added_again_is_told_with_its_energy(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each text has the same sentences, and they are true of its total."""
    path = nested_and_overlapping(tmp_path / "runs.csv")
    assert main(["report", str(path), "--format", form]) == 0
    text = capsys.readouterr().out
    assert [sentence for sentence in SAID if sentence not in text] == []
    assert "502 Wh" in text or "0.50 kWh" in text or " 502 " in text


def test_json_has_the_count_and_the_energy_of_what_is_not_added_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All rows together are the total and what was left out."""
    path = nested_and_overlapping(tmp_path / "runs.csv")
    assert main(["report", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["runs"] == 11
    assert found["total"]["energy_kwh"] == pytest.approx(0.5025)
    assert (found["nested"], found["nested_energy_kwh"]) == (1, 0.0003)
    assert found["not_covered"] == 1
    assert (found["overlapping"], found["overlapping_hosts"]) == (8, 1)
    assert found["overlapping_energy_kwh"] == pytest.approx(3.5)
    left_out = found["nested_energy_kwh"] + found["overlapping_energy_kwh"]
    assert found["total"]["energy_kwh"] + left_out == pytest.approx(8 * 0.5 + 0.0028)


def test_the_page_says_what_is_not_added_again(tmp_path: Path) -> None:
    """The page has the sentences, and its list of runs adds up to its headline."""
    target = tmp_path / "report.html"
    path = nested_and_overlapping(tmp_path / "runs.csv")
    assert main(["report", str(path), "--html", str(target)]) == 0
    text = target.read_text(encoding="utf-8")
    assert [sentence for sentence in SAID if sentence not in text] == []
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert sum(data["runs"]["columns"]["energy_kwh"]) == pytest.approx(0.5025)


def on_hosts(path: Path, processors: list[str | None]) -> Path:
    """A modelled run on a host with each of the processors."""
    records = [
        a_record(n, host_id=f"host {n}", cpu_basis="modelled", cpu_model=processor)
        for n, processor in enumerate(processors)
    ]
    path.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
    return path


COMBINED = {
    "EPYC 7742": "Modelled figures of 3 hosts with 2 kinds of processor: the errors of a kind "
    "count as one, and 50% of their variance as common to all kinds.",
    "Xeon 8259CL": "Modelled figures of 3 hosts with one kind of processor: their errors count as "
    "one.",
}


@pytest.mark.parametrize("other", sorted(COMBINED))
def test_how_the_errors_of_hosts_were_combined_is_told(
    tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line in every text and on the page, and two counts in JSON."""
    path = on_hosts(tmp_path / "runs.csv", ["Xeon 8259CL", other, "Xeon 8259CL"])
    for form in ("table", "markdown", "statement"):
        assert main(["report", str(path), "--format", form]) == 0
        assert COMBINED[other] in capsys.readouterr().out.replace("\\%", "%")
    target = tmp_path / "report.html"
    assert main(["report", str(path), "--html", str(target), "--json"]) == 0
    assert COMBINED[other] in target.read_text(encoding="utf-8")
    found = json.loads(capsys.readouterr().out)
    kinds = len({"Xeon 8259CL", other})
    assert (found["modelled_hosts"], found["modelled_processors"]) == (3, kinds)


def test_one_host_needs_no_word_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is nothing to combine, nothing is said."""
    path = on_hosts(tmp_path / "runs.csv", ["Xeon 8259CL"])
    assert main(["report", str(path)]) == 0
    assert "Modelled figures of" not in capsys.readouterr().out


def test_the_reason_of_a_row_that_a_spreadsheet_damaged_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence says why a row is not read; a file of only such rows has it in its error."""
    path = tmp_path / "runs.csv"
    good, bad = (record_line(a_record(n).to_row()) for n in range(2))
    bad = bad.replace(b"2026-11-24T03:00:00.000Z", b"24.11.2026 03:00")
    path.write_bytes(HEADER + good + bad)
    assert main(["report", str(path)]) == 0
    assert "1 line holds no record; the first: its started_at is '24.11.2026 03:00'" in (
        capsys.readouterr().out
    )
    path.write_bytes(HEADER + bad)
    assert main(["report", str(path)]) == 2
    assert "runs.csv: its started_at is '24.11.2026 03:00', not as in" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_a_sum_of_modelled_energy_says_where_it_ends(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not measured is of processor and memory; a measured sum says nothing of it."""
    path = tmp_path / "runs.csv"
    said = "What is not measured is modelled: CPU and memory, not wall power."
    for basis in ("modelled", "measured"):
        record = a_record(basis=basis, cpu_basis=basis, ram_basis=basis)
        path.write_bytes(HEADER + record_line(record.to_row()))
        assert main(["report", str(path), "--format", form]) == 0
        assert (said in capsys.readouterr().out) is (basis == "modelled")


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "json"])
def test_a_sum_says_what_its_runs_did_not_measure(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In how many of them; in every format but the plain rows."""
    path = tmp_path / "runs.csv"
    faults = ["gpu_unmeasured:1", "gpu_unmeasured:2;zones_closed:1", "reset:3", None]
    records = [a_record(n, energy_kwh=0.5, faults=text) for n, text in enumerate(faults)]
    path.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
    assert main(["report", str(path), "--format", form]) == 0
    text = capsys.readouterr().out
    if form == "json":
        assert json.loads(text)["uncounted"] == {"gpu_unmeasured": 2, "zones_closed": 1}
    else:
        assert "In 2 runs GPUs are not measured." in text
        assert "In 1 run closed counters are assumed to be like the others of their kind." in text


_CODECARBON = (
    "timestamp,project_name,run_id,duration,emissions,emissions_rate,energy_consumed\n"
    "2026-11-20T10:00:00,train,5b0fa12a,12.5,0.00012,9.6e-06,0.000157\n"
)


def test_a_file_of_codecarbon_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows are added up, and a note tells what they lack; the output can still be parsed."""
    theirs = tmp_path / "emissions.csv"
    theirs.write_text(_CODECARBON)
    assert main(["report", str(theirs), "--json"]) == 0

    out, err = capsys.readouterr()
    assert json.loads(out)["total"]["runs"] == 1
    assert f"{theirs} has CodeCarbon's columns: no interval" in err
    assert "carbontrack run" in err


def test_rows_that_were_diverted_are_in_the_default_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of CodeCarbon stays as it is; rows next to it, and those of other machines, count."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emissions.csv").write_text(_CODECARBON)
    with pytest.warns(UserWarning, match="emissions.csv has CodeCarbon's columns and is not chang"):
        sink = CsvSink(Path("emissions.csv"))
    sink.write(a_record(1, name="ours"))
    sink.close()
    other = CsvSink(Path("emissions.boot-0123abcd.csv"))
    other.write(a_record(2, name="elsewhere"))
    other.close()
    assert main(["report", "--json"]) == 0

    groups = json.loads(capsys.readouterr().out)["groups"]
    assert sorted(group["key"] for group in groups) == ["elsewhere", "ours", "train"]
    assert (tmp_path / "emissions.csv").read_text() == _CODECARBON


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "hello\n"])
def test_a_file_of_another_kind_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """With its beginning, so that nobody looks for rows in the wrong file."""
    path = tmp_path / "x.csv"
    path.write_text(text)
    assert main(["report", str(path)]) == 2
    begin = text.splitlines()[0]
    assert f"x.csv is not a file of carbontrack or CodeCarbon; it begins with {begin!r}" in (
        capsys.readouterr().err
    )
