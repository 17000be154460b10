"""The making of the hardware stands beside the emissions, adds up, and is never guessed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from carbontrack.errors import ConfigError
from carbontrack.impact.embodied import rates_per_h
from carbontrack.meters.meter import Hardware
from carbontrack.record import WHOLE_MACHINE
from carbontrack.sampling.counts import Counts
from carbontrack.tracking.record_builder import MeterFacts, Part, Window, embodied_figures

METERS = [
    MeterFacts("rapl:package-0", "cpu", "measured", 0.001, 0.07, is_substitute=False),
    MeterFacts("model:ram", "ram", "modelled", 0.0, 0.5, is_substitute=False),
]
SERVER = Hardware(cpu_model="AMD EPYC", cpu_sockets=2.0, ram_gib=64.0, gpu_count=0)
HOURS_PER_LIFE = 4 * 8766


NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def window(duration_s: float) -> Window:
    return Window(Counts(0.0), Counts(duration_s), duration_s, (), None, NOW, None, ())


def parts(*joules: tuple[float, float]) -> list[Part]:
    """Ours and the machine's, by meter."""
    return [Part(m, ours, m.basis, all_j) for m, (ours, all_j) in zip(METERS, joules, strict=True)]


def test_a_whole_machine_bears_its_rate_for_the_time_used():
    """An hour of the whole machine is an hour of its rates, whatever it drew."""
    found = embodied_figures(
        parts((100.0, 100.0), (5.0, 5.0)), window(3600.0), {"cpu": 6.0, "ram": 2.0}
    )
    assert found == {"embodied_g": 8.0}


def test_shares_add_up_to_the_machine():
    """What two users of one machine bear is what the machine bears, part by part."""
    rates = {"cpu": 6.0, "ram": 2.0}
    ours, theirs = (
        embodied_figures(parts((cpu_j, 100.0), (ram_j, 10.0)), window(3600.0), rates)["embodied_g"]
        for cpu_j, ram_j in ((25.0, 9.0), (75.0, 1.0))
    )
    assert ours == pytest.approx(6.0 * 0.25 + 2.0 * 0.9)
    assert ours + theirs == pytest.approx(8.0)


def test_a_figure_for_the_whole_machine_goes_by_all_energy():
    """One's own rate is shared by the energy of all parts together."""
    used = parts((25.0, 150.0), (25.0, 50.0))
    found = embodied_figures(used, window(1800.0), {WHOLE_MACHINE: 10.0})
    assert found["embodied_g"] == pytest.approx(10.0 * 0.5 * 50.0 / 200.0)


@pytest.mark.parametrize(
    ("joules", "rates"),
    [
        ((1.0, 1.0), None),
        ((1.0, 1.0), {}),
        ((1.0, 1.0), {"cpu": 6.0, "ram": 2.0, "gpu": 50.0}),
        ((0.0, 0.0), {"cpu": 6.0}),
    ],
)
def test_unknown_is_nothing(joules: tuple[float, ...], rates: dict[str, float] | None):
    """No rates, a part that no meter speaks for, or no energy to share by: no figure, never 0."""
    used = parts(*((ours, ours) for ours in joules))
    assert embodied_figures(used, window(1.0), rates) == {}


def test_minerals_and_metals_are_shared_in_the_same_way():
    """The same shares of the same hours, in a column of its own."""
    used = parts((25.0, 100.0), (9.0, 10.0))
    rates = {"cpu": 4e-6, "ram": 2e-6, WHOLE_MACHINE: 1e-6}
    found = embodied_figures(used, window(7200.0), None, rates)
    per_h = 4e-6 * 0.25 + 2e-6 * 0.9 + 1e-6 * 34.0 / 110.0
    assert found == {"abiotic_kg_sb": pytest.approx(2 * per_h)}


REST_KG = 66.1 + 2 * 72.7 + 150 + 6.68 + 2 * 51.7
"""Board, two supplies, chassis, assembly and two drives."""
REST_KG_SB = 0.00369 + 2 * 0.0248 + 0.0202 + 1.41e-6 + 2 * 0.00186


