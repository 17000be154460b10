"""Records for one address, taken from the journals of exited processes.

Records that wait there for an unavailable server must not block records for other outputs. So
a journal with both is locked only while the records are moved, and not while they are sent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from carbontrack.sinks.delivery import LeftoverQueue
from carbontrack.sinks.journal.file import JournalFile
from carbontrack.sinks.journal.journal import SEND, folder, record_in
from carbontrack.sinks.journal.places import Key
from carbontrack.system.forking import PerProcess
from carbontrack.system.interrupts import suppressed

ENOUGH = 200
"""As many records as a request has. A journal with more and nothing else is sent from directly."""


class Outbox:
    """A queue of records for one address, in a journal of its own or the only one they came from.

    `urls`: the address, and others whose records go there as well.

    Attributes:
        queue: the records; None while there are none.
    """

    def __init__(self, state_dir: Path, *urls: str) -> None:
        self.queue: LeftoverQueue | None = None
        self._state_dir, self._urls = state_dir, urls

    def take(self, file: JournalFile) -> bool:
        """Take the address's records out of a journal; True if the journal itself is kept.

        It is where it has many and nothing else, or where there is no room to move them. Records
        that cannot be read stay where they are.

        Raises:
            OSError: there is no room for all of them, after others have been taken.
        """
        keys = [key for key in waiting(file, *self._urls) if record_in(file, key) is not None]
        if self.queue is None and len(keys) >= ENOUGH and len(keys) == len(file):
            self.queue = self._queue_of(file)
            return True
        moved: list[Key] = []
        try:
            for key in keys:
                self._put(key, file)
                moved.append(key)
        except OSError:
            if self.queue is not None:
                raise
            self.queue = self._queue_of(file)
            return True
        finally:
            self._drop(file, moved)
        return False

    def __len__(self) -> int:
        return 0 if self.queue is None else self.queue.count()

    def close(self) -> None:
        """Leave what was not sent to the next process."""
        queue, self.queue = self.queue, None
        if queue is not None:
            with suppressed(OSError):
                queue.file.close()

    def abandon(self) -> None:
        """In a child: close the file, which is the parent's."""
        if self.queue is not None:
            self.queue.file.abandon()

    def _put(self, key: Key, file: JournalFile) -> None:
        """Copy an entry; a recovered one never replaces what the run has said itself."""
        there, entry = self._opened(), file.get(key) or {}
        before = there.get(key)
        if before is None or not is_recovered(entry) or is_recovered(before):
            there.put(key, entry)

    def _opened(self) -> JournalFile:
        if self.queue is None:
            name = f"outbox-{os.getpid()}"
            self.queue = self._queue_of(JournalFile.create(folder(self._state_dir), name))
        return self.queue.file

    def _queue_of(self, file: JournalFile) -> LeftoverQueue:
        return LeftoverQueue(file, *self._urls)

    def _drop(self, file: JournalFile, moved: Sequence[Key]) -> None:
        """Remove records that are in the outbox by now from the journal they came from."""
        with suppressed(OSError):  # then they may arrive twice
            file.drop(moved)


def waiting(file: JournalFile, *urls: str) -> list[Key]:
    """The keys of the records that wait for one of the addresses."""
    return [key for key in file.keys(SEND) if key[1] in urls]


def is_recovered(entry: Mapping[str, Any]) -> bool:
    """Whether the record of an entry was made from a checkpoint."""
    record = entry.get("record")
    return isinstance(record, Mapping) and record.get("status") == "recovered"


_scans = PerProcess(threading.Lock)


def collect(outbox: Outbox, files: Iterator[JournalFile]) -> None:
    """Fill an empty outbox from the next journals, with as much as one request takes.

    One thread of this process does so at a time: none passes over a journal that another one has
    locked for a moment.

    Raises:
        OSError: there is no room for the rest, which stays where it is.
    """
    with _scans.get():
        for file in files:
            is_kept = False
            try:
                is_kept = outbox.take(file)
            finally:
                if not is_kept:
                    file.close()
            if len(outbox) >= ENOUGH:
                return
