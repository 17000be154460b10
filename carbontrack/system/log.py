"""Messages of carbontrack: one logger, limited in rate, deferred while a lock is held."""

from __future__ import annotations

import logging
import sys
import warnings
from collections import deque

from carbontrack.system.clock import Clock, SystemClock

LOGGER = logging.getLogger("carbontrack")
"""The package's only logger; the program decides whether and how its messages are shown."""
LOGGER.addHandler(logging.NullHandler())
_OURS = __name__.partition(".")[0] + "."


class RateLimitedLog:
    """A log that warns at most once in `period_s` for each topic."""

    def __init__(self, clock: Clock | None = None, *, period_s: float = 60.0) -> None:
        self._clock = clock or SystemClock()
        self._period_s = period_s
        self._said_at_s: dict[str, float] = {}

    def warn(self, topic: str, message: str) -> None:
        """Log the message, unless there was a warning of this topic within the period."""
        now_s = self._clock.monotonic_s()
        said_at_s = self._said_at_s.get(topic)
        if said_at_s is None or now_s - said_at_s >= self._period_s:
            self._said_at_s[topic] = now_s
            LOGGER.warning("%s", message)


class DeferredLog:
    """Messages that must wait until no lock is held.

    A program's log handler may do anything, even open a span in another thread while it holds a
    lock of its own; logging from inside one of our locks could then hang both.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, str, BaseException | None]] = deque(maxlen=64)

    def add(self, level: int, message: str, error: BaseException | None = None) -> None:
        """Keep a message; at most 64 are kept, the newest."""
        self._waiting.append((level, message, error))

    def flush(self) -> None:
        """Log the kept messages; call it with no lock of ours held."""
        while self._waiting:
            level, message, error = self._waiting.popleft()
            LOGGER.log(level, "%s", message, exc_info=error)


def warn_user(message: str) -> None:
    """Give a message to the user: a Python warning and a line in the log.

    For what a user should know before a measurement starts and that is not an error. A program that
    turns warnings into errors is not stopped by it.
    """
    LOGGER.warning("%s", message)
    try:
        warnings.warn(f"carbontrack: {message}", stacklevel=_level_of_the_program())
    except Warning:
        LOGGER.debug("the program treats warnings as errors; the message above was logged instead")


def _level_of_the_program() -> int:
    """The stack level of the program's own line, as `warnings.warn` counts from its caller."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level