def test_rates_are_the_tables_over_a_life():
    """A server by its parts and its cards, each over four years of hours."""
    ram_gb = 64 * 1.073741824
    g, kg_sb = rates_per_h(SERVER)
    assert g == {
        "cpu": pytest.approx(2 * 100e3 / HOURS_PER_LIFE),
        "ram": pytest.approx(ram_gb * 1.392e3 / HOURS_PER_LIFE),
        WHOLE_MACHINE: pytest.approx(REST_KG * 1e3 / HOURS_PER_LIFE),
    }
    assert kg_sb == {
        "cpu": pytest.approx(2 * 0.0204 / HOURS_PER_LIFE),
        "ram": pytest.approx(ram_gb * 8.8e-5 / HOURS_PER_LIFE),
        WHOLE_MACHINE: pytest.approx(REST_KG_SB / HOURS_PER_LIFE),
    }
    cards = replace(SERVER, gpu_count=2, gpu_models=("NVIDIA A100-SXM4-80GB",) * 2)
    assert rates_per_h(cards)[0]["gpu"] == pytest.approx(2 * 181e3 / HOURS_PER_LIFE)
    assert rates_per_h(cards)[1]["gpu"] == pytest.approx(2 * 0.0069 / HOURS_PER_LIFE)


def test_a_guest_bears_its_part_of_the_server():
    """Of board, case, supplies and drives as of the sockets: its threads' part."""
    whole = rates_per_h(SERVER)
    guest = rates_per_h(replace(SERVER, cpu_sockets=0.05))
    for of_guest, of_whole in zip(guest, whole, strict=True):
        for part in ("cpu", WHOLE_MACHINE):
            assert of_guest[part] == pytest.approx(of_whole[part] / 40)


@pytest.mark.parametrize(
    ("name", "kg"),
    [
        ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", 66.1 + 51.7),
        ("AMD Ryzen 7 5800X 8-Core Processor", 66.1 + 51.7),
        ("Intel(R) N100", 66.1 + 51.7),
        ("Intel(R) U300", 66.1 + 51.7),
        ("AMD FX(tm)-8350 Eight-Core Processor", 66.1 + 51.7),
        ("AMD A10-7850K Radeon R7, 12 Compute Cores 4C+8G", 66.1 + 51.7),
        ("AMD 3020e with Radeon Graphics", 66.1 + 51.7),
        ("Snapdragon(R) X Elite - X1E78100 - Qualcomm(R) Oryon(TM) CPU", 66.1 + 51.7),
        ("Intel(R) Xeon(R) E-2136 CPU @ 3.30GHz", REST_KG / 2),
        ("AMD EPYC 7763 64-Core Processor", REST_KG / 2),
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", REST_KG / 2),
    ],
)
def test_a_laptop_has_no_rack_enclosure(name: str | None, kg: float):
    """Board and drive of a client's processor; all else is half a rack server for each socket."""
    machine = replace(SERVER, cpu_sockets=1.0, cpu_model=name)
    rate = rates_per_h(machine)[0][WHOLE_MACHINE]
    assert rate == pytest.approx(kg * 1e3 / HOURS_PER_LIFE)


def test_a_card_without_minerals_and_metals_leaves_the_machine_without():
    """No set has kg Sb eq of a consumer's card: none for the machine, while its CO2e is known."""
    machine = replace(SERVER, gpu_count=1, gpu_models=("NVIDIA GeForce RTX 4090",))
    g, kg_sb = rates_per_h(machine)
    assert g["gpu"] > 0.0
    assert kg_sb is None


def test_a_shorter_and_idler_life_weighs_more():
    """Half the years, or half the use of them, doubles the share of an hour."""
    usual = rates_per_h(SERVER)
    for found in (rates_per_h(SERVER, lifetime_years=2.0), rates_per_h(SERVER, utilisation=0.5)):
        for doubled, single in zip(found, usual, strict=True):
            assert doubled["cpu"] == pytest.approx(2 * single["cpu"])
    with pytest.raises(ConfigError, match="utilisation"):
        rates_per_h(SERVER, utilisation=0.0)
    with pytest.raises(ConfigError, match="lifetime_years"):
        rates_per_h(SERVER, lifetime_years=0.0)


@pytest.mark.parametrize(
    "hardware",
    [
        Hardware(cpu_model="AMD EPYC", ram_gib=64.0),
        Hardware(cpu_model="AMD EPYC", cpu_sockets=1.0),
        Hardware(cpu_sockets=1.0, ram_gib=8.0),
        Hardware(cpu_model="Some Processor", cpu_sockets=1.0, ram_gib=8.0),
        Hardware(cpu_model="QEMU Virtual CPU version 2.5+", cpu_sockets=1.0, ram_gib=8.0),
        Hardware("AMD EPYC", cpu_sockets=1.0, ram_gib=8.0, gpu_count=1, gpu_models=("Future",)),
        Hardware("AMD EPYC", cpu_sockets=1.0, ram_gib=8.0, gpu_count=1),
    ],
)
def test_unknown_hardware_is_never_guessed(hardware: Hardware):
    """A machine with one unknown part has no figure: half of it would pass for the whole."""
    assert rates_per_h(hardware) is None
