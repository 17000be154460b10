"""What carbontrack has to say while it runs: through one logger, the same thing once a minute."""

from __future__ import annotations

import logging
import warnings

from carbontrack.clock import Clock, SystemClock

LOGGER = logging.getLogger("carbontrack")
"""The package's only logger; how it is shown, if at all, is the program's choice."""
LOGGER.addHandler(logging.NullHandler())


class Notices:
    """A mouth that repeats itself at most once in `period_s` for each topic, and counts."""

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


def say_aloud(message: str) -> None:
    """Tell the person at the keyboard, for once: a Python warning and a line in the log.

    For what is decided before a measurement starts and is not an error. A program that turns
    warnings into errors is not stopped by this one.
    """
    LOGGER.warning("%s", message)
    try:
        warnings.warn(f"carbontrack: {message}", stacklevel=3)
    except Warning:
        LOGGER.debug("the program treats warnings as errors; the line above stands for this one")
