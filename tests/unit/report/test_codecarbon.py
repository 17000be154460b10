"""CodeCarbon's files beside ours: every release's columns, each run once, nothing made up."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from carbontrack.cli import main
from carbontrack.record import Record
from carbontrack.report.frame import load
from carbontrack.report.read import iter_records, read_records
from carbontrack.report.totals import totals
from carbontrack.sinks.csv_file import HEADER, record_line
from tests.support.records import a_record

CELLS = {
    "timestamp": "2026-03-01T12:00:00",
    "project_name": "train",
    "run_id": "run-0",
    "experiment_id": "5b0fa12a",
    "duration": "10.0",
    "emissions": "0.002",
    "emissions_rate": "0.0002",
    "cpu_power": "7.5",
    "gpu_power": "0.0",
    "ram_power": "20.0",
    "cpu_energy": "0.003",
    "gpu_energy": "0",
    "ram_energy": "0.001",
    "energy_consumed": "0.004",
    "water_consumed": "0.0",
    "country_name": "United States",
    "country_iso_code": "USA",
    "region": "california",
    "cloud_provider": "",
    "cloud_region": "",
    "os": "Linux",
    "python_version": "3.11.7",
    "codecarbon_version": "3.3.2",
    "cpu_count": "8.0",
    "cpu_model": "AMD EPYC",
    "gpu_count": "",
    "gpu_model": "",
    "longitude": "-120.1",
    "latitude": "",
    "ram_total_size": "23.5",
    "tracking_mode": "machine",
    "cpu_utilization_percent": "50.0",
    "gpu_utilization_percent": "0",
    "ram_utilization_percent": "14.1",
    "ram_used_gb": "3.3",
    "on_cloud": "N",
    "pue": "1.0",
    "wue": "0.0",
}
RELEASES = {
    "1.0": "timestamp experiment_id project_name duration emissions energy_consumed country_name "
    "country_iso_code region on_cloud cloud_provider cloud_region",
    "2.0": "timestamp project_name run_id duration emissions emissions_rate cpu_power gpu_power "
    "ram_power cpu_energy gpu_energy ram_energy energy_consumed country_name country_iso_code "
    "region cloud_provider cloud_region os python_version cpu_count cpu_model gpu_count gpu_model "
    "longitude latitude ram_total_size tracking_mode on_cloud",
    "2.3": "timestamp project_name run_id duration emissions emissions_rate cpu_power gpu_power "
    "ram_power cpu_energy gpu_energy ram_energy energy_consumed country_name country_iso_code "
    "region cloud_provider cloud_region os python_version codecarbon_version cpu_count cpu_model "
    "gpu_count gpu_model longitude latitude ram_total_size tracking_mode on_cloud pue",
    "3.0": "timestamp project_name run_id experiment_id duration emissions emissions_rate "
    "cpu_power gpu_power ram_power cpu_energy gpu_energy ram_energy energy_consumed country_name "
    "country_iso_code region cloud_provider cloud_region os python_version codecarbon_version "
    "cpu_count cpu_model gpu_count gpu_model longitude latitude ram_total_size tracking_mode "
    "on_cloud pue",
    "3.3": " ".join(CELLS),
}


def text(*rows: dict[str, str], names: str = RELEASES["3.3"], end: str = "\n") -> str:
    """A file with these rows, each the usual one but for some cells."""
    columns = names.split()
    lines = [columns, *([{**CELLS, **row}[name] for name in columns] for row in rows)]
    return "".join(",".join(cells) + end for cells in lines)


def one(path: Path, content: str) -> Record:
    path.write_text(content, encoding="utf-8")
    (record,) = iter_records(path)
    return record


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_is_read(tmp_path: Path, release: str) -> None:
    """Whatever columns it has, and in whatever order, the figures are those of the row."""
    names = RELEASES[release]
    for order in (names, " ".join(reversed(names.split()))):
        record = one(tmp_path / "emissions.csv", text({}, names=order))
        found = (record.name, record.duration_s, record.energy_kwh, record.emissions_g)
        assert found == ("train", 10.0, 0.004, 2.0)
        assert record.region == "US-CA"
        assert record.intensity_g_per_kwh == 500.0


def test_a_row_has_what_the_file_says_and_nothing_more(tmp_path: Path) -> None:
    """No basis, no interval; what is 0 or empty there is unknown here."""
    record = one(tmp_path / "emissions.csv", text({}))

    assert (record.basis, record.cpu_basis, record.energy_low_kwh) == (None, None, None)
    assert (record.cpu_kwh, record.gpu_kwh, record.ram_kwh) == (0.003, None, 0.001)
    assert (record.water_l, record.gpu_count, record.host_id) == (None, None, None)
    assert (record.scope, record.cpu_threads, record.ram_gib) == ("machine", 8, 23.5)
    assert record.labels == {"tool": "CodeCarbon 3.3.2", "experiment_id": "5b0fa12a"}
    assert record.carbontrack is None


def test_a_run_without_energy_is_a_run_of_unknown_energy(tmp_path: Path) -> None:
    """Its file says 0 where it could not see any; no run of some seconds used none."""
    zero = {"energy_consumed": "0.0", "emissions": "0", "cpu_energy": "0", "ram_energy": "0.0"}
    record = one(tmp_path / "emissions.csv", text(zero))
    assert (record.energy_kwh, record.emissions_g, record.cpu_kwh) == (None, None, None)


def test_components_are_before_pue(tmp_path: Path) -> None:
    """CodeCarbon's are times PUE; the whole is in both."""
    record = one(tmp_path / "emissions.csv", text({"pue": "2.0"}))
    assert (record.cpu_kwh, record.energy_kwh, record.pue) == (0.0015, 0.004, 2.0)


