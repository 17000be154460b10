"""Records as lines of JSON (NDJSON) in a file that many processes share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from carbontrack.json_text import json_line, record_object
from carbontrack.records import Record
from carbontrack.sinks.outputs import shared_file
from carbontrack.sinks.patient_sink import PatientSink

if TYPE_CHECKING:
    from carbontrack.journal import Journal


class JsonlSink(PatientSink[bytes]):
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
