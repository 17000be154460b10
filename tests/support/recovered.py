"""Rows of processes that were killed, as reports count them."""

from __future__ import annotations

from collections.abc import Iterable

from carbontrack.record import Record


def counted_once(rows: Iterable[Record]) -> list[Record]:
    """All rows, without those recovered of an id that has a finished one too.

    A process that dies between its row and its journal's note of it leaves both.
    """
    found = list(rows)
    own = {row.record_id for row in found if row.status != "recovered"}
    return [row for row in found if row.status != "recovered" or row.record_id not in own]