def test_times_are_local_and_at_the_end(tmp_path: Path) -> None:
    """A run has begun its duration before the timestamp."""
    record = one(tmp_path / "emissions.csv", text({}))
    ended_at = datetime.fromisoformat(record.ended_at.replace("Z", "+00:00"))
    started_at = datetime.fromisoformat(record.started_at.replace("Z", "+00:00"))
    assert ended_at == datetime(2026, 3, 1, 12).astimezone(timezone.utc)
    assert (ended_at - started_at).total_seconds() == 10.0


def test_rows_of_one_run_count_once(tmp_path: Path) -> None:
    """Each `flush` writes the sum since the start, so the last row is the run's."""
    path = tmp_path / "emissions.csv"
    rows = [{"energy_consumed": "0.001"}, {"energy_consumed": "0.004"}, {"run_id": "run-1"}]
    path.write_text(text(*rows))
    loaded = load([path])

    assert (len(loaded.frame), loaded.repeated) == (2, 1)
    assert totals(loaded.frame)[0].energy_kwh == pytest.approx(0.008)
    assert len(read_records(path)) == 3
    assert len(read_records(path, without_double_counting=True)) == 2


def test_tasks_are_parts_of_their_run(tmp_path: Path) -> None:
    """Read alone they are all there is; beside their run they are not added again."""
    runs, tasks = tmp_path / "emissions.csv", tmp_path / "emissions_base_run-0.csv"
    runs.write_text(text({}))
    names = "task_name " + RELEASES["3.3"].replace("experiment_id ", "").replace(" pue wue", "")
    columns = names.split()
    rows = [{**CELLS, "task_name": name, "energy_consumed": "0.002"} for name in ("load", "fit")]
    lines = [columns, *([row[name] for name in columns] for row in rows)]
    tasks.write_text("".join(",".join(cells) + "\n" for cells in lines))

    assert totals(load([tasks]).frame)[0].energy_kwh == pytest.approx(0.004)
    both = load([tmp_path])
    assert totals(both.frame)[0].energy_kwh == pytest.approx(0.004)
    assert both.nested == 2
    assert [record.name for record in iter_records(tasks)] == ["load", "fit"]


def test_a_damaged_file_gives_its_whole_rows(tmp_path: Path) -> None:
    """Torn lines, words for numbers and rewritten times are counted, and reading goes on."""
    path = tmp_path / "emissions.csv"
    bad = [{"duration": "long"}, {"timestamp": "01/03/2026 12:00"}, {"emissions": "little"}]
    good = [{"run_id": "run-8", "project_name": '"a, ""b"""'}, {"run_id": "run-9"}]
    path.write_text(text(good[0], *bad) + "2026-03-01T12:00:00,torn\n" + text(good[1]))
    skipped: list[str] = []
    found = list(iter_records(path, on_skip=skipped.append))

    assert [(record.run_id, record.name) for record in found] == [
        ("run-8", 'a, "b"'),
        ("run-9", "train"),
    ]
    assert len(skipped) == 4
    assert load([path]).skipped_lines == 4


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_file_that_a_spreadsheet_saved_is_read(tmp_path: Path, delimiter: str) -> None:
    """With its separators, decimal commas, ends of lines and mark."""
    content = text({"cpu_model": "AMD"}, end="\r\n").replace(",", delimiter)
    path = tmp_path / "emissions.csv"
    path.write_bytes(b"\xef\xbb\xbf" + content.replace("0.004", "0,004").encode())
    (record,) = iter_records(path)
    assert record.energy_kwh == 0.004


def test_our_rows_and_theirs_may_stand_in_one_file(tmp_path: Path) -> None:
    """As `cat` makes them: each is read below its own header."""
    path = tmp_path / "all.csv"
    ours = HEADER + record_line(a_record().to_row())
    path.write_bytes(ours + text({}).encode() + ours)
    names = [record.name for record in iter_records(path)]
    assert names == [a_record().name, "train", a_record().name]
    assert len(load([path]).frame) == 2


def test_what_is_not_known_is_apart_from_what_is_measured(tmp_path: Path) -> None:
    """Half of the energy is CodeCarbon's, so half is measured, and a line says of the rest."""
    ours = a_record(energy_kwh=0.004, cpu_kwh=0.004, ram_kwh=None, gpu_kwh=None, other_kwh=None,
                    cpu_basis="measured", basis="measured", pue=1.0)  # fmt: skip
    (tmp_path / "ours.csv").write_bytes(HEADER + record_line(ours.to_row()))
    (tmp_path / "theirs.csv").write_text(text({}))
    total = totals(load([tmp_path]).frame)[0]

    assert total.measured_share == pytest.approx(0.5)
    assert total.unrecorded_share == pytest.approx(0.5)
    assert total.energy_low_kwh is None


def test_the_default_of_report_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`carbontrack report` in a folder of CodeCarbon's, with what carbontrack wrote beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emissions.csv").write_text(text({}))
    assert main(["report"]) == 0
    said = capsys.readouterr().out
    assert "train" in said
    assert "How the energy is known is not recorded" in said

    ours = HEADER + record_line(a_record(name="ours").to_row())
    (tmp_path / "emissions.schema-2.csv").write_bytes(ours)
    assert main(["report", "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert {group["key"] for group in groups} == {"train", "ours"}


def test_the_page_and_the_statement_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither of them calls such energy measured or modelled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emissions.csv").write_text(text({}))
    assert main(["report", "--html", "page.html", "--format", "statement"]) == 0
    assert "Energy basis (measured or modelled): not recorded" in capsys.readouterr().out
    assert "How the energy is known is unknown" in (tmp_path / "page.html").read_text()
