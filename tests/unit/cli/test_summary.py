"""What a person reads after a run."""

from __future__ import annotations

from typing import Any

import pytest

from carbontrack.cli.summary import headline, rows
from carbontrack.meters.meter import Hardware
from carbontrack.meters.rate import COUNTED, IN_GUEST, NO_PART, OTHER_PART, rate_text
from carbontrack.record import Record
from carbontrack.tracking.budget import Budget

EPYC = "AMD EPYC 7763 64-Core Processor"
WHOLE: dict[str, Any] = {
    "record_id": "r-1",
    "run_id": "r",
    "name": "train.py",
    "started_at": "2026-01-01T00:00:00.000000Z",
    "ended_at": "2026-01-01T00:00:21.400000Z",
    "duration_s": 21.4,
    "energy_kwh": 1.35e-3,
    "energy_low_kwh": 0.92e-3,
    "energy_high_kwh": 1.81e-3,
    "emissions_g": 0.0662,
    "emissions_low_g": 0.044,
    "emissions_high_g": 0.0901,
    "region": "FR",
    "region_basis": "timezone",
    "intensity_g_per_kwh": 49.04,
    "intensity_source": "Ember (2026)",
    "intensity_year": 2025,
    "pue": 1.0,
    "basis": "modelled",
    "cpu_basis": "modelled",
    "ram_basis": "modelled",
    "scope": "process",
    "cpu_share": 0.62,
    "coverage": 1.0,
    "cpu_model": "AMD EPYC 7B13",
    "cpu_tdp_w": 225.0,
    "ram_gib": 16.0,
}


def record(**columns: Any) -> Record:
    return Record(**{**WHOLE, **columns})


def test_a_summary_says_how_much_how_sure_how_known_and_where() -> None:
    """Everything a reader needs to believe or doubt the number stands in a few lines."""
    found = dict(rows(record(), outputs=("emissions.csv",)))

    assert found == {
        "energy": "1.35 Wh  (0.92 to 1.81 Wh)",
        "emissions": "66.2 mg CO2e  (44.0 to 90.1 mg)",
        "about": "5.6 prompts to an AI assistant (Elsworth et al. 2025)",
        "how": "modelled: AMD EPYC 7B13, TDP 225 W, 16 GiB; 62% of CPU energy",
        "grid": "FR, 49 g CO2e/kWh in 2025 (Ember (2026)), from the time zone",
        "record": "emissions.csv",
    }


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, ", CPU and memory, not wall power"),
        ({"gpu_kwh": 1e-3, "gpu_basis": "measured"},
         ", CPU, GPU and memory, not wall power"),
        ({"cpu_basis": "assumed", "basis": "assumed"},
         ", CPU and memory, not wall power"),
        ({"other_kwh": 1e-4}, ""),
        ({"cpu_basis": "measured", "ram_basis": "measured", "basis": "measured"}, ""),
        ({"pue": 1.1, "ram_kwh": None, "ram_basis": None},
         ", PUE 1.1 included, CPU, not wall power"),
    ],
)  # fmt: skip
def test_a_modelled_figure_says_in_the_same_breath_what_it_is_of(
    columns: dict[str, Any], said: str
) -> None:
    """A watt that was not measured is easily taken for one at the wall."""
    parts = {"cpu_kwh": 1e-3, "ram_kwh": 0.35e-3}

    found = dict(rows(record(**{**parts, **columns})))

    assert found["energy"] == f"1.35 Wh  (0.92 to 1.81 Wh){said}"


