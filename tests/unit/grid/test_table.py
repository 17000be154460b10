"""A look-up answers from the package's own files, and never with another place's figure."""

import gc
import time

import pytest

from carbontrack.errors import NoIntensity, UnknownRegion
from carbontrack.grid import rows
from carbontrack.grid.tables import lookup


def test_a_look_up_is_answered_from_memory_the_second_time():
    """The same question gives the same object."""
    assert lookup("FR") is lookup("FR")


def figure(region, **how):
    found = lookup(region, **how)
    return found.g_per_kwh, found.low_g_per_kwh, found.high_g_per_kwh, found.year


def test_a_cloud_region_is_answered_with_the_grid_it_stands_in():
    """The figure of a cloud region is its zone's, and the source names that zone."""
    assert figure("aws:eu-west-3") == figure("FR")
    assert figure("aws:us-west-1") == figure("US-CAMX")
    assert lookup("us-west-1a").zone == "aws:us-west-1"
    assert lookup("us-west-1a").source == lookup("US-CAMX").source + " (the grid of US-CAMX)"


def test_a_known_place_without_data_names_what_could_be_given_instead():
    """Monaco has no figure of its own: the error names France, which does not come by itself."""
    with pytest.raises(NoIntensity, match=r"Monaco.*'FR'.*intensity_g_per_kwh"):
        lookup("MC")


def test_a_method_without_a_row_is_no_data():
    """A marginal figure exists for US subregions only; France's average is not given for it."""
    with pytest.raises(NoIntensity, match="marginal"):
        lookup("FR", method="marginal")


def test_an_unknown_method_is_refused():
    """A misspelt method is not the default."""
    with pytest.raises(ValueError, match="lifecycle, direct, marginal"):
        lookup("FR", method="average")


def test_a_direct_figure_of_a_cloud_region_prefers_the_providers_own():
    """Google publishes one per region; Amazon's region falls back to its zone, then country."""
    assert figure("gcp:europe-west9", method="direct")[0] == 16.3
    assert figure("aws:ap-southeast-2", method="direct") == figure("AU-NSW")
    assert figure("aws:eu-west-3", method="direct") == figure("FR", method="direct")


def test_a_zone_with_only_a_direct_figure_says_so():
    """Methods are never mixed in silence."""
    assert lookup("AU-NSW").method == "direct_combustion_consumption"
    assert lookup("AU").method == "lifecycle_generation"


def test_unknown_regions_are_errors_every_time():
    """An error is not remembered as an answer."""
    for _ in range(2):
        with pytest.raises(UnknownRegion):
            lookup("Atlantis")


@pytest.mark.xdist_group("serial")
def test_a_remembered_look_up_costs_a_small_part_of_a_first_one():
    """The cache works: a thousand repeated look-ups take less than a few hundred first ones."""
    zones = [row["zone"] for row in rows.rows("intensity")][:250]
    gc.disable()
    start = time.perf_counter()
    for zone in zones:
        lookup(f" {zone}")  # a spelling nobody has used yet
    first_s = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(1000):
        lookup("FR")
    again_s = time.perf_counter() - start
    gc.enable()

    assert again_s / 1000 < first_s / len(zones)


def test_rows_are_found_by_their_whole_key_only():
    """No part of a key, and no text with a separator, finds a row."""
    assert rows.row("intensity", "FR")["zone"] == "FR"
    for key in ("", "F", "R", "FR,41.44", "\nFR", "zone", "US-C"):
        assert rows.row("intensity", key) is None


def test_the_last_row_of_a_table_is_found():
    """The end of the file is no special case."""
    *_, last = rows.rows("intensity")

    assert rows.row("intensity", last["zone"]) == last
