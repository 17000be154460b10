"""A setting names sources; what cannot work is an error before anything starts."""

import pytest

from carbontrack.errors import ConfigError
from carbontrack.grid.intensity import Chain, Fixed
from carbontrack.grid.live import choose
from carbontrack.grid.live.feed import Outside
from carbontrack.grid.region import Region
from carbontrack.system import plugins
from carbontrack.testing import FakeClock
from tests.support.intensity_services import ACCOUNT, NOW, TOKEN, IntensityServices
from tests.support.plugins import install

LAST = Fixed.of(400.0, source="the table")


def grid(names, zone="GB", basis="argument", **more):
    names = (names,) if isinstance(names, str) else names
    return choose.make_grid(names, Region(zone, basis), LAST, **more)


def zones_of(source):
    return [candidate.provider.zone for candidate in source._candidates]


@pytest.mark.parametrize(
    ("name", "zone", "own"),
    [
        ("ukcarbonintensity", "GB", "GB"),
        ("UK-Carbon-Intensity", "aws:eu-west-2", "GB"),
        ("electricitymaps", "FR", "FR"),
        ("electricity_maps", "aws:us-east-1", "US-MIDA-PJM"),
        ("electricitymaps", "CA-QC", "CA-QC"),
        ("energycharts", "aws:eu-west-3", "fr"),
        ("energy-charts", "SE-SE3", "se"),
        ("eia", "US", "US48"),
        ("eia", "US-TEX-ERCO", "ERCO"),
        ("eia", "gcp:us-west2", "CISO"),
        ("watttime", "gcp:us-west2", "34.05223,-118.24368"),
        ("watttime:CAISO_NORTH", "US-CA", "CAISO_NORTH"),
        ("electricitymaps:US-CAL-CISO", "US-CA", "US-CAL-CISO"),
    ],
)
def test_a_region_has_each_services_own_name(name, zone, own):
    """As far as the tables know it, or as the setting says after a colon."""
    assert zones_of(grid(name, zone, token="user:word")) == [own]


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("ukcarbonintensity", "FR"),
        ("electricitymaps", "US-CA"),
        ("electricitymaps", "WORLD"),
        ("energycharts", "US"),
        ("eia", "FR"),
        ("eia", "US-CA"),
        ("watttime", "FR"),
    ],
)
def test_a_region_that_a_service_does_not_cover_is_an_error(name, zone):
    """With the way out: another source, or its own zone."""
    with pytest.raises(ConfigError, match=rf"{name} does not cover the region '{zone}'"):
        grid(name, zone, token=TOKEN)


def test_a_list_leaves_out_what_does_not_cover_the_region():
    """As long as one does."""
    assert zones_of(grid(("ukcarbonintensity", "energycharts"), "FR")) == ["fr"]


@pytest.mark.parametrize("name", ["electricitymaps", "eia:CISO", "watttime:CAISO_NORTH"])
def test_a_missing_token_is_an_error_that_names_the_setting(name):
    """Before anything starts."""
    with pytest.raises(ConfigError, match="CARBONTRACK_LIVE_TOKEN"):
        grid(name)


def test_a_misspelt_source_is_an_error_with_the_nearest_name():
    """And with all names there are."""
    with pytest.raises(ConfigError, match="did you mean 'electricitymaps'") as caught:
        grid("elektricitymaps")
    assert "energycharts" in str(caught.value)


@pytest.mark.parametrize("names", [(), ("table",), ("table", "ukcarbonintensity")])
def test_the_table_ends_the_list(names):
    """No service is asked for what the table answers."""
    assert grid(names) is LAST


def test_a_token_is_in_no_repr():
    """Neither of the grid nor of what it is made of."""
    source = grid(("electricitymaps", "eia:CISO", "watttime:X"), token=ACCOUNT)

    shown = [repr(source), *(repr(vars(candidate)) for candidate in source._candidates)]
    assert TOKEN not in " ".join(shown)


def test_a_chosen_service_is_asked_at_its_address(tmp_path):
    """From the setting to a figure under the region's own name, kept on disk without the token."""
    clock = FakeClock(now=NOW)
    with IntensityServices() as services:
        source = grid(
            "electricitymaps",
            "aws:eu-west-3",
            token=TOKEN,
            state=tmp_path,
            outside=Outside(clock=clock, run=lambda job: job()),
            base_urls={"electricitymaps": f"{services.url}/em"},
        )
        found = source.at(NOW)

    assert isinstance(source, Chain)
    assert (found.zone, found.g_per_kwh) == ("aws:eu-west-3", 142.0)
    assert found.source == "Electricity Maps, average, lifecycle, forecast or estimate"
    (kept,) = (tmp_path / "intensity").iterdir()
    assert TOKEN not in kept.read_text() + kept.name


@pytest.mark.parametrize("fault", ["401", "429", "500", "no json", "redirect"])
def test_a_failing_service_leaves_the_table(fault):
    """And says why, once, without the token."""
    said = []
    with IntensityServices() as services:
        services.fault = fault
        source = grid(
            "electricitymaps",
            "FR",
            token=TOKEN,
            outside=Outside(
                clock=FakeClock(now=NOW),
                run=lambda job: job(),
                warn=lambda topic, text: said.append(text),
            ),
            base_urls={"electricitymaps": f"{services.url}/em"},
        )
        found = [source.at(NOW) for _ in range(3)]

    assert {f.source for f in found} == {"the table"}
    assert len(said) == 1
    assert TOKEN not in said[0]


def test_a_misspelt_service_is_not_taken_for_one_that_covers_nothing():
    """Wherever names are given, the nearest right one is offered."""
    france = Region("FR", "argument")
    with pytest.raises(ConfigError, match="did you mean 'energycharts'"):
        choose.check(["energychart"], france, None)
    with pytest.raises(ConfigError, match="did you mean 'energycharts'"):
        choose.forecast(["energychart"], france, now=NOW)


def test_another_packages_source_is_offered_and_its_failure_names_it(tmp_path, monkeypatch):
    """A slip is met with its name; what cannot be used is an error before anything starts."""
    install(monkeypatch, tmp_path / "a", plugins.INTENSITY, "rooftop", "make = 1")
    with pytest.raises(ConfigError, match="did you mean 'rooftop'") as caught:
        grid("roofotp")
    assert "ukcarbonintensity" in str(caught.value)
    with pytest.raises(ConfigError, match=r"the plugin 'rooftop' of acme-rooftop 1\.5"):
        grid("rooftop")
