"""Records as lines of JSON (NDJSON) in a file that many processes share.

A record as JSON that every parser takes: labels as an object, unknown and NaN as null.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.record import Record, plain
from carbontrack.sinks.buffered import BufferedSink
from carbontrack.sinks.files import shared_file

if TYPE_CHECKING:
    from carbontrack.sinks.journal.journal import Journal


def record_object(record: Record) -> dict[str, Any]:
    """The record as a mapping for JSON, its keys in the order of the columns."""
    return record.to_row() | {"labels": dict(record.labels)}


def json_line(content: Any) -> bytes:
    """The content as one line of JSON in UTF-8, with its line feed.

    NaN and the infinities, which JSON does not have, become null; what JSON has no type for
    becomes its text; a lone surrogate is written as the escape that JSON has for it.
    """
    try:
        text = _dumped(content)
    except Exception:
        text = _dumped(plain(content))
    return (text + "\n").encode(errors="backslashreplace")


def _dumped(content: Any) -> str:
    return json.dumps(
        content, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":")
    )


class JsonlSink(BufferedSink[bytes]):
    """A file with one JSON object for each record; unknown is null.

    Any number of threads, processes and runs may write to one file at a time. A path that is not
    absolute is meant from the working directory at construction.

    Raises:
        ConfigError: no file can be written at `path`; says why and what to do.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        journal: Journal | None = None,
        procfs: Path = Path("/proc"),
    ) -> None:
        self._file = shared_file(path, procfs=procfs)
        super().__init__(_line, self._file.append, journal=journal)

    @property
    def path(self) -> Path:
        """The file that the next record goes to, absolute."""
        return self._file.path


def _line(record: Record) -> bytes:
    return json_line(record_object(record))
