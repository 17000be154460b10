"""What carbontrack says, and how often."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest

import carbontrack
from carbontrack.system.log import LOGGER, LastResort, OnceLog, RateLimitedLog, warn_user
from tests.support.costs import run


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


def test_the_package_sets_up_no_logging_of_the_program() -> None:
    """It sets no level, and has one handler: the one that speaks where nobody else does."""
    assert LOGGER.level == logging.NOTSET
    assert [type(handler) for handler in LOGGER.handlers] == [LastResort]


LOSES = """
import logging, sys, warnings
from carbontrack.system.log import LOGGER, warn_user
{setup}
for number in (1, 2, 3):
    LOGGER.warning("%s records are lost", number)
LOGGER.info("%s", "all is well")
LOGGER.debug("%s", "details")
try:
    raise ValueError("no\\x1b[31m\\nway")
except ValueError:
    LOGGER.exception("a call could not be counted")
warn_user("the sky")
"""

LOST = "carbontrack: 1 records are lost"
UNCOUNTED = "carbontrack: a call could not be counted: ValueError: no\\x1b[31m\\nway"


@pytest.mark.parametrize(
    ("setup", "lines"),
    [
        (
            "",
            [LOST, UNCOUNTED, "UserWarning: carbontrack: the sky"],
        ),
        (
            "warnings.simplefilter('error')",
            [LOST, UNCOUNTED, "carbontrack: the sky"],
        ),
        ("warnings.simplefilter('ignore')", [LOST, UNCOUNTED]),
        ("LOGGER.addHandler(logging.NullHandler())", ["UserWarning: carbontrack: the sky"]),
        ("logging.lastResort = None", ["UserWarning: carbontrack: the sky"]),
        ("sys.stderr.close()", []),
        ("sys.stderr = None", []),
    ],
    ids=["plain", "errors", "ignored", "null handler", "no last resort", "closed", "none"],
)
def test_warnings_are_said_where_no_logging_is_set_up(
    tmp_path: Path, setup: str, lines: list[str]
) -> None:
    """Once for each text, on one line, without a traceback and without escape sequences."""
    ran = run(LOSES.format(setup=setup), tmp_path)
    found = [line for line in ran.stderr.splitlines() if "carbontrack: " in line]

    assert len(found) == len(lines), ran.stderr
    for line, expected in zip(found, lines, strict=True):
        assert expected in line
    assert "Traceback" not in ran.stderr
    assert "\x1b" not in ran.stderr


@pytest.mark.parametrize("where", ["logging.getLogger()", "LOGGER"])
def test_a_program_that_logs_hears_it_once(tmp_path: Path, where: str) -> None:
    """Its own handler gets every message; nothing is printed beside it."""
    setup = f"{where}.addHandler(logging.StreamHandler(sys.stdout))\nlogging.lastResort"
    ran = run(LOSES.format(setup=setup), tmp_path)

    assert ran.stdout.count("records are lost") == 3
    assert "records are lost" not in ran.stderr
    assert ran.stdout.count("the sky") == 1


def test_the_same_text_is_said_again_after_an_hour(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers in it do not make it another text."""
    clock = HandClock()
    handler = LastResort(clock)
    others = list(logging.getLogger().handlers)  # those of pytest
    for other in others:
        logging.getLogger().removeHandler(other)
    LOGGER.handlers, ours = [handler], LOGGER.handlers
    try:
        for now_s in (0.0, 3599.0, 3600.0):
            clock.now_s = now_s
            LOGGER.warning("%s", f"{now_s} s")
    finally:
        LOGGER.handlers = ours
        for other in others:
            logging.getLogger().addHandler(other)
    assert capsys.readouterr().err == "carbontrack: 0.0 s\ncarbontrack: 3600.0 s\n"


def test_a_command_that_is_to_be_quiet_is(tmp_path: Path) -> None:
    """`silenced` holds for the block only."""
    code = (
        "from carbontrack.system.log import LOGGER, silenced\n"
        "with silenced(): LOGGER.warning('unheard')\n"
        "LOGGER.warning('heard')\n"
    )
    assert run(code, tmp_path).stderr == "carbontrack: heard\n"


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
    with pytest.warns(UserWarning, match="region unknown") as caught:
        carbontrack.auto(output=None, cloud="none").close()
    assert caught[0].filename == __file__


def test_what_is_said_once_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each text; and of very many texts not all are kept."""
    log = OnceLog()
    for _ in range(3):
        log.say("one")
        log.say("two", logging.ERROR)
        log.say(f"three: {len(caplog.records)}", topic="three")
    assert [(one.levelno, one.message) for one in caplog.records] == [
        (logging.WARNING, "one"),
        (logging.ERROR, "two"),
        (logging.WARNING, "three: 2"),
    ]
    for number in range(5000):
        log.say(f"text {number}")
    assert len(log._said) <= 1000
