"""`carbontrack regions` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carbontrack.cli import main
from carbontrack.cli.regions import compared_text
from carbontrack.grid.tables import lookup
from carbontrack.record import Record
from tests.support.records import a_record

Printed = pytest.CaptureFixture[str]


def facts(capsys: Printed, *options: str) -> list[dict[str, object]]:
    assert main(["regions", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found


def ranking(capsys: Printed, *options: str) -> dict[str, object]:
    assert main(["regions", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_place_is_told_with_its_source(capsys: Printed) -> None:
    """Figure, interval, year, method and source, as the look-up gives them."""
    (france,) = facts(capsys, "France")

    grid = lookup("FR")
    assert france["region"] == "FR"
    assert france["intensity_g_per_kwh"] == grid.g_per_kwh
    assert france["intensity_year"] == grid.year
    assert france["intensity_source"] == grid.source
    assert main(["regions", "France"]) == 0
    text = capsys.readouterr().out
    assert "41.4 g CO2e/kWh" in text
    assert "Ember" in text


def test_an_earlier_year_has_its_own_figures(capsys: Printed) -> None:
    """In a list, for one place and in a ranking, with the keys of today's."""
    (then,), (now,) = facts(capsys, "FR", "--year", "2022"), facts(capsys, "FR")
    assert (then["intensity_g_per_kwh"], then["intensity_year"]) == (78.54, 2022)
    assert then.keys() == now.keys()
    ranked = ranking(capsys, "PL", "--energy-kwh", "1", "--here", "FR", "--year", "2022")
    places = ranked["places"]
    assert isinstance(places, list)
    by_place = {place["region"]: place for place in places}
    poland = lookup("PL", year=2022).g_per_kwh
    assert by_place["PL"]["emissions_g"] == pytest.approx(poland)
    assert by_place["PL"]["factor"] == pytest.approx(poland / 78.54)
    assert main(["regions", "FR", "--year", "2022"]) == 0
    assert "78.5 g CO2e/kWh" in capsys.readouterr().out
    assert main(["regions", "FR", "--year", "1999"]) == 2
    assert "the tables begin in 2000" in capsys.readouterr().err


def test_what_the_interval_leaves_out_stands_beside_it(capsys: Printed) -> None:
    """With its size over all countries; for stack emissions only no size is known."""
    for place, said in (
        ("FR", "0.63 to 1.73"),
        ("AU-NSW", "stack emissions only"),
        ("WORLD", None),
    ):
        assert main(["regions", place]) == 0
        text = capsys.readouterr().out
        assert ("imports" in text) is (said is not None)
        assert said is None or said in " ".join(text.split())


def test_a_cloud_region_brings_its_pue(capsys: Printed) -> None:
    """And its water, where that is known."""
    (found,) = facts(capsys, "eu-west-1")

    assert (found["region"], found["pue"]) == ("aws:eu-west-1", 1.11)


def test_a_provider_is_all_its_regions(capsys: Printed) -> None:
    """In one list."""
    found = facts(capsys, "gcp")

    assert len(found) == 45
    assert all(str(place["region"]).startswith("gcp:") for place in found)


def test_a_part_of_a_name_finds_all_that_have_it(capsys: Printed) -> None:
    """Ambiguous names are choices here, not errors."""
    found = {place["region"] for place in facts(capsys, "georgia")}

    assert {"GE", "US-GA"} <= found


