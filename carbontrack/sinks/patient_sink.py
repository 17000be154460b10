"""What the sinks that write to files have in common: patience while the disk is full."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from carbontrack.errors import SinkError
from carbontrack.notices import Notices
from carbontrack.records import Record

PENDING_LIMIT = 1000
"""Records kept in memory while the file cannot be written, about 1 KB each."""

Entry = TypeVar("Entry")


class PatientSink(Generic[Entry]):
    """A sink that puts each record into a file, shared with others, as one entry.

    While the disk is full or the directory gone, entries wait in memory and go out, in order,
    with the first write that succeeds. `pending_ids` are the records that wait.
    """

    def __init__(self, entry_of: Callable[[Record], Entry], put: Callable[[Entry], None]) -> None:
        self._entry_of = entry_of
        self._put = put
        self._pending: deque[tuple[str, Entry]] = deque()
        self._pending_pid = 0
        self._notices = Notices()

    @property
    def path(self) -> Path:
        """The file that the next record goes to, absolute."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """What `sink_for` takes to open this output again, in any directory."""
        return str(self.path)

    @property
    def pending_ids(self) -> tuple[str, ...]:
        """The ids of the records that wait for the file to become writable."""
        return tuple(record_id for record_id, _ in self._own_pending())

    def write(self, record: Record) -> None:
        """Put the record into the file; where that is impossible for now, keep it for later.

        Raises:
            SinkError: the file cannot be written and no more can wait, so this record is lost.
        """
        pending = self._own_pending()
        if len(pending) >= PENDING_LIMIT:
            self._flush()
        if len(pending) >= PENDING_LIMIT:
            raise SinkError(f"{self.path} cannot be written: {len(pending)} records wait already")
        pending.append((record.record_id, self._entry_of(record)))
        self._flush()

    def close(self) -> None:
        """Try once more to write what waits.

        Raises:
            SinkError: records are left that could not be written; it says how many.
        """
        if not self._flush():
            raise SinkError(f"{len(self._pending)} records could not be written to {self.path}")

    def _flush(self) -> bool:
        """Write what waits, oldest first; False when some is left."""
        pending = self._own_pending()
        while pending:
            try:
                waiting = pending.popleft()
            except IndexError:  # another thread took the last one
                return True
            try:
                self._put(waiting[1])
            except (OSError, SinkError) as error:
                pending.appendleft(waiting)
                self._say(error, len(pending))
                return False
        return True

    def _own_pending(self) -> deque[tuple[str, Entry]]:
        # a forked child has a copy of its parent's entries, which the parent will write
        if self._pending_pid != os.getpid():
            self._pending, self._pending_pid = deque(), os.getpid()
        return self._pending

    def _say(self, error: Exception, count: int) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        self._notices.warn(
            str(getattr(error, "errno", "other")),
            f"cannot write {self.path}: {reason}; {count} records wait in memory",
        )
