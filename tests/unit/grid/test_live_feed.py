"""A live figure is fresh, or says how old it is, or is none; nobody ever waits for it."""

import logging
from datetime import datetime, timedelta, timezone

import pytest

from carbontrack.grid.intensity import Chain, FailSafeSource, Fixed
from carbontrack.grid.live.feed import MAX_AGE_S, Cache, Feed, Outside, age_ratio
from carbontrack.grid.live.web import FetchFailed
from carbontrack.grid.series import Slot
from carbontrack.testing import FakeClock

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=timezone.utc)
TABLE = Fixed.of(400.0, zone="X", source="the table")


class Scripted:
    """A service that gives, in turn, what the test says: slots, or an error."""

    name, zone, signal, counts, poll_s = "Scripted", "X", "average", "lifecycle", 900.0

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    def fetch(self, get, now):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, (int, float)):
            hour_s = now.timestamp() // 3600 * 3600
            return [Slot(hour_s, hour_s + 3600, float(answer))]
        return answer

    forecast = fetch


class Later:
    """Keeps jobs until the test runs them: the thread of a service that has not answered yet."""

    def __init__(self):
        self.jobs = []

    def __call__(self, job):
        self.jobs.append(job)


def at_once(job):
    job()


def feed_of(*answers, run=at_once, cache=None, warn=None, jitter=0.0):
    clock = FakeClock(now=NOW)
    outside = Outside(clock=clock, run=run, warn=warn, jitter=lambda: jitter)
    return Feed(Scripted(*answers), None, cache=cache, outside=outside), clock


def look(feed, clock):
    return feed.find(clock.now_utc())


def test_a_figure_says_who_what_and_how():
    """Average and marginal, lifecycle and direct are different words in the record."""
    feed, clock = feed_of(120)
    found = look(feed, clock)

    assert found.g_per_kwh == 120
    assert found.source == "Scripted, average, lifecycle"
    assert (found.method, found.year, found.zone) == ("live_average_lifecycle", 2026, "X")
    assert found.low_g_per_kwh == pytest.approx(120 / 1.1)
    assert found.high_g_per_kwh == pytest.approx(120 * 1.1)


def test_a_figure_is_asked_for_once_per_period():
    """Ten thousand looks, one request; the next one when it is due."""
    feed, clock = feed_of(120, 130)
    for _ in range(10_000):
        look(feed, clock)
    assert feed.provider.asked == 1

    clock.advance(900)
    assert look(feed, clock).g_per_kwh == 130
    assert feed.provider.asked == 2


def test_the_same_figure_is_the_same_object():
    """A sampler sees by identity that nothing has changed."""
    feed, clock = feed_of(120)

    assert look(feed, clock) is look(feed, clock)


def test_nobody_waits_for_an_answer():
    """No figure while a service has not answered, and one request at most under way."""
    later = Later()
    feed, clock = feed_of(120, run=later)

    assert look(feed, clock) is None
    clock.advance(10_000)
    assert look(feed, clock) is None
    assert len(later.jobs) == 1

    later.jobs.pop()()
    assert look(feed, clock).g_per_kwh == 120


@pytest.mark.parametrize("nonsense", [-5, 50_000, float("nan"), float("inf")])
def test_an_absurd_figure_is_no_figure(nonsense):
    """Negative, beyond any power station, or no number: refused, and the last good one goes on."""
    feed, clock = feed_of(120, nonsense)
    look(feed, clock)
    clock.advance(900)

    assert look(feed, clock).g_per_kwh == 120
    assert feed.failures == 1


def test_an_old_figure_says_its_age_and_widens():
    """Down for hours: the last good figure, its age in whole hours, a wider interval."""
    feed, clock = feed_of(120, FetchFailed("down"))
    fresh = look(feed, clock)
    clock.advance(3600 + 35 * 60)
    old = look(feed, clock)

    assert old.g_per_kwh == 120
    assert old.source == "Scripted, average, lifecycle, up to 1 h old"
    assert old.high_g_per_kwh > fresh.high_g_per_kwh
    assert old.low_g_per_kwh < fresh.low_g_per_kwh


def test_a_figure_whose_successor_is_a_little_late_is_not_called_old():
    """Services publish some minutes after the hour."""
    feed, clock = feed_of(120, FetchFailed("not yet"))
    fresh = look(feed, clock)
    clock.advance(3600 + 9 * 60)

    assert look(feed, clock) is fresh


def test_a_figure_that_is_too_old_is_none():
    """After six hours the next source answers."""
    feed, clock = feed_of(120, FetchFailed("down"))
    chain = Chain([feed], TABLE)
    assert chain.at(clock.now_utc()).g_per_kwh == 120

    clock.advance(3600 + MAX_AGE_S - 1)
    assert chain.at(clock.now_utc()).g_per_kwh == 120
    clock.advance(2)
    assert chain.at(clock.now_utc()).source == "the table"


def test_a_stale_answer_does_not_pass_as_new():
    """A service that repeats yesterday's hour gives no figure for today."""
    day_s = 86400.0
    yesterday = Slot(NOW.timestamp() - day_s, NOW.timestamp() - day_s + 3600, 120)
    feed, clock = feed_of([yesterday])

    assert look(feed, clock) is None


def delays_of(*answers, jitter=0.0, rounds=6):
    feed, clock = feed_of(*answers, jitter=jitter)
    delays = []
    for _ in range(rounds):
        look(feed, clock)
        asked, waited = feed.provider.asked, 0
        while feed.provider.asked == asked:
            clock.advance(1)
            waited += 1
            look(feed, clock)
        delays.append(waited)
    return delays


