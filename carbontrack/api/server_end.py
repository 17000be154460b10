"""Advice, once, for a server that ends its process with a signal: how its last rows are written.

Uvicorn shuts the application down on SIGTERM, puts the signal's default action back and sends the
signal to itself. No exit hook of Python runs then, so calls that are summed for the next row are
left in the journal, and those since the last tick are lost.
"""

from __future__ import annotations

from typing import Any, Protocol

from carbontrack.record import Record

ADVICE = (
    "uvicorn ends its process on SIGTERM without Python's exit hooks: calls of the last second are "
    "then lost, and the row of earlier calls is written by the next run. To write all of them at "
    "the shutdown, wrap the application: app = "
    "carbontrack.integrations.asgi.CarbontrackMiddleware(app)"
)


class TrackersOfServer(Protocol):
    """The part of a tracker provider that is used here."""

    common_sinks: Any
    is_closed_by_server: bool
    """Whether the application's shutdown writes the rows."""

    def warn_once(self, message: str) -> None:
        """Log a warning, once in this process."""
        ...


def look_at_uvicorn(provider: TrackersOfServer) -> None:
    """Watch the rows if uvicorn handles SIGTERM in this process."""
    import signal  # its enumerations take a while to make; a server has them

    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    is_looked_at = any(isinstance(sink, ServerEnd) for sink in provider.common_sinks.sinks)
    if not is_looked_at and type(owner).__module__.partition(".")[0] == "uvicorn":
        provider.common_sinks.add(ServerEnd(provider))


class ServerEnd:
    """A sink that watches rows until one sums several calls, and then logs the advice.

    Rows of single calls and of blocks are written when these end, so none of them waits.
    """

    def __init__(self, provider: TrackersOfServer) -> None:
        self._provider = provider

    def write(self, record: Record) -> None:
        """Check a row."""
        provider = self._provider
        if provider.is_closed_by_server or (record.calls or 0) > 1:
            provider.common_sinks.remove(self)
            if not provider.is_closed_by_server:
                provider.warn_once(ADVICE)

    def close(self) -> None:
        """Does nothing: nothing is open."""
