"""Papers, model cards, BoAmps and SCI: the records' figures in other people's forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from carbontrack.cli import main
from carbontrack.record import Record
from carbontrack.sinks.csv_file import HEADER, record_line
from carbontrack.units import format_grams
from tests.support.records import HOSTILE, a_record

SCHEMAS = Path(__file__).parents[2] / "support" / "boamps"
TASK = {
    "taskStage": "inference",
    "taskFamily": "text classification",
    "algorithms": [{"algorithmName": "transformer"}],
    "dataset": [{"dataUsage": "input", "dataType": "text"}],
}
EMBER = "Ember Yearly Electricity Data (2026), processed by Our World in Data"


def run(number: int, **changes: Any) -> Record:
    facts = {
        "calls": 500,
        "cpu_kwh": 0.2,
        "gpu_kwh": 0.7,
        "ram_kwh": 0.1,
        "pue": 1.1,
        "energy_kwh": 1.1,
        "energy_low_kwh": 1.0,
        "energy_high_kwh": 1.2,
        "emissions_g": 61.6,
        "emissions_low_g": 50.0,
        "emissions_high_g": 75.0,
        "intensity_low_g_per_kwh": 50.0,
        "intensity_high_g_per_kwh": 62.5,
        "intensity_source": EMBER,
        "intensity_year": 2025,
        "cpu_basis": "measured",
        "gpu_basis": "measured",
        "ram_basis": "modelled",
        "meters": "rapl:package-0;nvml:GPU-1;model:ram",
        "cpu_model": "AMD EPYC 7763 64-Core Processor",
        "cpu_threads": 128,
        "gpu_models": "NVIDIA A100-SXM4-80GB;NVIDIA A100-SXM4-80GB",
        "gpu_count": 2,
        "ram_gib": 512.0,
        "embodied_g": 3.5,
        "python": "3.11.7",
        "carbontrack": "1.2.3",
        "duration_s": 3600.0,
    }
    return a_record(number, **(facts | changes))


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Write records, ask for a format, and give back what was printed."""

    def asked(form: str, *records: Record, more: tuple[str, ...] = (), code: int = 0) -> str:
        path = tmp_path / "runs.csv"
        path.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records))
        assert main(["report", str(path), "--format", form, *more]) == code
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return asked


def test_a_statement_holds_what_a_methods_section_needs(report):
    """Hardware, region, PUE, intensity with source and year, intervals, basis, boundary."""
    text = report("statement", run(1), run(2))
    for needed in (
        "2 runs on AMD EPYC 7763 64-Core Processor (128 threads), 2 x NVIDIA A100-SXM4-80GB",
        "2.20 kWh (",
        "a PUE of 1.1 included",
        format_grams(2 * 61.6),
        "56 g CO2e/kWh for France (FR)",
        f"({EMBER}, 2025)",
        "90% was measured, 10% was modelled",
        "carbontrack 1.2.3",
        "the share of processors",
        "(7.00 g CO2e for the time used, beside)",
        "rapl:package-0, nvml:GPU-1, model:ram",
        "| region | France (FR), found by argument |",
    ):
        assert needed in text, needed


def test_a_statement_tells_the_rate_of_models_only_where_most_is_modelled(report):
    """And of what it was counted; a tenth of memory beside counters needs no such sentence."""
    modelled = run(1, basis="modelled", cpu_basis="modelled", gpu_basis=None, gpu_kwh=None)
    text = report("statement", modelled)
    assert "held nine of ten published servers" in text
    assert "for virtual machines and laptops the rate is not known" in text
    assert "nine of ten" not in report("statement", run(1))


def test_a_statement_of_several_places_and_machines_names_each(report):
    """What differs from run to run stands in the table, and nothing is claimed for all."""
    text = report(
        "statement", run(1), run(2, region="DE", cpu_model="Other", pue=1.5, embodied_g=None)
    )
    assert "on 2 kinds of machines" in text
    assert "in 2 regions" in text
    assert "PUE of 1.1 to 1.5" in text
    assert "Germany (DE)" in text
    assert "hardware (unknown) is no part" in text