@pytest.mark.parametrize(
    ("hardware", "columns", "rate"),
    [
        (Hardware(EPYC, cpu_known="part", is_guest=False), {}, COUNTED),
        (Hardware(EPYC, cpu_known="part", is_guest=True), {}, IN_GUEST),
        (Hardware(EPYC, cpu_known="part"), {}, OTHER_PART),
        (Hardware(EPYC, cpu_known="family", is_guest=False), {}, NO_PART),
        (Hardware("AMD EPYC 7B13", cpu_known="given", is_guest=False), {}, NO_PART),
        (Hardware(EPYC, cpu_known="part", is_guest=False), {"cpu_basis": "measured"}, None),
        (Hardware(EPYC, cpu_known="part", is_guest=False), {"gpu_basis": "assumed"}, None),
        (Hardware(EPYC, cpu_known="part", is_guest=False), {"other_kwh": 1e-4}, None),
        (None, {}, None),
    ],
)
def test_a_rate_is_told_only_where_it_was_counted(
    hardware: Hardware | None, columns: dict[str, Any], rate: str | None
) -> None:
    """For servers whose part is known; a record alone does not tell what its machine is."""
    seen = record(cpu_kwh=1e-3, ram_kwh=0.35e-3, **columns)

    assert dict(rows(seen, hardware=hardware, verbose=True)).get("interval") == rate
    assert "interval" not in dict(rows(seen, hardware=hardware))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("AMD EPYC 9654 96-Core Processor", COUNTED),
        ("Intel(R) Xeon(R) Platinum 8480+", COUNTED),
        ("Intel(R) Xeon(R) CPU E5-2620 v3 @ 2.40GHz", COUNTED),
        ("Intel(R) Xeon(R) CPU E3-1230 v5 @ 3.40GHz", OTHER_PART),
        ("Intel(R) Xeon(R) E-2288G CPU @ 3.70GHz", OTHER_PART),
        ("Intel(R) Xeon(R) CPU E5405 @ 2.00GHz", OTHER_PART),
        ("AMD EPYC 4464P 12-Core Processor", OTHER_PART),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", OTHER_PART),
        (None, OTHER_PART),
    ],
)
def test_the_rate_is_that_of_servers_since_2010(name: str | None, text: str) -> None:
    """Small client Xeons lay inside far less often, and older servers have a curve of their own."""
    assert rate_text(name, "part", is_guest=False) == text


@pytest.mark.parametrize(("grams", "said"), [(0.0, "0 µg"), (0.0135, "13.5 mg")])
def test_emissions_by_contract_have_a_line_beside_those_of_the_place(
    grams: float, said: str
) -> None:
    """A contract that emits nothing is told as well; without one there is no such line."""
    found = dict(rows(record(market_emissions_g=grams)))

    assert found["contract"] == f"{said} CO2e by contract (market-based)"
    assert found["emissions"] == dict(rows(record()))["emissions"]
    assert "contract" not in dict(rows(record()))


def test_a_headline_names_the_command_its_time_and_its_trouble() -> None:
    """A failed run says so in the first line."""
    assert headline(record()) == "train.py, 21.4 s"
    assert headline(record(error="exit code 3")) == "train.py, 21.4 s, exit code 3"
    assert headline(record(duration_s=None)) == "train.py"


def test_measured_parts_are_told_from_modelled_ones() -> None:
    """A measured CPU beside a modelled memory is not a measured run."""
    found = dict(
        rows(
            record(
                cpu_basis="measured",
                cpu_tdp_w=None,
                gpu_basis="measured",
                gpu_models="NVIDIA H100;NVIDIA H100",
                scope="machine",
            )
        )
    )

    assert found["how"] == (
        "CPU measured (AMD EPYC 7B13), GPU measured (2 x NVIDIA H100), "
        "memory modelled (16 GiB); whole machine"
    )


