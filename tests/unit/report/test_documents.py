"""Papers, model cards, BoAmps and SCI: the records' figures in other people's forms."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from carbontrack.record import Record
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


def test_a_statement_holds_what_a_methods_section_needs(report):
    """Hardware, region, PUE, intensity with source and year, intervals, basis, boundary."""
    text = report("statement", run(1), run(2))
    for needed in (
        "2 runs on AMD EPYC 7763 64-Core Processor (128 threads), 2 x NVIDIA A100-SXM4-80GB",
        "consumed 2.20 kWh of electricity (uncertainty interval 2.",
        "including data-centre overhead at a PUE of 1.1",
        f"Location-based emissions are {format_grams(2 * 61.6)} CO2e (uncertainty interval ",
        "from a carbon intensity of 56 g CO2e/kWh for France (FR)",
        f"({EMBER}, data of 2025)",
        "Market-based emissions are not reported, because",
        "Energy basis: 90% measured, 10% modelled, by carbontrack 1.2.3.",
        "Boundary: the share of CPU, GPU and memory energy",
        "Not included: network, storage outside the machine, displays, losses of power supplies",
        "Embodied emissions: not included (separately: 7.00 g CO2e",
        "Scope 2 for the organisation that operates the machines, and Scope 3 for one that rents",
        "RAPL energy counters (rapl:package-0); NVIDIA GPU counters (NVML) (nvml:GPU-1); memory",
        "| region | France (FR), given by the user |",
        "| carbon intensity | 56 (50 to 62.5) g CO2e/kWh; lifecycle emissions of generation",
        f"| intensity source | {EMBER}, data of 2025 |",
    ):
        assert needed in text, needed


def test_a_statement_has_one_unit_for_a_figure_and_its_interval(report):
    """A figure of 0.9 Wh, which alone is 3.24 kJ, is in the watt-hours of its interval."""
    parts = {"cpu_kwh": 0.0009, "gpu_kwh": None, "ram_kwh": None, "pue": 1.0}
    ends = {"energy_kwh": 0.0009, "energy_low_kwh": 0.0005, "energy_high_kwh": 0.0022}
    text = report("statement", run(1, **parts, **ends))
    assert "consumed 0.90 Wh of electricity (uncertainty interval 0.50 to 2.20 Wh)" in text


def test_a_statement_tells_the_rate_of_models_only_where_most_is_modelled(report):
    """And of what it was counted; a tenth of memory beside counters needs no such sentence."""
    modelled = run(1, basis="modelled", cpu_basis="modelled", gpu_basis=None, gpu_kwh=None)
    text = report("statement", modelled)
    assert "contained the true value of nine of ten published servers" in text
    assert "for virtual machines and laptops it is not known" in text
    assert "nine of ten" not in report("statement", run(1))


def test_a_statement_of_several_places_and_machines_names_each(report):
    """What differs from run to run stands in the table, and nothing is claimed for all."""
    text = report(
        "statement", run(1), run(2, region="DE", cpu_model="Other", pue=1.5, embodied_g=None)
    )
    assert "on 2 kinds of machines" in text
    for place in ("France (FR)", "Germany (DE)"):
        assert text.count(f"56 g CO2e/kWh for {place}") == 1
    assert "PUE of 1.1 to 1.5" in text
    assert "Embodied emissions: not included (unknown)." in text
    assert "| embodied emissions, not included | unknown |" in text


def test_a_statement_has_both_methods_where_the_contract_is_known(report):
    """Location-based and market-based, the second beside and for the energy that it is known of."""
    text = report("statement", run(1, market_emissions_g=0.0), run(2))
    assert f"| emissions, location-based | {format_grams(2 * 61.6)}" in text
    (row,) = re.findall(r"\| emissions, market-based \| (.*) \|", text)
    assert row.startswith("0 µg CO2e for the 50%")
    assert f"Market-based emissions are {row}." in text
    (row,) = re.findall(r"\| emissions, market-based \| (.*) \|", report("statement", run(1)))
    assert row.startswith("not reported, because")


@pytest.mark.parametrize("form", ["table", "markdown", "latex"])
def test_a_report_names_emissions_by_contract_beside_the_others(report, form):
    """Below the sums of the place, which stay as they are."""
    with_contract = report(form, run(1, market_emissions_g=27.5))
    assert "market-based" in with_contract
    assert "27.5 g CO" in with_contract
    assert format_grams(61.6).removesuffix(" g" * (form == "latex")) in with_contract
    assert "market-based" not in report(form, run(1))


def test_unknown_is_said_in_a_statement(report):
    """A record with nothing in it makes a statement that says so, not one with zeros."""
    bare = Record(
        record_id="a", run_id="a", name="n", started_at="2026-01-01T00:00:00Z", ended_at=""
    )
    text = report("statement", bare)
    assert "consumed an unknown amount of electricity, with an unknown PUE" in text
    assert "Location-based emissions are an unknown amount CO2e" not in text
    assert "Location-based emissions are unknown" in text
    assert " 0 " not in text


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
