"""From a JSON object that a client has sent to a row that every engine takes.

A `StoredRow` can only be made by `stored_row`, so no engine receives a value of the wrong type, an
invalid number, or a text that it cannot store; and names of columns come from `KINDS` alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Final, Literal

from carbontrack.record import (
    COLUMNS,
    CONVERTERS,
    LABELS_LIMIT,
    LINE_LIMIT,
    NAME_LIMIT,
    NUMBER_COLUMNS,
    REQUIRED,
    SCHEMA,
    TRUTH_COLUMNS,
    plain,
)
from carbontrack.values import NamedTuple

Kind = Literal["text", "whole", "number", "truth", "time", "json"]
ID_LIMIT: Final = 200
"""Characters of an id; a key of PostgreSQL has room for some 2,700 bytes."""
STATUS_LIMIT: Final = 64
"""Characters of a status, of which newer versions may have others."""
KEYS_LIMIT: Final = 100
"""Columns of a newer version that are kept."""
EXTRA_LIMIT: Final = 64 << 10
"""Bytes of what such columns hold, as JSON in UTF-8."""
OWN: Final = frozenset({"project", "received_at", "extra"})
"""The store's own columns: a sender of such a key does not set them."""
TIMES: Final = ("started_at", "ended_at")
RECOVERED: Final = "recovered"
_DEEPEST = 32
_LARGEST = 1 << 63
_FRACTION = re.compile(r"[.,]([0-9]+)")


def kind_of(column: str) -> Kind:
    """What a column of the record holds."""
    if column == "labels":
        return "json"
    if column in TIMES:
        return "time"
    if column in TRUTH_COLUMNS:
        return "truth"
    if column in NUMBER_COLUMNS:
        return "number" if isinstance(CONVERTERS[column]("0.0"), float) else "whole"
    return "text"


KINDS: Final[dict[str, Kind]] = {name: kind_of(name) for name in COLUMNS}
"""The record's columns, in their order, and what each holds."""


class StoredRow(NamedTuple):
    """A record as engines take it.

    Attributes:
        record_id: the key, inside of a project.
        status: as the record has it; a row that is `recovered` yields to any other.
        cells: the columns of the record in their order, then `extra`: texts, numbers, true or
            false, JSON as text, times as `time_text` writes them; None for unknown.
    """

    record_id: str
    status: str
    cells: tuple[str | int | float | bool | None, ...]


def stored_row(received: Mapping[str, object]) -> StoredRow:
    """The row of one decoded JSON object; keys that no column has are kept in `extra`.

    Missing or empty values are unknown, with the defaults of a record. A text's U+0000, which
    PostgreSQL does not have, becomes U+FFFD, and labels that are nested too deep are cut.

    Raises:
        ValueError: it is not a record; the message has the column and the reason.
    """
    if not isinstance(received, Mapping):
        told = _told(received)
        raise ValueError(f"a record is a JSON object, not {told}")  # noqa: TRY004 - one for all
    cells: list[Any] = []
    for name, check in _CHECKS:
        cell = received.get(name)
        if cell is None or cell == "":
            cells.append(_DEFAULTS.get(name) if name not in received else _EMPTY.get(name))
            continue
        try:
            cells.append(check(cell))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"column {name!r} cannot contain {_told(cell)}: {error}") from error
    missing = [name for name, place in _REQUIRED if cells[place] is None]
    if missing:
        raise ValueError(f"the record has no {', '.join(missing)}")
    extra = None if received.keys() <= _KNOWN else _extra(received)
    return StoredRow(cells[_ID], cells[_STATUS], (*cells, extra))


def once_each(rows: Iterable[StoredRow]) -> list[StoredRow]:
    """Each record once, in the order of ids: the first finished row, or else the first of all.

    In one order, so that two writers of the same records never wait for each other.
    """
    kept: dict[str, StoredRow] = {}
    for row in rows:
        before = kept.get(row.record_id)
        if before is None or (before.status == RECOVERED and row.status != RECOVERED):
            kept[row.record_id] = row
    return [kept[record_id] for record_id in sorted(kept)]


def time_text(at: datetime) -> str:
    """The time in UTC, always with microseconds: the order of such texts is that of the times.

    One without a zone is in UTC already.

    Raises:
        OverflowError: in UTC it is before the year 1, or after 9999.
    """
    if at.tzinfo is not None:
        at = at.astimezone(timezone.utc).replace(tzinfo=None)
    return f"{at.isoformat(timespec='microseconds')}Z"


