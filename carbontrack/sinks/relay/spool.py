"""Records that a relay has accepted, kept on disk until the server has them.

They are in journals like those of any process, so that the successor of a killed relay finds and
sends them: another relay, `carbontrack sync`, or a program with the same output. New records go to
one file, while the thread that sends works on others: neither waits for the other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from carbontrack.sinks.delivery import Queue
from carbontrack.sinks.journal.file import Entry, JournalFile, entry_line
from carbontrack.sinks.journal.journal import SEND, folder
from carbontrack.sinks.journal.places import Key
from carbontrack.sinks.relay.rows import RefusedRequest, RelayedQueue, Row
from carbontrack.system.clock import Clock
from carbontrack.system.interrupts import pass_on, suppressed

SPOOL = "relay-"
"""How the names of these journals begin."""
_FILE_LIMIT = 16 << 20
"""Bytes after which a file is closed to new records."""
_RETRY_FULL_S, _RETRY_DISK_S = 30, 10


class Spool:
    """The records that wait for one address.

    Args:
        state_dir: the state directory with the journals.
        url: the address.
        limit_bytes: how much they may take on disk.
        clock: the time source.

    Attributes:
        accepted: how many records have been put here.
    """

    def __init__(self, state_dir: Path, url: str, *, limit_bytes: int, clock: Clock) -> None:
        self.accepted = 0
        self._state_dir, self._url = state_dir, url
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._taking: JournalFile | None = None
        self._since_s = float("-inf")
        """When the first record arrived that has not been processed yet."""
        self._closed: list[RelayedQueue] = []

    def add(self, batches: Sequence[Sequence[Row]]) -> list[RefusedRequest | None]:
        """Keep some batches of records, each of them whole or, with a refusal, not at all.

        What is kept outlasts a loss of power from the return on.
        """
        with self._lock:
            answers = [self._put(rows) for rows in batches]
            try:
                if self._taking is not None:
                    self._taking.sync()
            except OSError as error:
                pass_on(error)
                self._close_taking()  # a disk that has failed once may say later that it has not
                return [answer or _of_disk(error) for answer in answers]
            kept = zip(batches, answers, strict=True)
            self.accepted += sum(len(rows) for rows, answer in kept if answer is None)
            return answers

    def queues(self, *, enough: int, within_s: float) -> list[Queue]:
        """Records to send now: new ones once there are enough, or they have waited long enough.

        For the one thread that sends, which alone may use the queues.
        """
        with self._lock:
            done = [queue for queue in self._closed if not len(queue.file)]
            self._closed = [queue for queue in self._closed if len(queue.file)]
            count = 0 if self._taking is None else len(self._taking)
            is_due = self._clock.monotonic_s() - self._since_s >= within_s
            if count and not self._closed and (count >= enough or is_due):
                self._close_taking()
            found: list[Queue] = [*self._closed]
        for queue in done:
            with suppressed(OSError):
                queue.file.close()
        return found

    def adopt(self, file: JournalFile) -> bool:
        """Send from a journal that another relay has left; False if it has other records as well.

        For the one thread that sends.
        """
        ours = [key for key in file.keys(SEND) if key[1] == self._url]
        if not ours or len(ours) != len(file):
            return False
        file.is_synced = True
        with self._lock:
            self._closed.append(RelayedQueue(file, self._url))
        return True

    def count(self) -> int:
        """How many records wait here."""
        with self._lock:
            files = [queue.file for queue in self._closed]
            return sum(map(len, (*files, *filter(None, [self._taking]))))

    def close(self) -> None:
        """Close the files; what was not sent stays in them. No thread may send any more."""
        with self._lock:
            self._close_taking()
            closed, self._closed = self._closed, []
        for queue in closed:
            with suppressed(OSError):
                queue.file.close()

    def _put(self, rows: Sequence[Row]) -> RefusedRequest | None:
        """Write records to the file; the lock is held."""
        if not rows:
            return None
        try:
            file = self._opened()
            lines = self._lines(file, rows)
            wanted = sum(map(len, lines.values()))
            if self._size() + wanted > self._limit_bytes:
                return RefusedRequest(
                    503, "the relay's storage is full", retry_after_s=_RETRY_FULL_S
                )
            if lines:
                file.put_lines(lines)
        except OSError as error:
            pass_on(error)
            return _of_disk(error)
        return None

    def _lines(self, file: JournalFile, rows: Sequence[Row]) -> dict[Key, bytes]:
        found: dict[Key, Entry] = {}
        for row in rows:
            key = (SEND, self._url, str(row["record_id"]))
            before = found.get(key) or file.get(key)
            if before is not None and row.get("status") == "recovered":
                continue  # what is known of a killed run never replaces what it has said itself
            found[key] = {"record": row}
        return {key: entry_line(key, entry) for key, entry in found.items()}

    def _opened(self) -> JournalFile:
        if self._taking is not None and self._taking.size > _FILE_LIMIT:
            self._close_taking()
        if self._taking is None:
            place = folder(self._state_dir)
            self._taking = JournalFile.create(place, f"{SPOOL}{os.getpid()}")
            self._since_s = self._clock.monotonic_s()
        return self._taking

    def _close_taking(self) -> None:
        """Hand the file to the thread that sends; the lock is held."""
        if self._taking is not None:
            self._closed.append(RelayedQueue(self._taking, self._url))
            self._taking = None

    def _size(self) -> int:
        """Bytes on disk; the lock is held."""
        files = [queue.file for queue in self._closed]
        return sum(file.size for file in (*files, *filter(None, [self._taking])))


def _of_disk(error: OSError) -> RefusedRequest:
    reason = error.strerror or type(error).__name__
    return RefusedRequest(503, f"the relay cannot write: {reason}", retry_after_s=_RETRY_DISK_S)
