"""Optional interfaces of a sink, in addition to `write` and `close`.

`isinstance` answers whether a sink has it: a class needs no base class for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class HurriedSink(Protocol):
    """A sink whose `close` may wait, as for a server."""

    def hurry(self) -> None:
        """Begin the last attempts without waiting: called on all sinks before one is closed."""
        ...


@runtime_checkable
class QueuedSink(Protocol):
    """A sink that may leave records for a later process to deliver."""

    still_waits: bool
    """After `close`: whether there are any."""


@runtime_checkable
class FileSink(Protocol):
    """A sink that writes to a file, whose name it may have changed."""

    @property
    def path(self) -> Path:
        """The file that the next record goes to."""
        ...


@runtime_checkable
class AddressedSink(Protocol):
    """A sink with a name that opens its output again."""

    @property
    def address(self) -> str:
        """What opens the output again, in any directory."""
        ...


@runtime_checkable
class SessionSink(Protocol):
    """A sink that looks at the tracker that it was given to, whose records it will get."""

    def begin_session(self, session: Any) -> None:
        """Called before the first record.

        Raises `ConfigError` if it does not accept its records.
        """
        ...
