"""The sink for the name of an output: by its ending, or because it is a URL."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from carbontrack.errors import ConfigError
from carbontrack.record import Sink, plugin_of
from carbontrack.system.forking import holding_forks

if TYPE_CHECKING:
    from carbontrack.sinks.journal.journal import Journal

_JSON_SUFFIXES = (".jsonl", ".ndjson")
_SQLITE_SUFFIXES = (".sqlite", ".sqlite3", ".db")
SUFFIXES = (".csv", *_JSON_SUFFIXES, *_SQLITE_SUFFIXES)
"""The endings of file names that choose a sink."""


def is_url(output: str) -> bool:
    """Whether the output is a URL rather than a file or a plugin."""
    return "://" in output and plugin_of(output) is None


def is_file(output: str) -> bool:
    """Whether the output is a file, neither a URL nor a plugin."""
    return "://" not in output and plugin_of(output) is None


def trouble_of_address(url: str) -> str | None:
    """Why records cannot be posted to a URL; None if they can."""
    with holding_forks():  # this may be a thread of ours
        from carbontrack.sinks.post import checked_url

    try:
        checked_url(url)
    except ConfigError as error:
        return str(error)
    return None


def lasting(output: str, sink: Sink) -> str:
    """The output under a name that opens it in any directory: that of a plugin by its `address`."""
    plugin = plugin_of(output)
    if plugin is None:
        return output
    from carbontrack.sinks.capabilities import AddressedSink  # few use plugins

    return f"{plugin[0]}:{sink.address if isinstance(sink, AddressedSink) else plugin[1]}"


def default_sink(path: str, *, journal: Journal) -> Sink:
    """The sink of the default output; if it cannot be written, records are kept.

    One warning reports this, and how to get them: the measured program must not end because of it.
    """
    try:
        return sink_for(path, journal=journal)
    except ConfigError as error:
        from carbontrack.sinks.csv_file import CsvSink
        from carbontrack.system.log import warn_user

        kept = "not written, because there is no directory to keep them in"
        if not journal.is_nowhere:
            kept = f"kept in {journal.state_dir}: `carbontrack recover --output FILE` writes them "
            kept += "to a file"
        warn_user(
            f"{error}; this is the default output, so the program goes on, and its records are "
            f"{kept}; choose an output=…, or output=None for none"
        )
        return CsvSink.unchecked(Path(path), journal=journal)


def sink_for(
    output: str | os.PathLike[str], *, token: str | None = None, journal: Journal | None = None
) -> Sink:
    """The sink for a file name, chosen by its ending, for a URL, or of a plugin: "NAME:ADDRESS".

    `token` is for a URL; records that cannot be sent or written yet wait in `journal`.

    Raises:
        ConfigError: no sink writes such an output, or this one cannot be used; says why.
    """
    text = os.fsdecode(output)
    if not isinstance(output, os.PathLike) and (plugin := plugin_of(text)) is not None:
        from carbontrack.sinks.plugin import plugin_sink

        sink = plugin_sink(text, *plugin, SUFFIXES, journal)
        if sink is not None:
            return sink
    if is_url(text):
        from carbontrack.sinks.http import JournaledHttpSink

        return JournaledHttpSink(text, token=token, journal=journal)
    suffix = PurePath(text).suffix.lower()
    if suffix == ".csv":
        from carbontrack.sinks.csv_file import CsvSink

        return CsvSink(output, journal=journal)
    if suffix in _JSON_SUFFIXES:
        from carbontrack.sinks.jsonl import JsonlSink

        return JsonlSink(output, journal=journal)
    if suffix in _SQLITE_SUFFIXES:
        from carbontrack.sinks.sqlite import SqliteSink

        return SqliteSink(output, journal=journal)
    example = PurePath(text).with_suffix(".csv") if text else "emissions.csv"
    raise ConfigError(
        f"output {text!r} is neither a URL nor a file name with one of the endings "
        f"{', '.join(SUFFIXES)}: for example {example}"
    )
