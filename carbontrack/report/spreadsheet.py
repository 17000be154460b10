"""CSV files that a spreadsheet has opened and saved again.

It writes them as its user's country does: with semicolons or tabs between the cells, with decimal
commas, with its own words for true and false, in UTF-16. All of that can be read. What cannot be
undone, ids that were rounded like numbers and times in a country's order, is reported.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, cast

from carbontrack.record import COLUMNS
from carbontrack.values import NamedTuple

DELIMITERS = (",", ";", "\t")
"""What may stand between cells."""
TRUTHS = frozenset({"true", "false", "TRUE", "FALSE", "True", "False", "1", "0"})
"""The cells that are true or false without a translation."""
_TRUE = frozenset({"wahr", "vrai", "verdadero", "vero", "verdadeiro", "waar", "prawda", "sant"})
_FALSE = frozenset({"falsch", "faux", "falso", "onwaar", "fałsz", "falskt"})
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LAST_OF_SCHEMA_1 = "carbontrack"
_ROUNDED = re.compile(r"\d(?:[.,]\d+)?E[+-]\d+").fullmatch
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]|$)").match
_AS_WRITTEN = "use the file as carbontrack wrote it"


class Layout(NamedTuple):
    """How the rows of a CSV file are written.

    Attributes:
        names: the columns, in the file's order.
        delimiter: what stands between cells.
        optional: how many of the last cells a row may lack. Excel leaves out separators where the
            last columns of a block of rows are empty.
        is_codecarbons: whether they are rows of CodeCarbon.
    """

    names: tuple[str, ...] = COLUMNS
    delimiter: str = ","
    optional: int = 0
    is_codecarbons: bool = False


OURS = Layout()
"""How carbontrack writes them."""


def layout_of(names: tuple[str, ...], delimiter: str, line: str) -> Layout:
    """The layout below a header; a line feed alone, after commas, is how carbontrack writes."""
    resaved = delimiter != "," or line.endswith("\r\n")
    if not resaved or _LAST_OF_SCHEMA_1 not in names:
        return Layout(names, delimiter)
    return Layout(names, delimiter, len(names) - 1 - names.index(_LAST_OF_SCHEMA_1))


def as_utf8(file: BinaryIO) -> BinaryIO:
    """The file, or its text in UTF-8 where it begins with the byte order mark of UTF-16."""
    mark = file.read(2)
    file.seek(0)
    return cast(BinaryIO, BufferedReader(_Utf8(file))) if mark in _UTF16 else file


class _Utf8(RawIOBase):
    """A file in UTF-16, read as UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-16")(errors="replace")
        self._rest = b""

    def readable(self) -> bool:
        """It is only read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 at the end."""
        while not self._rest:
            read = self._file.read(len(buffer))
            text = self._decoder.decode(read, final=not read)
            self._rest = text.encode(errors="replace")
            if not read:
                break
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def number_text(cell: str) -> str:
    """A number with a decimal point."""
    return cell.replace(",", ".") if "," in cell else cell


def truth_text(cell: str) -> str:
    """True or false, translated where a spreadsheet wrote it in its user's language."""
    word = cell.strip().lower()
    return "true" if word in _TRUE else "false" if word in _FALSE else cell


def damage(row: Mapping[str, object]) -> str | None:
    """Why what a spreadsheet did to a row cannot be undone; None where it did no such thing."""
    for name in ("record_id", "run_id", "parent_id"):
        cell = row.get(name)
        if isinstance(cell, str) and _ROUNDED(cell):
            return f"a spreadsheet has rounded its {name} to {cell}; {_AS_WRITTEN}"
    for name in ("started_at", "ended_at"):
        cell = row.get(name)
        if isinstance(cell, str) and cell and not _TIME(cell):
            return (
                f"its {name} is {cell[:40]!r}, not as in 2026-11-24T03:00:00Z; a spreadsheet may "
                f"have rewritten it: {_AS_WRITTEN}"
            )
    return None
