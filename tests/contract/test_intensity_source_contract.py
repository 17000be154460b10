"""What every source of intensity promises: an answer at once, at any instant, from memory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from carbontrack.grid.cloud_metadata import CloudProbe, Detected
from carbontrack.grid.intensity import Chain, FailSafeSource, Fixed, GridIntensity, IntensitySource
from carbontrack.grid.live.choose import make_grid
from carbontrack.grid.live.feed import Outside
from carbontrack.grid.region import Region, intensity_for
from carbontrack.grid.series import Series
from carbontrack.testing import FakeClock

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=timezone.utc)
FRANCE = Region("FR", "argument")


def series() -> IntensitySource:
    hours = [(NOW + timedelta(hours=n)).timestamp() for n in range(24)]
    return Series.of(hours, [100.0 + n for n in range(24)])


def live_that_is_down() -> IntensitySource:
    def no_thread(_job: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    outside = Outside(clock=FakeClock(now=NOW), run=no_thread, warn=lambda *_: None)
    return make_grid(("energycharts",), FRANCE, intensity_for(FRANCE), outside=outside)


class Broken:
    def at(self, when: datetime) -> GridIntensity:
        raise OSError("no disk")


SOURCES: dict[str, Callable[[], IntensitySource]] = {
    "the table": lambda: intensity_for(FRANCE),
    "a figure of one's own": lambda: Fixed.of(55.0),
    "a series": series,
    "a live source that is down": live_that_is_down,
    "a plugin that fails": lambda: Chain([FailSafeSource("b", Broken())], Fixed.of(55.0)),
    "a cloud that is looked for": lambda: Detected(FRANCE, CloudProbe(), intensity_for),
}
INSTANTS = [
    NOW,
    NOW + timedelta(hours=5, minutes=7),
    NOW - timedelta(days=400),
    NOW + timedelta(days=4000),
    NOW.astimezone(timezone(timedelta(hours=-9))),
]


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> IntensitySource:
    """Each of our sources."""
    return SOURCES[request.param]()


def test_any_instant_is_answered(source: IntensitySource) -> None:
    """Past, present and future, in any time zone: a figure inside its interval, with a source."""
    for when in INSTANTS:
        found = source.at(when)

        assert 0 <= found.low_g_per_kwh <= found.g_per_kwh <= found.high_g_per_kwh
        assert found.source
        assert found.method
        assert found.zone


def test_the_same_instant_has_the_same_answer(source: IntensitySource) -> None:
    """The same object, so that who follows the grid sees that nothing has changed."""
    for when in INSTANTS:
        assert source.at(when) is source.at(when)


def test_a_constant_source_is_constant(source: IntensitySource) -> None:
    """Who says so never changes."""
    if getattr(source, "constant", False):
        assert len({id(source.at(when)) for when in INSTANTS}) == 1
