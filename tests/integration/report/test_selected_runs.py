"""`carbontrack report --last` and `--since`: the same runs in every format, by either library."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbontrack.cli import main
from carbontrack.record import Record
from carbontrack.report.frame import load
from carbontrack.report.postgres import address_of
from carbontrack.report.scale.sums import summed
from carbontrack.report.selection import Selection
from carbontrack.sinks.jsonl import record_object
from carbontrack.store.factory import open_store
from carbontrack.store.rows import stored_row
from tests.support.many_records import FORMATS, as_csv, assert_same, in_memory, lists_of_records
from tests.support.records import a_record

pytest.importorskip("duckdb", reason="needs the extra scale")

Write = Callable[[Path, Sequence[Record]], Path]
Printed = pytest.CaptureFixture[str]


def a_day() -> list[Record]:
    """Five runs, an hour apart; the third has a row that is nested in it, and is there twice."""
    runs = [
        a_record(hour, run_id=f"r{hour}", record_id=f"r{hour}:1", name=f"job {hour}",
                 started_at=f"2026-11-24T0{hour}:00:00.000Z",
                 ended_at=f"2026-11-24T0{hour}:30:00.000Z", energy_kwh=float(hour))
        for hour in range(1, 6)
    ]  # fmt: skip
    nested = a_record(
        9,
        run_id="r3",
        record_id="r3:2",
        parent_id="r3:1",
        parent_holds=True,
        started_at="2026-11-24T03:10:00.000Z",
        name="epoch",
        energy_kwh=1.0,
    )
    return [runs[4], runs[0], runs[2], nested, runs[1], runs[3], runs[2]]


def reported(capsys: Printed, *arguments: str) -> dict[str, Any]:
    assert main(["report", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("write", FORMATS)
def test_the_last_runs_are_those_that_started_last(
    write: Write, tmp_path: Path, capsys: Printed
) -> None:
    """Wherever their rows are; what is nested in a run is no run, and counts with it."""
    path = str(write(tmp_path, a_day()))

    for options, runs in (([], {5}), (["3"], {3, 4, 5}), (["100"], {1, 2, 3, 4, 5})):
        found = reported(capsys, path, "--last", *options)
        assert {group["key"] for group in found["groups"]} == {f"job {run}" for run in runs}
        assert (found["total"]["energy_kwh"], found["total"]["runs"]) == (sum(runs), len(runs))
        assert found["last"] == int(*options or ["1"])
        assert (found["nested"], found["repeated"]) == (0, 0)


@pytest.mark.parametrize("write", FORMATS)
def test_since_a_time_earlier_rows_do_not_exist(
    write: Write, tmp_path: Path, capsys: Printed
) -> None:
    """A row whose parent started before is a run: it is what was used since."""
    path = str(write(tmp_path, a_day()))

    later = reported(capsys, path, "--since", "2026-11-24T03:00:00Z")
    assert (later["total"]["energy_kwh"], later["total"]["runs"]) == (12.0, 3)
    assert (later["nested"], later["repeated"]) == (1, 1)
    within = reported(capsys, path, "--since", "2026-11-24T03:05:00Z")
    assert {group["key"] for group in within["groups"]} == {"epoch", "job 4", "job 5"}
    both = reported(capsys, path, "--since", "2026-11-24T03:05:00Z", "--last", "2")
    assert both["total"]["energy_kwh"] == 9.0
    assert (both["since"], both["last"]) == ("2026-11-24T03:05:00Z", 2)


@pytest.mark.parametrize("write", FORMATS)
def test_a_last_run_has_all_of_its_machine(write: Write, tmp_path: Path, capsys: Printed) -> None:
    """Two runs of scope machine overlap; the last alone is not cut by the one that is left out."""
    times = {"ended_at": "2026-11-24T05:00:00.000Z", "scope": "machine", "host_id": "a"}
    rows = [
        a_record(n, run_id=f"r{n}", record_id=f"r{n}:1", energy_kwh=4.0,
                 started_at=f"2026-11-24T0{n}:00:00.000Z", **times)
        for n in (1, 2)
    ]  # fmt: skip
    path = str(write(tmp_path, rows))

    assert reported(capsys, path)["total"]["energy_kwh"] < 8.0
    last = reported(capsys, path, "--last")
    assert (last["total"]["energy_kwh"], last["overlapping"]) == (4.0, 0)
    assert math.isclose(
        reported(capsys, path, "--last", "2")["total"]["energy_kwh"],
        reported(capsys, path)["total"]["energy_kwh"],
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=lists_of_records(),
    second=st.none() | st.integers(0, 59),
    last=st.none() | st.integers(1, 30),
    write=st.sampled_from(FORMATS),
)
def test_both_libraries_select_the_same_runs(
    rows: list[Record], second: int | None, last: int | None, write: Write
) -> None:
    """Rows that repeat, hold, overlap, or lack what they can."""
    since = None
    if second is not None:
        since = datetime(2026, 11, 24, 23, 59, second, tzinfo=timezone.utc)
    only = Selection(since, last)
    with tempfile.TemporaryDirectory() as folder:
        path = as_csv(Path(folder), rows)
        loaded = load([path], extra=("labels",), only=only)
        found = summed([write(Path(folder), rows)], "name", only=only)
    assert_same(found, in_memory(loaded, "name"), "name")
    assert last is None or found.records <= last


@pytest.mark.xdist_group("postgres")
def test_a_database_has_last_runs_too(postgres_url: str, capsys: Printed) -> None:
    """As the files that it was filled from."""
    store = open_store(postgres_url)
    store.add("team", [stored_row(record_object(row)) for row in a_day()[:-1]])
    store.close()
    assert address_of(postgres_url)

    assert reported(capsys, postgres_url, "--last", "2")["total"]["energy_kwh"] == 9.0
    since = reported(capsys, postgres_url, "--since", "2026-11-24T03:05:00Z")
    assert since["total"]["energy_kwh"] == 10.0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--since", "soon"], "--since 'soon' is not a time"),
        (["--since", "2h"], "no records since "),
        (["--last", "0"], "--last 0: write how many"),
        (["--last", "-1"], "--last -1: write how many"),
    ],
)
def test_what_selects_nothing_is_bad_usage(
    options: list[str], says: str, tmp_path: Path, capsys: Printed
) -> None:
    """With the mistake in one line."""
    path = FORMATS[0](tmp_path, a_day())
    assert main(["report", str(path), *options]) == 2
    assert says in capsys.readouterr().err


def test_a_file_behind_last_is_a_file(tmp_path: Path, capsys: Printed) -> None:
    """`report --last runs.csv` reads as it is meant, and the table says what is in it."""
    path = FORMATS[0](tmp_path, a_day())
    assert main(["report", "--last", str(path)]) == 0
    text = capsys.readouterr().out
    assert "\nOnly the last run.\n" in text
    assert "job 5" in text
    assert "job 4" not in text


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_more_of_the_last_runs_than_there_can_be_are_all(
    write: Write, tmp_path: Path, capsys: Printed
) -> None:
    """Whatever size of number the library takes."""
    path = str(write(tmp_path, a_day()))
    everything = reported(capsys, path)["total"]
    assert reported(capsys, path, "--last", str(10**20))["total"] == everything


def test_pages_and_statements_say_which_runs_they_are_of(tmp_path: Path, capsys: Printed) -> None:
    """Whoever reads the page of the last runs does not take it for all that was spent."""
    path, page = FORMATS[0](tmp_path, a_day()), tmp_path / "page.html"
    assert main(["report", str(path), "--last", "2", "--html", str(page)]) == 0
    assert "What was read</h3><p>Only the last 2 runs." in page.read_text(encoding="utf-8")
    for form in ("statement", "statement-latex"):
        assert main(["report", str(path), "--last", "2", "--format", form]) == 0
        assert "Only the last 2 runs." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (None, "there is no emissions.csv here;"),
        ("a.jsonl,b.csv", "there is no a.jsonl and no b.csv here;"),
        ("none", "a run here writes no file;"),
    ],
)
def test_a_report_without_files_names_those_that_it_looked_for(
    output: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    """What a run in this directory writes is a setting."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CARBONTRACK_OUTPUT", raising=False)
    if output is not None:
        monkeypatch.setenv("CARBONTRACK_OUTPUT", output)
    assert main(["report"]) == 2
    assert says in capsys.readouterr().err
