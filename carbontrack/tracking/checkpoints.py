"""Checkpoints: open work in the journal, so that a killed process loses little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from carbontrack.record import Record
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import RateLimitedLog
from carbontrack.values import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from carbontrack.sinks.journal.journal import Journal, RowLine


_AT_ONCE = 100
"""Rows that are written to the journal in one piece."""


class Checkpoint(NamedTuple):
    """The record of open work so far.

    Attributes:
        record: the record.
        timeline: its timeline as a JSON object, if it has one.
        first: the first record of this work that was kept; then only what has changed is written.
        is_sum: whether it is the sum of short calls, not an open span.
    """

    record: Record
    timeline: Mapping[str, object] | None = None
    first: Record | None = None
    is_sum: bool = False

    @property
    def record_id(self) -> str:
        """The id of the record."""
        return self.record.record_id


class OpenRow(NamedTuple):
    """The row of an open span so far.

    Attributes:
        columns: its own columns.
        facts: those that it has in common with other rows, which are written once for all.
    """

    columns: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def record_id(self) -> str:
        """The id of the row."""
        return str(self.columns["record_id"])


Found = Checkpoint | OpenRow


class Checkpointable(Protocol):
    """Open work: a root span, or a decorated function with summed calls."""

    def checkpoint(self) -> Checkpoint | OpenRow | None:
        """Its checkpoint; None if there is nothing to keep."""
        ...

    def interrupt(self) -> None:
        """The program ends: write the record so far as interrupted."""
        ...


class Checkpoints:
    """Writes open work to a journal, so that a killed process loses little.

    Args:
        journal: the journal that checkpoints are written to.
        outputs: the outputs for recovered records: absolute paths and URLs.
        period_s: seconds between two checkpoints of a run.
    """

    def __init__(self, journal: Journal, outputs: tuple[str, ...], period_s: float) -> None:
        self._journal = journal
        self._outputs = outputs
        self.period_s = period_s
        self._warnings = RateLimitedLog()
        self._written_s = float("-inf")
        self._has_new = self._is_closed = False
        self._dropped: dict[object, set[str]] = {}
        """By write in progress, in any thread: the records that were dropped in the meantime."""

    @property
    def state_dir(self) -> Path:
        """The directory with the journal."""
        return self._journal.state_dir

    @property
    def trouble(self) -> str:
        """Why the journal cannot be written, which has been logged; "" if it can."""
        return self._journal.trouble

    @property
    def only_appends(self) -> bool:
        """Whether the next checkpoint is only appended to the journal, and may be written twice."""
        return self._journal.only_appends

    def write_soon(self) -> None:
        """Make checkpoints of new work due at the end of the current tick."""
        self._has_new = True

    def takes_new(self) -> bool:
        """Whether such checkpoints are due; if so, they are not any more."""
        had_new, self._has_new = self._has_new, False
        return had_new

    def are_due(self, now_s: float) -> bool:
        """Whether checkpoints are due; if so, the next period begins."""
        if now_s - self._written_s < self.period_s:
            return False
        self._written_s = now_s
        return True

    def write(self, *makes: Callable[[], Found | None]) -> None:
        """Make checkpoints and write them, if there is anything to write; from any thread.

        Another thread may finish a record between the moment when it is seen and the moment when it
        is written. Its checkpoint would remain, and be recovered in addition to the finished row;
        so records that were dropped in the meantime are dropped again.
        """
        write = object()
        self._dropped[write] = dropped = set[str]()
        try:
            for at in range(0, len(makes), _AT_ONCE):
                ids: list[str] = []
                found = [self._line_of(make, ids) for make in makes[at : at + _AT_ONCE]]
                lines = [line for line in found if line is not None]
                if lines:
                    self._journal.keep(lines)
                for record_id in dropped.intersection(ids):
                    self._journal.finished(record_id)
        finally:
            del self._dropped[write]

    def _line_of(self, make: Callable[[], Found | None], ids: list[str]) -> RowLine | None:
        """The line of an open row, which is written with others; a checkpoint is written at once.

        Its id is added to `ids`.
        """
        journal, outputs = self._journal, self._outputs
        try:
            found = make()
            if found is None:
                return None
            ids.append(found.record_id)
            if isinstance(found, OpenRow):
                return journal.row_line(found.columns, found.facts, outputs)
            if found.first is None:
                journal.checkpoint(found.record, outputs, found.timeline, is_sum=found.is_sum)
            else:
                journal.update(found.record, outputs, found.first)
        except Exception as error:  # the program may be changing its labels
            pass_on(error)
            self._warnings.warn("checkpoint", f"a checkpoint could not be written: {error!r}")
        return None

    def drop(self, record_id: str | None) -> None:
        """Remove the checkpoint of a record that was delivered, or is part of another."""
        if record_id is None:
            return
        if self._dropped:
            for dropped in list(self._dropped.values()):
                dropped.add(record_id)
        self._journal.finished(record_id)

    def call_began(self, call_id: str, scope: str) -> None:
        """Note a running call that child processes may be inside, and whose energy counts there."""
        self._journal.call_began(call_id, scope)

    def call_ended(self, call_id: str) -> None:
        """Remove it."""
        self._journal.call_ended(call_id)

    def rest(self, *, at_once: bool) -> None:
        """Close the journal's file if nothing is open; `at_once`: even if it was used just now."""
        self._journal.rest(at_once=at_once)

    def close(self) -> None:
        """Close the journal, which others may share. A second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._journal.close(keeps_runs=True)
