"""A server that ends its process with a signal is told, once, how its last rows are written.

Uvicorn shuts the application down on SIGTERM, puts the signal's default action back and sends the
signal to itself. No exit hook of Python runs then, so calls that are summed for the next row are
left in the journal, and those since the last tick are lost.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from carbontrack.record import Record

ADVICE = (
    "uvicorn ends its process on SIGTERM without Python's exit hooks: calls of the last second are "
    "lost then, and the row of those before is written by the next run. To write all of them at "
    "the shutdown, wrap the application: "
    "app = carbontrack.integrations.asgi.CarbontrackMiddleware(app)"
)


def is_under_uvicorn() -> bool:
    """Whether uvicorn handles SIGTERM in this process."""
    if "uvicorn.server" not in sys.modules:
        return False
    import signal  # its enumerations take a while to make; a server has them

    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return type(owner).__module__.partition(".")[0] == "uvicorn"


class EndOfServer:
    """A sink that looks at rows until one is the sum of several calls, and then gives the advice.

    Args:
        tell: logs a text, once in the process.
        done: called when there is nothing more to look at.
    """

    def __init__(self, tell: Callable[[str], None], done: Callable[[EndOfServer], None]) -> None:
        self._tell = tell
        self._done = done
        self._is_needed = True

    def write(self, record: Record) -> None:
        """Rows of single calls and blocks are written when these end: nothing of them waits."""
        if self._is_needed and (record.calls or 0) > 1:
            self._is_needed = False
            self._tell(ADVICE)
            self._done(self)

    def close(self) -> None:
        """Nothing is open."""
