"""Quantities as text, in both directions."""

from __future__ import annotations

import pytest

from carbontrack.errors import QuantityError
from carbontrack.units import (
    format_grams,
    format_interval,
    format_joules,
    format_seconds,
    format_watts,
    format_with_interval,
    grams_from,
    joules_from,
    kwh_from,
    parse_quantity,
)


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("5 g", "emissions", 5.0),
        ("5g", "emissions", 5.0),
        (" 2.5 kg CO2e ", "emissions", 2500.0),
        ("3 mg CO2", "emissions", 0.003),
        ("7 µg", "emissions", 7e-6),
        ("7 μg", "emissions", 7e-6),
        ("1 T", "emissions", 1e6),
        ("120 J", "energy", 120.0),
        ("1e3 mJ", "energy", 1.0),
        ("1 MJ", "energy", 1e6),
        ("0.4 kWh", "energy", 1.44e6),
        (".5 kwh", "energy", 1.8e6),
        ("2 mWh", "energy", 7.2),
        ("0 J", "energy", 0.0),
    ],
)
def test_what_people_write_is_a_quantity(text: str, kind: str, amount: float) -> None:
    """Number and unit, with the case where it matters."""
    found = parse_quantity(text)

    assert (found.kind, found.amount) == (kind, pytest.approx(amount))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5", "a number and a unit"),
        ("", "a number and a unit"),
        ("five g", "a number and a unit"),
        ("5 bananas", "unknown unit 'bananas'; units are"),
        ("5 mwh", "did you mean mWh or MWh"),
        ("-1 g", "zero or more"),
        ("1e999 g", "finite"),
        ("5 J CO2e", "mixes"),
    ],
)
def test_what_is_no_quantity_is_refused(text: str, says: str) -> None:
    """The message says what would be one."""
    with pytest.raises(QuantityError, match=says):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("grams", "text"),
    [
        (0.0, "0 µg"),
        (3.21e-3, "3.21 mg"),
        (0.99949, "999 mg"),
        (0.9995, "1.00 g"),
        (12.34, "12.3 g"),
        (99.96, "100 g"),
        (2.5e6, "2.50 t"),
        (-0.5, "-500 mg"),
    ],
)
def test_grams_have_one_to_three_digits_before_the_point(grams: float, text: str) -> None:
    """Three digits in all, whatever the size."""
    assert format_grams(grams) == text


def test_joules_turn_into_watt_hours_where_people_count_in_them() -> None:
    """Below a watt-hour in joules, above in watt-hours."""
    assert format_joules(3599) == "3.60 kJ"
    assert format_joules(3600) == "1.00 Wh"
    assert format_joules(4.86e6) == "1.35 kWh"
    assert format_joules(0.0) == "0 µJ"


def test_an_interval_is_in_the_unit_of_its_figure() -> None:
    """0.92 to 1.81 Wh, rather than 3.31 kJ to 1.81 Wh."""
    assert format_joules(3312, like=4860) == "0.92 Wh"
    assert format_joules(0.0, like=4860) == "0 Wh"
    assert format_grams(0.9, like=1.2) == "0.90 g"
    assert format_grams(1200, like=0.5) == "1200000 mg"


def test_an_interval_names_its_unit_once() -> None:
    """At the end, or not at all where the figure beside it has it."""
    assert format_interval(3312, 6516, format_joules, like=4860) == "0.92 to 1.81 Wh"
    assert format_interval(3312, 6516, format_joules, like=4860, unit=False) == "0.92 to 1.81"
    assert format_interval(0.001, 6.0, format_grams, like=5.0) == "<0.01 to 6.00 g"
    assert format_interval(51.26, 60.0, ".3g") == "51.3 to 60"


def test_a_figure_and_both_ends_have_one_unit_and_three_digits() -> None:
    """That of the upper end, so that none has four digits."""
    figure = format_with_interval(811e-6, 51.0e-6, 2199e-6, format_grams)
    assert figure == "0.81 mg (0.05 to 2.20 mg)"
    assert format_interval(51.0e-6, 2199e-6, format_grams, like=811e-6) == "0.05 to 2.20 mg"
    assert (
        format_with_interval(3000.0, 1500.0, 9000.0, format_joules) == "0.83 Wh (0.42 to 2.50 Wh)"
    )
    assert format_interval(5.0, 1.0, format_joules, like=4000.0, unit=False) == "<0.01 to <0.01"


def test_a_figure_has_its_interval_behind_it_where_that_is_known() -> None:
    """Half an interval is none."""
    assert format_with_interval(4860, 3312, 6516, format_joules) == "1.35 Wh (0.92 to 1.81 Wh)"
    assert format_with_interval(4860, 3312, None, format_joules) == "1.35 Wh"
    text = format_with_interval(1.0, 0.5, 2.0, format_grams, of=" CO2e", gap="  ")
    assert text == "1.00 g CO2e  (0.50 to 2.00 g)"


def test_power_and_time_read_as_people_say_them() -> None:
    """Watts with three digits; seconds, then minutes, then hours."""
    assert format_watts(35.21) == "35.2 W"
    assert format_watts(0.0) == "0 mW"
    seconds = [0.38, 21.44, 59.96, 185, 7800]
    assert [format_seconds(s) for s in seconds] == [
        "380 ms",
        "21.4 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 10 min",
    ]


def test_a_kilowatt_hour_is_3600_kilojoules() -> None:
    """The definition, and the grams that follow from it."""
    assert kwh_from(3.6e6) == 1.0
    assert joules_from(1.0) == 3.6e6
    assert joules_from(None) is None
    assert grams_from(1.8e6, 50.0) == 25.0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (format_grams(1.1e-10), "<0.01 µg"),
        (format_grams(0.001, like=5.0), "<0.01 g"),
        (format_joules(4e-9), "<0.01 µJ"),
        (format_grams(0.0), "0 µg"),
        (format_grams(5e-9), "0.01 µg"),
    ],
)
def test_what_is_small_is_not_shown_as_nothing(text, shown):
    """0.00 would say that there is none."""
    assert text == shown
