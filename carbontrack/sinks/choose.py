"""From the name of an output to the sink that writes it."""

from __future__ import annotations

import os
from pathlib import PurePath

from carbontrack.errors import ConfigError
from carbontrack.records import Sink

_JSON_SUFFIXES = (".jsonl", ".ndjson")
_SQLITE_SUFFIXES = (".sqlite", ".sqlite3", ".db")
SUFFIXES = (".csv", *_JSON_SUFFIXES, *_SQLITE_SUFFIXES)
"""The endings of file names that choose a sink."""


def sink_for(output: str | os.PathLike[str]) -> Sink:
    """The sink for a file name, chosen by its ending.

    Raises:
        ConfigError: no sink writes such an output, or this one cannot be used; says why.
    """
    text = os.fsdecode(output)
    suffix = PurePath(text).suffix.lower()
    if suffix == ".csv":
        from carbontrack.sinks.csv_file import CsvSink

        return CsvSink(output)
    if suffix in _JSON_SUFFIXES:
        from carbontrack.sinks.jsonl import JsonlSink

        return JsonlSink(output)
    if suffix in _SQLITE_SUFFIXES:
        from carbontrack.sinks.sqlite import SqliteSink

        return SqliteSink(output)
    raise ConfigError(
        f"output {text!r} has no ending that chooses a format; known are {', '.join(SUFFIXES)}: "
        f"for example {PurePath(text).with_suffix('.csv') if text else 'emissions.csv'}"
    )
