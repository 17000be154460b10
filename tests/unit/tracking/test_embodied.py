"""The making of the hardware stands beside the emissions, adds up, and is never guessed."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from carbontrack.errors import ConfigError
from carbontrack.impact.embodied import rates_g_per_h
from carbontrack.meters.meter import Hardware
from carbontrack.record import WHOLE_MACHINE
from carbontrack.sampling.counts import Counts
from carbontrack.tracking.record_builder import MeterFacts, Part, Window, embodied_figures

METERS = [
    MeterFacts("rapl:package-0", "cpu", "measured", 0.001, 0.07, is_substitute=False),
    MeterFacts("model:ram", "ram", "modelled", 0.0, 0.5, is_substitute=False),
]
SERVER = Hardware(cpu_sockets=2.0, ram_gib=64.0, gpu_count=0)
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


def test_rates_are_the_tables_over_a_life():
    """100 kg per socket, 1.229 kg per GB, 150 kg for an A100, each over four years of hours."""
    found = rates_g_per_h(SERVER)
    assert found == {
        "cpu": pytest.approx(2 * 100e3 / HOURS_PER_LIFE),
        "ram": pytest.approx(64 * 1.073741824 * 1.229e3 / HOURS_PER_LIFE),
    }
    cards = Hardware(
        cpu_sockets=2.0, ram_gib=64.0, gpu_count=2, gpu_models=("NVIDIA A100-SXM4-80GB",) * 2
    )
    assert rates_g_per_h(cards)["gpu"] == pytest.approx(2 * 150e3 / HOURS_PER_LIFE)


def test_a_shorter_and_idler_life_weighs_more():
    """Half the years, or half the use of them, doubles the share of an hour."""
    usual = rates_g_per_h(SERVER)["cpu"]
    assert rates_g_per_h(SERVER, lifetime_years=2.0)["cpu"] == pytest.approx(2 * usual)
    assert rates_g_per_h(SERVER, utilisation=0.5)["cpu"] == pytest.approx(2 * usual)
    with pytest.raises(ConfigError, match="utilisation"):
        rates_g_per_h(SERVER, utilisation=0.0)


@pytest.mark.parametrize(
    "hardware",
    [
        Hardware(ram_gib=64.0),
        Hardware(cpu_sockets=1.0),
        Hardware(cpu_sockets=1.0, ram_gib=8.0, gpu_count=1, gpu_models=("Card of the Future",)),
        Hardware(cpu_sockets=1.0, ram_gib=8.0, gpu_count=1),
    ],
)
def test_unknown_hardware_is_never_guessed(hardware: Hardware):
    """A machine with one unknown part has no figure: half of it would pass for the whole."""
    assert rates_g_per_h(hardware) is None
