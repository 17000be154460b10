"""Files of records, read back: CSV, JSON lines, SQLite and Parquet, as records or as a frame.

What a killed process, a full disk or an editor left incomplete is skipped, and reading goes on with
the next line. `CsvRows` is the careful reader of CSV and takes 20 us a row; `CsvBlocks` hands the
blocks of text that are intact to pandas, and only the others to `CsvRows`.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from carbontrack.errors import ConfigError, MissingExtra
from carbontrack.record import COLUMNS, TRUTH_COLUMNS, Record
from carbontrack.report import codecarbon
from carbontrack.report.database import sqlite_rows
from carbontrack.report.nesting import counted_once, one_row_per_id
from carbontrack.report.parquet import ENDING, parquet_rows
from carbontrack.report.spreadsheet import (
    DELIMITERS,
    OURS,
    TRUTHS,
    Layout,
    as_utf8,
    damage,
    layout_of,
)
from carbontrack.report.typed import (
    NUMBERS,
    cell_text,
    distinct,
    frame_of_records,
    frame_of_texts,
    joined,
)
from carbontrack.system.log import LOGGER

if TYPE_CHECKING:
    import pandas as pd

LINE_LIMIT = 1 << 20
"""Bytes of a line, and characters of a row, above which it is not taken for a record."""
BLOCK_BYTES = 1 << 24
"""Text parsed at once; with its cells this is most of the memory that reading needs beside its
result."""
BLOCK_ROWS = 50_000
AnyPath = str | os.PathLike[str]
OnSkip = Callable[[str], None]
"""Called with the reason for each line that holds no record."""
Row = Mapping[str, object]
"""Column to cell, as values or as text."""
CsvRow = dict[str, str]
Rows = list[Row | None]
"""Rows as they were read one by one; None for a line that belongs to none."""
_ROUNDED = re.compile(rb'[,;\t"\n]\d(?:[.,]\d+)?E\+\d+[,;\t"]').search
"""What may be an id that a spreadsheet has taken for a number."""
NO_ROW = "not a whole row"
_MARK = codecarbon.MARK.encode()


def iter_records(path: AnyPath, *, on_skip: OnSkip | None = None) -> Iterator[Record]:
    """The records of one file, in its order, one at a time.

    Lines that hold no record, such as the last line of a killed writer, are skipped; `on_skip` is
    called with the reason. Files of older schema versions are read too.

    Raises:
        OSError: the file cannot be opened.
        ConfigError: the name has an ending that no sink writes.
    """
    yield from records_in(rows_of(Path(path).expanduser()), on_skip or _ignore)


def read_records(*paths: AnyPath, without_double_counting: bool = False) -> pd.DataFrame:
    """All records of the files as one pandas frame, a row each, typed.

    Numbers are float64, whole numbers Int64, `started_at` and `ended_at` are times in UTC,
    `labels` holds dicts. A record that is there twice, because a delivery was repeated, counts
    once; a record recovered from a checkpoint is replaced by the finished one.
    `frame.attrs["skipped_lines"]` counts the lines that hold no record; a warning in the log names
    their file.

    The figures of some rows are part of others': those of a nested span are part of its parent's,
    and two runs of scope `machine` on one host at one time measure the same machine. Columns of
    energy, emissions, water and making are therefore not to be added up, unless
    `without_double_counting` is true. Then the frame has only the rows that no other holds, and
    those that overlap on a machine have their share of it, so that any sum is right.

    Raises:
        MissingExtra: pandas is not installed.
        OSError: a file cannot be opened.
    """
    import_pandas("analysis", "read_records")
    if not paths:
        raise ConfigError("read_records needs a file to read, for example 'emissions.csv'")
    skipped: list[int] = []
    records = distinct(joined(_typed_blocks(paths, skipped)))
    from carbontrack.report.notebook import COUNTED_ONCE, frame_class

    frame: pd.DataFrame = frame_class()(records)
    if without_double_counting:
        frame = frame_class()(counted_once(one_row_per_id(frame)[0])[0])
        frame.attrs[COUNTED_ONCE] = True
    frame.attrs["skipped_lines"] = sum(skipped)
    return frame


def records_in(rows: Iterable[Row | None], on_skip: OnSkip) -> Iterator[Record]:
    """The records in rows; `on_skip` is called with the reason for each row that holds none."""
    for row in rows:
        if row is None:
            on_skip(NO_ROW)
            continue
        if (reason := damage(row)) is not None:
            on_skip(reason)
            continue
        try:
            yield Record.from_row(row)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            on_skip(str(error))


def rows_of(path: Path) -> Iterator[Row | None]:
    """The rows of a file, in the format that its ending says; None for each line that holds none.

    Raises:
        OSError: the file cannot be opened.
        ConfigError: the name has an ending that no sink writes.
    """
    check_ending(path)
    return ROWS[path.suffix.lower()](path)


def check_ending(path: Path) -> None:
    """Refuse a file whose format its ending does not say.

    Raises:
        ConfigError: the name has an ending that no sink writes.
    """
    if path.suffix.lower() not in ROWS:
        raise ConfigError(f"cannot read {path}: known endings are {', '.join(ROWS)}")


def blocks_of(
    path: Path,
    wanted: Sequence[str],
    on_position: Callable[[int], None],
    csv_blocks: type[CsvBlocks] | None = None,
) -> Iterator[pd.DataFrame | Rows]:
    """The file in blocks: lists of rows, or frames of the wanted columns where CSV is intact.

    `on_position` is called with the number of bytes read so far.
    """
    if path.suffix.lower() == ".csv":
        with path.open("rb") as file:
            for block in (csv_blocks or CsvBlocks)(as_utf8(file), wanted):
                on_position(file.tell())
                yield block
    else:
        rows = rows_of(path)
        while some := list(islice(rows, BLOCK_ROWS)):
            yield some


def import_pandas(extra: str, feature: str) -> Any:
    """The module pandas, for a feature that belongs to an extra of the package.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("pandas", extra, feature) from error
    return pd


