"""A server that ends its process with a signal is told, once, how its last rows are written.

Uvicorn shuts the application down on SIGTERM, puts the signal's default action back and sends the
signal to itself. No exit hook of Python runs then, so calls that are summed for the next row are
left in the journal, and those since the last tick are lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

from carbontrack.record import Record, Sink

ADVICE = (
    "uvicorn ends its process on SIGTERM without Python's exit hooks: calls of the last second are "
    "lost then, and the row of those before is written by the next run. To write all of them at "
    "the shutdown, wrap the application: "
    "app = carbontrack.integrations.asgi.CarbontrackMiddleware(app)"
)


class Sinks(Protocol):
    """Where a sink is added for the records of all trackers."""

    def add(self, sink: Sink) -> None:
        """Add it."""
        ...

    def remove(self, sink: Sink) -> None:
        """Take it away."""
        ...


class ServerEnd:
    """A sink that looks at rows until one is the sum of several calls, and then gives the advice.

    Rows of single calls and of blocks are written when these end: nothing of them waits.

    Attributes:
        is_handled: the application's shutdown writes the rows.

    Args:
        sinks: where it adds itself while there may be something to tell.
        tell: logs a text.
    """

    def __init__(self, sinks: Sinks, tell: Callable[[str], object]) -> None:
        self.is_handled = False
        self._has_looked = False
        self._sinks = sinks
        self._tell = tell

    def look(self) -> None:
        """Add itself if uvicorn handles SIGTERM in this process; to be called for each tracker."""
        if self._has_looked or self.is_handled or "uvicorn.server" not in sys.modules:
            return
        import signal  # its enumerations take a while to make; a server has them

        owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if type(owner).__module__.partition(".")[0] == "uvicorn":
            self._has_looked = True
            self._sinks.add(self)

    def write(self, record: Record) -> None:
        """Look at a row."""
        if self.is_handled:
            self._sinks.remove(self)
        elif (record.calls or 0) > 1:
            self._sinks.remove(self)
            self._tell(ADVICE)

    def close(self) -> None:
        """Nothing is open."""
