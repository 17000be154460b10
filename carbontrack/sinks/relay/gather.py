"""What ended processes have left for a relay's address in some state directories.

As `carbontrack sync` does it, in rounds: processes that run are left alone by the locks of their
journals, and a killed run that had this output is recovered first. What holds nothing for this
address is not read again until it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from carbontrack.sinks.delivery import LeftoverQueue
from carbontrack.sinks.journal.file import JournalFile
from carbontrack.sinks.journal.journal import RUN, OnUnreadable, leftover_journals
from carbontrack.sinks.journal.places import Key
from carbontrack.sinks.journal.recovery import OpenSink, recovered_from
from carbontrack.sinks.outbox import Outbox, waiting
from carbontrack.sinks.relay.rows import RelayedQueue
from carbontrack.sinks.relay.spool import SPOOL, Spool
from carbontrack.system.clock import Clock
from carbontrack.system.interrupts import pass_on, suppressed
from carbontrack.system.log import RateLimitedLog

_TOGETHER = 64
"""Journals from which records are moved before the disk is waited for once."""
_Signature = tuple[int, int, int]


class RelayOutbox(Outbox):
    """As an `Outbox`, whose records are on disk before the journals that they came from go."""

    def __init__(self, state_dir: Path, *urls: str) -> None:
        super().__init__(state_dir, *urls)
        self._moved: list[tuple[JournalFile, Sequence[Key]]] = []

    def take_from(self, file: JournalFile) -> int:
        """As `take`, and closes the journal, if it is not kept, now or a little later; how many.

        Raises:
            OSError: as `take`.
        """
        is_kept, count = False, len(file)
        try:
            is_kept = self.take(file)
        finally:
            if not is_kept and not any(file is one for one, _ in self._moved[-1:]):
                file.close()
        if not is_kept:
            count = len(self._moved[-1][1]) if self._moved and self._moved[-1][0] is file else 0
        if len(self._moved) >= _TOGETHER:
            self.flush()
        return count

    def flush(self) -> None:
        """Wait for the disk, and remove what has been moved from the journals it came from."""
        moved, self._moved = self._moved, []
        try:
            if moved and self.queue is not None:
                self.queue.file.sync()
        except OSError as error:  # they stay in both, and arrive twice
            pass_on(error)
            for file, _ in moved:
                file.abandon()
            return
        for file, keys in moved:
            with suppressed(OSError):  # then they may arrive twice
                file.drop(keys)
            file.close()

    def _drop(self, file: JournalFile, moved: Sequence[Key]) -> None:
        if moved:
            self._moved.append((file, moved))

    def _queue_of(self, file: JournalFile) -> LeftoverQueue:
        return RelayedQueue(file, *self._urls)


class Gathering:
    """Fills an outbox, and the spool, from the journals in some folders, round after round.

    Args:
        folders: the state directories, asked for in each round.
        addresses: whose records are meant: that of the server first, then others for it.
        outbox: gets the records; `spool` gets the journals of killed relays whole.
        open_sink: opens the outputs of killed runs that are no URLs.
        clock: the time source.
        on_unreadable: called with a journal that cannot be read.

    Attributes:
        gathered: how many records have been found.
        recovered: how many killed runs.
    """

    def __init__(
        self,
        folders: Callable[[], Sequence[Path]],
        addresses: Sequence[str],
        into: tuple[RelayOutbox, Spool],
        *,
        open_sink: OpenSink,
        clock: Clock,
        on_unreadable: OnUnreadable,
    ) -> None:
        self.gathered = self.recovered = 0
        self._folders, self._addresses = folders, addresses
        self._outbox, self._spool = into
        self._open_sink, self._clock = open_sink, clock
        self._on_unreadable = on_unreadable
        self._known: dict[Path, _Signature] = {}
        self._looked_at: dict[Path, _Signature] = {}
        self._round: Iterator[tuple[Path, JournalFile]] | None = None
        self._has_recovered = False
        self._warnings = RateLimitedLog(clock)
        self.found_in_round = 0
        """Journals in the present round, or the last one, that held something for the address."""

    @property
    def is_in_round(self) -> bool:
        """Whether there are journals that this round has not come to."""
        return self._round is not None

    @property
    def needs_round(self) -> bool:
        """Whether killed runs have been turned into records, which the next round finds."""
        return self._has_recovered

    def fill(self, enough: int) -> None:
        """Go on with the round, or begin one, until the outbox has enough or the round is over."""
        if self._round is None:
            self._round, self.found_in_round = self._journals(), 0
            self._has_recovered = False
        try:
            left = enough - len(self._outbox)
            for folder, file in self._round:
                left -= self._take(folder, file)
                if left <= 0:
                    return
            self._round = None
            self._known, self._looked_at = self._looked_at, {}
        except OSError as error:
            pass_on(error)
            reason = error.strerror or str(error)
            self._warnings.warn(
                "room", f"{reason}; records of processes that have exited wait longer"
            )
            self._round = None
        finally:
            self._outbox.flush()

    def _journals(self) -> Iterator[tuple[Path, JournalFile]]:
        for folder in self._folders():
            for file in leftover_journals(
                folder, self._clock, on_unreadable=self._on_unreadable, is_known=self._is_known
            ):
                yield folder, file

    def _is_known(self, path: Path) -> bool:
        """Whether a file is as it was when nothing in it was for this address."""
        before = self._known.get(path)
        if before is None or before != _signature(path):
            return False
        self._looked_at[path] = before
        return True

    def _take(self, folder: Path, file: JournalFile) -> int:
        """Work off a journal, and close it; how many records are to be sent for it."""
        path, before = file.path, _signature(file.path)
        if any(self._is_ours(file, key) for key in file.keys(RUN)):
            # what it turns into records for this address is found in the next round
            runs, count = sum(1 for _ in recovered_from(file, folder, self._open_sink)), 0
            has_found = _signature(path) != before
            self.recovered += runs if has_found else 0
            self._has_recovered = self._has_recovered or has_found
        else:
            count = self._records_of(file)
            has_found = count > 0
            self.gathered += count
        if has_found:
            self.found_in_round += 1
        elif before is not None:
            self._looked_at[path] = before
        return count

    def _records_of(self, file: JournalFile) -> int:
        """Take the records for the address out of a journal, and close it; how many."""
        count = len(waiting(file, *self._addresses))
        if not count:
            file.close()
        elif not (file.path.name.startswith(SPOOL) and self._spool.adopt(file)):
            count = self._outbox.take_from(file)
        return count

    def _is_ours(self, file: JournalFile, key: Key) -> bool:
        outputs = (file.get(key) or {}).get("outputs")
        return isinstance(outputs, list) and any(one in self._addresses for one in outputs)


def _signature(path: Path) -> _Signature | None:
    try:
        status = path.lstat()
    except OSError as error:
        pass_on(error)
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
