"""Each service's documented answers become figures, and each of its faults a reason."""

import logging

import pytest

from carbontrack.grid.live.eia import Eia
from carbontrack.grid.live.electricity_maps import ElectricityMaps
from carbontrack.grid.live.energy_charts import EnergyCharts
from carbontrack.grid.live.uk_carbon_intensity import UkCarbonIntensity
from carbontrack.grid.live.watttime import WattTime
from carbontrack.grid.live.web import FetchFailed, Web
from carbontrack.grid.series import in_order, slot_at
from tests.support.intensity_services import ACCOUNT, FAULTS, NOW, TOKEN, IntensityServices

NOW_S = NOW.timestamp()


@pytest.fixture(scope="module")
def server():
    with IntensityServices() as services:
        yield services


@pytest.fixture
def services(server):
    server.fault, server.figure = None, 142.0
    server.asked.clear()
    server.seen.clear()
    return server


def provider(name, services, token=None):
    return {
        "gb": lambda: UkCarbonIntensity(base_url=f"{services.url}/gb"),
        "em": lambda: ElectricityMaps("DK-DK1", token or TOKEN, base_url=f"{services.url}/em"),
        "wt": lambda: WattTime("38.5,-121.5", token or ACCOUNT, base_url=f"{services.url}/wt"),
        "ec": lambda: EnergyCharts("DE", base_url=f"{services.url}/ec"),
        "eia": lambda: Eia("CISO", token or TOKEN, base_url=f"{services.url}/eia"),
    }[name]()


ALL = ("gb", "em", "wt", "ec", "eia")


def web():
    return Web([TOKEN, ACCOUNT])


@pytest.mark.parametrize(
    ("name", "g", "estimated"),
    [
        ("gb", 142.0, True),
        ("em", 142.0, True),
        ("wt", 870.4 * 0.45359237, True),
        ("ec", 142.0, False),
    ],
)
def test_the_present_figure_is_read(services, name, g, estimated):
    """In g CO2e per kWh, with the provider's word on whether it is an estimate."""
    slots = in_order(provider(name, services).fetch(web().get, NOW))

    now = slot_at(slots, NOW_S)
    assert now.g_per_kwh == pytest.approx(g)
    assert now.estimated is estimated


def test_a_measured_half_hour_comes_before_its_forecast(services):
    """Great Britain: `actual` where it is known."""
    slots = in_order(provider("gb", services).fetch(web().get, NOW))

    before = slot_at(slots, NOW_S - 1800)
    assert (before.g_per_kwh, before.estimated) == (139.0, False)
    assert slots[-1].end_s - NOW_S > 3 * 3600


def test_a_mix_is_weighed_with_lifecycle_medians(services):
    """EIA: 60 % gas, 30 % sun, 10 % nuclear; storage and unknown hours do not count."""
    (slot,) = provider("eia", services).fetch(web().get, NOW)

    assert slot.g_per_kwh == pytest.approx(0.6 * 490 + 0.3 * 48 + 0.1 * 12)
    assert slot.end_s == NOW.replace(minute=0).timestamp()


@pytest.mark.parametrize("name", ["gb", "em", "wt", "ec"])
def test_a_forecast_reaches_beyond_the_present(services, name):
    """For choosing a time."""
    slots = in_order(provider(name, services).forecast(web().get, NOW))

    assert slots[-1].end_s > NOW_S + 1200


def test_the_eia_forecasts_no_intensity(services):
    """Said, not guessed."""
    with pytest.raises(FetchFailed, match="no forecast"):
        provider("eia", services).forecast(web().get, NOW)


def figures_of(asked):
    slots = in_order(asked.fetch(web().get, NOW))
    if not slots:
        raise FetchFailed("no figure")
    return slots


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ALL)
def test_every_fault_is_a_reason_without_a_secret(services, name, fault):
    """Whatever comes back, one kind of error, and no token in it."""
    services.fault = fault

    with pytest.raises(FetchFailed) as caught:
        figures_of(provider(name, services))
    assert TOKEN not in str(caught.value)
    assert caught.value.refused is (fault in ("401", "403", "404"))