def test_a_statement_has_both_methods_where_the_contract_is_known(report):
    """Location-based and market-based, the second beside and for the energy that it is known of."""
    text = report("statement", run(1, market_emissions_g=0.0), run(2))
    assert f"| emissions, location-based | {format_grams(2 * 61.6)}" in text
    by_contract = "0 µg CO2e for the 50% of the energy of which it is known"
    assert f"| emissions, market-based | {by_contract} |" in text
    assert f"(location-based; by contract, market-based: {by_contract})" in text
    assert "market-based" not in report("statement", run(1))


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_a_report_names_emissions_by_contract_beside_the_others(report, form):
    """Below the sums of the place, which stay as they are."""
    with_contract = report(form, run(1, market_emissions_g=27.5))
    assert "By contract (market-based), beside these: 27.5 g CO2e." in with_contract
    assert format_grams(61.6) in with_contract
    assert "contract" not in report(form, run(1))


def test_unknown_is_said_in_a_statement(report):
    """A record with nothing in it makes a statement that says so, not one with zeros."""
    bare = Record(
        record_id="a", run_id="a", name="n", started_at="2026-01-01T00:00:00Z", ended_at=""
    )
    text = report("statement", bare)
    assert "an unknown amount" in text
    assert "of unknown PUE" in text
    assert " 0 " not in text


def test_bibtex_has_an_entry_for_each_source(report):
    """The program, and each source of intensity once, with its year and licence."""
    text = report("bibtex", run(1), run(2), run(3, intensity_source="Office of 100% & more"))
    assert text.count("@misc{intensity") == 2
    assert "year = {2026}" in text
    assert "CC BY 4.0" in text
    assert r"Office of 100\% \& more" in text
    assert text.count("{") == text.count("}")


def test_shares_and_grids_in_a_source_are_not_part_of_its_title(report):
    """A record fed by two sources gives two entries with clean titles."""
    mixed = f"{EMBER} (60.0%); Energy-Charts (40.0%)"
    text = report("bibtex", run(1, intensity_source=mixed))
    assert f"{{{{{EMBER}}}}}" in text
    assert "{{Energy-Charts}}" in text


def test_a_model_card_is_yaml_with_the_hub_s_names(report, tmp_path):
    """The fields of the Hub's documentation, and no other; emissions in grams, as a number."""
    block = yaml.safe_load(report("modelcard", run(1), run(2)))["co2_eq_emissions"]
    assert block["emissions"] == pytest.approx(123.2)
    assert set(block) == {"emissions", "source", "geographical_location", "hardware_used"}
    about = tmp_path / "about.json"
    about.write_text('{"training_type": "fine-tuning"}')
    text = report("modelcard", run(1), more=("--about", str(about)))
    assert yaml.safe_load(text)["co2_eq_emissions"]["training_type"] == "fine-tuning"
    about.write_text('{"trainig_type": "fine-tuning"}')
    assert "training_type" in report("modelcard", run(1), more=("--about", str(about)), code=2)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_texts_in_yaml(report, name):
    """A processor may be called anything; what YAML reads back is that, spaces apart."""
    block = yaml.safe_load(report("modelcard", run(1, cpu_model=name)))["co2_eq_emissions"]
    assert block["hardware_used"].split()[0][:5] == f"{name} (128".split()[0][:5]


def boamps_validator() -> Any:
    from jsonschema import Draft4Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT4

    schemas = [json.loads(path.read_text()) for path in sorted(SCHEMAS.glob("*.json"))]
    registry = Registry().with_resources(
        (schema["id"], Resource.from_contents(schema, default_specification=DRAFT4))
        for schema in schemas
    )
    main_schema = next(schema for schema in schemas if schema["title"] == "report")
    return Draft4Validator(main_schema, registry=registry)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gpu_models": None, "gpu_count": 0, "gpu_kwh": None, "meters": "model:cpu;model:ram"},
        {"cloud_provider": "aws", "region": "aws:eu-west-3"},
        {"region": None, "ram_gib": None, "os": None, "python": None, "cpu_model": None},
        {"energy_low_kwh": None, "duration_s": None},
    ],
)
def test_a_boamps_report_follows_the_published_schema(report, tmp_path, changes):
    """With much known or little, the schemas of BoAmps take it."""
    about = tmp_path / "about.json"
    about.write_text(json.dumps({"task": TASK}))
    text = report("boamps", run(1, **changes), run(2), more=("--about", str(about)))
    assert list(boamps_validator().iter_errors(json.loads(text))) == []


