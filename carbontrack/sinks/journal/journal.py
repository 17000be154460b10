"""The journal: checkpoints of open runs and undelivered records, kept for after a crash.

Each process has its own file in the directory `journal` of the state directory, and holds its lock
until it exits. The remaining entries are then processed by exactly one other process. Nothing here
raises in the measured program: records that could not be kept are counted and logged.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from carbontrack.record import COLUMNS, NUMBER_COLUMNS, Record, cells_of, shortened
from carbontrack.record import LINE_LIMIT as RECORD_LIMIT
from carbontrack.sinks.journal.file import (
    COMPACT_ABOVE,
    SIZE_LIMIT,
    JournalFile,
    JournalFullError,
    NotAJournalError,
    encoded,
    entry_line,
    update_line,
)
from carbontrack.sinks.journal.names import (
    DRAFT_SUFFIX,
    MORE_SUFFIX,
    SUFFIX,
    SetAside,
    has_more,
    journals_of,
    name_of,
    set_aside,
)
from carbontrack.sinks.journal.places import Key, SharedFacts
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.files import own_folder
from carbontrack.system.forking import PerProcess
from carbontrack.system.host import ancestors, boot_id, own_stat, pid_namespace
from carbontrack.system.interrupts import WeakValues, pass_on, reentrant_lock, suppressed
from carbontrack.system.log import LOSSES, RateLimitedLog
from carbontrack.values import NamedTuple

RUN = "run"
"""The kind of key of an open run: ("run", record id)."""
CALL = "call"
"""The kind of key of a running decorated call that child processes may be inside: ("call", id)."""
SEND = "send"
"""The kind of key of an undelivered record: ("send", output, record id)."""

_KEY_LENGTHS = {RUN: 2, CALL: 2, SEND: 3}
"""How many texts a key of each kind has; another version may have others."""
LOOK_LIMIT = 256
"""The most files that one start reads."""

OnUnreadable = Callable[[Path, OSError], None]
"""Called with a journal, or their directory, that cannot be read, and the reason."""
OnSetAside = Callable[[Path, str], None]
"""Called with a file that is not a journal and was set aside, and the reason."""
FOLDER = "journal"
"""The directory of the journals, in the state directory."""
_RETRY_S = 30.0
"""Seconds until a state directory that could not be used is tried again."""
_MAKE_ROOM_BY = 100
"""Records that are dropped at a time when the journal is full, oldest first."""
_STALE_S = 86_400.0
_MOST_FACTS = 32
"""The most facts that are kept as written; older ones are written again if a run still has them."""


Columns = Mapping[str, Any]


class RowLine(NamedTuple):
    """The line of an open run, and the facts that it names."""

    key: Key
    line: bytes
    facts: SharedFacts


class _State:
    """The state of one process: its file and the changes that wait to be made in it."""

    def __init__(self) -> None:
        # Reentrant: the garbage collector may run a finalizer that writes here during a change.
        self.lock = reentrant_lock()
        self.changes: deque[Callable[[JournalFile], object]] = deque()
        self.file: JournalFile | None = None
        self.is_changing = self.was_used = False
        self.is_resting = False
        """Whether the file is closed as soon as nothing is left in it."""
        self.retry_at_s = float("-inf")
        self.pid_namespace: str | None = None
        self.facts: dict[tuple[int, tuple[str, ...]], tuple[Mapping[str, Any], SharedFacts]] = {}
        """By the identity of the columns and by the outputs; the columns keep their identity."""
        self.numbers = itertools.count(1)
        self.name: str | None = None
        self.lost = self.lost_told = 0
        self.trouble = ""

    def shared(
        self, facts: Mapping[str, Any], outputs: tuple[str, ...], namespace: str
    ) -> SharedFacts:
        """What is written once for all runs with the same mapping of facts."""
        known = self.facts.get((id(facts), outputs))
        if known is None:
            while len(self.facts) >= _MOST_FACTS:  # the grid has changed often, or the settings
                self.facts.pop(list(self.facts)[0], None)  # noqa: RUF015 - in one step of C
            name = str(next(self.numbers))
            entry = {"outputs": outputs, "pid_namespace": namespace, "record": facts}
            known = facts, SharedFacts(name, encoded({"facts": name, **entry}))
            self.facts[id(facts), outputs] = known
        return known[1]

    def count_lost(self, state_dir: Path) -> None:
        if self.lost > self.lost_told:
            LOSSES.add(f"the journal in {state_dir} was full", self.lost - self.lost_told)
            self.lost_told = self.lost

    def abandon(self) -> None:
        """In a child: close the file, or its lock would outlive the parent."""
        if self.file is not None:
            _quietly(self.file.abandon)

    def close(self) -> None:
        """Close the file, and delete it if it is empty; the lock is held."""
        file, self.file, self.is_resting = self.file, None, False
        if file is not None:
            _quietly(file.close)


class Journal:
    """The journal of this process, with a file while there are entries, and for a moment after."""

    def __init__(
        self,
        state_dir: Path,
        clock: Clock | None = None,
        *,
        size_limit: int = SIZE_LIMIT,
        procfs: Path = Path("/proc"),
    ) -> None:
        self.state_dir = state_dir
        self.is_nowhere = state_dir.is_relative_to(os.devnull)
        """Whether no directory was found for it, which has been logged; nothing is kept then."""
        self._size_limit = size_limit
        self._clock = clock or SystemClock()
        self._procfs = procfs
        self._warnings = RateLimitedLog(self._clock)
        self._state = PerProcess(_State, abandon=_State.abandon)
        self._others: list[None] = []
        """One for each user but the first."""
        self._is_closed = False
        self.before_leftovers: Callable[[], None] | None = None
        """Waits for the recovery that was begun; then records of killed runs are in the queues."""

    @classmethod
    def shared(cls, state_dir: Path) -> Journal:
        """The journal of this process in a state directory, which each of its users closes."""
        journal = _journals.get(state_dir)
        if journal is None or journal._is_closed:
            journal = _journals[state_dir] = cls(state_dir)
        else:
            journal._others.append(None)
        return journal

    @property
    def lost_records(self) -> int:
        """How many records were dropped because the journal was full, and arrived nowhere."""
        return self._state.get().lost

    @property
    def trouble(self) -> str:
        """Why the last entry could not be kept, if any could not."""
        return self._state.get().trouble

    @property
    def only_appends(self) -> bool:
        """Whether the next entry is only appended: the file is open, and far from a compaction."""
        file = (self._state.state or self._state.get()).file
        return file is not None and file.size < COMPACT_ABOVE // 2

    def checkpoint(
        self,
        record: Record,
        outputs: Sequence[str],
        timeline: Mapping[str, object] | None = None,
        *,
        is_sum: bool = False,
    ) -> bool:
        """Keep the record of an open run so far, in place of its last checkpoint.

        `outputs` are the destinations of its record: absolute paths and URLs; `timeline` is for
        the timeline files next to them; `is_sum`: it is the sum of short calls, not an open span.
        False if it could not be kept.
        """
        key = (RUN, record.record_id)
        # Encoding calls methods of the labels, so it is done while the lock is not held.
        entry: dict[str, Any] = {"outputs": list(outputs), "pid_namespace": self._namespace()}
        if is_sum:
            entry["is_sum"] = True
        line = _line(key, record, entry if timeline is None else entry | {"timeline": timeline})
        return self._do(lambda file: file.put_lines({key: line}))

    def row_line(self, columns: Columns, facts: Columns, outputs: tuple[str, ...]) -> RowLine:
        """A short line for an open run: its own columns; the facts are written once for all."""
        state = self._state.state or self._state.get()
        return _row_line(columns, facts, state.shared(facts, outputs, self._namespace()))

    def keep(self, lines: Iterable[RowLine]) -> None:
        """As `checkpoint`, for many open runs at once."""
        for shared, group in itertools.groupby(lines, attrgetter("facts")):
            found = {key: line for key, line, _ in group}
            self._do(partial(JournalFile.put_lines, lines=found, facts=shared))

    def update(self, record: Record, outputs: Sequence[str], first: Record) -> bool:
        """As `checkpoint`, in a short line, where the journal has the `first` one of this run."""
        key = (RUN, record.record_id)
        line = update_line(key, changes(first, record))

        def change(file: JournalFile) -> None:
            if not file.update_line(key, line):  # another file by now, or the first was not kept
                entry = {"record": sparse(record), "outputs": list(outputs), "is_sum": True}
                file.put_lines({key: entry_line(key, entry)})

        return self._do(change)

    def finished(self, record_id: str) -> None:
        """Remove an open run: its record was written to its outputs, or enqueued for them."""
        self._drop([(RUN, record_id)])

    def call_began(self, call_id: str, scope: str) -> None:
        """Note a running call that child processes may be inside, and whose energy counts there."""
        key = (CALL, call_id)
        line = entry_line(key, {"pid_namespace": self._namespace(), "scope": scope})
        self._do(lambda file: file.put_lines({key: line}))

    def call_ended(self, call_id: str) -> None:
        """Remove it."""
        self._drop([(CALL, call_id)])

    def has_others(self) -> bool:
        """Whether the directory of journals contains anything of another process.

        No more of it is looked at than that takes.
        """
        return has_journals(self.state_dir, (self._state.state or self._state.get()).name)

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
        state = self._state.state or self._state.get()
        keys = [(SEND, output, record_id) for record_id in record_ids]

        def change(file: JournalFile) -> None:
            # what was given up for lack of room has arrived all the same, from memory
            state.lost -= min(state.lost - state.lost_told, len(keys) - file.drop(keys))

        if state.file is not None:
            self._do(change)

    def queued(self, output: str, limit: int) -> list[Record]:
        """The oldest records that wait for `output`, at most `limit` of them."""
        state = self._state.state or self._state.get()
        with state.lock:
            return [] if state.file is None else queued(state.file, output, limit)

    def rest(self, *, at_once: bool) -> None:
        """Close the file if there is nothing in it; `at_once`: even if it was used just now.

        Otherwise it is kept for those who open and close one run after the other. Where records
        wait in it for a server, `at_once` closes it after the last of them.
        """
        state = self._state.state or self._state.get()
        if state.file is None:
            return
        with state.lock:
            was_used, state.was_used = state.was_used, False
            if not (at_once or not was_used) or state.file is None:
                return
            if not len(state.file):
                state.close()
            elif at_once and not state.file.keys(RUN):  # a server's thread empties it later
                state.is_resting = True

    def close(self, *, keeps_runs: bool = False) -> None:
        """Close the file, and delete it if it is empty; a later entry creates another.

        From then on an empty file is deleted at once, because it will not be closed. While there
        are other users of the journal, only an empty file is closed. `keeps_runs`: a file with a
        run in it stays open, because another thread may be about to finish it.
        """
        try:
            self._others.pop()
        except IndexError:
            state = self._state.state or self._state.get()
            with state.lock:
                self._is_closed = True
                state.count_lost(self.state_dir)
                if state.file is not None and not (keeps_runs and state.file.keys(RUN)):
                    state.close()
        else:
            self.rest(at_once=True)

    def _drop(self, keys: list[Key]) -> None:
        if (self._state.state or self._state.get()).file is not None:
            self._do(lambda file: file.drop(keys))

    def _do(self, action: Callable[[JournalFile], object]) -> bool:
        state = self._state.state or self._state.get()
        with state.lock:
            state.changes.append(action)
            failure = None if state.is_changing else self._change(state)
            if failure is not None and failure.errno != errno.EAGAIN:
                state.trouble = failure.strerror or str(failure)
        if failure is not None and failure.errno != errno.EAGAIN and not self.is_nowhere:
            reason = failure.strerror or str(failure)
            self._warnings.warn(
                str(failure.errno),
                f"the journal in {self.state_dir} cannot be written: {reason}; records that are "
                "not yet delivered would be lost if this process were killed now",
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
                    pass_on(error)
                    failure = error
            is_kept = not (self._is_closed or state.is_resting)
            if not is_kept and state.file is not None and not len(state.file):
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
            state.name = state.name or _own_name(self._procfs)
            state.file = JournalFile.create(
                folder(self.state_dir), state.name, size_limit=self._size_limit
            )
            state.retry_at_s = float("-inf")
        return state.file

    def _put_queued(self, file: JournalFile, key: Key, line: bytes) -> None:
        try:
            file.put_lines({key: line})
        except JournalFullError:
            oldest = file.keys(SEND)[:_MAKE_ROOM_BY]
            file.drop(oldest)
            self._state.get().lost += len(oldest)
            self._warnings.warn(
                "full",
                f"the journal in {self.state_dir} is full; {self.lost_records} records that could "
                "not be delivered have been discarded so far, oldest first",
            )
            file.put_lines({key: line})


_journals: WeakValues[Path, Journal] = WeakValues()
"""The shared journals of this process, by state directory."""


def leftover_journals(
    state_dir: Path,
    clock: Clock | None = None,
    *,
    on_unreadable: OnUnreadable | None = None,
    on_set_aside: OnSetAside | None = None,
    most: int | None = None,
    is_known: Callable[[Path], bool] = lambda _: False,
) -> Iterator[JournalFile]:
    """The journals of processes that have exited, each locked until the caller closes it.

    However many processes call this at once, each journal is given to only one of them. Each takes
    a descriptor: close one before you request the next. `on_unreadable` is called with one that
    cannot be read, and `on_set_aside` with a file that is not a journal and was set aside; by
    default both are logged. `is_known` passes over a file. With `most`, only so many files are
    looked at, each time from another one on: so that unprocessable ones do not always come first.
    """
    warnings, aside = RateLimitedLog(clock), SetAside()
    report = on_unreadable or partial(warn_unreadable, warnings)
    try:
        place = folder(state_dir, create=False)
        found = _names_in(place, most)
    except FileNotFoundError:
        return
    except OSError as error:
        pass_on(error)
        report(state_dir / FOLDER, error)
        return
    now = (clock or SystemClock()).now_utc().timestamp()
    for name in found:
        path = place / name
        if not name.endswith(SUFFIX):
            _quietly(partial(_remove_stale, path, now))
            continue
        try:
            file = None if is_known(path) else _acquired(path, on_set_aside or aside)
        except OSError as error:
            pass_on(error)
            report(path, error)
            continue
        if file is not None:
            yield file
    if (text := aside.text()) is not None:
        warnings.warn("set aside", text)


def _acquired(path: Path, on_set_aside: OnSetAside) -> JournalFile | None:
    """The journal, if its process has exited; a file that is not a journal is set aside.

    Raises:
        OSError: it cannot be read, or not be set aside.
    """
    try:
        file = JournalFile.left_at(path)
    except NotAJournalError as error:
        if set_aside(path) is not None:
            on_set_aside(path, str(error))
        return None
    if file is None:
        return None
    file.on_set_aside = on_set_aside
    for key in file.keys(None):
        if _KEY_LENGTHS.get(key[0]) != len(key):
            file.disown(key)
    if file.foreign_lines and not len(file):
        file.close()
        return None
    return file


def _names_in(place: Path, most: int | None) -> list[str]:
    """The names of journals and of what belongs to them; with `most`, so many from anywhere."""
    endings = (SUFFIX, DRAFT_SUFFIX, MORE_SUFFIX)
    with os.scandir(place) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(endings)]
    if most is None or len(names) <= most:
        return sorted(names)
    start = int.from_bytes(os.urandom(4), "big") % len(names)
    return (names[start:] + names[:start])[:most]


def warn_unreadable(warnings: RateLimitedLog, path: Path, error: OSError) -> None:
    """Warn of a journal that cannot be read, or of their directory."""
    reason = error.strerror or str(error)
    warnings.warn(str(error.errno), f"{path} cannot be read: {reason}; its entries are kept in it")


def queued(file: JournalFile, output: str, limit: int) -> list[Record]:
    """The oldest records in the file that wait for `output`, at most `limit` of them."""
    records: list[Record] = []
    for key in file.keys(SEND):
        if len(records) >= limit:
            break
        if key[1] == output:
            record = record_in(file, key)
            if record is None:
                file.disown(key)
            else:
                records.append(record)
    return records


def record_in(file: JournalFile, key: Key) -> Record | None:
    """The record under a key; None if it cannot be read, or has a number that is none."""
    entry = file.get(key)
    try:
        record = None if entry is None else Record.from_row(entry["record"])
    except NO_RECORD:
        return None
    if record is not None and not all(map(math.isfinite, _numbers_of(record))):
        return None
    return record


NO_RECORD = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError)
"""What reading a record raises where there is none."""


def _numbers_of(record: Record) -> Iterator[float]:
    numbers = (getattr(record, name) for name in NUMBER_COLUMNS)
    return (number for number in numbers if number is not None)


def _line(key: Key, record: Record, entry: dict[str, Any]) -> bytes:
    """The entry of a record as a line, cut if the record is longer than readers accept."""
    line = entry_line(key, {"record": sparse(record), **entry})
    if len(line) <= RECORD_LIMIT:
        return line
    return entry_line(key, {"record": sparse(shortened(record)), **entry})


def _row_line(columns: Columns, facts: Columns, shared: SharedFacts) -> RowLine:
    key = (RUN, columns["record_id"])
    line = entry_line(key, {"facts": shared.name, "record": columns})
    if len(line) > RECORD_LIMIT:
        short = sparse(shortened(Record(**{**facts, **columns})))
        line = entry_line(key, {"facts": shared.name, "record": short})
    return RowLine(key, line, shared)


def sparse(record: Record) -> dict[str, Any]:
    """The columns of a record that are not None."""
    cells = zip(COLUMNS, cells_of(record), strict=True)
    return {name: cell for name, cell in cells if cell is not None}


def changes(first: Record, record: Record) -> dict[str, Any]:
    """The columns in which a record differs from the first one of its run."""
    pairs = zip(COLUMNS, cells_of(first), cells_of(record), strict=True)
    return {name: cell for name, before, cell in pairs if cell != before}


def folder(state_dir: Path, *, create: bool = True) -> Path:
    """The directory of the journals, which only this user may read.

    Raises:
        OSError: it cannot be created, belongs to another user, or is a link.
    """
    return own_folder(state_dir / FOLDER, create=create)


def short_boot_id(procfs: Path) -> str:
    """The first part of a journal's name: the boot that its process belongs to."""
    return (boot_id(procfs) or "boot")[:8]


