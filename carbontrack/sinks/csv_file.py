"""Records as rows of a CSV file that many processes share.

The text is UTF-8, with a comma between cells, a line feed after each row, quotes only where they
are needed, numbers that read back exactly, and nothing for unknown. A text cell that a spreadsheet
could take for a formula begins with an added `'`, which `restored` removes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from carbontrack.record import (
    COLUMNS,
    LINE_LIMIT,
    NUMBER_COLUMNS,
    SCHEMA,
    Cell,
    Record,
    row_cells,
    shortened,
)
from carbontrack.sinks.files import SharedFileSink

_NUMBERS = frozenset(NUMBER_COLUMNS)
_HAZARDS = ("=", "+", "-", "@", "'", "\t", "\r")
"""Characters that start a formula in a spreadsheet (OWASP, CSV injection), and `'` itself."""
_MUST_QUOTE = re.compile('[",\r\n]').search


def csv_line(cells: Sequence[str]) -> bytes:
    """The cells as one line.

    NUL and lone surrogates, which a UTF-8 text file cannot contain, are written as escapes.
    """
    return _line([_quoted(cell) for cell in cells])


def _line(cells: Iterable[str]) -> bytes:
    text = ",".join(cells)
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    return (text + "\n").encode(errors="backslashreplace")


def record_line(row: Mapping[str, Cell]) -> bytes:
    """The row of a record as one line, its cells in the order of the columns."""
    return line_of_cells([row[name] for name in COLUMNS])


def line_of_cells(cells: Sequence[Cell]) -> bytes:
    """The cells of a record, in the order of the columns, as one line."""
    try:
        machine = _known_texts(*cells[_MACHINE])
        return _line([*_texts(cells[: _MACHINE.start]), machine, *_texts(cells[_MACHINE.stop :])])
    except (KeyError, TypeError):  # a subclass, such as a number of numpy
        return _line([_text_of(*pair) for pair in zip(COLUMNS, cells, strict=True)])


def _texts(cells: Iterable[Cell]) -> list[str]:
    return ["" if cell is None else _TEXT_OF[type(cell)](cell) for cell in cells]


@lru_cache(maxsize=8, typed=True)
def _known_texts(*cells: Cell) -> str:
    return ",".join(_texts(cells))


_MACHINE = slice(COLUMNS.index("cpu_model"), COLUMNS.index("carbontrack") + 1)
"""The columns that are the same in all rows of a process, unless a meter is found later."""


def restored(column: str, cell: str) -> str:
    """The cell without the `'` that was added for spreadsheets."""
    return cell if column in _NUMBERS or not cell.startswith("'") else cell[1:]


def _text_of(column: str, cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):  # its own repr adds the name of its class
        return float.__repr__(cell)
    if column in _NUMBERS:
        return str(cell)
    return _text_of_bool(cell) if isinstance(cell, bool) else text_cell(str(cell))


@lru_cache(maxsize=64)  # what describes the machine and the run is the same in each row
def text_cell(text: str) -> str:
    """A text as a cell that a spreadsheet treats as text, quoted if needed."""
    return _quoted("'" + text if text.startswith(_HAZARDS) else text)


def _text_of_bool(truth: object) -> str:
    return "true" if truth else "false"


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if _MUST_QUOTE(cell) else cell


_TEXT_OF: Mapping[type, Callable[[Any], str]] = {
    str: text_cell,
    float: float.__repr__,
    int: int.__repr__,
    bool: _text_of_bool,
}
"""How a cell is written, by its type; nothing for unknown."""

HEADER = csv_line(COLUMNS)
"""The first line of a CSV file of this schema version."""


class CsvSink(SharedFileSink):
    """A CSV file: the columns of the record in their order, a row for each record.

    Any number of threads, processes and runs may write to one file at a time. A relative path is
    resolved from the working directory at construction.

    Raises:
        ConfigError: no file can be written at `path`; the message has the reason and what to do.
    """

    header = HEADER
    tag = f"schema-{SCHEMA}"

    @staticmethod
    def line_of(record: Record) -> bytes:
        """The record as a row; long texts are cut if it would be too long for readers."""
        line = line_of_cells(row_cells(record))
        return line if len(line) <= LINE_LIMIT else line_of_cells(row_cells(shortened(record)))
