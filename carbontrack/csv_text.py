"""A record as a line of CSV text, in both directions.

The text is UTF-8, a comma between cells, a line feed after each row, cells quoted where they must
be, numbers written so that they read back exactly, unknown left empty. A text cell that a
spreadsheet could take for a formula has one `'` in front, which `restored` takes off again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from carbontrack.records import COLUMNS, NUMBER_COLUMNS, Cell

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
