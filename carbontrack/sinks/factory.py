"""The sink for the name of an output: by its ending, or because it is a URL."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import TYPE_CHECKING

from carbontrack.errors import ConfigError
from carbontrack.record import Sink

if TYPE_CHECKING:
    from carbontrack.sinks.journal.journal import Journal

_JSON_SUFFIXES = (".jsonl", ".ndjson")
_SQLITE_SUFFIXES = (".sqlite", ".sqlite3", ".db")
SUFFIXES = (".csv", *_JSON_SUFFIXES, *_SQLITE_SUFFIXES)
"""The endings of file names that choose a sink."""


def is_url(output: str) -> bool:
    """Whether the output is a URL rather than a file."""
    return "://" in output


def sink_for(
    output: str | os.PathLike[str], *, token: str | None = None, journal: Journal | None = None
) -> Sink:
    """The sink for a file name, chosen by its ending, or for a URL.

    `token` is for a URL; records that cannot be sent or written yet wait in `journal`.

    Raises:
        ConfigError: no sink writes such an output, or this one cannot be used; says why.
    """
    text = os.fsdecode(output)
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
        f"output {text!r} is no URL and has no ending that chooses a format, which are "
        f"{', '.join(SUFFIXES)}: for example {example}"
    )
