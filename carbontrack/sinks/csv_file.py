"""A record as a line of CSV text, in both directions.

The text is UTF-8, a comma between cells, a line feed after each row, cells quoted where they must
be, numbers written so that they read back exactly, unknown left empty. A text cell that a
spreadsheet could take for a formula has one `'` in front, which `restored` takes off again.

Records as rows of a CSV file that many processes share.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from carbontrack.record import COLUMNS, NUMBER_COLUMNS, SCHEMA, Cell, Record
from carbontrack.sinks.buffered import BufferedSink
from carbontrack.sinks.files import shared_file

if TYPE_CHECKING:
    from carbontrack.sinks.journal.journal import Journal


_NUMBERS = frozenset(NUMBER_COLUMNS)
_HAZARDS = ("=", "+", "-", "@", "'", "\t", "\r")
"""What makes a spreadsheet calculate (OWASP, CSV injection), and the mark that we put in front."""
_MUST_QUOTE = re.compile('[",\r\n]').search


def csv_line(cells: Sequence[str]) -> bytes:
    """The cells as one line.

    NUL and lone surrogates, which no UTF-8 text file can hold, are written as their escapes.
    """
    text = ",".join([_quoted(cell) if _MUST_QUOTE(cell) else cell for cell in cells])
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    return (text + "\n").encode(errors="backslashreplace")


def record_line(row: Mapping[str, Cell]) -> bytes:
    """The row of a record as one line, its cells in the order of the columns."""
    return csv_line([_cell(name, row[name]) for name in COLUMNS])


def restored(column: str, cell: str) -> str:
    """The cell as it was before it was made harmless for spreadsheets."""
    return cell if column in _NUMBERS or not cell.startswith("'") else cell[1:]


def _cell(column: str, content: Cell) -> str:
    if content is None:
        return ""
    if column in _NUMBERS:
        # float's own repr: that of a subclass, such as numpy's, adds the name of the class
        return float.__repr__(content) if isinstance(content, float) else str(content)
    text = str(content)
    return "'" + text if text.startswith(_HAZARDS) else text


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


HEADER = csv_line(COLUMNS)
"""The first line of a CSV file of this schema version."""


class CsvSink(BufferedSink[bytes]):
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
