"""A CSV file of CodeCarbon's rows, which many processes may share.

A row is added under the file's lock with one `write`, below anything that a killed writer may have
left; a write that did not fit is undone. The columns may be in any order: a row is written in that
of the file. A file with other columns is renamed, as CodeCarbon does. A rewritten file is replaced
in one step, and a process that waited for the lock of the old file opens the new one.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from carbontrack.compat.codecarbon.log import LOGGER
from carbontrack.sinks.csv_file import csv_line
from carbontrack.sinks.files import locked, write_whole
from carbontrack.system.files import READING, read_opened, replace_file
from carbontrack.system.interrupts import pass_on

Values = Mapping[str, Any]
"""A row: column to value."""
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


def append_row(path: Path, values: Values) -> None:
    """Add a row at the end.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    _write(path, values, None)


def update_row(path: Path, values: Values, key: str = "run_id") -> None:
    """Replace the row with the same key; the new row is the last.

    If there is none, or more than one, the row is added.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    _write(path, values, key)


def replace_rows(path: Path, rows: Sequence[Values]) -> None:
    """Make a file of only these rows, in one step.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    names = list(rows[0])
    replace_file(path, csv_line(names) + b"".join(_line(names, row) for row in rows))


def header_of(path: Path) -> list[str]:
    """The columns of a file in their order; none if it is empty.

    Raises:
        OSError: it cannot be read.
    """
    return _names(_text(read_opened(os.open(path, READING), path)))


def _write(path: Path, values: Values, key: str | None) -> None:
    path = Path(os.path.realpath(path))  # a link stays one
    while True:
        with _opened(path) as handle:
            if not _is_still(path, handle):
                continue  # somebody has moved or replaced it meanwhile
            size = os.fstat(handle).st_size
            names = _names(_first_lines(handle)) if size else []
            if names and sorted(names) != sorted(values):
                _move_away(path)
                continue
            if size and key is not None and _replaced(path, handle, values, names, key):
                return
            header = b"" if names else csv_line(list(values))
            _append(handle, header + _line(names or list(values), values), size)
            return


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file, locked; it is created if it does not exist."""
    handle = os.open(path, _FLAGS, 0o666)
    try:
        with locked(handle):
            yield handle
    finally:
        os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _append(handle: int, line: bytes, size: int) -> None:
    """Write a separate line; a partial write is undone."""
    if size and _read(handle, 1, size - 1) != b"\n":  # somebody was killed while writing
        is_in_quotes = _read(handle, size, 0).count(b'"') % 2
        line = (b'"\n' if is_in_quotes else b"\n") + line
    try:
        write_whole(handle, line)
    except OSError as error:
        pass_on(error)
        os.ftruncate(handle, size)
        raise


def _replaced(path: Path, handle: int, values: Values, names: list[str], key: str) -> bool:
    """Whether exactly one row had the same key and was replaced."""
    text = _text(_read(handle, os.fstat(handle).st_size, 0))
    place, rows = names.index(key), list(_raw_rows(text))
    same = [row for row in rows[1:] if len(row[0]) > place and row[0][place] == str(values[key])]
    if len(same) > 1:
        LOGGER.warning("%s has %d rows of %s %s; one is added", path, len(same), key, values[key])
    if len(same) != 1:
        return False
    kept = "".join(raw for cells, raw in rows if cells is not same[0][0])
    if not kept.endswith("\n"):
        kept += "\n"
    content = kept.encode(errors="surrogateescape") + _line(names, values)
    mode = os.fstat(handle).st_mode & 0o777
    replace_file(path, content, mode=mode)
    return True


def _raw_rows(text: str) -> Iterator[tuple[list[str], str]]:
    """The cells of each row, and the text that they were read from."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line)
            yield line

    for cells in csv.reader(lines()):
        yield cells, "".join(taken)
        taken.clear()


def _move_away(path: Path) -> None:
    """Rename a file with other columns to a name that is not in use."""
    name = f"{path.name}.bak"
    for number in itertools.count():
        if not path.with_name(name).exists():
            break
        name = f"{path.name}_{number}.bak"
    path.rename(path.with_name(name))
    LOGGER.warning("%s has different columns from these rows and is kept as %s", path, name)


def _names(text: str) -> list[str]:
    return next(csv.reader(io.StringIO(text, newline="")), [])


def _line(names: Sequence[str], values: Values) -> bytes:
    return csv_line([_cell(values[name]) for name in names])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return float.__repr__(value) if isinstance(value, float) else str(value)


def _first_lines(handle: int) -> str:
    return _text(_read(handle, 1 << 16, 0))


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")


def _read(handle: int, size: int, offset: int) -> bytes:
    os.lseek(handle, offset, os.SEEK_SET)
    found, read = b"", os.read(handle, size)
    while read and len(found) < size:
        found += read
        read = os.read(handle, size - len(found))
    return found
