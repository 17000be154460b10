"""Records as a relay takes and passes them on: checked, and with the columns it does not know.

A relay may be older than the programs that hand records to it: what they have measured goes to the
server as it came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from carbontrack.record import COLUMNS, LINE_LIMIT, NUMBER_COLUMNS, REQUIRED, Record
from carbontrack.sinks.delivery import LeftoverQueue
from carbontrack.sinks.journal.file import JournalFile
from carbontrack.sinks.journal.journal import NO_RECORD, SEND, record_in
from carbontrack.sinks.journal.places import Key
from carbontrack.sinks.jsonl import json_line
from carbontrack.values import fields_of

Row = dict[str, Any]
"""A record by the names of its columns, as it came."""
MOST_RECORDS = 1000
"""Records in one request."""
BODY_LIMIT = 4 << 20
"""Bytes of the body of one request."""
_COLUMNS = frozenset(COLUMNS)


class RefusedRequest(Exception):  # noqa: N818 - states what happened
    """A request is not taken; with the status of the answer, and the reason."""

    def __init__(self, status: int, reason: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after_s = status, reason, retry_after_s


def checked_rows(body: bytes) -> list[Row]:
    """The records in the body of a request.

    Raises:
        RefusedRequest: it is no JSON array (400), has too many records (413), or one that is none
            (422).
    """
    try:
        rows = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RefusedRequest(400, "the body is not JSON") from None
    if not isinstance(rows, list):
        raise RefusedRequest(400, "the body is not a JSON array of records")
    if len(rows) > MOST_RECORDS:
        raise RefusedRequest(
            413, f"{len(rows)} records in one request; the limit is {MOST_RECORDS}"
        )
    for number, row in enumerate(rows):
        trouble = _trouble_of(row)
        if trouble is not None:
            raise RefusedRequest(422, f"record {number}: {trouble}")
    return rows


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _trouble_of(row: object) -> str | None:
    """Why this is no record; None if it is one."""
    if not isinstance(row, dict):
        return "it is not a JSON object"
    try:
        record = Record.from_row(row)
        numbers = (getattr(record, name) for name in NUMBER_COLUMNS)
        if not all(math.isfinite(number) for number in numbers if number is not None):
            return "a number in it is not finite"
        if not all(getattr(record, name) for name in REQUIRED):
            return f"one of {', '.join(REQUIRED)} is empty"
        if len(json_line(row)) > LINE_LIMIT:
            return f"it is longer than {LINE_LIMIT} bytes"
    except NO_RECORD as error:
        return str(error)[:200]
    return None


class WiderRecord(Record, kw_only=True):
    """A record with columns of a later version in `more`, which are sent as they came."""

    more: Mapping[str, Any]

    def to_row(self) -> dict[str, Any]:
        """The columns of this version, and then those of the later one."""
        return super().to_row() | dict(self.more)


def whole_record(record: Record, row: Mapping[str, Any]) -> Record:
    """The record of a row, with whatever else the row has."""
    more = {name: cell for name, cell in row.items() if name not in _COLUMNS}
    if not more:
        return record
    own = {name: getattr(record, name) for name in fields_of(Record)}
    return WiderRecord(**own, more=more)


class RelayedQueue(LeftoverQueue):
    """As a `LeftoverQueue`, but records keep columns that this version does not know.

    Of a record that waits for several of the addresses one is sent: a finished one, if there is.
    """

    def __init__(self, file: JournalFile, *urls: str) -> None:
        super().__init__(file, *urls)
        self._meant = dict.fromkeys(urls)

    def peek(self, limit: int) -> list[Record]:
        """The oldest records in the file."""
        found: dict[str, Record] = {}
        for key in self.file.keys(SEND):
            if len(found) >= limit:
                break
            if key[1] not in self._meant or key[2] in found:
                continue
            record = self._record_at(key)
            if record is not None and record.status == "recovered":
                others = (self._record_at((SEND, url, key[2])) for url in self._meant)
                record = next(
                    (one for one in others if one and one.status != record.status), record
                )
            if record is not None:
                found[key[2]] = record
        return [*found.values()]

    def _record_at(self, key: Key) -> Record | None:
        record = record_in(self.file, key)
        if record is None:
            self.file.disown(key)
            return None
        return whole_record(record, (self.file.get(key) or {}).get("record", {}))


def ids_of(rows: Sequence[Row]) -> list[str]:
    """The record ids of rows that have been checked, as text."""
    return [str(row["record_id"]) for row in rows]
