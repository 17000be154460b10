"""Live intensity with real threads and a real server: the measured program never waits."""

import os
import threading
import time

import pytest

from carbontrack.grid.intensity import Fixed
from carbontrack.grid.live.choose import make_grid
from carbontrack.grid.live.feed import Outside
from carbontrack.grid.region import Region
from carbontrack.system.clock import SystemClock
from tests.support.intensity_services import IntensityServices

LAST = Fixed.of(400.0, source="the table")


class Now(SystemClock):
    """The real clock; the server's day is moved to it."""


@pytest.fixture
def services():
    with IntensityServices() as server:
        server.now = Now.now_utc()
        yield server


def live(services, said=None):
    warn = None if said is None else lambda topic, text: said.append(text)
    return make_grid(
        ("ukcarbonintensity",),
        Region("GB", "argument"),
        LAST,
        outside=Outside(clock=Now(), warn=warn),
        base_urls={"ukcarbonintensity": f"{services.url}/gb"},
    )


def until(condition, guard_s=60.0):
    end_s = time.monotonic() + guard_s
    while not condition():
        assert time.monotonic() < end_s, "it never happened"
        time.sleep(0.005)


def refreshing():
    return [t for t in threading.enumerate() if t.name == "carbontrack-intensity"]


def test_a_slow_service_delays_nobody(services):
    """While the server holds its answer back, a thousand looks are answered from the table."""
    services.fault = "slow"
    source = live(services)

    found = {source.at(Now.now_utc()).source for _ in range(1000)}

    assert found == {"the table"}
    assert len(refreshing()) == 1
    services.fault = None
    services.hold.set()
    until(lambda: source.at(Now.now_utc()).source.startswith("UK Carbon Intensity"))
    assert sum(services.asked.values()) == 1


def test_no_thread_stays_between_two_refreshes(services):
    """A figure is fetched by a thread that ends with it."""
    source = live(services)
    until(lambda: source.at(Now.now_utc()) is not LAST.intensity)
    until(lambda: not refreshing())


def test_a_dead_service_leaves_the_table_and_a_reason(services):
    """Nobody listens: the table answers, and why is said."""
    said = []
    source = make_grid(
        ("ukcarbonintensity",),
        Region("GB", "argument"),
        LAST,
        outside=Outside(clock=Now(), warn=lambda topic, text: said.append(text)),
        base_urls={"ukcarbonintensity": "http://127.0.0.1:9"},
    )

    until(lambda: source.at(Now.now_utc()) is LAST.intensity and said)

    assert "ConnectionError" in said[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # other threads live: the case
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_asks_again_although_its_parent_was_asking(services):
    """A refresh that was under way at a fork is lost in the child, which starts its own."""
    services.fault = "slow"
    source = live(services)
    source.at(Now.now_utc())
    until(refreshing)
    until(lambda: sum(services.asked.values()) == 1)
    source._candidates[0]._due_s = float("-inf")
    services.fault = None

    child = os.fork()
    if child == 0:
        end_s = time.monotonic() + 10
        while time.monotonic() < end_s:
            if source.at(Now.now_utc()).source.startswith("UK Carbon"):
                os._exit(0)
            time.sleep(0.005)
        os._exit(1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