def object_of(cells: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a stored row as a line of JSON lines has them, with the keys of `extra`."""
    labels, extra = cells.get("labels"), cells.get("extra")
    found: dict[str, Any] = dict(cells)
    for name in TRUTH_COLUMNS:
        if found.get(name) is not None:  # SQLite has numbers for true and false
            found[name] = bool(found[name])
    if isinstance(labels, str):
        found["labels"] = json.loads(labels)
    found.pop("extra", None)
    if isinstance(extra, str):
        extra = json.loads(extra)
    return {**extra, **found} if extra else found


def _told(cell: object) -> str:
    text = repr(cell) if isinstance(cell, (str, int, float, bool)) else f"a {type(cell).__name__}"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _text_of(limit: int) -> Callable[[object], str]:
    def check(cell: object) -> str:
        if not isinstance(cell, str):
            raise TypeError("it is not a text")
        if len(cell) > limit:
            raise ValueError(f"it has {len(cell)} characters; the limit is {limit}")
        return cell if cell.isascii() and "\0" not in cell else _clean(cell)

    return check


def _clean(text: str) -> str:
    """The text without what UTF-8 or PostgreSQL does not have."""
    return text.replace("\0", "\ufffd").encode(errors="backslashreplace").decode()


def _whole(cell: object) -> int:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if not isinstance(cell, int) or isinstance(cell, bool):
        raise TypeError("it is not a whole number")
    if not -_LARGEST <= cell < _LARGEST:
        raise ValueError("it needs more than 64 bits")
    return cell


def _number(cell: object) -> float:
    if not isinstance(cell, (int, float)) or isinstance(cell, bool):
        raise TypeError("it is not a number")
    found = float(cell)
    if not math.isfinite(found):
        raise ValueError("it is not finite")
    return found


def _truth(cell: object) -> bool:
    if not isinstance(cell, bool):
        raise TypeError("it is neither true nor false")
    return cell


def _time(cell: object) -> str:
    if not isinstance(cell, str) or len(cell) > 64:
        raise ValueError("it is not a time")
    if _is_time_text(cell):
        return cell
    # before Python 3.11 `fromisoformat` knows no Z, and no fractions but of 3 or 6 digits
    text = f"{cell[:-1]}+00:00" if cell.endswith(("Z", "z")) else cell
    text = _FRACTION.sub(lambda found: f".{found[1][:6]:0<6}", text)
    try:
        return time_text(datetime.fromisoformat(text))
    except ValueError as error:
        raise ValueError("it is not a time such as 2026-11-24T03:00:00Z") from error


def _is_time_text(text: str) -> bool:
    """Whether it is what `time_text` would make of it, as clients send it; quicker than making it.

    Python 3.14 takes an hour 24 too.
    """
    signs = (text[4:5], text[7:8], text[10:11], text[13:14], text[19:20], text[26:])
    if signs != ("-", "-", "T", ":", ".", "Z") or text[11:13] == "24":
        return False
    try:
        datetime.fromisoformat(text[:-1])
    except ValueError:
        return False
    return True


def _labels(cell: object) -> str:
    if not isinstance(cell, Mapping):
        raise TypeError("labels are a JSON object")
    return _json(dict(cell), LABELS_LIMIT)


def _extra(received: Mapping[str, object]) -> str | None:
    """What the columns that are not known hold, as JSON.

    Raises:
        ValueError: these are too many, or too long.
    """
    unknown = {str(key): cell for key, cell in received.items() if key not in _KNOWN}
    if len(unknown) > KEYS_LIMIT:
        raise ValueError(f"{len(unknown)} of its keys are not columns; the limit is {KEYS_LIMIT}")
    try:
        return _json(unknown, EXTRA_LIMIT)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"keys that are not columns cannot be stored: {error}") from error


def _json(content: dict[str, Any], limit: int) -> str:
    """The content as JSON that every engine takes.

    Raises:
        ValueError: it is longer than the limit, or holds a number that is none.
    """
    _check_count(content, limit // 2)  # each takes two bytes at least
    if not _is_shallow(content, _DEEPEST):
        content = plain(content)
    text = _encode(content)
    if "\\u0000" in text or not text.isascii():
        text = _encode(_cleaned(content))
    size = len(text.encode())
    if size > limit:
        raise ValueError(f"it takes {size} bytes as JSON; the limit is {limit}")
    return text


def _check_count(content: dict[str, Any], most: int) -> None:
    """See that it is worth being written as JSON: millions of values take up to a second.

    Raises:
        ValueError: it holds more values, at any depth.
    """
    count = 0
    inner: list[dict[str, Any] | list[Any]] = [content]
    while inner:
        one = inner.pop()
        count += len(one)
        if count > most:
            raise ValueError(f"it contains more than {most} values")
        values = one.values() if isinstance(one, dict) else one
        inner += [value for value in values if isinstance(value, (dict, list))]


def _is_shallow(content: object, depth: int) -> bool:
    if isinstance(content, (dict, list)):
        inner = content.values() if isinstance(content, dict) else content
        return depth > 0 and all(_is_shallow(one, depth - 1) for one in inner)
    return True


def _cleaned(content: Any) -> Any:
    if isinstance(content, str):
        return _clean(content)
    if isinstance(content, dict):
        return {_clean(key): _cleaned(inner) for key, inner in content.items()}
    if isinstance(content, list):
        return [_cleaned(inner) for inner in content]
    return content


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_LIMITS = dict.fromkeys(("record_id", "run_id", "parent_id"), ID_LIMIT) | {
    "name": NAME_LIMIT,
    "status": STATUS_LIMIT,
}
_OF_KIND: dict[Kind, Callable[[object], Any]] = {
    "whole": _whole,
    "number": _number,
    "truth": _truth,
    "time": _time,
    "json": _labels,
}
_CHECKS = tuple(
    (name, _OF_KIND.get(kind) or _text_of(_LIMITS.get(name, LINE_LIMIT)))
    for name, kind in KINDS.items()
)
_KNOWN = frozenset(COLUMNS) | OWN
_ID, _STATUS = COLUMNS.index("record_id"), COLUMNS.index("status")
_REQUIRED = tuple((name, COLUMNS.index(name)) for name in REQUIRED)
_EMPTY: dict[str, Any] = {"labels": "{}", "status": "ok", "schema": SCHEMA}
"""What an empty cell stands for, if not for the unknown."""
_DEFAULTS = _EMPTY | {"calls": 1}
"""What a column stands for that is not there."""