def test_a_failing_service_is_asked_less_and_less_often():
    """Doubling from 15 s, up to a quarter of an hour."""
    assert delays_of(FetchFailed("down"), rounds=8) == [15, 30, 60, 120, 240, 480, 900, 900]


def test_machines_do_not_return_at_once():
    """The delay is up to a quarter shorter, at random."""
    assert delays_of(FetchFailed("down"), jitter=1.0, rounds=3) == [12, 23, 45]


def test_a_service_is_given_the_time_it_asks_for():
    """Retry-After of a 429."""
    assert delays_of(FetchFailed("429", retry_after_s=700.0), rounds=1) == [700]


def test_a_refusal_is_not_repeated_soon():
    """A wrong token does not become right by asking again."""
    assert delays_of(FetchFailed("401", refused=True), rounds=1) == [3600]


def test_after_a_success_the_back_off_begins_anew():
    """One bad day does not slow the next."""
    feed, clock = feed_of(FetchFailed("down"), FetchFailed("down"), 120, FetchFailed("down"))
    for seconds in (15, 30, 900, 1):
        look(feed, clock)
        clock.advance(seconds)

    assert feed.failures == 1


def test_a_bug_in_a_provider_stays_there():
    """Any error is a failure of the service, never one of the program."""
    feed, clock = feed_of(ZeroDivisionError("oops"))

    assert look(feed, clock) is None
    assert feed.failures == 1


def test_no_thread_to_be_had_is_a_failure_like_any_other():
    """At a limit, or while the program ends, the figure is simply not refreshed."""

    def refuse(_job):
        raise RuntimeError("can't start new thread")

    feed, clock = feed_of(120, run=refuse)

    assert look(feed, clock) is None
    clock.advance(20)
    assert look(feed, clock) is None
    assert feed.failures == 2


def test_a_failure_is_said_with_its_reason():
    """Through the mouth that is handed in."""
    said = []
    feed, clock = feed_of(
        FetchFailed("HTTP 503"), warn=lambda topic, text: said.append((topic, text))
    )
    look(feed, clock)

    assert said == [("Scripted", "no live intensity: HTTP 503")]


def test_figures_outlive_the_process(tmp_path):
    """A new process answers from the disk, with the figure's own time, before any request."""
    first, clock = feed_of(120, cache=Cache(tmp_path / "a.json"))
    look(first, clock)
    later = Later()
    second, clock = feed_of(999, run=later, cache=Cache(tmp_path / "a.json"))

    assert look(second, clock).g_per_kwh == 120
    clock.advance(7 * 3600 + 1)
    assert look(second, clock) is None


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "[[1,2]]", '[["a",1,2,3]]', "\x00", "[[0,9,-5,0]]"]
)
def test_a_damaged_cache_is_an_empty_one(tmp_path, text):
    """What cannot be read, or is absurd, is nothing."""
    (tmp_path / "a.json").write_text(text)
    feed, clock = feed_of(120, run=Later(), cache=Cache(tmp_path / "a.json"))

    assert look(feed, clock) is None


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    feed, clock = feed_of(120, cache=Cache.of(tmp_path / "file", "a", "b", "c"))

    assert look(feed, clock).g_per_kwh == 120


def test_each_service_zone_and_signal_has_a_file_of_its_own(tmp_path):
    """Names that no file system could take are made safe."""
    files = {
        Cache.of(tmp_path, "s", zone, "average")._path.name for zone in ("a:b", "a/b", "DK-DK1")
    }

    assert files == {"s-a-b-average.json", "s-dk-dk1-average.json"}


def test_the_first_source_that_has_a_figure_answers():
    """In the order of the setting, ending in the table."""
    down, clock = feed_of(FetchFailed("down"))
    up, _ = feed_of(120)

    assert Chain([down, up], TABLE).at(clock.now_utc()).g_per_kwh == 120
    assert Chain([down], TABLE).at(clock.now_utc()).source == "the table"


def test_somebody_elses_source_may_fail():
    """A plugin's error is a missing figure and a warning."""

    class Broken:
        def at(self, when):
            raise OSError("no disk")

    said = []
    chain = Chain([FailSafeSource("broken", Broken(), lambda *words: said.append(words))], TABLE)

    assert chain.at(NOW).source == "the table"
    assert said[0][0] == "broken"


def test_age_makes_a_ratio_that_grows():
    """From one, through the figures measured on a year of Great Britain."""
    assert [age_ratio(h) for h in (0, 1, 2, 3, 6, 20)] == [1.0, 1.26, 1.53, 1.79, 2.34, 2.34]
    assert 1.26 < age_ratio(1.5) < 1.53


def test_past_slots_stay_for_the_record_of_what_came_before():
    """A merge keeps what is over and replaces what is new."""
    hour_s = NOW.timestamp()
    feed, clock = feed_of(
        [Slot(hour_s, hour_s + 1800, 100), Slot(hour_s + 1800, hour_s + 3600, 110)],
        [Slot(hour_s + 1800, hour_s + 3600, 150)],
    )
    look(feed, clock)
    clock.advance(1800)

    assert look(feed, clock).g_per_kwh == 150
    assert feed.find(clock.now_utc() - timedelta(minutes=10)).g_per_kwh == 100


def test_nothing_is_logged_by_the_feed_itself(caplog):
    """What is said goes through the mouth that is handed in."""
    with caplog.at_level(logging.DEBUG):
        feed, clock = feed_of(FetchFailed("down"))
        look(feed, clock)

    assert caplog.records == []
