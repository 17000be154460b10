"""A run of an earlier year gets the figure of that year, where the tables have one."""

from __future__ import annotations

import csv
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import carbontrack
from carbontrack.errors import ConfigError, NoIntensity
from carbontrack.grid import history, rows
from carbontrack.grid.region import Region, intensity_for
from carbontrack.grid.tables import lookup
from carbontrack.testing import FakeClock, FakeMeter
from docs.tools.rebuild_data import REFERENCE_YEAR

PACK = Path(__file__).parents[2] / "support" / "grid_pack"
ZONES = sorted(row["zone"] for row in rows.rows("intensity"))
CLOUDS = sorted(row["region"] for row in rows.rows("cloud_regions"))
BLOOM_G_PER_KWH = 57.0
"""France in 2022, by the paper on BLOOM (Luccioni, Viguier, Ligozat, 2023)."""


def figures() -> list[tuple[str, int, float]]:
    with (PACK / "grid" / "grid_intensity_country_history.csv").open(encoding="utf-8") as lines:
        found = [
            (row["code"], int(row["year"]), float(row["gco2e_per_kwh"]))
            for row in csv.DictReader(lines)
        ]
    shipped = {row["zone"] for row in rows.rows("intensity_history")}
    return [one for one in found if one[0] in shipped and one[1] >= 2000 and one[2] > 0.0]


def test_every_figure_of_the_source_is_the_answer_for_its_year() -> None:
    """214 countries and the parts of the world, year by year, each inside its interval."""
    countries = set()
    for zone, year, g_per_kwh in figures():
        found = lookup(zone, year=year)
        countries.add(zone)

        assert (found.g_per_kwh, found.year, found.zone) == (g_per_kwh, year, zone)
        assert found.low_g_per_kwh < g_per_kwh < found.high_g_per_kwh
        assert found.method == lookup(zone).method
    assert len(countries) >= 219


def test_france_in_2022_is_not_france_today() -> None:
    """Half its reactors stood still: the interval holds the paper's figure, today's does not."""
    then, now = lookup("FR", year=2022), lookup("FR")

    assert (then.g_per_kwh, then.year, now.g_per_kwh) == (78.54, 2022, 41.44)
    assert then.low_g_per_kwh < BLOOM_G_PER_KWH < then.high_g_per_kwh


def test_a_run_of_an_earlier_year_is_estimated_with_its_grid() -> None:
    """The energy is that of today's estimate; the grid and its year are those of the run."""
    given_ = {"gpu": "A100", "gpus": 384, "hours": 1082.0}
    then = carbontrack.estimate(**given_, region="FR", year=2022)  # type: ignore[arg-type]
    now = carbontrack.estimate(**given_, region="FR")  # type: ignore[arg-type]

    assert then.energy_kwh == now.energy_kwh
    assert then.emissions_g / now.emissions_g == pytest.approx(78.54 / 41.44)
    assert (then.intensity_year, now.intensity_year) == (2022, 2025)
    assert then.to_dict().keys() == now.to_dict().keys()


@pytest.mark.parametrize("year", [1999, 2101, 0, -1, True, 2022.5, "2022"])
def test_a_year_that_the_tables_cannot_have_is_refused(year: object) -> None:
    """In words, and not with some other year's figure."""
    with pytest.raises(ConfigError, match="year"):
        lookup("FR", year=year)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="year"):
        carbontrack.estimate(power_w=1, hours=1, region="FR", year=year)  # type: ignore[arg-type]


def test_a_year_has_no_place_of_its_own() -> None:
    """An intensity of one's own is of any year; a place without data has none in any."""
    with pytest.raises(ConfigError, match="year without region"):
        carbontrack.estimate(power_w=1, hours=1, intensity_g_per_kwh=50, year=2022)
    with pytest.raises(NoIntensity):
        lookup("MC", year=2022)


def test_a_year_without_a_figure_has_the_nearest_with_a_wider_interval() -> None:
    """South Sudan begins in 2012; Burundi's source rounds 2012 to nothing."""
    first, before = lookup("SS", year=2012), lookup("SS", year=2005)
    assert (before.g_per_kwh, before.year) == (first.g_per_kwh, 2012)
    assert before.low_g_per_kwh < first.low_g_per_kwh
    assert before.high_g_per_kwh > first.high_g_per_kwh
    assert lookup("BI", year=2012).year in (2011, 2013)
    assert lookup("BI", year=2012).g_per_kwh > 0.0


