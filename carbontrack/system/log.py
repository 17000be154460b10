"""What carbontrack has to say while it runs: through one logger, the same thing once a minute."""

from __future__ import annotations

import logging
import sys
import warnings
from collections import deque

from carbontrack.system.clock import Clock, SystemClock

LOGGER = logging.getLogger("carbontrack")
"""The package's only logger; how it is shown, if at all, is the program's choice."""
LOGGER.addHandler(logging.NullHandler())
_OURS = __name__.partition(".")[0] + "."


class RateLimitedLog:
    """Warns at most once in `period_s` for each topic."""

    def __init__(self, clock: Clock | None = None, *, period_s: float = 60.0) -> None:
        self._clock = clock or SystemClock()
        self._period_s = period_s
        self._said_at_s: dict[str, float] = {}

    def warn(self, topic: str, message: str) -> None:
        """Log the message, unless the topic was warned of within the period."""
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

    def note(self, level: int, message: str, error: BaseException | None = None) -> None:
        """Keep a message; the oldest give way when nobody comes to say them."""
        self._waiting.append((level, message, error))

    def say(self) -> None:
        """Log what has been kept; no lock of ours is held."""
        while self._waiting:
            level, message, error = self._waiting.popleft()
            LOGGER.log(level, "%s", message, exc_info=error)


def say_aloud(message: str) -> None:
    """Tell the person at the keyboard, for once: a Python warning and a line in the log.

    For what is decided before a measurement starts and is not an error. A program that turns
    warnings into errors is not stopped by this one.
    """
    LOGGER.warning("%s", message)
    try:
        warnings.warn(f"carbontrack: {message}", stacklevel=_level_of_the_program())
    except Warning:
        LOGGER.debug("the program treats warnings as errors; the line above stands for this one")


def _level_of_the_program() -> int:
    """How far up the stack the program's own line is, as `warnings.warn` counts from its caller."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame, level = frame.f_back, level + 1
    return level
