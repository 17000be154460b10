"""What a site adds is looked up with its basis, and water stands apart from emissions."""

import csv
from pathlib import Path

import pytest

from carbontrack.errors import UnknownRegion
from carbontrack.grid.tables import grid_water, site, water_l

PACK = Path(__file__).parents[2] / "support" / "grid_pack"


def pack(name):
    with (PACK / name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_cloud_regions_overheads_are_the_sources_own():
    """PUE and WUE with year and basis, row by row; what is unknown is None."""
    for row in pack("cloud/cloud_regions.csv"):
        found = site(f"{row['provider']}:{row['region']}")

        assert found.pue == float(row["pue"])
        assert (found.pue_year, found.pue_basis) == (int(row["pue_year"]), row["pue_basis"])
        assert found.wue_l_per_kwh == (
            float(row["wue_l_per_kwh"]) if row["wue_l_per_kwh"] else None
        )


def test_a_place_that_is_no_cloud_has_no_overheads_of_its_own():
    """A country is no site."""
    assert site("FR") is None


def test_every_countrys_water_is_the_sources_own():
    """With and without what reservoirs evaporate, row by row."""
    for row in pack("impact/water_intensity_country.csv"):
        found = grid_water(row["code"])

        assert found.l_per_kwh == float(row["water_excl_hydro_l_per_kwh"])
        assert found.with_reservoirs_l_per_kwh == float(row["water_l_per_kwh"])
        assert found.year == int(row["year"])
        assert found.source


def test_a_zone_below_a_country_takes_the_countrys_water():
    """No finer figure exists; the zone of the answer says so."""
    assert grid_water("CA-QC").zone == "CA"
    assert grid_water("aws:us-west-1").zone == "US"


def test_a_place_without_water_figures_has_none():
    """Unknown is not zero."""
    assert grid_water("MC") is None


def test_an_unknown_place_is_an_error():
    """Here as everywhere."""
    with pytest.raises(UnknownRegion):
        grid_water("Atlantis")


def test_water_counts_on_site_and_at_the_plants():
    """10 kWh of computers, a fifth more for the site: 10 x 0.5 on site and 12 x l/kWh at plants."""
    grid = grid_water("FR")
    expected = 10 * 0.5 + 12 * grid.l_per_kwh

    assert water_l(10, pue=1.2, wue_l_per_kwh=0.5, grid=grid) == pytest.approx(expected)
    assert water_l(10, pue=1.2, wue_l_per_kwh=None, grid=grid) == pytest.approx(expected - 5)
    assert water_l(10, pue=1.2, wue_l_per_kwh=0.5, grid=None) == 5
    assert water_l(10, pue=1.2, wue_l_per_kwh=None, grid=None) is None
