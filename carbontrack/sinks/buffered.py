"""The common part of all sinks: records wait in memory while they cannot be written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from carbontrack.errors import SinkError
from carbontrack.record import Record
from carbontrack.system.forking import PerProcess
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import RateLimitedLog

if TYPE_CHECKING:
    from carbontrack.sinks.journal.journal import Journal

PENDING_LIMIT = 1000
"""Records kept in memory while the file cannot be written, about 1 KB each."""

Entry = TypeVar("Entry")


class _Buffer:
    """The waiting records of one process.

    A child has a copy of its parent's, which the parent writes.
    """

    def __init__(self) -> None:
        self.entries: deque[tuple[str, Any]] = deque()
        """The id of each record and its entry, oldest first."""
        self.journaled: set[str] = set()
        """The ids of those that are in the journal too."""
        self.reason = ""
        """Why the last one could not be written."""


class BufferedSink(Generic[Entry]):
    """A sink that writes each record as one entry, by `put`.

    While that fails, as on a full disk, entries wait in memory and are written, in order, with the
    first write that succeeds. `pending_ids` are the records that wait. With a journal, which may
    be on another disk, they are kept there too, and outlive the process.
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
        self._overflow = journal
        self._buffer = PerProcess(_Buffer)
        self._warnings = RateLimitedLog()
        self._is_told = False
        """Whether it has been logged that nothing can be written for now."""
        self.still_waits = False
        """After `close`: whether records were not written, and wait for the next process."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

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
        """The ids of the records that wait in memory."""
        return tuple(record_id for record_id, _ in self._buffer.get().entries)

    def write(self, record: Record) -> None:
        """Write the record; if that fails for now, keep it for later.

        Raises:
            SinkError: it cannot be written and no more can wait, so this record is lost.
        """
        buffer = self._buffer.state or self._buffer.get()
        entries = buffer.entries
        if len(entries) >= PENDING_LIMIT:
            self._flush(buffer)
        if len(entries) >= PENDING_LIMIT:
            if not self._enqueued(record):
                raise SinkError(
                    f"{self.path} cannot be written: {buffer.reason}; {len(entries)} records wait "
                    "already",
                    reason=buffer.reason,
                )
            return
        entry = record.record_id, self._entry_of(record)
        # This thread writes it, not one that takes it from the buffer: that might be a daemon
        # thread, which the end of the program stops for good.
        failure = self._flush(buffer) if entries else None
        failure = failure or self._failure_of(entry)
        if failure is not None:
            buffer.reason = _reason_of(failure)
            if self._enqueued(record):
                buffer.journaled.add(record.record_id)
            entries.append(entry)
            pass_on(failure)
            self._warn(failure, buffer)

    def close(self) -> None:
        """Try once more to write the waiting records; those in the journal are left to `recover`.

        Raises:
            SinkError: records are lost, neither written nor in the journal; with their number.
        """
        buffer = self._buffer.state or self._buffer.get()
        self.still_waits = self._flush(buffer) is not None
        if not self.still_waits:
            return
        lost = [record_id for record_id, _ in buffer.entries if record_id not in buffer.journaled]
        if lost:
            raise SinkError(
                f"{_counted(lost)} could not be written to {self.path} ({buffer.reason}): lost",
                reason=buffer.reason,
                lost_records=len(lost),
            )

    def _enqueued(self, record: Record) -> bool:
        return self._overflow is not None and self._overflow.enqueue(record, self.address)

    def _flush(self, buffer: _Buffer) -> Exception | None:
        """Write the waiting records, oldest first; returns why some are left."""
        entries = buffer.entries
        while entries:
            try:
                oldest = entries.popleft()
            except IndexError:  # another thread took the last one
                return None
            failure = self._failure_of(oldest)
            if failure is not None:
                entries.appendleft(oldest)
                pass_on(failure)
                buffer.reason = _reason_of(failure)
                return failure
            if oldest[0] in buffer.journaled and self._overflow is not None:
                buffer.journaled.discard(oldest[0])
                self._overflow.delivered(self.address, [oldest[0]])
        return None

    def _failure_of(self, entry: tuple[str, Entry]) -> Exception | None:
        """Write one entry; returns why that failed for now."""
        try:
            self._put(entry[1])
        except (OSError, SinkError) as error:
            return error
        return None

    def _warn(self, error: Exception, buffer: _Buffer) -> None:
        if self._is_told:
            return
        reason = _reason_of(error)
        is_kept = buffer.journaled.issuperset(self.pending_ids)
        self._warnings.warn(
            "write",
            f"cannot write {self.path}: {reason}; {_counted(buffer.entries)} "
            + ("kept, and written later or by: carbontrack recover" if is_kept else "in memory"),
        )


def _reason_of(failure: Exception) -> str:
    return getattr(failure, "strerror", None) or str(failure)


def _counted(what: Sized) -> str:
    return f"{len(what)} record{'' if len(what) == 1 else 's'}"