def test_a_zone_below_a_country_keeps_its_figure_and_says_its_year() -> None:
    """There is no series; the interval widens at the pace of the country."""
    for zone in ("US-VA", "US-SRVC", "CA-ON", "SE-SE3", "AU-NSW"):
        now, then = lookup(zone), lookup(zone, year=2004)
        assert (then.g_per_kwh, then.year) == (now.g_per_kwh, now.year)
        assert then.low_g_per_kwh < now.low_g_per_kwh
        assert then.high_g_per_kwh > now.high_g_per_kwh
    direct = lookup("FR", method="direct", year=2010)
    assert (direct.g_per_kwh, direct.year) == (lookup("FR", method="direct").g_per_kwh, 2024)


def test_a_cloud_region_has_the_past_of_its_country() -> None:
    """A region stands in a zone, in an earlier year too."""
    cloud, country = lookup("aws:eu-west-3", year=2022), lookup("FR", year=2022)

    assert cloud.zone == "aws:eu-west-3"
    assert cloud.g_per_kwh == country.g_per_kwh
    assert cloud.source == country.source + " (the grid of FR)"


def test_the_spreads_of_the_series_are_those_of_the_newest_figures() -> None:
    """One rule for both tables: a country's interval of today follows from its row."""
    for row in rows.rows("intensity_history"):
        if not row["factors"]:
            continue
        newest = lookup(row["zone"])
        age = REFERENCE_YEAR - (newest.year or 0)
        if age > history.OLD_AFTER_YEARS:
            continue
        spread = history.Spread(*(float(row[name]) for name in history.Spread._fields))
        low, high = history.interval(newest.g_per_kwh, spread, age)
        assert low == pytest.approx(newest.low_g_per_kwh, rel=1e-3)
        assert high == pytest.approx(newest.high_g_per_kwh, rel=1e-3)


@given(st.sampled_from(ZONES + CLOUDS), st.integers(2000, 2100))
def test_an_interval_holds_its_figure_in_every_year(zone: str, year: int) -> None:
    """And from the year of the newest figure on, that one is the answer."""
    newest, found = lookup(zone), lookup(zone, year=year)

    assert 0.0 < found.low_g_per_kwh < found.g_per_kwh < found.high_g_per_kwh
    assert found.zone == newest.zone
    assert newest.year is not None
    if year >= newest.year:
        assert found is newest


def at(year: int) -> datetime:
    return datetime(year, 7, 1, tzinfo=timezone.utc)


def test_a_table_as_a_source_answers_for_the_year_that_it_is_asked_for() -> None:
    """Today's run has today's figure; a clock that was never set has it too."""
    source = intensity_for(Region("FR", "argument"))

    assert source.at(at(2026)) is source.at(at(2031)) is source.intensity is lookup("FR")
    assert source.at(at(2022)) == lookup("FR", year=2022)
    assert source.at(at(1970)) is source.intensity


@pytest.mark.parametrize(("year", "of"), [(2022, 2022), (2026, 2025)])
def test_a_run_whose_clock_stands_in_an_earlier_year_has_that_years_grid(
    year: int, of: int
) -> None:
    """A replay, or a test with a frozen clock; figure and year are in the record."""
    clock = FakeClock(now=at(year))
    source = intensity_for(Region("FR", "argument"))
    with (
        carbontrack.Tracker(meters=[FakeMeter(watts=100)], grid=source, clock=clock) as tracker,
        tracker.span("work") as run,
    ):
        clock.advance(3600.0)

    assert run.record.intensity_year == of
    assert run.record.intensity_g_per_kwh == lookup("FR", year=year).g_per_kwh


def test_today_the_series_is_never_loaded(tmp_path: Path) -> None:
    """Its module and its table are for those who ask for an earlier year."""
    code = (
        "import sys, carbontrack\n"
        "with carbontrack.track('x', region='FR', output=None): pass\n"
        "carbontrack.lookup('DE')\n"
        "assert 'carbontrack.grid.history' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
