"""The parents of root records in other processes, and whether their records include them.

The energy of a process is included in the record of a run in another process as long as that run's
meters count it: a tracker of scope "process" counts its descendants, one of scope "machine"
everything on this boot. Nothing of this is assumed. The ancestors of this process are read from
procfs, and what they have open from their journals, whichever process started this one and
whenever. The environment's description of the parent decides if the journals do not.

A run that ends while its process has children writes the instant of its end to a small file next to
the journal, so that a child that continues can separate what it used before from what it used
after. Without that file the cut is where the child last saw the run open.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path

from carbontrack.sampling.ledger import Mark, mark_at
from carbontrack.sinks.journal.journal import FOLDER, folder, short_boot_id
from carbontrack.sinks.journal.names import journals_of
from carbontrack.sinks.journal.open_entries import OpenEntry, open_entries
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.files import make_private_folder
from carbontrack.system.host import (
    ancestors,
    boot_id,
    depth_below,
    own_stat,
    pid_namespace,
    stat_of,
)
from carbontrack.system.interrupts import pass_on, reentrant_lock, suppressed
from carbontrack.system.log import LOGGER
from carbontrack.tracking.propagation import state_token
from carbontrack.values import NamedTuple

_LOOK_PERIOD_S = 0.05
"""The shortest time between two looks: they cost as much as a root span."""
_MOMENT_S = 0.1
"""The longest time between two records, as between two blocks of a loop, that is no gap."""
_FOLDER = "ended"
_ENDS_LIMIT = 1 << 16
"""Bytes of a file of ends above which it is rewritten; a child needs only the last ones."""
_STALE_S = 86_400.0
"""The age at which the file of a process that has ended is removed: its children have read it."""
_STALE_LOOKS = 64
"""Such files that one process looks at."""


class ParentContext(NamedTuple):
    """The description, passed to a child process, of the record that may include its own.

    Attributes:
        record_id: the parent's record.
        boot_id: the boot of its host; "" where it is not known, as for the rest.
        pid_namespace: the inode of its pid namespace.
        pid: its process there.
        started_ticks: when that process started, in clock ticks since the boot.
        scope: what its tracker counts, "process" or "machine".
        state: stands for the state directory with its journal.
    """

    record_id: str
    boot_id: str = ""
    pid_namespace: str = ""
    pid: int = 0
    started_ticks: int = 0
    scope: str = "process"
    state: str = ""

    @classmethod
    def parse(cls, text: str) -> ParentContext:
        """From the variable's text; of one that another program has set, only the record's id."""
        record_id, _, facts = text.partition("@")
        boot, namespace, pid, started, scope, state, *_ = (*facts.split(":"), *[""] * 6)
        return cls(
            record_id, boot, namespace, _whole(pid), _whole(started), scope or "process", state
        )


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


Verdict = OpenEntry | bool | None
"""The record that includes this process; False: none does; None: it cannot be determined."""


class RemoteParents:
    """Finds the record in another process that includes the energy of this process.

    Args:
        context: the description of the parent that was passed on; None: there was none.
        state_dir: the directory with the journals; None: there are none.
        scope: the scope of this process's records.
        procfs: the root of procfs.
        clock: the clock of all processes.

    Attributes:
        parent_id: the record that includes this process's energy, or did so last.
        holds: whether it does; None where there is no parent, or where it cannot be found out.
        holder_began: when the record that holds it began, as RFC 3339.
        changed_at_s: when that last changed.
        is_continued: whether, at the last change, one record took over from another.
        seen: the last mark of this process before a change.
    """

    def __init__(
        self,
        context: ParentContext | None,
        state_dir: Path | None,
        *,
        scope: str = "process",
        procfs: Path = Path("/proc"),
        clock: Clock | None = None,
    ) -> None:
        self.parent_id = None if context is None else context.record_id
        self.holds: bool | None = None
        self.holder_began = ""
        self.changed_at_s = float("-inf")
        self.is_continued = False
        self.seen: Mark | None = None
        self._context = context
        self._state_dir = state_dir
        self._scope = scope
        self._procfs = procfs
        self._clock = clock or SystemClock()
        # a procfs of processes only does not tell; where a process ended is told by its start
        self._boot = boot_id(procfs) or ("" if context is None else context.boot_id)
        self._namespace = pid_namespace(procfs)
        self._lock = reentrant_lock()  # the garbage collector may close a span in a look
        self._is_looking = False
        self._looked_at_s = self._seen_at_s = float("-inf")
        self._changed_ns = -1
        """When the folder of journals had changed when these were looked up, by process."""
        self._journals: dict[tuple[int, int], list[Path]] = {}
        self._holder_process: tuple[int, int] | None = None
        """The process, by its id and its start, of the record that holds this one."""
        self._found_in: tuple[int, int] | None = None
        self._entries: dict[Path, tuple[tuple[int, int], list[OpenEntry]]] = {}

    @property
    def is_due(self) -> bool:
        """Whether the last look was not just now."""
        return self._clock.monotonic_s() - self._looked_at_s >= _LOOK_PERIOD_S

    def look(self) -> None:
        """Check again, unless that was done just now; the sampler's lock must not be held.

        Never raises: what a look failed to find out stays as it was.
        """
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_at_s < _LOOK_PERIOD_S:
            return
        with self._lock:
            if self._is_looking or now_s - self._looked_at_s < _LOOK_PERIOD_S:
                return
            self._is_looking = True
            try:
                self._update(now_s)
            except Exception as error:  # this is the program's thread
                pass_on(error)
                LOGGER.exception("the open spans of other processes could not be read")
            finally:
                self._looked_at_s, self._is_looking = now_s, False

    def of_new_root(self) -> tuple[str | None, bool | None]:
        """The parent id of a root that begins now, and whether that record holds it.

        A record that included earlier ones and has ended is not its parent.
        """
        if self.holds:
            return self.parent_id, True
        return (None, None) if self._context is None else (self._context.record_id, self.holds)

    def mark_at_change(self, start: Mark, now: Mark) -> Mark:
        """The mark of the last change, between the start of a root of this process and now."""
        at_s, before = max(self.changed_at_s, start.counts.at_s), self.seen
        if before is None or not start.counts.at_s <= before.counts.at_s <= at_s:
            before = start
        return mark_at(at_s, before, now)

    def _update(self, now_s: float) -> None:
        found = self._holder()
        if found is None and self.holds:
            return  # for lack of descriptors, for example; that is no end of the parent
        parent_id, holds = self.parent_id, None if found is None else bool(found)
        if isinstance(found, OpenEntry):
            parent_id = found.record_id
        elif parent_id is None:
            holds = None
        if (parent_id, holds) != (self.parent_id, self.holds):
            began_s = now_s
            if isinstance(found, OpenEntry):
                began_s = self._instant_of(found.started_at, now_s)
            if self.holds:
                said_s = self._end_said(self._holder_process, self.parent_id)
                self.changed_at_s = self._seen_at_s if said_s is None else said_s
                self.is_continued = began_s - self.changed_at_s <= _MOMENT_S
            elif isinstance(found, OpenEntry):
                self.changed_at_s, self.is_continued = began_s, False
            self.parent_id, self.holds = parent_id, holds
        if isinstance(found, OpenEntry):
            self.holder_began, self._seen_at_s = found.started_at, now_s
            self._holder_process = self._found_in

    def _instant_of(self, text: str, now_s: float) -> float:
        """A wall-clock time on the monotonic clock; now where the time is unknown."""
        try:
            when = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            return now_s
        return now_s - max(0.0, (self._clock.now_utc() - when).total_seconds())

    # -- what is open around this process -------------------------------------------------------

    def _holder(self) -> Verdict:
        chain, is_whole = ancestors(self._procfs)
        try:
            for process in chain.items():
                found = self._open_in(process)
                if found is not None:
                    return found
            return self._by_context(chain, shows_all=is_whole)
        except OSError as error:
            pass_on(error)
            return None

    def _open_in(self, process: tuple[int, int], record_id: str | None = None) -> OpenEntry | None:
        """What a process has open that holds what is used here, the oldest first of all.

        `process` is its id and its start in clock ticks. `record_id`: no other; what the
        environment names comes before older ones.

        Raises:
            OSError: a journal cannot be read.
        """
        found: list[OpenEntry] = []
        self._found_in = process
        for path in self._journals_of(process):
            found += (entry for entry in self._read(path) if self._counts_us(entry))
        wanted = record_id or (None if self._context is None else self._context.record_id)
        named = [one for one in found if one.record_id == wanted]
        found = named if record_id is not None else named or found
        return min(found, key=lambda one: one.started_at, default=None)

    def _counts_us(self, entry: OpenEntry) -> bool:
        # a record of the whole machine is part of another one of the machine only
        is_wide = entry.scope == "machine" or self._scope == "process"
        return is_wide and entry.pid_namespace == self._namespace

    def _journals_of(self, process: tuple[int, int]) -> list[Path]:
        if self._state_dir is None:
            return []
        place = self._state_dir / FOLDER
        try:
            changed_ns = place.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                folder(self._state_dir, create=False)  # is not another user's, nor a link
                self._changed_ns = changed_ns
                self._journals.clear()
                self._entries.clear()
        except FileNotFoundError:
            return []
        if process not in self._journals:
            boot = self._boot or short_boot_id(self._procfs)
            self._journals[process] = journals_of(place, boot, *process)
        return self._journals[process]

    def _read(self, path: Path) -> list[OpenEntry]:
        try:
            status = path.stat()
        except FileNotFoundError:
            return []
        version, before = (status.st_mtime_ns, status.st_size), self._entries.get(path)
        if before is None or before[0] != version:
            before = self._entries[path] = version, open_entries(path)
        return before[1]

    def _by_context(self, chain: Mapping[int, int], *, shows_all: bool) -> Verdict:
        """The result from the passed description, because no ancestor has an open record."""
        context = self._context
        if context is None or not context.boot_id:
            return None if context is not None else False
        own = own_stat(self._procfs)
        was_this = own is not None and own[::2] == (context.pid, context.started_ticks)
        if context.boot_id != self._boot or was_this:
            return False  # another boot, or this process before it executed another program
        if context.pid_namespace != self._namespace:
            return None  # its processes cannot be seen from here
        if context.scope == "machine":
            return self._by_machine(context)
        if chain.get(context.pid) != context.started_ticks:
            return False if shows_all else None
        return False if context.state == self._state() and self._has_journals() else None

    def _by_machine(self, context: ParentContext) -> Verdict:
        if depth_below(self._procfs) != 0:
            return None  # procfs has the numbers of another namespace
        stat = stat_of(self._procfs, context.pid)
        if stat is None or stat.started_ticks != context.started_ticks:
            return False
        if context.state != self._state():
            return None
        return self._open_in((context.pid, context.started_ticks), context.record_id) or False

    def _has_journals(self) -> bool:
        return self._state_dir is not None and (self._state_dir / FOLDER).is_dir()

    def _state(self) -> str | None:
        return None if self._state_dir is None else state_token(self._state_dir)

    def _end_said(self, process: tuple[int, int] | None, record_id: str | None) -> float | None:
        """When a run ended, as written by its process."""
        if self._state_dir is None or process is None:
            return None
        identity = f"{self._boot}:{self._namespace}:{process[0]}:{process[1]}"
        with suppressed(OSError, ValueError):
            path = self._state_dir / _FOLDER / identity.replace(":", "-")
            for line in reversed(path.read_text(encoding="utf-8").splitlines()):
                found, _, at_s = line.partition(" ")
                if found == record_id:
                    return float(at_s)
        return None


def say_ended(state_dir: Path, record_id: str, at_s: float, identity: str) -> None:
    """Write for the children of this process when a run ended.

    Raises:
        OSError: it could not be written.
    """
    place = state_dir / _FOLDER
    path = place / identity.replace(":", "-")
    flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        make_private_folder(place)
        _remove_stale(place)
        handle = os.open(path, flags | os.O_CREAT, 0o600)
    try:
        if os.fstat(handle).st_size > _ENDS_LIMIT:
            os.ftruncate(handle, 0)
        os.write(handle, f"{record_id} {at_s!r}\n".encode())
    finally:
        os.close(handle)


def forget_ends(state_dir: Path, identity: str) -> None:
    """Remove the file of this process, as it ends and has no children."""
    with suppressed(OSError):
        (state_dir / _FOLDER / identity.replace(":", "-")).unlink()


def _remove_stale(place: Path) -> None:
    now = SystemClock.now_utc().timestamp()
    with os.scandir(place) as entries:
        # some of many: what is left in front of the others becomes stale, too
        names = [entry.name for entry in islice(entries, _STALE_LOOKS)]
    for name in names:
        with suppressed(OSError):
            path = place / name
            if now - path.stat().st_mtime > _STALE_S and not _lives(name):
                path.unlink()


def _lives(name: str) -> bool:
    """Whether the process of a file runs, which its name ends with; any file may be there.

    Processes of another pid namespace cannot be checked here; a running process writes its file
    again.
    """
    *_, namespace, pid, start = ["", "", *name.split("-")]
    if namespace != pid_namespace():
        return False
    stat = stat_of(Path("/proc"), _whole(pid))
    return stat is not None and str(stat.started_ticks) == start
