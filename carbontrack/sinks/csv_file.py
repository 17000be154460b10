"""Records as rows of a CSV file that many processes share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from carbontrack.csv_text import HEADER, record_line
from carbontrack.records import SCHEMA, Record
from carbontrack.sinks.outputs import shared_file
from carbontrack.sinks.patient_sink import PatientSink

if TYPE_CHECKING:
    from carbontrack.journal import Journal


class CsvSink(PatientSink[bytes]):
    """A CSV file: the columns of the record in their order, a row for each record.

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
        self._file = shared_file(path, header=HEADER, tag=f"schema-{SCHEMA}", procfs=procfs)
        super().__init__(_row, self._file.append, journal=journal)

    @property
    def path(self) -> Path:
        """The file that the next record goes to, absolute."""
        return self._file.path


def _row(record: Record) -> bytes:
    return record_line(record.to_row())