def test_the_schema_can_refuse(report, tmp_path):
    """The check above is one: a wrong word in a nested part is found."""
    about = tmp_path / "about.json"
    about.write_text(json.dumps({"task": TASK}))
    good = json.loads(report("boamps", run(1), more=("--about", str(about))))
    for path, wrong in (
        (("quality",), "superb"),
        (("measures", 0, "powerConsumption"), "much"),
        (("task", "dataset", 0, "dataType"), "poem"),
        (("infrastructure", "components", 0, "nbComponent"), "two"),
    ):
        bad = json.loads(json.dumps(good))
        place = bad
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = wrong
        assert list(boamps_validator().iter_errors(bad)), path


def test_a_boamps_report_holds_the_records_figures(report, tmp_path):
    """Energy before PUE, seconds, intensity and country; a person's facts on top."""
    about = tmp_path / "about.json"
    about.write_text(json.dumps({"task": TASK, "infrastructure": {"infraType": "onPremise"}}))
    found = json.loads(report("boamps", run(1), run(2), more=("--about", str(about))))
    assert found["measures"][0]["powerConsumption"] == pytest.approx(2.0)
    assert found["measures"][0]["measurementDuration"] == 7200.0
    assert found["measures"][0]["gpuTrackingMode"] == "nvml"
    assert found["environment"] == {"country": "France", "powerSourceCarbonIntensity": 56.0}
    assert found["infrastructure"]["infraType"] == "onPremise"
    assert found["infrastructure"]["components"][1]["nbComponent"] == 2
    assert found["task"] == TASK


@pytest.mark.parametrize(
    "about", ["{}", '{"task": {}}', "[]", "no json", '{"task": {"dataset": 1}}']
)
def test_boamps_without_a_task_is_told_with_an_example(report, tmp_path, about):
    """What no record can know is asked for, before anything is printed."""
    path = tmp_path / "about.json"
    path.write_text(about)
    said = report("boamps", run(1), more=("--about", str(path)), code=2)
    assert "--about" in said


def test_sci_is_the_formula_of_the_standard(report):
    """(E x I + M) / R from the records, with its parts beside it."""
    found = json.loads(report("sci", run(1), run(2), more=("--units", "100")))
    assert found["sci_g_per_unit"] == pytest.approx((2 * 61.6 + 2 * 3.5) / 100)
    assert found["e_kwh"] * found["i_g_per_kwh"] == pytest.approx(2 * 61.6)
    assert (found["m_g"], found["r_units"]) == (7.0, 100.0)
    assert found["sci_low_g_per_unit"] < found["sci_g_per_unit"] < found["sci_high_g_per_unit"]


def test_sci_agrees_with_the_specification_s_example(report):
    """E 10 kWh at 500 g, M 200 g, R 100: 52 g per unit."""
    known = run(1, energy_kwh=10.0, emissions_g=5000.0, embodied_g=200.0)
    assert json.loads(report("sci", known, more=("--units", "100")))["sci_g_per_unit"] == 52.0


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        ({"embodied_g": None}, (), "embodied_g_per_h"),
        ({"calls": None}, (), "--units"),
        ({}, ("--units", "0"), "--units"),
        ({"emissions_g": None}, (), "emissions"),
    ],
)
def test_sci_is_not_made_of_unknowns(report, changes, more, said):
    """A missing part is an error; it is never 0."""
    assert said in report("sci", run(1, **changes), more=more, code=2)