def test_no_query_lists_every_place_in_json(capsys: Printed) -> None:
    """The whole table for programs; a short list, with the way to the rest, for people."""
    assert len(facts(capsys)) > 350
    assert main(["regions"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 16  # with a heading
    assert "--top 0" in printed.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["frnce"], "'FR'"),
        (["MC"], "no table has"),
        (["--energy-kwh", "-3", "--here", "FR"], "energy_kwh"),
        (["--energy-kwh", "3", "--here", "Frnce"], "'FR'"),
        (["--energy-kwh", "3", "--compare", "x.csv"], "not both"),
        (["--compare", "gone.csv"], "gone.csv"),
        (["--energy-kwh", "many"], "--energy-kwh"),
    ],
)
def test_what_cannot_be_answered_is_bad_usage(
    capsys: Printed, options: list[str], says: str
) -> None:
    """Exit code 2, nothing on stdout, and what to do on stderr."""
    assert main(["regions", *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err


def test_places_are_ranked_against_here(capsys: Printed) -> None:
    """The least first, here always among them, each with factor and verdict."""
    found = ranking(capsys, "aws", "--energy-kwh", "100", "--here", "us-east-1", "--top", "3")

    places = found["places"]
    assert isinstance(places, list)
    assert found["here"] == "aws:us-east-1"
    assert [place["verdict"] for place in places] == ["less", "less", "less", "here"]
    assert places[-1]["emissions_g"] == pytest.approx(100 * lookup("us-east-1").g_per_kwh)
    grams = [place["emissions_g"] for place in places]
    assert grams == sorted(grams)
    assert places[0]["factor"] == pytest.approx(grams[0] / grams[-1])


def test_a_ranking_without_a_query_stays_in_the_same_cloud(capsys: Printed) -> None:
    """Whoever runs on AWS can move within AWS; figures counted otherwise are left out."""
    in_cloud = ranking(capsys, "--energy-kwh", "1", "--here", "us-east-1", "--top", "0")
    anywhere = ranking(capsys, "--energy-kwh", "1", "--here", "FR", "--top", "0")

    assert {p["region"].partition(":")[0] for p in in_cloud["places"]} == {"aws"}  # type: ignore[attr-defined]
    assert "other method" not in {p["verdict"] for p in anywhere["places"]}  # type: ignore[attr-defined]


def test_a_ranking_is_readable(capsys: Printed) -> None:
    """With headings, units, percentages and a word on overlap; columns are aligned."""
    assert main(["regions", "gcp", "--energy-kwh", "2", "--here", "europe-west9"]) == 0
    text = capsys.readouterr().out
    first, _, heads, *lines = text.splitlines()
    assert first == "2 kWh, compared with gcp:europe-west9"
    assert heads.split() == ["region", "emissions", "interval", "compared", "place"]
    table = lines[: lines.index("")]
    start = heads.index("place")
    assert {line[start - 2 : start].strip() for line in table} == {""}
    assert all(line[start:].strip() for line in table)
    assert any("% less" in line for line in table)
    assert any("  unclear  " in line for line in table)
    assert "unclear: the intervals of the two grids overlap" in text


@pytest.mark.parametrize(
    ("factor", "text"),
    [(0.05, "95% less"), (0.999, "the same"), (1.2, "20% more"), (9.0, "800% more"),
     (12.3, "12 x"), (0.0001, ">99% less"), (None, "")],
)  # fmt: skip
def test_a_factor_is_told_in_percent(factor: float | None, text: str) -> None:
    """Less is a share, and far more is a multiple."""
    assert compared_text(factor) == text


def test_several_places_have_a_line_each(capsys: Printed) -> None:
    """In their order, once each; one that nobody knows is an error."""
    assert [place["region"] for place in facts(capsys, "DE", "FR", "germany")] == ["DE", "FR"]
    assert main(["regions", "FR", "DE"]) == 0
    heads, france, germany = capsys.readouterr().out.splitlines()
    assert heads.split() == ["region", "g", "CO2e/kWh", "interval", "year", "place"]
    assert (france.split()[0], germany.split()[-1]) == ("FR", "Germany")
    assert main(["regions", "FR", "XX"]) == 2
    assert "unknown region 'XX'" in capsys.readouterr().err


def test_an_unknown_place_of_the_machine_is_told(
    capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with the world, and why."""
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("CARBONTRACK_CLOUD", "none")
    assert main(["regions", "FR", "--energy-kwh", "2"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "2 kWh, compared with WORLD, because no region is set or detected"


def records(path: Path, *rows: tuple[str | None, float | None, str | None]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for number, (zone, kwh, parent) in enumerate(rows):
            record = Record(
                record_id=f"r{number}",
                run_id="run",
                parent_id=parent,
                name="train",
                started_at="2026-01-01T00:00:00Z",
                ended_at="2026-01-01T01:00:00Z",
                duration_s=3600.0,
                energy_kwh=kwh,
                region=zone,
            )
            file.write(json.dumps(record.to_row()) + "\n")
    return path


def test_the_energy_of_a_file_is_that_of_its_roots(capsys: Printed, tmp_path: Path) -> None:
    """Children are part of their roots, an unknown energy is none, most energy names the place."""
    path = records(
        tmp_path / "runs.jsonl",
        ("DE", 2.0, None),
        ("DE", 1.5, "r0"),
        ("FR", 1.0, None),
        ("FR", None, None),
    )

    assert main(["regions", "--compare", str(path), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)

    assert (found["energy_kwh"], found["here"]) == (3.0, "DE")
    assert "not FR" in printed.err


def test_the_energy_of_a_file_counts_nothing_twice(capsys: Printed, tmp_path: Path) -> None:
    """Ranks of one machine, a repeated delivery, and a child that its parent does not hold."""
    own = {"ended_at": "2026-11-24T04:00:00Z", "energy_kwh": 1.0, "region": "DE", "host_id": "a"}
    runs = [a_record(n, run_id=f"r{n}", scope="machine", **own) for n in range(4)]
    runs += [runs[0], a_record(9, parent_id=runs[0].record_id, parent_holds=False, **own)]
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(run.to_row()) + "\n" for run in runs), encoding="utf-8")

    assert main(["regions", "--compare", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["energy_kwh"] == pytest.approx(2.0)


def test_a_file_without_energy_is_bad_usage(capsys: Printed, tmp_path: Path) -> None:
    """There is nothing to compare."""
    path = records(tmp_path / "runs.jsonl", ("DE", None, None))

    assert main(["regions", "--compare", str(path)]) == 2
    assert "no record with an energy" in capsys.readouterr().err
