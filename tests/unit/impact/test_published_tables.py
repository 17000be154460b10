"""The calculator against tables that were published before it.

The figures were typed from memory and compared with public transcriptions of both papers; the
papers themselves (arXiv 1906.02243 and 2104.10350) were not at hand.
"""

from __future__ import annotations

import pytest

import carbontrack
from carbontrack.impact.estimate import Estimate

LB = 453.59237
"""Grams in a pound, exact by definition."""
STRUBELL_G_PER_KWH = 0.954 * LB
"""US EPA (2018), as the paper takes it: 0.954 lb of CO2e per kWh."""

# Strubell, Ganesh, McCallum (2019), Energy and Policy Considerations for Deep Learning in NLP,
# table 3: model, total power in W, hours, kWh x PUE, lb of CO2e. PUE 1.58.
STRUBELL = [
    ("Transformer base, P100x8", 1415.78, 12, 27, 26),
    ("Transformer big, P100x8", 1515.43, 84, 201, 192),
    ("ELMo, P100x3", 517.66, 336, 275, 262),
    ("BERT base, V100x64", 12041.51, 79, 1507, 1438),
    ("NAS, P100x8", 1515.43, 274_120, 656_347, 626_155),
]

# Patterson et al. (2021), Carbon Emissions and Large Neural Network Training, table 4: model,
# W per accelerator (measured, whole system), chips, days, PUE, kg CO2e per kWh (gross), MWh,
# t CO2e (gross).
PATTERSON = [
    ("Evolved Transformer NAS", 208, 200, 6.8, 1.10, 0.431, 7.5, 3.2),
    ("T5", 310, 512, 20, 1.12, 0.545, 85.7, 46.7),
    ("Meena", 289, 1024, 30, 1.09, 0.415, 232, 96.4),
    ("GShard-600B", 288, 1024, 3.1, 1.09, 0.201, 24.1, 4.8),
    ("Switch Transformer", 245, 1024, 27, 1.10, 0.403, 179, 72.2),
    ("GPT-3", 330, 10_000, 14.8, 1.10, 0.429, 1287, 552.1),
]


@pytest.mark.parametrize(("model", "power_w", "hours", "kwh", "pounds"), STRUBELL)
def test_strubell_table_3(model: str, power_w: float, hours: float, kwh: int, pounds: int) -> None:
    """Every row of the table comes out, as far as the rounding of its own columns allows.

    The printed hours stand for half an hour less and more. BERT's printed 79 h alone give 1,503
    kWh; 79.2 h, which also round to 79, give both of its printed figures. Where the paper has its
    unrounded hours is not known here.
    """
    found = [
        carbontrack.estimate(
            power_w=power_w, hours=h, pue=1.58, intensity_g_per_kwh=STRUBELL_G_PER_KWH
        )
        for h in (hours - 0.5, hours, hours + 0.5)
    ]
    if model.startswith("BERT"):
        assert found[0].energy_kwh - 0.5 <= kwh <= found[2].energy_kwh + 0.5
        assert found[0].emissions_g / LB - 0.5 <= pounds <= found[2].emissions_g / LB + 0.5
        exact = carbontrack.estimate(
            power_w=power_w, hours=79.2, pue=1.58, intensity_g_per_kwh=STRUBELL_G_PER_KWH
        )
        assert round(exact.energy_kwh) == kwh
        assert round(exact.emissions_g / LB) == pounds
    else:
        assert round(found[1].energy_kwh) == kwh
        assert round(found[1].emissions_g / LB) == pounds


@pytest.mark.parametrize(
    ("model", "watts", "chips", "days", "pue", "kg_per_kwh", "mwh", "tonnes"), PATTERSON
)
def test_patterson_table_4(
    model: str,
    watts: int,
    chips: int,
    days: float,
    pue: float,
    kg_per_kwh: float,
    mwh: float,
    tonnes: float,
) -> None:
    """Every row of the table comes out, as far as the rounding of its own columns allows."""

    def at(watts: float, days: float, kg_per_kwh: float) -> Estimate:
        return carbontrack.estimate(
            power_w=watts * chips,
            hours=days * 24,
            pue=pue,
            intensity_g_per_kwh=kg_per_kwh * 1e3,
        )

    day = 0.05 if days < 20 and days != int(days) else 0.5
    least = at(watts - 0.5, days - day, kg_per_kwh - 0.0005)
    most = at(watts + 0.5, days + day, kg_per_kwh + 0.0005)
    assert least.energy_kwh / 1e3 <= mwh <= most.energy_kwh / 1e3
    assert least.emissions_g / 1e6 <= tonnes <= most.emissions_g / 1e6
    assert at(watts, days, kg_per_kwh).energy_kwh / 1e3 == pytest.approx(mwh, rel=0.01)
    assert at(watts, days, kg_per_kwh).emissions_g / 1e6 == pytest.approx(tonnes, rel=0.01)


@pytest.mark.parametrize(
    ("chip", "model"),
    [("TPU v2", PATTERSON[0]), ("V100", PATTERSON[5]), *(("TPU v3", r) for r in PATTERSON[1:5])],
)
def test_hardware_names_bracket_the_measured_energy(chip: str, model: tuple[float, ...]) -> None:
    """From the chip's name alone, the interval holds the energy that was measured."""
    _, _, chips, days, pue, kg_per_kwh, mwh, _ = model
    found = carbontrack.estimate(
        gpu=chip,
        gpus=int(chips),
        hours=days * 24,
        pue=pue,
        intensity_g_per_kwh=kg_per_kwh * 1e3,
    )
    assert found.energy_low_kwh <= mwh * 1e3 <= found.energy_high_kwh
