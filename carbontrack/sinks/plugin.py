"""Sinks of other packages, found by the name before the colon of an output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from carbontrack.errors import CarbontrackError, ConfigError, SinkError
from carbontrack.record import Record, Sink, told
from carbontrack.sinks.capabilities import AddressedSink, HurriedSink
from carbontrack.system import plugins
from carbontrack.system.interrupts import pass_on
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
        raise ConfigError(f"output {told(output)!r} {error}") from None
    if point is None:
        return None
    make = plugins.load(point)
    try:
        return PluginSink(name, address, _checked(make(address)), journal)
    except (Exception, SystemExit) as error:
        # the message of a CarbontrackError is meant for users
        reason = str(error) if isinstance(error, CarbontrackError) else repr(error)
        raise ConfigError(f"output {name}:…: {plugins.described(point)}: {reason}") from error


def _checked(sink: Any) -> Sink:
    missing = [name for name in ("write", "close") if not callable(getattr(sink, name, None))]
    if missing:
        raise ConfigError(f"it made {sink!r}, which has no method {' and none '.join(missing)}")
    checked: Sink = sink
    return checked


class PluginSink:
    """A sink of another package, with the guarantees of every sink.

    A record that it does not accept is kept in the journal, and is written by the next run or by
    `carbontrack recover` once this process has ended. It may then arrive twice, if the plugin had
    stored it anyway; both have the same `record_id`.
    """

    def __init__(self, name: str, address: str, sink: Sink, journal: Journal | None = None) -> None:
        self._name, self._sink, self._journal = name, sink, journal
        self._hurried = sink if isinstance(sink, HurriedSink) else None
        own = sink.address if isinstance(sink, AddressedSink) else None
        self.address = own if isinstance(own, str) else address
        """What follows the name to open this output again, in any directory: the sink's own
        `address`, if it has one, else the address that was given."""
        self._warnings = RateLimitedLog()
        self._is_closed = False

    def __repr__(self) -> str:
        # an address may contain a key, and this appears in logs
        return f"PluginSink('{self._name}:…')"

    def write(self, record: Record) -> None:
        """Pass the record to the plugin; if that fails, keep it in the journal.

        Raises:
            SinkError: the plugin did not accept it, and it could not be kept.
        """
        try:
            self._sink.write(record)
        except (Exception, SystemExit) as error:
            pass_on(error)
            output = f"{self._name}:{self.address}"
            if self._journal is None or not self._journal.enqueue(record, output):
                raise SinkError(f"{self._name}:… did not accept a record: {error!r}") from error
            self._warnings.warn(
                "kept",
                f"{self._name}:… did not accept a record: {error!r}; it is kept and will be "
                "written by the next run or by carbontrack recover",
            )

    def hurry(self) -> None:
        """Let the plugin begin its last attempts, if it has such a method."""
        if self._hurried is not None:
            self._hurried.hurry()

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
