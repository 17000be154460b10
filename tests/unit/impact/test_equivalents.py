"""Comparisons are readable, sourced, and absent where none fits."""

from __future__ import annotations

import pytest

from carbontrack.impact.equivalents import LEAST, MOST, compare, equivalents


def test_every_row_has_a_source_and_a_year() -> None:
    """No comparison without a citation."""
    for thing in equivalents():
        assert thing.source, thing.id
        assert thing.cite, thing.id
        assert 2000 <= thing.year <= 2026, thing.id
        assert thing.quantity in {"energy", "emissions"}, thing.id
        assert thing.amount > 0, thing.id


@pytest.mark.parametrize("exponent", range(1, 13))
def test_from_ten_joules_to_a_gigawatt_hour_something_fits(exponent: int) -> None:
    """Over twelve orders of magnitude there is a number between 1 and 1,000."""
    joules = 1.0 * 10.0**exponent

    found = compare(energy_joules=joules, emissions_g=None)

    assert found is not None
    assert LEAST <= found.times <= MOST
    assert found.times * found.thing.amount == pytest.approx(joules)


def test_the_easiest_number_wins() -> None:
    """Near ten rather than at the ends of the range, whichever quantity it comes from."""
    found = compare(energy_joules=9.0, emissions_g=1240.0)

    assert found is not None
    assert found.thing.id == "car_km"
    assert found.text == "7.4 km in a car (UK DESNZ 2025)"


@pytest.mark.parametrize(
    ("joules", "text"),
    [
        (9.0, "1 second of a 9 W LED lamp (by definition)"),
        (13.5, "1.5 seconds of a 9 W LED lamp (by definition)"),
        (90.0, "10 seconds of a 9 W LED lamp (by definition)"),
        (8640.0, "10 prompts to an AI assistant (Elsworth et al. 2025)"),
    ],
)
def test_a_comparison_reads_as_people_speak(joules: float, text: str) -> None:
    """One is singular, and no digits are spent on what nobody can picture."""
    found = compare(energy_joules=joules, emissions_g=None)

    assert found is not None
    assert found.text == text


def test_nothing_fits_next_to_nothing() -> None:
    """A far-fetched comparison is worse than none."""
    assert compare(energy_joules=1e-6, emissions_g=1e-9) is None


def test_less_than_a_second_of_a_lamp_is_compared_with_nothing() -> None:
    """A part of a second of a small lamp tells a reader nothing."""
    assert compare(energy_joules=8.9, emissions_g=0.001) is None
    assert compare(energy_joules=None, emissions_g=None) is None
    assert compare(energy_joules=0.0, emissions_g=0.0) is None


def test_the_source_in_full_has_its_year() -> None:
    """What `--verbose` prints can be checked by whoever reads it."""
    found = compare(energy_joules=10_800.0, emissions_g=None)

    assert found is not None
    assert found.sourced.startswith(found.text)
    assert found.thing.source in found.sourced
    assert str(found.thing.year) in found.sourced
