"""Records as lines of JSON (NDJSON) in a file that many processes share.

Every JSON parser can read them: labels are an object, unknown and NaN are null.
"""

from __future__ import annotations

import json
from typing import Any

from carbontrack.record import LINE_LIMIT, Record, plain, shortened
from carbontrack.sinks.files import SharedFileSink
from carbontrack.system.forking import holding_forks
from carbontrack.system.interrupts import pass_on


def record_object(record: Record) -> dict[str, Any]:
    """The record as a mapping, with its keys in the order of the columns."""
    return record.to_row() | {"labels": dict(record.labels)}


def json_line(content: Any) -> bytes:
    """The content as one line of JSON in UTF-8, with its line feed.

    NaN and the infinities, which JSON does not have, become null; other types become text; control
    and invisible characters and lone surrogates are written as JSON escapes.
    """
    try:
        text = _dumped(content)
    except Exception as error:
        pass_on(error)
        text = _dumped(plain(content))
    if "\x7f" not in text:
        try:
            return (text + "\n").encode("ascii")
        except UnicodeEncodeError:  # there is more to it
            pass
    return (_visible(text) + "\n").encode(errors="backslashreplace")


def _visible(text: str) -> str:
    try:
        with holding_forks():  # this may be a thread of ours
            from carbontrack.text import visible_json  # few records need it
    except ImportError:  # the interpreter is ending
        return text
    return visible_json(text)


def _dumped(content: Any) -> str:
    return json.dumps(
        content, ensure_ascii=False, allow_nan=False, default=str, separators=(",", ":")
    )


class JsonlSink(SharedFileSink):
    """A file with one JSON object for each record; unknown is null.

    Any number of threads, processes and runs may write to one file at a time. A relative path is
    resolved from the working directory at construction.

    Raises:
        ConfigError: no file can be written at `path`; the message has the reason and what to do.
    """

    @staticmethod
    def line_of(record: Record) -> bytes:
        """The record as a JSON object; long texts are cut if it is too long for readers."""
        line = json_line(record_object(record))
        return line if len(line) <= LINE_LIMIT else json_line(record_object(shortened(record)))
