"""What the sinks that write to files have in common: patience while the disk is full."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from carbontrack.errors import SinkError
from carbontrack.record import Record
from carbontrack.system.log import RateLimitedLog

if TYPE_CHECKING:
    from carbontrack.sinks.journal.journal import Journal

PENDING_LIMIT = 1000
"""Records kept in memory while the file cannot be written, about 1 KB each."""

Entry = TypeVar("Entry")


class BufferedSink(Generic[Entry]):
    """A sink that puts each record into a file, shared with others, as one entry.

    While the disk is full or the directory gone, entries wait in memory and go out, in order,
    with the first write that succeeds. `pending_ids` are the records that wait. With a journal,
    which may be on another disk, they are kept there too, and outlive the process.
    """

    def __init__(
        self,
        entry_of: Callable[[Record], Entry],
        put: Callable[[Entry], None],
        *,
        journal: Journal | None = None,
    ) -> None:
        self._entry_of = entry_of
        self._put = put
        self._keeper = journal
        self._kept: set[str] = set()
        self._pending: deque[tuple[str, Entry]] = deque()
        self._pending_pid = 0
        self._warnings = RateLimitedLog()

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
        if len(pending) < PENDING_LIMIT:
            pending.append((record.record_id, self._entry_of(record)))
            if not self._flush() and self._keep(record):
                self._kept.add(record.record_id)
        elif not self._keep(record):
            raise SinkError(f"{self.path} cannot be written: {len(pending)} records wait already")

    def close(self) -> None:
        """Try once more to write what waits; what the journal keeps is left to `recover`.

        Raises:
            SinkError: records are lost, neither written nor kept; it says how many.
        """
        if self._flush():
            return
        lost = [record_id for record_id in self.pending_ids if record_id not in self._kept]
        if lost:
            raise SinkError(f"{len(lost)} records could not be written to {self.path}")

    def _keep(self, record: Record) -> bool:
        return self._keeper is not None and self._keeper.enqueue(record, self.address)

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
            if waiting[0] in self._kept and self._keeper is not None:
                self._kept.discard(waiting[0])
                self._keeper.delivered(self.address, [waiting[0]])
        return True

    def _own_pending(self) -> deque[tuple[str, Entry]]:
        # a forked child has a copy of its parent's entries, which the parent will write
        if self._pending_pid != os.getpid():
            self._pending, self._kept, self._pending_pid = deque(), set(), os.getpid()
        return self._pending

    def _say(self, error: Exception, count: int) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        self._warnings.warn(
            str(getattr(error, "errno", "other")),
            f"cannot write {self.path}: {reason}; {count} records wait in memory",
        )
