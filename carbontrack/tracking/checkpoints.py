"""Checkpoints: open work in the journal, so that a killed process loses little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from carbontrack.record import Record
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import RateLimitedLog
from carbontrack.values import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from carbontrack.sinks.journal.journal import Journal


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


class Checkpointable(Protocol):
    """Open work: a root span, or a decorated function with summed calls."""

    def checkpoint(self) -> Checkpoint | None:
        """Its checkpoint; None where there is nothing to keep."""
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
        self._is_closed = False
        self._dropped: dict[object, set[str]] = {}
        """By write that is under way, in any thread: the records that were dropped meanwhile."""

    @property
    def state_dir(self) -> Path:
        """The folder with the journal."""
        return self._journal.state_dir

    @property
    def trouble(self) -> str:
        """Why the journal cannot be written, of which the user has been told; "" where it can."""
        return self._journal.trouble

    def write_soon(self) -> None:
        """Make checkpoints due at the end of the current tick."""
        self._written_s = float("-inf")

    def are_due(self, now_s: float) -> bool:
        """Whether checkpoints are due; if so, the next period begins."""
        if now_s - self._written_s < self.period_s:
            return False
        self._written_s = now_s
        return True

    def write(self, one: Checkpointable) -> None:
        """Write a checkpoint, if there is anything to write; from any thread.

        Another thread may finish a record between the moment when it is seen and the moment when it
        is written. Its checkpoint would stay behind, and be recovered beside the finished row; so
        what has been dropped meanwhile is dropped again.
        """
        write = object()
        self._dropped[write] = dropped = set[str]()
        try:
            found = one.checkpoint()
            if found is not None:
                if found.first is None:
                    self._journal.checkpoint(
                        found.record, self._outputs, found.timeline, is_sum=found.is_sum
                    )
                else:
                    self._journal.update(found.record, self._outputs, found.first)
                if found.record.record_id in dropped:
                    self._journal.finished(found.record.record_id)
        except Exception as error:  # the program may be changing its labels
            pass_on(error)
            self._warnings.warn("checkpoint", f"a checkpoint could not be written: {error!r}")
        finally:
            del self._dropped[write]

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
