"""Whatever hardware is named, an estimate lies in its interval and grows with what is used."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import carbontrack
from carbontrack.impact.estimate import Estimate

CARDS = st.sampled_from(["A100", "H100", "TPU v4", "RTX 4090", "T4", "MI250X"])
SOCKETS = st.sampled_from(["EPYC 7763", "Xeon Gold 6248", "Core m5-6Y54", "Itanium 9110N"])
MACHINES = st.fixed_dictionaries(
    {},
    optional={
        "gpu": CARDS,
        "cpu": SOCKETS,
        "ram_gib": st.floats(0.1, 4096.0),
        "pue": st.floats(1.0, 3.0),
    },
).filter(lambda machine: machine.keys() & {"gpu", "cpu", "ram_gib"})
SHARES = st.floats(0.0, 1.0)
PLACES = st.sampled_from(["FR", "US-CA", "WORLD", "aws:eu-west-3"])


def of(machine: dict[str, Any], share: float, place: str) -> Estimate:
    """Ten hours of a machine."""
    return carbontrack.estimate(**machine, hours=10, utilisation=share, region=place)


@given(MACHINES, SHARES, PLACES)
def test_each_figure_lies_between_its_ends(
    machine: dict[str, Any], share: float, place: str
) -> None:
    """Low end, best estimate and high end stand in this order, and the parts add up."""
    found = of(machine, share, place)
    assert 0.0 <= found.energy_low_kwh <= found.energy_kwh <= found.energy_high_kwh
    assert 0.0 <= found.emissions_low_g <= found.emissions_g <= found.emissions_high_g
    assert found.power_low_w <= found.power_w <= found.power_high_w
    parts = [kwh for kwh in (found.cpu_kwh, found.gpu_kwh, found.ram_kwh) if kwh is not None]
    assert sum(parts) * found.pue == pytest.approx(found.energy_kwh)


@given(MACHINES, SHARES, SHARES, PLACES)
def test_who_works_more_uses_more(
    machine: dict[str, Any], one: float, two: float, place: str
) -> None:
    """Energy and emissions never fall as the utilisation rises, nor does a high end."""
    less, more = (of(machine, share, place) for share in sorted((one, two)))
    for name in ("energy_kwh", "energy_high_kwh", "emissions_g", "emissions_high_g"):
        assert getattr(less, name) <= getattr(more, name) * (1 + 1e-9)


@given(MACHINES, SHARES, PLACES)
def test_both_ends_at_once_are_wider(machine: dict[str, Any], share: float, place: str) -> None:
    """The emissions lie within the lowest times the lowest and the highest times the highest."""
    found = of(machine, share, place)
    low_g = found.energy_low_kwh * found.intensity_low_g_per_kwh
    high_g = found.energy_high_kwh * found.intensity_high_g_per_kwh
    assert low_g <= found.emissions_low_g * (1 + 1e-9)
    assert found.emissions_high_g <= high_g * (1 + 1e-9)
