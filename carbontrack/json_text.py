"""A record as JSON that every parser takes: labels as an object, unknown and NaN as null."""

from __future__ import annotations

import json
from typing import Any

from carbontrack.records import Record, plain


def record_object(record: Record) -> dict[str, Any]:
    """The record as a mapping for JSON, its keys in the order of the columns."""
    return record.to_row() | {"labels": dict(record.labels)}


def json_line(content: Any) -> bytes:
    """The content as one line of JSON in UTF-8, with its line feed.

    NaN and the infinities, which JSON does not have, become null; what JSON has no type for
    becomes its text; a lone surrogate is written as the escape that JSON has for it.
    """
    try:
        text = _dumped(content)
    except Exception:
        text = _dumped(plain(content))
    return (text + "\n").encode(errors="backslashreplace")


def _dumped(content: Any) -> str:
    return json.dumps(
        content, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":")
    )
