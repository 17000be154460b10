"""The end of sinks: together, so that what one waits for holds up no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from carbontrack.records import Sink

_log = logging.getLogger("carbontrack")


def hurry(sinks: Iterable[Sink]) -> None:
    """Tell those that send records behind the program's back that they are closed in a moment.

    A sink that has a method `hurry` begins its last attempts in it, and waits for nothing yet.
    """
    for sink in sinks:
        begin: Callable[[], None] | None = getattr(sink, "hurry", None)
        if begin is not None:
            _done(begin, sink)


def close(sinks: Iterable[Sink]) -> None:
    """Close them; one that fails is said, and the others are closed."""
    for sink in sinks:
        _done(sink.close, sink)


def _done(act: Callable[[], None], sink: Sink) -> None:
    try:
        act()
    except Exception as error:  # whatever it is, it is not the measured program's
        _log.warning("%r did not close: %s", sink, error)
