"""The table of what making hardware takes: sourced, inside its intervals, and of a known size."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import carbontrack
from carbontrack.errors import ConfigError
from carbontrack.impact.embodied import (
    EMBODIED_TABLE,
    TYPICAL,
    abiotic_kg_sb,
    abiotic_of,
    embodied_g,
    format_antimony,
    made_kg_co2e,
    made_kg_sb,
    rates_per_h,
    spread_of,
)

TABLE = Path(carbontrack.__file__).parent / EMBODIED_TABLE
with TABLE.open(encoding="utf-8", newline="") as lines:
    ROWS = {row["item"]: row for row in csv.DictReader(lines)}


@pytest.mark.parametrize("item", ROWS)
def test_every_row_says_where_it_is_from(item: str) -> None:
    """A source, a licence, a year, a unit, and a grade that is none of a file read by machine."""
    row = ROWS[item]
    assert row["grade"] in ("B", "C", "D")
    assert 2010 <= int(row["year"]) <= 2026
    assert row["unit"].startswith("per ")
    assert row["licence"] in ("facts cited", "Apache-2.0")
    assert len(row["source"]) > 20
    assert "Base Empreinte" not in row["source"]


@pytest.mark.parametrize("item", ROWS)
def test_every_figure_lies_in_its_interval(item: str) -> None:
    """CO2e always has one; antimony equivalents have one or are unknown, never 0."""
    kg_co2e, kg_sb = made_kg_co2e(item), made_kg_sb(item)
    assert 0.0 < kg_co2e.low <= kg_co2e.best <= kg_co2e.high
    cells = [ROWS[item][name] for name in ("kg_sb", "low_kg_sb", "high_kg_sb")]
    assert (kg_sb is None) == (cells == ["", "", ""])
    if kg_sb is not None:
        assert 0.0 < kg_sb.low < kg_sb.best < kg_sb.high
        assert 9.0 <= kg_sb.high / kg_sb.low <= 16.0
    assert ROWS[item]["primary_energy_mj"] == "" or float(ROWS[item]["primary_energy_mj"]) > 0.0


def test_a_card_and_its_part_of_the_server() -> None:
    """Over four years, an H100 bears 0.26 mg Sb eq an hour and its eighth of the server 1.3 mg."""
    assert abiotic_kg_sb("gpu:h100", 1, 1.0).best * 1e6 == pytest.approx(0.26, abs=0.005)
    assert abiotic_kg_sb("server:ai", 1 / 8, 1.0).best * 1e6 == pytest.approx(1.3, abs=0.05)


def test_three_years_are_what_ecologits_counts() -> None:
    """(0.37 / 8 + 0.00895) kg Sb eq for an hour of three years."""
    both = [("server:ai", 1 / 8), ("gpu:h100", 1.0)]
    found = sum(abiotic_kg_sb(item, n, 1.0, lifetime_years=3.0).best for item, n in both)
    assert found == pytest.approx((0.37 / 8 + 0.00895) / (3 * 8766))


def test_a_rack_server_by_its_parts_is_what_others_say_of_one() -> None:
    """About 0.15 kg Sb eq and a tonne of CO2e with two sockets and 384 GB; others are inside."""
    g, kg_sb = rates_per_h(TYPICAL)
    lives = 4 * 8766
    assert sum(kg_sb.values()) * lives == pytest.approx(0.15, abs=0.005)
    kg_co2e = sum(g.values()) * lives / 1e3
    # a server of Teads's dataset is 1,000 kg and 1.39 kg for each GB; the R740's LCA has 916 kg
    # without its drives
    assert 916 < kg_co2e < 1000 + 384 * 1.39
    ai, (_, spread) = made_kg_sb("server:ai"), spread_of(None)
    assert spread.high * 0.15 > ai.best
    assert ai.low < 0.15 < ai.high


def test_lifetime_and_making_are_independent() -> None:
    """Their ratios combine in quadrature; a given lifetime has no interval of its own."""
    made = made_kg_sb("psu")
    given = abiotic_kg_sb("psu", 1, 8766.0, lifetime_years=1.0)
    assert given == pytest.approx(made)
    free = abiotic_kg_sb("psu", 1, 4 * 8766.0)
    assert free.best == pytest.approx(made.best)
    assert made.low / 1.5 < free.low < made.low
    assert made.high < free.high < made.high * 4 / 3


def test_unknown_parts_leave_the_sum_unknown() -> None:
    """None for an item without a figure, and for a sum that it is in; an error for no item."""
    assert abiotic_kg_sb("gpu:consumer", 1, 1.0) is None
    assert embodied_g("gpu:consumer", 1, 1.0).best > 0.0
    assert abiotic_of([("cpu", 2), ("gpu:consumer", 1)], 1.0) is None
    assert abiotic_of([("cpu", 2), (None, 1)], 1.0) is None
    assert abiotic_of([], 1.0) is None
    two, one = abiotic_of([("cpu", 2)], 1.0), abiotic_kg_sb("cpu", 1, 1.0)
    assert two == pytest.approx(tuple(2 * end for end in one))
    with pytest.raises(ConfigError, match="no table"):
        abiotic_kg_sb("gpu:future", 1, 1.0)


def test_spreads_surround_the_figure() -> None:
    """Of machines with known cards and with none; an unknown card leaves it unknown."""
    for cards in (None, "NVIDIA H100 80GB HBM3;NVIDIA H100 80GB HBM3"):
        for spread in spread_of(cards):
            assert 0.0 < spread.low < spread.best < spread.high
            assert spread.best == pytest.approx(1.0)
    assert spread_of("Card of the Future") is None
    # most of eight cards and their host is known by the cards' maker
    assert spread_of(";".join(["H100"] * 8))[0].low > spread_of(None)[0].low


def test_antimony_is_read_in_milligrams() -> None:
    """In the unit that leaves one to three digits before the point."""
    assert format_antimony(1.32e-6, 3.1e-7, 3.45e-6) == "1.32 mg Sb eq (0.31 to 3.45 mg)"
    assert format_antimony(1.32e-6, None, None) == "1.32 mg Sb eq"
