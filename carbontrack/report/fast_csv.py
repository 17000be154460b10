"""A million rows of CSV in seconds: clean blocks of text go to pandas, the others row by row.

`CsvRows` reads past whatever a killed process left in a file, and takes 20 us a row for it. Nearly
all text is clean; that is recognised a block at a time by its commas and quotes.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import chain
from typing import Any, BinaryIO

from carbontrack.records import COLUMNS, NUMBER_COLUMNS
from carbontrack.report.csv_lines import LINE_LIMIT, CsvRows, text_lines

BLOCK_BYTES = 1 << 24
"""Text taken at once; with its cells this is most of what reading needs beside its result."""

Rows = list[Mapping[str, object] | None]
"""Rows as they were read one by one; None for a line that belongs to none."""

_QUOTED = re.compile(b'"[^"]*"').sub
_NUMBERS = frozenset(NUMBER_COLUMNS)
_DISTINCT = frozenset({"record_id", "run_id", "parent_id", "started_at", "ended_at"})
"""Columns of text that differ from row to row."""


class CsvBlocks:
    """The rows of a CSV file in blocks: a pandas frame of the wanted columns, or a list of rows."""

    def __init__(
        self, file: BinaryIO, wanted: Sequence[str], block_bytes: int = BLOCK_BYTES
    ) -> None:
        self._file = file
        self._wanted = wanted
        self._block_bytes = block_bytes
        self._header: tuple[str, ...] = COLUMNS

    def __iter__(self) -> Iterator[Any]:
        # the first line is nearly always the header, and may have a byte order mark before it
        block, first = self._file.readline(LINE_LIMIT), True
        while block:
            if not first and self._is_clean(block):
                yield from self._parsed(block)
            else:
                yield from self._line_by_line(block)
            first = False
            block = self._file.read(self._block_bytes)
            block += self._file.readline(LINE_LIMIT) if not block.endswith(b"\n") else b""

    def _is_clean(self, block: bytes) -> bool:
        """Whether every line is a row of as many cells as the header, to any CSV parser.

        A header in the middle, from files that were put together, is no row.
        """
        if not block.endswith(b"\n") or b"record_id" in block:
            return False
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            return False
        bare = _QUOTED(b"", block) if b'"' in block else block
        return b'"' not in bare and _is_rectangular(bare, len(self._header) - 1)

    def _parsed(self, block: bytes) -> Iterator[Any]:
        try:
            frame = self._frame(block, "category")
            if any(_guessed(frame[name]) for name in frame):
                frame = self._frame(block, object)
        except ValueError:  # some cell is no number: the careful way finds out which
            yield from self._line_by_line(block)
        else:
            yield frame

    def _frame(self, block: bytes, text: Any) -> Any:
        import pandas as pd

        columns = [name for name in self._wanted if name in self._header]
        types = {name: object if name in _DISTINCT else text for name in columns}
        return pd.read_csv(
            BytesIO(block),
            header=None,
            names=list(self._header),
            usecols=columns,
            dtype={name: "float64" if name in _NUMBERS else types[name] for name in columns},
            keep_default_na=False,
            na_values={name: [""] for name in columns},
            skip_blank_lines=False,
            encoding_errors="replace",
        )

    def _line_by_line(self, block: bytes) -> Iterator[Rows]:
        """The rows of a block; the last one may take lines from beyond it."""
        inside = deque(text_lines(BytesIO(block)))
        lines = chain(_popped(inside), text_lines(self._file))
        found: Rows = []
        while inside:
            line = inside.popleft()
            if line is None:
                found.append(None)
            elif _is_header(line):
                self._header = tuple(line.strip("\r\n").split(","))
            elif line.strip("\r\n"):
                rows = CsvRows(chain([line], lines), self._header)
                for row in rows:
                    found.append(row)
                    if not rows.holds_lines:
                        break
        yield found


def _guessed(column: Any) -> bool:
    """Whether pandas took texts for numbers or truths, which it does where all look like some."""
    categories = getattr(column.dtype, "categories", None)
    return categories is not None and categories.dtype.kind in "biufc"


def _is_rectangular(text: bytes, commas: int) -> bool:
    """Whether each line of a text without quotes has so many commas."""
    import numpy as np

    letters = np.frombuffer(text, dtype=np.uint8)
    ends, marks = np.flatnonzero(letters == ord("\n")), np.flatnonzero(letters == ord(","))
    if len(marks) != len(ends) * commas or commas == 0:
        return False
    by_line = marks.reshape(len(ends), commas)
    return bool((by_line[:, -1] < ends).all() and (by_line[1:, 0] > ends[:-1]).all())


def _popped(lines: deque[str | None]) -> Iterator[str | None]:
    while lines:
        yield lines.popleft()


def _is_header(line: str) -> bool:
    if "record_id" not in line or '"' in line:
        return False
    cells = line.strip("\r\n").split(",")
    return "record_id" in cells and "run_id" in cells
