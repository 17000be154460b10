"""Sinks that other packages bring, found by the name before the colon of an output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carbontrack.errors import CarbontrackError, ConfigError, SinkError
from carbontrack.record import Record, Sink
from carbontrack.system import plugins
from carbontrack.system.log import RateLimitedLog

if TYPE_CHECKING:
    from carbontrack.sinks.journal.journal import Journal


def plugin_sink(
    output: str,
    name: str,
    address: str,
    file_suffixes: tuple[str, ...],
    journal: Journal | None = None,
) -> PluginSink | None:
    """The sink that a plugin makes for an address; None where the output is a file's name.

    Raises:
        ConfigError: there is no such plugin, it cannot be imported, it made no sink, or it does not
            want this address; says which.
    """
    try:
        point = plugins.find_sink(output, name, file_suffixes)
    except ValueError as error:
        raise ConfigError(f"output {output!r} {error}") from None
    if point is None:
        return None
    make = plugins.load(point)
    try:
        return PluginSink(name, address, _checked(make(address)), journal)
    except (Exception, SystemExit) as error:
        # what a plugin raises as an error of ours is meant for its user to read
        reason = str(error) if isinstance(error, CarbontrackError) else repr(error)
        raise ConfigError(f"output {name}:…: {plugins.described(point)}: {reason}") from error


def _checked(sink: Any) -> Sink:
    missing = [name for name in ("write", "close") if not callable(getattr(sink, name, None))]
    if missing:
        raise ConfigError(f"it made {sink!r}, which has no method {' and none '.join(missing)}")
    checked: Sink = sink
    return checked


class PluginSink:
    """A sink of another package, behind what every sink promises.

    A record that it does not take is kept in the journal, and is written by the next run or by
    `carbontrack recover` once this process has ended. It may then arrive twice, if the plugin had
    taken it all the same; `record_id` tells.
    """

    def __init__(self, name: str, address: str, sink: Sink, journal: Journal | None = None) -> None:
        self._name, self._sink, self._journal = name, sink, journal
        own = getattr(sink, "address", None)
        self.address = own if isinstance(own, str) else address
        """What stands behind the name to open this again, from any directory: the sink's own
        `address`, where it has one, else what it was given."""
        self._warnings = RateLimitedLog()
        self._is_closed = False

    def __repr__(self) -> str:
        # an address may hold a key, and this stands in logs
        return f"PluginSink('{self._name}:…')"

    def write(self, record: Record) -> None:
        """Hand the record to the plugin, or else keep it.

        Raises:
            SinkError: the plugin did not take it, and it could not be kept.
        """
        try:
            self._sink.write(record)
        except (Exception, SystemExit) as error:
            output = f"{self._name}:{self.address}"
            if self._journal is None or not self._journal.enqueue(record, output):
                raise SinkError(f"{self._name}:… did not take a record: {error!r}") from error
            self._warnings.warn(
                "kept",
                f"{self._name}:… did not take a record: {error!r}; it is kept, and written by the "
                "next run or by carbontrack recover",
            )

    def hurry(self) -> None:
        """Let the plugin begin its last attempts, where it has such a method."""
        begin = getattr(self._sink, "hurry", None)
        if callable(begin):
            begin()

    def close(self) -> None:
        """Close the plugin's sink, once.

        Raises:
            SinkError: it could not be closed.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._sink.close()
        except (Exception, SystemExit) as error:
            raise SinkError(f"{self._name}:… did not close: {error!r}") from error
