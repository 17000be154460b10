"""What sinks that append lines to a file have in common: patience while the disk is full."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from carbontrack.errors import SinkError
from carbontrack.notices import Notices
from carbontrack.records import Record
from carbontrack.sinks.shared_file import SharedFile

PENDING_LIMIT = 1000
"""Lines kept in memory while the file cannot be written, about 1 KB each."""


class LineSink:
    """A sink that writes each record as a line, in one piece, to a file shared with others.

    While the disk is full or the directory gone, lines wait in memory and go out, in order, with
    the first write that succeeds. `pending_ids` are the records that wait.
    """

    def __init__(self, file: SharedFile, line_of: Callable[[Record], bytes]) -> None:
        self._file = file
        self._line_of = line_of
        self._pending: deque[tuple[str, bytes]] = deque()
        self._pending_pid = 0
        self._notices = Notices()

    @property
    def path(self) -> Path:
        """The file that the next record goes to, absolute."""
        return self._file.path

    @property
    def pending_ids(self) -> tuple[str, ...]:
        """The ids of the records that wait for the file to become writable."""
        return tuple(record_id for record_id, _ in self._own_pending())

    def write(self, record: Record) -> None:
        """Append the record; where that is impossible for now, keep it for the next write.

        Raises:
            SinkError: the file cannot be written and no more lines can wait, so this one is lost.
        """
        pending = self._own_pending()
        if len(pending) >= PENDING_LIMIT and not self._flush():
            raise SinkError(f"{self.path} cannot be written: {len(pending)} records wait already")
        pending.append((record.record_id, self._line_of(record)))
        self._flush()

    def close(self) -> None:
        """Try once more to write what waits.

        Raises:
            SinkError: records are left that could not be written; it says how many and why.
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
                self._file.append(waiting[1])
            except (OSError, SinkError) as error:
                pending.appendleft(waiting)
                self._say(error, len(pending))
                return False
        return True

    def _own_pending(self) -> deque[tuple[str, bytes]]:
        # a forked child has a copy of its parent's lines, which the parent will write
        if self._pending_pid != os.getpid():
            self._pending, self._pending_pid = deque(), os.getpid()
        return self._pending

    def _say(self, error: Exception, count: int) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        self._notices.warn(
            str(getattr(error, "errno", "other")),
            f"cannot write {self.path}: {reason}; {count} records wait in memory",
        )