def test_a_service_that_asks_for_time_is_given_it(services):
    """Retry-After in seconds."""
    services.fault = "429"

    with pytest.raises(FetchFailed) as caught:
        provider("gb", services).fetch(web().get, NOW)
    assert caught.value.retry_after_s == 700.0


@pytest.mark.parametrize("name", ["em", "wt", "eia"])
def test_a_wrong_token_is_refused_and_never_shown(services, name):
    """Not in the error, not in a repr, not in what led to the error."""
    wrong = "freddo:wr0ng-t0k3n"
    asked = provider(name, services, wrong)

    with pytest.raises(FetchFailed) as caught:
        asked.fetch(Web([wrong, "wr0ng-t0k3n"]).get, NOW)

    assert caught.value.refused
    assert "wr0ng" not in f"{caught.value!r} {caught.value} {asked!r} {Web([wrong])!r}"
    assert caught.value.__cause__ is None


def test_an_expired_login_is_renewed_once(services):
    """WattTime's tokens last half an hour."""
    asked = provider("wt", services)
    asked.fetch(web().get, NOW)
    services.bearers += 1  # the server forgets the token

    assert asked.fetch(web().get, NOW)
    assert services.asked["/wt/login"] == 2
    assert services.asked["/wt/v3/region-from-loc"] == 1


def test_no_redirect_is_followed(services):
    """A token is for one host."""
    services.fault = "redirect"

    with pytest.raises(FetchFailed, match="302"):
        provider("em", services).fetch(web().get, NOW)


def test_a_service_that_is_down_is_a_reason(services):
    """A port on which nobody listens; the key in the address is not in the message."""
    nobody = Eia("CISO", TOKEN, base_url="http://127.0.0.1:9/eia")

    with pytest.raises(FetchFailed) as caught:
        nobody.fetch(web().get, NOW)
    assert "ConnectionError" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_service_that_hangs_is_given_up(services):
    """After the timeout of a read."""
    services.fault = "slow"

    with pytest.raises(FetchFailed, match=r"Timeout|ConnectionError"):
        UkCarbonIntensity(base_url=f"{services.url}/gb").fetch(Web(timeout_s=(1, 0.05)).get, NOW)


def test_a_wrong_unit_is_refused(services):
    """A percentile is no emission."""

    def get(url, **_asked):
        if url.endswith("login"):
            return {"token": "x"}
        return {
            "data": [{"point_time": "2026-08-01T12:05Z", "value": 62}],
            "meta": {"units": "percentile"},
        }

    with pytest.raises(FetchFailed, match="percentile"):
        WattTime("CAISO_NORTH", ACCOUNT).fetch(get, NOW)


@pytest.mark.parametrize("name", ["em", "wt", "eia"])
def test_no_log_holds_a_token(services, name, caplog):
    """Not even that of the library that speaks HTTP, which shows each address at DEBUG."""
    caplog.set_level(logging.DEBUG)
    assert provider(name, services).fetch(Web([ACCOUNT, TOKEN]).get, NOW)
    services.fault = "redirect"
    with pytest.raises(FetchFailed):
        provider(name, services).fetch(Web([ACCOUNT, TOKEN]).get, NOW)
    assert "urllib3" in caplog.text
    assert TOKEN not in caplog.text


def test_a_key_in_the_address_goes_through_a_proxy(services, monkeypatch):
    """A proxy is asked for the whole address; the service behind it sees the key."""
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("http_proxy", services.url)
    asked = Eia("CISO", TOKEN, base_url="http://eia.example/eia")

    assert asked.fetch(Web([TOKEN]).get, NOW)
    assert [headers["Host"] for headers in services.seen] == ["eia.example"]
