"""The parent of a process's root records, in another process, and whether its record holds them.

A process learns of its parent from the environment, or from the process that forked it. What it
uses is in the parent's record as long as the parent's meters count it and the parent's span is
open: a tracker of scope "process" counts its descendants, one of scope "machine" everything on this
boot. Nothing of this is assumed: process ids, start times and ancestors are read from procfs, and
whether a span is open from the journal of its process.

A span that ends while its process has children says so in a small file beside the journal, with the
instant of its end, so that a child that goes on can tell apart what it used before and after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from carbontrack.sampling.ledger import Mark, mark_at
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.files import replace_privately
from carbontrack.system.host import boot_id, pid_namespace, process_identity, process_stat
from carbontrack.tracking.propagation import context_text

_FOLDER = "ended"
_KEPT = 64
"""The spans of a process whose ends are kept: the last ones."""
_STALE_S = 86_400.0
_LOOK_PERIOD_S = 0.05
_DEEPEST = 256
"""The longest chain of ancestors that is followed."""


class ParentContext(NamedTuple):
    """What is passed on to a child process about the record that may contain its own.

    Attributes:
        record_id: the parent's record.
        boot_id: the boot of its host; "" where it is not known, as for the rest.
        pid_namespace: the inode of its pid namespace.
        pid: its process there.
        started_ticks: when that process started, in clock ticks since the boot.
        scope: what its tracker counts, "process" or "machine".
        call: the number of a decorated call, which has no row before its end; "" for a span.
    """

    record_id: str
    boot_id: str = ""
    pid_namespace: str = ""
    pid: int = 0
    started_ticks: int = 0
    scope: str = "process"
    call: str = ""

    @property
    def key(self) -> str:
        """What tells the parent apart: several calls may be in one record."""
        return f"{self.record_id}/{self.call}" if self.call else self.record_id

    @classmethod
    def parse(cls, text: str) -> ParentContext:
        """From the variable's text; of one that another program has set, only the record's id."""
        record_id, _, facts = text.partition("@")
        boot, namespace, pid, started, scope, call, *_ = (*facts.split(":"), *[""] * 6)
        return cls(
            record_id, boot, namespace, _whole(pid), _whole(started), scope or "process", call
        )


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


class RemoteParent:
    """Looks whether the parent's record holds what this process uses now.

    Args:
        context: what was passed on about the parent.
        state_dir: the folder with the parent's journal; None where journals are not used.
        procfs: the root of procfs.
        clock: the clock of both processes.
    """

    def __init__(
        self,
        context: ParentContext,
        state_dir: Path | None,
        *,
        procfs: Path = Path("/proc"),
        clock: Clock | None = None,
    ) -> None:
        self.context = context
        self.ended_at_s: float | None = None
        """When it stopped to hold what this process uses; None while it does."""
        self.seen: Mark | None = None
        """The last mark of this process at which it was known to hold what is used."""
        self._state_dir = state_dir
        self._procfs = procfs
        self._clock = clock or SystemClock()
        self._looked_at_s = self._seen_at_s = float("-inf")
        self._holds: bool | None = None
        self._ends = None if state_dir is None else ends_path(state_dir, context)

    @property
    def record_id(self) -> str:
        """The parent's record."""
        return self.context.record_id

    def holds(self) -> bool | None:
        """Whether what is used now is in the parent's record; None where it cannot be found out."""
        now_s = self._clock.monotonic_s()
        if self.ended_at_s is None and now_s - self._looked_at_s >= _LOOK_PERIOD_S:
            self._looked_at_s = now_s
            self._holds = self._look()
            if self._holds is False:
                self.ended_at_s = self._end_said() or self._seen_at_s
            else:
                self._seen_at_s = now_s
        return False if self.ended_at_s is not None else self._holds

    def mark_at_end(self, start: Mark, now: Mark) -> Mark:
        """The mark at which it ended, between the start of a root of this process and now."""
        before = self.seen
        if before is None or before.counts.at_s < start.counts.at_s:
            before = start
        return now if self.ended_at_s is None else mark_at(self.ended_at_s, before, now)

    def _look(self) -> bool | None:
        context = self.context
        if not context.boot_id:
            return None
        if context.boot_id != (boot_id(self._procfs) or ""):
            return False
        own = process_stat(self._procfs, "self")
        if own is not None and (own.pid, own.started_ticks) == (context.pid, context.started_ticks):
            return False  # it was this process itself, before it executed another program
        is_near = self._is_ancestor() if context.scope == "process" else self._lives()
        if not is_near or self._end_said() is not None:
            return is_near and False
        return self._is_open()

    def _lives(self) -> bool | None:
        if self.context.pid_namespace != pid_namespace(self._procfs):
            return None  # its processes cannot be seen from here, but this is its machine
        stat = process_stat(self._procfs, str(self.context.pid))
        return stat is not None and stat.started_ticks == self.context.started_ticks

    def _is_ancestor(self) -> bool:
        """Whether the parent's process lives and is an ancestor of this one, by this procfs."""
        name = "self"
        for _ in range(_DEEPEST):
            stat = process_stat(self._procfs, name)
            if stat is None:
                return False
            if stat.pid == self.context.pid and stat.started_ticks == self.context.started_ticks:
                return True
            if stat.parent_pid <= 0:
                return False
            name = str(stat.parent_pid)
        return False

    def _end_said(self) -> float | None:
        """When the parent's span ended, as its process has said."""
        if self._ends is None:
            return None
        try:
            lines = self._ends.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return None
        for line in lines:
            record_id, _, ended = line.partition(" ")
            if record_id == self.context.key:
                try:
                    return float(ended)
                except ValueError:
                    return None
        return None

    def _is_open(self) -> bool | None:
        """Whether the parent's span is open, by the journal of its process.

        A decorated call is in no journal while it runs; it says when it ends.
        """
        if self.context.call:
            return True
        if self._state_dir is None:
            return None
        from carbontrack.sinks.journal.open_runs import is_run_open

        return is_run_open(
            self._state_dir, self.context.boot_id, self.context.pid, self.context.record_id
        )


