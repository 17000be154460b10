"""Where and when the same work would have emitted less: exact, and honest about overlap."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.grid.advice import compare, greenest_window, wait_for_green
from carbontrack.grid.intensity import Fixed, GridIntensity
from carbontrack.grid.series import Series, Slot, utc
from carbontrack.grid.tables import lookup
from carbontrack.testing import FakeClock

GB = Path(__file__).parents[2] / "support" / "grid_pack" / "gb_national_hourly.csv"


def grid(zone, g, low, high):
    return GridIntensity(zone, g, low, high, "test", 2026, "given")


def test_places_are_ranked_with_their_factor_against_here():
    """Twice the intensity, twice the grams."""
    here = grid("A", 100, 90, 110)
    places = compare(2.0, here, [grid("B", 200, 180, 220), grid("C", 50, 45, 55)])

    assert [(p.zone, p.emissions_g, p.factor, p.verdict) for p in places] == [
        ("C", 100, 0.5, "less"),
        ("A", 200, 1.0, "here"),
        ("B", 400, 2.0, "more"),
    ]
    assert (places[0].emissions_low_g, places[0].emissions_high_g) == (90, 110)


def test_overlapping_intervals_decide_nothing():
    """Less by the best estimate, unclear by what is known."""
    (first, _) = compare(1.0, grid("A", 100, 80, 120), [grid("B", 90, 70, 110)])

    assert (first.zone, first.verdict) == ("B", "unclear")


def test_figures_that_count_different_things_decide_nothing():
    """A stack's emissions are not compared with a lifecycle's as if they were the same."""
    (place,) = [p for p in compare(1.0, lookup("FR"), [lookup("AU-NSW")]) if p.zone != "FR"]
    assert place.verdict == "other method"

    given = grid("mine", 900, 890, 910)
    assert {p.verdict for p in compare(1.0, given, [lookup("FR"), lookup("AU-SA")])} == {
        "here",
        "less",
    }


def test_here_stands_in_the_list_once():
    """Although it is among the others too."""
    here = lookup("FR")

    assert [place.zone for place in compare(1.0, here, [here, lookup("DE")])] == ["FR", "DE"]


def test_nothing_is_a_multiple_of_a_grid_without_emissions():
    """No division by zero, no infinity in a report."""
    assert compare(1.0, grid("A", 0, 0, 0), [grid("B", 9, 8, 10)])[1].factor is None


@pytest.mark.parametrize("energy", [-1.0, float("nan"), float("inf")])
def test_an_impossible_energy_is_refused(energy):
    """With the value that was given."""
    with pytest.raises(ConfigError, match="energy_kwh"):
        compare(energy, lookup("FR"), [])


def by_the_minute(slots, hours):
    """The least mean over all windows that start at a whole minute, by adding up minutes."""
    minutes = [s.g_per_kwh for s in slots for _ in range(round((s.end_s - s.start_s) / 60))]
    length = round(hours * 60)
    total = sum(minutes[:length])
    least = total
    for at in range(length, len(minutes)):
        total += minutes[at] - minutes[at - length]
        least = min(least, total)
    return least / length


@pytest.mark.parametrize("hours", [0.25, 1, 2.5, 4, 7.75, 24])
def test_the_window_is_the_true_minimum_on_a_year_of_great_britain(hours):
    """No start of any minute of 60 real days is better than the one that is found."""
    slots = Series.from_csv(GB).slots[: 60 * 24]

    found = greenest_window(slots, hours)

    assert found.g_per_kwh == pytest.approx(by_the_minute(slots, hours), rel=1e-9)
    assert found.end - found.start == timedelta(hours=hours)


def test_the_window_is_the_true_minimum_on_half_hours():
    """The same with half-hourly slots, as the British service sends them."""
    values = [slot.g_per_kwh for slot in Series.from_csv(GB).slots[:500]]
    slots = [Slot(n * 1800.0, (n + 1) * 1800.0, g) for n, g in enumerate(values)]

    found = greenest_window(slots, 3.3)

    assert found.g_per_kwh == pytest.approx(by_the_minute(slots, 3.3), rel=1e-9)


def test_shifting_within_a_day_saves_what_the_years_statistics_say():
    """Four hours within 24, perfect foresight, all days of the year: about a third is saved."""
    slots = Series.from_csv(GB).slots
    first, least = 0.0, 0.0
    for at in range(0, len(slots) - 28, 7):
        window = greenest_window(slots[at : at + 28], 4)
        first += window.first_g_per_kwh
        least += window.g_per_kwh

    assert 1 - least / first == pytest.approx(0.3374, abs=0.02)


def test_of_equal_windows_the_first_wins():
    """Waiting longer for nothing is no advice."""
    slots = [Slot(n * 3600.0, (n + 1) * 3600.0, 0.1 * 3) for n in range(24)]

    found = greenest_window(slots, 5)

    assert found.start == utc(0)
    assert found.saving == 0.0


def test_a_window_keeps_to_its_limits():
    """Not before `earliest`, over by `latest_end`."""
    slots = [Slot(n * 3600.0, (n + 1) * 3600.0, g) for n, g in enumerate([1, 9, 5, 6, 9, 1])]

    found = greenest_window(slots, 2, earliest=utc(1800), latest_end=utc(5 * 3600))

    assert (found.start, found.g_per_kwh) == (utc(2 * 3600), 5.5)
    assert found.first_g_per_kwh == pytest.approx((0.5 * 1 + 9 + 0.5 * 5) / 2)
    assert found.saving == pytest.approx(1 - 5.5 / 6)


def test_a_window_never_spans_a_gap():
    """What is not known is not taken for green."""
    slots = [Slot(0, 3600, 9), Slot(3600, 7200, 1), Slot(9000, 12600, 1), Slot(12600, 16200, 8)]

    assert greenest_window(slots, 2).start == utc(9000)
    with pytest.raises(ConfigError, match="3 h"):
        greenest_window(slots, 3)


@pytest.mark.parametrize("hours", [0, -1, float("nan"), float("inf")])
def test_no_length_of_time_is_refused(hours):
    """With the value that was given."""
    with pytest.raises(ConfigError, match="hours"):
        greenest_window([Slot(0, 3600, 9)], hours)


def test_nothing_is_said_of_a_start_that_the_forecast_does_not_cover():
    """A saving needs both figures."""
    found = greenest_window([Slot(7200, 14400, 9)], 1, earliest=utc(0))

    assert (found.first_g_per_kwh, found.saving) == (None, None)


class Ramp:
    """Falls by 10 g each minute from 100 g."""

    def __init__(self, clock):
        self._start = clock.now_utc()

    def at(self, when):
        minutes = (when - self._start).total_seconds() / 60
        return grid("X", 100 - 10 * minutes, 0, 100)


class SteppingClock(FakeClock):
    """A wait takes no real time: it moves the clock."""

    def wait(self, event, timeout_s):
        self.advance(timeout_s)
        return False


def test_waiting_ends_when_the_grid_is_green():
    """After the poll at which it is below the limit."""
    clock = SteppingClock(now=datetime(2026, 1, 1, tzinfo=timezone.utc))
    told = []

    green = wait_for_green(
        Ramp(clock),
        max_wait_s=3600,
        below=75,
        poll_s=60,
        clock=clock,
        tell=lambda now, left_s: told.append((now.g_per_kwh, left_s)),
    )

    assert green
    assert told == [(100, 3600), (90, 3540), (80, 3480), (70, 3420)]


def test_waiting_gives_up_in_time():
    """Never longer than allowed, with a last look at the end."""
    clock = SteppingClock()
    before_s = clock.monotonic_s()

    green = wait_for_green(Fixed.of(500), max_wait_s=1000, below=100, poll_s=300, clock=clock)

    assert not green
    assert clock.monotonic_s() - before_s == 1000


def test_a_green_grid_is_not_waited_for():
    """No wait at all."""
    clock = SteppingClock()
    before_s = clock.monotonic_s()

    assert wait_for_green(Fixed.of(50), max_wait_s=1000, below=100, clock=clock)
    assert clock.monotonic_s() == before_s
