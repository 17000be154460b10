"""Which runs `--since` and `--last` mean."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from carbontrack.errors import ConfigError
from carbontrack.report.selection import EVERY_RUN, Selection, since_of

NOW = datetime(2026, 11, 24, 15, 30, tzinfo=timezone.utc)


def local(*numbers: int) -> datetime:
    """A time of this machine's zone."""
    return datetime(*numbers).astimezone()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("30s", timedelta(seconds=30)),
        ("90min", timedelta(minutes=90)),
        ("5m", timedelta(minutes=5)),
        ("2h", timedelta(hours=2)),
        ("1.5 hours", timedelta(hours=1.5)),
        ("7d", timedelta(days=7)),
        ("2 weeks", timedelta(weeks=2)),
        (" 1 Day ", timedelta(days=1)),
    ],
)
def test_an_age_is_so_long_ago(text: str, back: timedelta) -> None:
    """Seconds to weeks, whole or with decimals."""
    assert since_of(text, NOW) == NOW - back


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("2026-11-20", local(2026, 11, 20)),
        ("2026-11-20T18:00", local(2026, 11, 20, 18)),
        ("2026-11-20 18:00:30", local(2026, 11, 20, 18, 0, 30)),
        ("2026-11-20T18:00Z", datetime(2026, 11, 20, 18, tzinfo=timezone.utc)),
        ("2026-11-20T18:00+02:00", datetime(2026, 11, 20, 16, tzinfo=timezone.utc)),
    ],
)
def test_a_date_or_time_without_a_zone_is_this_machines(text: str, then: datetime) -> None:
    """A day begins at its midnight."""
    assert since_of(text, NOW) == then


def test_today_and_a_time_of_day_are_of_the_local_day() -> None:
    """Whatever the day is elsewhere."""
    here = NOW.astimezone()
    assert since_of("today", NOW) == local(here.year, here.month, here.day)
    assert since_of("yesterday", NOW) < since_of("today", NOW)
    assert since_of("0:05", NOW) == local(here.year, here.month, here.day, 0, 5)


@pytest.mark.parametrize("text", ["", "soon", "2h ago", "2026-13-01", "24:61", "99999999999d", "h"])
def test_what_is_no_time_says_what_would_be_one(text: str) -> None:
    """Before any file is read."""
    with pytest.raises(ConfigError, match="such as 30min, 2h or 7d"):
        since_of(text, NOW)


def test_the_future_is_refused() -> None:
    """No run has started there."""
    with pytest.raises(ConfigError, match="in the future"):
        since_of("2027-01-01", NOW)


def test_a_selection_reads_as_a_sentence_and_as_data() -> None:
    """All runs need no sentence."""
    since = datetime(2026, 11, 20, 18, tzinfo=timezone.utc)
    shown = f"{since.astimezone():%Y-%m-%d %H:%M %z}"
    assert EVERY_RUN.text is None
    assert Selection(last=1).text == "the last run"
    assert Selection(last=3).text == "the last 3 runs"
    assert Selection(since).text == f"runs since {shown}"
    assert Selection(since, 2).text == f"the last 2 runs since {shown}"
    assert Selection(since, 2).to_dict() == {"since": "2026-11-20T18:00:00Z", "last": 2}
    assert EVERY_RUN.to_dict() == {"since": None, "last": None}