def parent_at_fork(
    said: str | None, roots: Sequence[Any], pid: int, state_dir: Path | None, clock: Clock
) -> RemoteParent | None:
    """The parent of a process that was forked while something was open; None: nothing was.

    Args:
        said: what was said of the oldest root of the main thread.
        roots: the roots that were open.
        pid: the process that forked this one.
        state_dir: the folder with its journal.
        clock: the clock of both.
    """
    if roots and said is None:
        root = roots[0]
        scope = root.session.ledger.attribution.scope
        said = context_text(root.row_id, process_identity(pid=pid), scope)
    if said is None:
        return None
    return RemoteParent(ParentContext.parse(said), state_dir, clock=clock)


def ends_path(state_dir: Path, context: ParentContext) -> Path:
    """Where the process of `context` says which of its spans have ended."""
    return state_dir / _FOLDER / f"{context.boot_id[:8]}-{context.pid}-{context.started_ticks}"


class EndedSpans:
    """Says to child processes which spans of this process have ended, and when.

    Args:
        state_dir: the folder with the journal.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._pid = 0
        self._ended: deque[tuple[str, float]] = deque(maxlen=_KEPT)

    def add(self, context: ParentContext, ended_at_s: float) -> None:
        """Say that the span of `context` has ended.

        Raises:
            OSError: it could not be written.
        """
        if self._pid != context.pid:  # a forked child has ends of its own to say
            self._pid, self._ended = context.pid, deque(maxlen=_KEPT)
            _remove_stale(self._state_dir / _FOLDER)
        self._ended.append((context.key, ended_at_s))
        text = "".join(f"{key} {at_s!r}\n" for key, at_s in list(self._ended))
        replace_privately(ends_path(self._state_dir, context), text)


def _remove_stale(folder: Path) -> None:
    """Remove what no child can still want: of processes that have ended long ago."""
    now = SystemClock.now_utc().timestamp()
    try:
        for path in folder.iterdir():
            if now - path.stat().st_mtime > _STALE_S and not _may_live(path):
                path.unlink(missing_ok=True)
    except OSError:
        return


def _may_live(path: Path) -> bool:
    pid = path.name.split("-")[1:2]
    return bool(pid) and process_stat(Path("/proc"), pid[0]) is not None
