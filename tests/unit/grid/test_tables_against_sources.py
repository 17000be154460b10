"""Every shipped row is the sources' own figure, dated, sourced and inside its interval."""

import csv
from pathlib import Path

import pytest

from carbontrack.errors import NoIntensity
from carbontrack.grid import rows
from carbontrack.grid.tables import lookup
from docs.tools import rebuild_data as rebuild
from docs.tools.rebuild_data import REFERENCE_YEAR

PACK = Path(__file__).parents[2] / "support" / "grid_pack"
GOLDEN = Path(__file__).parents[2] / "golden"
US_2024 = 383.78
"""Ember's lifecycle figure of the United States in 2024, by which eGRID's rates are scaled."""
SHIPPED = rebuild.DATA
REBUILT = sorted({path.name for path in SHIPPED.glob("*.csv")} & set(rebuild.TABLES))


def pack(name):
    with (PACK / name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def egrid():
    """The rate of each US subregion, and of the whole country, by the newest eGRID."""
    rows_of = pack("grid/egrid2024_subregions.csv")
    return {row["subregion"]: float(row["co2e_g_per_kwh"]) for row in rows_of}


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    target = tmp_path_factory.mktemp("tables")
    rebuild.main(PACK, target)
    return target


@pytest.mark.parametrize("name", [n for n in REBUILT if n != "time_zones.csv"])
def test_the_shipped_table_is_what_the_sources_give(name, rebuilt):
    """A table that was edited by hand, or not rebuilt, is found."""
    assert (rebuilt / name).read_text("utf-8") == (SHIPPED / name).read_text("utf-8")


def test_all_rebuilt_tables_are_shipped():
    """No table is forgotten in the package."""
    assert sorted(rebuild.TABLES) == REBUILT


def test_every_iso_country_has_its_own_figure_or_none():
    """A country is answered with its own row of the source, and never with a neighbour's."""
    figures = {row["iso2"]: row for row in pack("grid/grid_intensity_country.csv")}
    answered = 0
    for country in pack("grid/iso_countries.csv"):
        code = country["iso2"]
        if figures[code]["method"] == "proxy":
            with pytest.raises(NoIntensity, match=code):
                lookup(code)
            continue
        found = lookup(code)
        answered += 1

        assert found.zone == code
        assert found.g_per_kwh == float(figures[code]["gco2e_per_kwh"])
        assert found.year == int(figures[code]["year"])
        assert found.method.startswith("lifecycle_generation")
    assert answered >= 200


def test_every_alpha_3_code_means_its_country():
    """ISO 3166 alpha-3 codes are understood for every country."""
    for country in pack("grid/iso_countries.csv"):
        if rows.row("intensity", country["iso2"]):
            assert lookup(country["iso3"].lower()).zone == country["iso2"]


def test_every_subnational_figure_is_the_sources_own():
    """A zone has its lifecycle estimate, or its direct figure where that is higher or alone."""
    for row in pack("grid/grid_intensity_subnational.csv"):
        if row["code"] in rebuild.SAME_ZONE or row["level"] == "eGRID subregion":
            continue
        direct = float(row["gco2e_per_kwh"])
        estimate = float(row["lifecycle_estimate_gco2e_per_kwh"] or 0)
        found = lookup(row["code"])

        assert found.g_per_kwh == max(direct, estimate)
        assert found.year == int(row["year"])
        assert found.low_g_per_kwh <= direct <= found.high_g_per_kwh
        if estimate <= direct:
            assert found.method == row["factor_type"]
        else:
            assert found.method == "lifecycle_generation_estimated"


def test_us_subregions_are_egrid_2024_times_the_countrys_ratio():
    """The newest edition, its year and its grade in the source; the states stay as they were."""
    rates = egrid()
    assert len(rates) == 28
    for name, rate in rates.items():
        if name == "US":
            continue
        found, direct = lookup(f"US-{name}"), lookup(f"US-{name}", method="direct")

        assert found.g_per_kwh == pytest.approx(rate * US_2024 / rates["US"], abs=0.006)
        assert (direct.g_per_kwh, direct.year, found.year) == (rate, 2024, 2024)
        assert "eGRID2024" in found.source
        assert "grade C" in found.source
        assert found.low_g_per_kwh < rate < found.high_g_per_kwh
    assert lookup("US", method="direct").g_per_kwh == rates["US"]
    assert (lookup("US-VA").g_per_kwh, lookup("US-VA").year) == (275.01, 2023)
    assert lookup("US-SRVC", method="marginal").year == 2023


def test_the_new_figures_of_us_subregions_lie_inside_the_intervals_that_were_shipped():
    """What was said of the years to come held: 27 of 27 inside, with eGRID2023's intervals."""
    with (GOLDEN / "egrid2023_subregions.csv").open(encoding="utf-8", newline="") as lines:
        before = list(csv.DictReader(lines))
    assert len(before) == 27
    for row in before:
        now = lookup(row["zone"]).g_per_kwh

        assert now == float(row["egrid2024_g_per_kwh"])
        assert float(row["low_g_per_kwh"]) < now < float(row["high_g_per_kwh"])


def test_direct_and_marginal_figures_are_the_sources_own():
    """Asked for by name, the other methods give the official figures."""
    for row in pack("grid/grid_direct_country.csv"):
        if row["code"] == "US":  # eGRID2024, above
            continue
        found = lookup(row["code"], method="direct")
        assert (found.g_per_kwh, found.year) == (float(row["gco2e_per_kwh"]), int(row["year"]))
        assert found.method.startswith("direct")
    for row in pack("grid/grid_intensity_subnational.csv"):
        if row["marginal_gco2e_per_kwh"]:
            found = lookup(row["code"], method="marginal")
            assert found.g_per_kwh == float(row["marginal_gco2e_per_kwh"])
            assert found.method.startswith("marginal")


def test_every_cloud_region_stands_in_its_source_zone():
    """A cloud region's figure is its zone's, and the same as the source's own mapping gives."""
    for row in pack("cloud/cloud_regions.csv"):
        code = f"{row['provider']}:{row['region']}"
        found = lookup(code)
        if row["subnational_key"].removeprefix("US-") in egrid():
            assert found.g_per_kwh == lookup(row["subnational_key"]).g_per_kwh
        elif found.method.startswith("lifecycle"):
            assert found.g_per_kwh == float(row["lifecycle_gco2e_per_kwh"])
        else:  # a province whose official direct figure refutes the estimate
            assert found.source.endswith(f"(the grid of {row['subnational_key']})")
            assert found.g_per_kwh > float(row["lifecycle_gco2e_per_kwh"])
        if row["direct_basis"] == "provider_published":
            direct = lookup(code, method="direct")
            assert direct.g_per_kwh == float(row["direct_gco2e_per_kwh"])


@pytest.mark.parametrize("table", ["intensity", "intensity_direct", "intensity_marginal"])
def test_every_row_has_a_year_a_source_and_an_interval_around_it(table):
    """No number without a basis."""
    seen = set()
    for row in rows.rows(table):
        assert row["zone"] not in seen
        seen.add(row["zone"])
        low, g, high = (float(row[c]) for c in ("low_g_per_kwh", "g_per_kwh", "high_g_per_kwh"))
        assert 0 < low < g < high
        assert 2005 < int(row["year"]) <= REFERENCE_YEAR
        assert rows.source(row["source"]) != row["source"]


def test_every_source_says_its_licence():
    """Attribution is complete: a licence stands beside each source."""
    assert all(row["licence"] and row["text"] for row in rows.rows("sources"))


def test_the_world_spans_clean_and_dirty_grids():
    """An unknown place may be on a hydro grid or on a coal grid."""
    world = lookup("WORLD")

    assert world.low_g_per_kwh < lookup("FR").g_per_kwh
    assert world.high_g_per_kwh > lookup("PL").g_per_kwh


def test_an_older_figure_has_a_wider_interval():
    """Age is uncertainty: Western Sahara's figure of 2009 is not offered as today's."""
    old, new = lookup("EH"), lookup("MA")

    assert old.high_g_per_kwh / old.low_g_per_kwh > 2 * new.high_g_per_kwh / new.low_g_per_kwh