@pytest.mark.parametrize(
    ("columns", "label", "text"),
    [
        ({"energy_kwh": None}, "energy", "unknown"),
        ({"emissions_g": None}, "emissions", "unknown"),
        ({"energy_low_kwh": None}, "energy", "1.35 Wh"),
        ({"pue": 1.2}, "energy", "1.35 Wh  (0.92 to 1.81 Wh), PUE 1.2 included"),
        ({"emissions_high_g": None}, "emissions", "66.2 mg CO2e"),
        ({"region": "WORLD", "region_basis": "unknown", "intensity_year": None}, "grid",
         "WORLD, 49 g CO2e/kWh (Ember (2026)), region unknown"),
        ({"cpu_basis": None, "ram_basis": None, "cpu_share": None}, "how", "no meter answered"),
        ({"cpu_model": None, "cpu_basis": "assumed", "cpu_tdp_w": None, "ram_basis": None,
          "cpu_share": 0.004}, "how",
         "assumed: unknown processor; 0.4% of CPU energy"),
        ({"coverage": 0.5, "ram_basis": None, "scope": "machine"}, "how",
         "modelled: AMD EPYC 7B13, TDP 225 W; whole machine; observed 50% of the time"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_said_or_left_out(
    columns: dict[str, Any], label: str, text: str
) -> None:
    """Unknown is a word, never a zero."""
    assert dict(rows(record(**columns)))[label] == text


def test_a_budget_and_its_verdict_have_a_line() -> None:
    """Who sets a limit wants to see what was used of it."""
    verdict = Budget.of("50 mg").check(record())

    found = dict(rows(record(), verdict=verdict))

    assert found["budget"] == "possibly over budget: 66.2 mg CO2e of 50.0 mg CO2e"


def test_without_energy_there_is_no_comparison_and_no_grid_line() -> None:
    """Nothing is compared with nothing."""
    empty = record(energy_kwh=None, emissions_g=None, intensity_g_per_kwh=None)

    assert [label for label, _ in rows(empty)] == ["energy", "emissions", "how"]


def test_a_meter_of_another_component_is_named() -> None:
    """A smart plug alone is a meter that answered."""
    parts = {"cpu_basis": None, "ram_basis": None, "cpu_share": None, "scope": "machine"}
    plug = record(**parts, other_kwh=1e-3, basis="measured", meters="plug:desk")
    assert ("how", "measured: plug:desk; whole machine") in rows(plug)
    wall = record(**parts, other_kwh=1e-3, basis="assumed", meters="model:cpu;model:wall")
    told = "assumed: up to the wall power of servers; whole machine"
    assert ("how", told) in rows(wall)
    assert ("how", "CPU measured (AMD EPYC 7B13), other included") in rows(
        record(cpu_basis="measured", ram_basis=None, cpu_share=None, other_kwh=1e-3)
    )


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        (None, None),
        ("reset:1;substituted:2", None),
        ("gpu_unmeasured:1", "1 GPU is not measured"),
        ("gpu_unmeasured:3;reset:1", "3 GPUs are not measured"),
        ("zones_closed:1", "1 closed counter is assumed to be like the others of its kind"),
        (
            "gpu_unmeasured:1;source_failed:2;zones_closed:2",
            "1 GPU is not measured; 2 sources of meters failed; "
            "2 closed counters are assumed to be like the others of their kind",
        ),
    ],
)
def test_what_is_not_measured_has_a_line_of_its_own(faults: str | None, said: str | None) -> None:
    """Only where there is something to say; the figure alone does not tell it."""
    found = dict(rows(record(faults=faults)))

    assert found.get("missing") == (said and f"{said}; for the reason run carbontrack doctor")


def test_a_rate_of_models_is_not_told_of_completed_counters() -> None:
    """Their interval is another one: what is read, and the limits of what is closed."""
    hardware = Hardware(EPYC, cpu_known="part", is_guest=False)
    columns = {"cpu_kwh": 1e-3, "ram_kwh": 0.35e-3, "meters": "model:packages;model:ram"}

    found = dict(rows(record(**columns), hardware=hardware, verbose=True))

    assert found["energy"].endswith("not wall power")
    assert "interval" not in found
    assert found["how"].startswith("modelled: AMD EPYC 7B13, 16 GiB")


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        (Hardware(cpu_known="family", is_guest=True), "AMD EPYC, 2 threads x 2.08 W, 16 GiB"),
        (Hardware(cpu_known="part", cpu_sockets=0.02), "AMD EPYC, 2 threads x 2.08 W, 16 GiB"),
        (Hardware(cpu_known="part", cpu_sockets=1.0), "AMD EPYC, TDP 4.16 W, 16 GiB"),
    ],
)
def test_a_share_of_a_package_is_told_by_its_threads(hardware: Hardware, said: str) -> None:
    """A design power of four watts for a server's processor looks like a bug."""
    seen = record(cpu_model="AMD EPYC", cpu_threads=2, cpu_tdp_w=4.16)

    assert dict(rows(seen, hardware=hardware))["how"] == f"modelled: {said}; 62% of CPU energy"


def test_each_line_fits_80_columns() -> None:
    """With the labels and margins of the table, 67 are left; sources wait to be asked for."""
    ember = "Ember Yearly Electricity Data (2026), processed by Our World in Data"
    seen = record(
        cpu_kwh=1e-3, ram_kwh=0.35e-3, cpu_threads=96, cpu_tdp_w=199.68, intensity_source=ember,
        cpu_model="Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz",
    )  # fmt: skip
    hardware = Hardware(cpu_known="family", is_guest=True)
    found = rows(seen, outputs=("emissions.csv",), hardware=hardware)

    assert len(found) <= 7
    long = [label for label, text in found if len(text) > 67]
    assert long in ([], ["how"])  # a long name of a processor may need a second line
    assert ember not in dict(found)["grid"]
    assert ember in dict(rows(seen, verbose=True))["grid"]