def csv_rows(path: Path) -> Iterator[Row | None]:
    """The rows of a CSV file; None for each line that belongs to none."""
    with path.open("rb") as file:
        yield from CsvRows(text_lines(as_utf8(file)))


def json_rows(path: Path) -> Iterator[Row | None]:
    """The objects of a file with one JSON object in each line; None for any other line."""
    with path.open("rb") as file:
        for line in text_lines(as_utf8(file)):
            if line is not None and not line.strip():
                continue
            yield _json_object(line)


ROWS: dict[str, Callable[[Path], Iterator[Row | None]]] = {
    ".csv": csv_rows,
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".sqlite": sqlite_rows,
    ".sqlite3": sqlite_rows,
    ".db": sqlite_rows,
    ENDING: parquet_rows,
}
"""The reader for each ending."""


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

    A row may span several lines, where a cell holds line feeds. An incomplete row can end inside a
    quoted cell, and the rows after it would be read as part of that cell; so when lines that were
    taken together make no row, only the first of them is dropped, and reading goes on with the
    second.
    """

    def __init__(self, lines: Iterator[str | None], layout: Layout = OURS) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self.layout = layout

    @property
    def holds_lines(self) -> bool:
        """Whether lines were taken from the iterator that are still to be read as rows."""
        return bool(self._again)

    def __iter__(self) -> Iterator[CsvRow | None]:
        while (taken := self._take()) is not None:
            text = "".join(taken)
            cells = _cells(text, self.layout) if taken else None
            if cells == []:
                continue
            if (layout := _layout_in(text)) is not None:
                self.layout = layout
            elif cells and self._is_whole(cells, text):
                yield _row(self.layout, cells)
            else:
                self._again.extendleft(reversed(taken[1:]))
                yield None

    def _is_whole(self, cells: list[str], text: str) -> bool:
        missing = len(self.layout.names) - len(cells)
        return missing == 0 or (0 < missing <= self.layout.optional and text.endswith("\n"))

    def _take(self) -> list[str] | None:
        """The next lines that seem to make a row; none if too long; None at the end."""
        line = self._next()
        if line is None:
            return []
        if line == "":
            return None
        taken, quotes, size = [line], line.count('"'), len(line)
        if quotes % 2 and _layout_in(line) is not None:
            return taken
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


class CsvBlocks:
    """The rows of a CSV file in blocks: a pandas frame of the wanted columns, or a list of rows."""

    def __init__(
        self, file: BinaryIO, wanted: Sequence[str], block_bytes: int = BLOCK_BYTES
    ) -> None:
        self._file = file
        self._wanted = wanted
        self._block_bytes = block_bytes
        self._layout = OURS

    def __iter__(self) -> Iterator[Any]:
        # the first line is nearly always the header, and may begin with a byte order mark
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

        A header in the middle, from concatenated files, is no row.
        """
        if not block.endswith(b"\n") or b"record_id" in block or self._layout.is_codecarbons:
            return False
        if _MARK in block:
            return False
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            return False
        if _holds(block, b"E+") and _ROUNDED(block):
            return False
        return _is_rectangular(block, len(self._layout.names), self._layout.delimiter.encode())

    def _parsed(self, block: bytes) -> Iterator[Any]:
        # with other separators than ours, decimal commas are usual
        decimals = (".", ",") if self._layout.delimiter == "," else (",", ".")
        for decimal in decimals:
            try:
                frame = self._frame(block, decimal)
            except ValueError:
                continue
            if all(set(frame[name].dropna()) <= TRUTHS for name in frame if name in TRUTH_COLUMNS):
                yield frame
                return
        yield from self._line_by_line(block)  # which finds out which cell is no number

    def _frame(self, block: bytes, decimal: str, numbers: str = "float64") -> Any:
        import pandas as pd

        columns = [name for name in self._wanted if name in self._layout.names]
        return pd.read_csv(
            BytesIO(block),
            sep=self._layout.delimiter,
            decimal=decimal,
            header=None,
            names=list(self._layout.names),
            usecols=columns,
            dtype={name: numbers if name in NUMBERS else "object" for name in columns},
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
            elif (layout := _layout_in(line)) is not None:
                self._layout = layout
            elif line.strip("\r\n"):
                rows = CsvRows(chain([line], lines), self._layout)
                for row in rows:
                    found.append(row)
                    if not rows.holds_lines:
                        break
        yield found


class WholeCsvBlocks(CsvBlocks):
    """The same blocks, but typed frames of all columns, in which numbers have all their digits."""

    def _parsed(self, block: bytes) -> Iterator[Any]:
        try:
            yield frame_of_texts(self._frame(block, ".", "object"))
        except (ValueError, TypeError, ArithmeticError, RecursionError):
            yield from self._line_by_line(block)  # which finds out which row holds no record


def _row(layout: Layout, cells: Sequence[str]) -> CsvRow:
    pairs = zip(layout.names, cells, strict=False)
    if layout.is_codecarbons:
        return codecarbon.row_of(dict(pairs))
    return {name: cell_text(name, cell) for name, cell in pairs}


def is_header(cells: Sequence[str]) -> bool:
    """Whether the cells are the names of the columns."""
    return "record_id" in cells and "run_id" in cells


def _layout_in(text: str) -> Layout | None:
    """The layout that a header begins; None where the text is none."""
    is_ours = "record_id" in text and "run_id" in text
    if not is_ours and codecarbon.MARK not in text:
        return None
    for delimiter in DELIMITERS:
        cells = _parsed(text, delimiter)
        if cells and is_header(cells):
            return layout_of(tuple(cells), delimiter, text)
        if cells and codecarbon.is_header(cells):
            return Layout(tuple(cells), delimiter, is_codecarbons=True)
    return None


def _cells(text: str, layout: Layout) -> list[str] | None:
    """The cells of one row, as `_parsed`.

    Where cells are separated by semicolons, a spreadsheet takes a line of ours for one cell, or for
    a few if there are semicolons in it, and quotes them when it saves.
    """
    cells = _parsed(text, layout.delimiter)
    if text.startswith('"') and (cells is None or len(cells) < len(layout.names)):
        outer = _parsed(text, ";")
        inner = _parsed(";".join(outer), layout.delimiter) if outer else None
        if inner and len(inner) == len(layout.names):
            return inner
    return cells


def _parsed(text: str, delimiter: str = ",") -> list[str] | None:
    """The cells of one row; [] for an empty line, None if the text is not exactly one row."""
    if not text.strip("\r\n"):
        return []
    try:
        rows = list(csv.reader([text], strict=True, delimiter=delimiter))
    except csv.Error:
        # the csv module's limit for a cell, 128 KiB, holds for the whole process: leave it as it is
        return _long_cells(text, delimiter) if len(text) > csv.field_size_limit() else None
    return rows[0] if len(rows) == 1 else None


def _long_cells(text: str, delimiter: str = ",") -> list[str] | None:
    """The cells of one row, whatever their length; None if the text is not exactly one row."""
    text = text.rstrip("\r\n")
    match = _cell_pattern(delimiter).match
    cells: list[str] = []
    at = 0
    while found := match(text, at):
        quoted, bare, mark = found.groups()
        cells.append(bare if quoted is None else quoted.replace('""', '"'))
        if not mark:
            return cells
        at = found.end()
    return None


@cache
def _cell_pattern(delimiter: str) -> re.Pattern[str]:
    """One cell, quoted or bare, and what stands behind it."""
    mark = re.escape(delimiter)
    return re.compile(rf'(?:"([^"]*(?:""[^"]*)*)"|([^"{mark}\r\n][^{mark}\r\n]*|))({mark}|\Z)')


def _holds(block: bytes, pair: bytes) -> bool:
    """Whether two letters, of which the second is rare, follow each other."""
    import numpy as np

    letters = np.frombuffer(block, dtype=np.uint8)
    seconds = np.flatnonzero(letters == pair[1])
    return bool((letters[seconds - 1] == pair[0]).any())


def _is_rectangular(block: bytes, count: int, mark: bytes) -> bool:
    """Whether each line has so many cells; marks and line feeds between quotes are text."""
    import numpy as np

    letters = np.frombuffer(block, dtype=np.uint8)
    quote, end, between = b'"'[0], b"\n"[0], mark[0]
    found = letters == quote
    found |= letters == end
    found |= letters == between
    kinds = letters[found]
    is_quote = kinds == quote
    quotes = np.cumsum(is_quote, dtype="int32")
    if quotes[-1] % 2:
        return False
    kinds = kinds[~is_quote & (quotes % 2 == 0)]
    line = np.array([between] * (count - 1) + [end], dtype=np.uint8)
    return len(kinds) % count == 0 and bool((kinds.reshape(-1, count) == line).all())


def _popped(lines: deque[str | None]) -> Iterator[str | None]:
    while lines:
        yield lines.popleft()


def _json_object(line: str | None) -> Row | None:
    try:
        found = None if line is None else json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _typed_blocks(paths: Iterable[AnyPath], skipped: list[int]) -> Iterator[pd.DataFrame]:
    """The records of the files, in typed frames; how many lines of each hold none is added."""
    for path in map(Path, paths):
        reasons: list[str] = []
        for block in blocks_of(path.expanduser(), COLUMNS, _ignore, WholeCsvBlocks):
            if isinstance(block, list):
                yield frame_of_records(list(records_in(block, reasons.append)))
            else:
                yield block
        skipped.append(len(reasons))
        if reasons:
            LOGGER.warning(
                "%s: passed over %d lines that hold no record; the first: %s",
                path,
                len(reasons),
                reasons[0],
            )


def _ignore(_: object) -> None:
    return
