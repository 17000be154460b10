"""Records as rows of a CSV file that many processes share.

The text is UTF-8, with a comma between cells, a line feed after each row, quotes only where they
are needed, numbers that read back exactly, and nothing for unknown. A text cell that a spreadsheet
could take for a formula begins with an added `'`, which `restored` removes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from carbontrack.record import COLUMNS, LINE_LIMIT, NUMBER_COLUMNS, SCHEMA, Cell, Record, shortened
from carbontrack.sinks.files import SharedFileSink

_NUMBERS = frozenset(NUMBER_COLUMNS)
_HAZARDS = ("=", "+", "-", "@", "'", "\t", "\r")
"""What makes a spreadsheet calculate (OWASP, CSV injection), and the `'` that is added itself."""
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
    return csv_line(["" if row[name] is None else _cell(name, row[name]) for name in COLUMNS])


def restored(column: str, cell: str) -> str:
    """The cell without the `'` that was added for spreadsheets."""
    return cell if column in _NUMBERS or not cell.startswith("'") else cell[1:]


def _cell(column: str, content: Cell) -> str:
    if column in _NUMBERS:
        # float's own repr: that of a subclass, such as numpy's, adds the name of the class
        return float.__repr__(content) if isinstance(content, float) else str(content)
    text = str(content).lower() if isinstance(content, bool) else str(content)
    return "'" + text if text.startswith(_HAZARDS) else text


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


HEADER = csv_line(COLUMNS)
"""The first line of a CSV file of this schema version."""


class CsvSink(SharedFileSink):
    """A CSV file: the columns of the record in their order, a row for each record.

    Any number of threads, processes and runs may write to one file at a time. A relative path
    starts at the working directory at construction.

    Raises:
        ConfigError: no file can be written at `path`; says why and what to do.
    """

    header = HEADER
    tag = f"schema-{SCHEMA}"

    @staticmethod
    def line_of(record: Record) -> bytes:
        """The record as a row; long texts are cut where it would be too long for readers."""
        line = record_line(record.to_row())
        return line if len(line) <= LINE_LIMIT else record_line(shortened(record).to_row())
