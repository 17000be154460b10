"""The journal: checkpoints of open runs and undelivered records, kept for after a crash.

Each process has a file of its own in the folder `journal` of the state directory, and holds its
lock until it ends. What is left in it then is processed by exactly one other process. Nothing here
raises in the measured program: what could not be kept is counted and logged.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from carbontrack.record import COLUMNS, Record, cells_of, shortened
from carbontrack.record import LINE_LIMIT as RECORD_LIMIT
from carbontrack.sinks.journal.file import (
    DRAFT_SUFFIX,
    SIZE_LIMIT,
    SUFFIX,
    JournalFile,
    Key,
    entry_line,
    update_line,
)
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.files import own_folder
from carbontrack.system.forking import PerProcess
from carbontrack.system.host import ancestors, boot_id, pid_namespace
from carbontrack.system.log import RateLimitedLog

RUN = "run"
"""The kind of key of an open run: ("run", record id)."""
CALL = "call"
"""The kind of key of a running decorated call that child processes may be inside: ("call", id)."""
SEND = "send"
"""The kind of key of an undelivered record: ("send", output, record id)."""

OnUnreadable = Callable[[Path, OSError], None]
"""Called with a journal, or the folder of all, that cannot be read, and the reason."""

FOLDER = "journal"
"""The folder of the journals, in the state directory."""
_RETRY_S = 30.0
"""Seconds until a state directory that could not be used is tried again."""
_MAKE_ROOM_BY = 100
"""Records that are dropped at a time when the journal is full, oldest first."""
_STALE_DRAFT_S = 86_400.0


class _State:
    """The state of one process: its file and the changes that wait to be made in it."""

    def __init__(self) -> None:
        # Reentrant: the garbage collector may run a finalizer that writes here during a change.
        self.lock = threading.RLock()
        self.changes: deque[Callable[[JournalFile], None]] = deque()
        self.is_changing = False
        self.file: JournalFile | None = None
        self.was_used = False
        self.retry_at_s = float("-inf")
        self.pid_namespace: str | None = None

    def abandon(self) -> None:
        """In a child: close the file, or its lock would outlive the parent."""
        if self.file is not None:
            _quietly(self.file.abandon)

    def close(self) -> None:
        """Close the file, and delete it if it is empty; the lock is held."""
        file, self.file = self.file, None
        if file is not None:
            _quietly(file.close)


class Journal:
    """The journal of this process, with a file while there are entries, and for a moment after.

    Attributes:
        lost_records: how many records were dropped because the journal was full.
    """

    def __init__(
        self,
        state_dir: Path,
        clock: Clock | None = None,
        *,
        size_limit: int = SIZE_LIMIT,
        procfs: Path = Path("/proc"),
    ) -> None:
        self.state_dir = state_dir
        self.lost_records = 0
        self._size_limit = size_limit
        self._clock = clock or SystemClock()
        self._procfs = procfs
        self._warnings = RateLimitedLog(self._clock)
        self._state = PerProcess(_State, abandon=_State.abandon)
        self._others: list[None] = []
        """One for each user but the first."""
        self._is_closed = False

    @classmethod
    def shared(cls, state_dir: Path) -> Journal:
        """The journal of this process in a state directory, which each of its users closes."""
        journal = _journals.get(state_dir)
        if journal is None or journal._is_closed:
            journal = _journals[state_dir] = cls(state_dir)
        else:
            journal._others.append(None)
        return journal

    def checkpoint(
        self,
        record: Record,
        outputs: Sequence[str],
        timeline: Mapping[str, object] | None = None,
        *,
        is_sum: bool = False,
    ) -> bool:
        """Keep what an open run has used so far, in place of its last checkpoint.

        `outputs` are the destinations of its record: absolute paths and URLs; `timeline` is for
        the timeline files beside them; `is_sum`: it is the sum of short calls, not an open span.
        False if it could not be kept.
        """
        key = (RUN, record.record_id)
        # Encoding calls methods of the labels, so it is done while the lock is not held.
        entry: dict[str, Any] = {"outputs": list(outputs), "pid_namespace": self._namespace()}
        if is_sum:
            entry["is_sum"] = True
        line = _line(key, record, entry if timeline is None else entry | {"timeline": timeline})
        return self._do(lambda file: file.put_line(key, line))

    def update(self, record: Record, outputs: Sequence[str], first: Record) -> bool:
        """As `checkpoint`, in a short line, where the journal has the `first` one of this run."""
        key = (RUN, record.record_id)
        line = update_line(key, changes(first, record))

        def change(file: JournalFile) -> None:
            if not file.update_line(key, line):  # another file by now, or the first was not kept
                entry = {"record": sparse(record), "outputs": list(outputs), "is_sum": True}
                file.put_line(key, entry_line(key, entry))

        return self._do(change)

    def finished(self, record_id: str) -> None:
        """Remove an open run: its record was written to its outputs, or enqueued for them."""
        self._drop([(RUN, record_id)])

    def call_began(self, call_id: str, scope: str) -> None:
        """Note a running call that child processes may be inside, and whose energy counts there."""
        key = (CALL, call_id)
        line = entry_line(key, {"pid_namespace": self._namespace(), "scope": scope})
        self._do(lambda file: file.put_line(key, line))

    def call_ended(self, call_id: str) -> None:
        """Remove it."""
        self._drop([(CALL, call_id)])

    def _namespace(self) -> str:
        state = self._state.state or self._state.get()
        if state.pid_namespace is None:
            state.pid_namespace = pid_namespace(self._procfs)
        return state.pid_namespace

    def enqueue(self, record: Record, output: str) -> bool:
        """Keep a finished record until it is delivered to `output`; False if that failed."""
        key = (SEND, output, record.record_id)
        line = _line(key, record, {})
        return self._do(lambda file: self._put_queued(file, key, line))

    def delivered(self, output: str, record_ids: Iterable[str]) -> None:
        """Remove records that have arrived at `output`, or became dead letters."""
        self._drop([(SEND, output, record_id) for record_id in record_ids])

    def queued(self, output: str, limit: int) -> list[Record]:
        """The oldest records that wait for `output`, at most `limit` of them."""
        state = self._state.state or self._state.get()
        with state.lock:
            return [] if state.file is None else queued(state.file, output, limit)

    def rest(self, *, at_once: bool) -> None:
        """Close the file if there is nothing in it; `at_once`: even if it was used just now.

        Otherwise it is kept for those who open and close one run after the other.
        """
        state = self._state.state or self._state.get()
        if state.file is None:
            return
        with state.lock:
            was_used, state.was_used = state.was_used, False
            if (at_once or not was_used) and state.file is not None and not len(state.file):
                state.close()

    def close(self, *, keeps_runs: bool = False) -> None:
        """Close the file, and delete it if it is empty; a later entry creates another.

        From then on an empty file is deleted at once, as nobody will close it. While there are
        other users of the journal, only an empty file is closed. `keeps_runs`: a file with a run in
        it stays open, as another thread may be about to say that it is finished.
        """
        try:
            self._others.pop()
        except IndexError:
            state = self._state.state or self._state.get()
            with state.lock:
                self._is_closed = True
                if state.file is not None and not (keeps_runs and state.file.keys(RUN)):
                    state.close()
        else:
            self.rest(at_once=True)

    def _drop(self, keys: list[Key]) -> None:
        if (self._state.state or self._state.get()).file is not None:
            self._do(lambda file: file.drop(keys))

    def _do(self, action: Callable[[JournalFile], None]) -> bool:
        state = self._state.state or self._state.get()
        with state.lock:
            state.changes.append(action)
            failure = None if state.is_changing else self._change(state)
        if failure is not None and failure.errno != errno.EAGAIN:
            reason = failure.strerror or str(failure)
            self._warnings.warn(
                str(failure.errno),
                f"the journal in {self.state_dir} cannot be written: {reason}; what is not yet "
                f"delivered would be lost if this process were killed now",
            )
        return failure is None

    def _change(self, state: _State) -> OSError | None:
        """Make the changes that wait, one after the other; returns the last error."""
        failure: OSError | None = None
        state.is_changing = state.was_used = True
        try:
            while state.changes:
                try:
                    state.changes.popleft()(self._opened(state))
                except OSError as error:
                    failure = error
            if self._is_closed and state.file is not None and not len(state.file):
                state.close()
        finally:
            state.is_changing = False
        return failure

    def _opened(self, state: _State) -> JournalFile:
        if state.file is None:
            now_s = self._clock.monotonic_s()
            if now_s < state.retry_at_s:
                raise OSError(errno.EAGAIN, "it could not be created a moment ago")
            state.retry_at_s = now_s + _RETRY_S
            name = f"{short_boot_id(self._procfs)}-{os.getpid()}"
            state.file = JournalFile.create(
                folder(self.state_dir), name, size_limit=self._size_limit
            )
            state.retry_at_s = float("-inf")
        return state.file

    def _put_queued(self, file: JournalFile, key: Key, line: bytes) -> None:
        try:
            file.put_line(key, line)
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
            oldest = file.keys(SEND)[:_MAKE_ROOM_BY]
            file.drop(oldest)
            self.lost_records += len(oldest)
            self._warnings.warn(
                "full",
                f"the journal in {self.state_dir} is full; {self.lost_records} records that could "
                f"not be delivered have been given up so far, oldest first",
            )
            file.put_line(key, line)


_journals: weakref.WeakValueDictionary[Path, Journal] = weakref.WeakValueDictionary()
"""The shared journals of this process, by state directory."""


def leftover_journals(
    state_dir: Path, clock: Clock | None = None, *, on_unreadable: OnUnreadable | None = None
) -> Iterator[JournalFile]:
    """The journals of processes that have ended, each locked until the caller closes it.

    However many processes ask at once, each journal is given to one of them only. Each takes a
    descriptor: close one before you ask for the next. One that cannot be read, for want of
    descriptors for example, goes to `on_unreadable`, by default to the log.
    """
    report = on_unreadable or partial(warn_unreadable, RateLimitedLog(clock))
    try:
        found = sorted(folder(state_dir, create=False).iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        report(state_dir / FOLDER, error)
        return
    now = (clock or SystemClock()).now_utc().timestamp()
    for path in found:
        if path.suffix == SUFFIX:
            try:
                file = JournalFile.acquire(path)
            except OSError as error:
                report(path, error)
                continue
            if file is not None:
                yield file
        elif path.suffix == DRAFT_SUFFIX:
            _quietly(lambda path=path: _remove_stale(path, now))  # type: ignore[misc]


def warn_unreadable(warnings: RateLimitedLog, path: Path, error: OSError) -> None:
    """Warn of a journal that cannot be read, or of their folder."""
    reason = error.strerror or str(error)
    warnings.warn(str(error.errno), f"{path} cannot be read: {reason}; its entries stay in it")


def queued(file: JournalFile, output: str, limit: int) -> list[Record]:
    """The oldest records in the file that wait for `output`, at most `limit` of them."""
    records: list[Record] = []
    for key in file.keys(SEND):
        if len(records) >= limit:
            break
        if key[1] == output and (record := record_in(file, key)) is not None:
            records.append(record)
    return records


def record_in(file: JournalFile, key: Key) -> Record | None:
    """The record under a key; None if it cannot be read."""
    entry = file.get(key)
    try:
        return None if entry is None else Record.from_row(entry["record"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _line(key: Key, record: Record, entry: dict[str, Any]) -> bytes:
    """The entry of a record as a line, cut if the record is longer than readers take."""
    line = entry_line(key, {"record": sparse(record), **entry})
    if len(line) <= RECORD_LIMIT:
        return line
    return entry_line(key, {"record": sparse(shortened(record)), **entry})


def sparse(record: Record) -> dict[str, Any]:
    """The columns of a record that are not None."""
    pairs = zip(COLUMNS, cells_of(record), strict=True)
    return {name: cell for name, cell in pairs if cell is not None}


def changes(first: Record, record: Record) -> dict[str, Any]:
    """The columns in which a record differs from the first one of its run."""
    pairs = zip(COLUMNS, cells_of(first), cells_of(record), strict=True)
    return {name: cell for name, before, cell in pairs if cell != before}


def folder(state_dir: Path, *, create: bool = True) -> Path:
    """The folder of the journals, which only this user may read.

    Raises:
        OSError: it cannot be created, belongs to another user, or is a link.
    """
    return own_folder(state_dir / FOLDER, create=create)


def short_boot_id(procfs: Path) -> str:
    """The first part of a journal's name: the boot that its process belongs to."""
    return (boot_id(procfs) or "boot")[:8]


def journals_of(state_dir: Path, boot_id: str) -> Mapping[int, list[Path]]:
    """The journals of the processes of a boot, by process id.

    Raises:
        OSError: the folder cannot be read.
    """
    found: dict[int, list[Path]] = {}
    place, begin = folder(state_dir, create=False), f"{boot_id[:8]}-"
    for name in os.listdir(place):  # noqa: PTH208 - there may be thousands
        if name.startswith(begin) and name.endswith(SUFFIX):
            pid = name[len(begin) :].partition("-")[0]
            if pid.isdecimal():
                found.setdefault(int(pid), []).append(place / name)
    return found


def has_tracked_ancestor(state_dir: Path, procfs: Path = Path("/proc")) -> bool:
    """Whether an ancestor of this process has a journal, and so may have something open."""
    try:
        journals = journals_of(state_dir, short_boot_id(procfs))
    except OSError:
        return False
    return bool(journals) and any(pid in journals for pid in ancestors(procfs)[0])


def _remove_stale(draft: Path, now: float) -> None:
    if now - draft.lstat().st_mtime > _STALE_DRAFT_S:
        draft.unlink()


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except OSError:
        return
