"""CSV text to rows, past whatever a killed process, a full disk or an editor left in between."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from carbontrack.csv_text import restored
from carbontrack.records import COLUMNS

LINE_LIMIT = 1 << 20
"""Bytes of a line, and characters of a row, above which it is taken for garbage."""

Row = dict[str, str]


def text_lines(file: BinaryIO) -> Iterator[str | None]:
    """The lines of the file, without a byte order mark; None for one that is too long."""
    first = True
    while line := file.readline(LINE_LIMIT):
        if len(line) == LINE_LIMIT and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(LINE_LIMIT)
            yield None
            continue
        yield line.decode("utf-8-sig" if first else "utf-8", errors="replace")
        first = False


class CsvRows:
    """The rows of a CSV file as column to text, and None for each line that belongs to no row.

    A row may run over several lines, where a cell holds line feeds. A torn row can end inside a
    quoted cell, and would then swallow the rows after it; so when lines that were taken together
    make no row, only the first of them is given up, and reading goes on with the second.
    """

    def __init__(self, lines: Iterator[str | None], header: tuple[str, ...] = COLUMNS) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self._header = header

    @property
    def holds_lines(self) -> bool:
        """Whether lines were taken from the iterator that are still to be read as rows."""
        return bool(self._again)

    def __iter__(self) -> Iterator[Row | None]:
        while (taken := self._take()) is not None:
            cells = _parsed("".join(taken)) if taken else None
            if cells == []:
                continue
            if cells and "record_id" in cells and "run_id" in cells:
                self._header = tuple(cells)
            elif cells and len(cells) == len(self._header):
                pairs = zip(self._header, cells, strict=True)
                yield {name: restored(name, cell) for name, cell in pairs}
            else:
                self._again.extendleft(reversed(taken[1:]))
                yield None

    def _take(self) -> list[str] | None:
        """The next lines that seem to make a row; none if too long; None at the end."""
        line = self._next()
        if line is None:
            return []
        if line == "":
            return None
        taken, quotes, size = [line], line.count('"'), len(line)
        while quotes % 2 and size < LINE_LIMIT:
            line = self._next()
            if not line:
                break
            taken.append(line)
            quotes += line.count('"')
            size += len(line)
        return taken

    def _next(self) -> str | None:
        return self._again.popleft() if self._again else next(self._lines, "")


def _parsed(text: str) -> list[str] | None:
    """The cells of one row; [] for an empty line, None if the text is not exactly one row."""
    if not text.strip("\r\n"):
        return []
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error:
        # its limit for a cell, 128 KiB, is the whole process's, and so not ours to change
        return _long_cells(text) if len(text) > csv.field_size_limit() else None
    return rows[0] if len(rows) == 1 else None


_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n][^,\r\n]*|))(,|\Z)')


def _long_cells(text: str) -> list[str] | None:
    """The cells of one row, whatever their length; None if the text is not exactly one row."""
    text = text.rstrip("\r\n")
    cells: list[str] = []
    at = 0
    while found := _CELL.match(text, at):
        quoted, bare, comma = found.groups()
        cells.append(bare if quoted is None else quoted.replace('""', '"'))
        if not comma:
            return cells
        at = found.end()
    return None