def _own_name(procfs: Path) -> str:
    """How the names of this process's journals begin."""
    stat = own_stat(procfs)
    if stat is None:  # nobody could look for it by this name
        return f"{short_boot_id(procfs)}-{os.getpid()}-{os.urandom(8).hex()}"
    return name_of(short_boot_id(procfs), stat.pid, stat.started_ticks)


def has_journals(state_dir: Path, own: str | None = None) -> bool:
    """Whether the directory of journals contains anything whose name does not begin with `own`."""
    try:
        with os.scandir(folder(state_dir, create=False)) as entries:
            return any(own is None or not entry.name.startswith(own) for entry in entries)
    except OSError as error:
        pass_on(error)
        return False


def has_tracked_ancestor(state_dir: Path, procfs: Path = Path("/proc")) -> bool:
    """Whether an ancestor of this process has a journal, and so may have something open."""
    if not has_journals(state_dir):
        return False
    boot, place = short_boot_id(procfs), state_dir / FOLDER
    try:
        return any(journals_of(place, boot, *process) for process in ancestors(procfs)[0].items())
    except OSError as error:
        pass_on(error)
        return False


def _remove_stale(path: Path, now: float) -> None:
    """Remove a draft of a process that was killed, or what says that it has more journals."""
    is_in_use = path.suffix == MORE_SUFFIX and has_more(path)
    if not is_in_use and now - path.lstat().st_mtime > _STALE_S:
        path.unlink()


def _quietly(action: Callable[[], None]) -> None:
    with suppressed(OSError):
        action()
