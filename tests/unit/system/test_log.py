"""What carbontrack says, and how often."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timezone

import pytest

import carbontrack
from carbontrack.system.log import LOGGER, RateLimitedLog, warn_user


class HandClock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def suspended_s(self) -> float:
        return 0.0

    def now_utc(self) -> datetime:
        return datetime(2026, 11, 24, tzinfo=timezone.utc)

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        return event.is_set()


def test_a_topic_is_warned_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Within a minute the same topic is silent, another one is not."""
    clock = HandClock()
    warnings = RateLimitedLog(clock)
    for now_s in (0.0, 30.0, 59.9, 60.0, 100.0):
        clock.now_s = now_s
        warnings.warn("disk", f"disk at {now_s}")
    warnings.warn("network", "network")

    assert [r.message for r in caplog.records] == ["disk at 0.0", "disk at 60.0", "network"]


def test_the_logger_is_silent_until_the_program_wants_it() -> None:
    """The package sets no level and no handler but the one that does nothing."""
    assert LOGGER.level == logging.NOTSET
    assert [type(handler) for handler in LOGGER.handlers] == [logging.NullHandler]


def test_aloud_is_a_python_warning() -> None:
    """What a person must know is shown by Python's own warnings."""
    with pytest.warns(UserWarning, match="carbontrack: the sky"):
        warn_user("the sky")


def test_aloud_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Under `-W error`, as in this suite, the log alone has it."""
    warn_user("the sky")

    assert caplog.records[0].message == "the sky"


def test_a_warning_points_at_the_programs_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at one of ours, which nobody can change."""
    monkeypatch.setenv("TZ", "UTC")
    with pytest.warns(UserWarning, match="the region of this machine") as caught:
        carbontrack.auto(output=None, cloud="none").close()
    assert caught[0].filename == __file__
