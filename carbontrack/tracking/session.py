"""The session: what the spans of a tracker share: sampler, ledger, record builder, sinks."""

from __future__ import annotations

import itertools
import logging
import os
import weakref
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from carbontrack.errors import SinkError
from carbontrack.record import Record, Sink
from carbontrack.sampling.ledger import Mark
from carbontrack.system.forking import at_end_of_worker
from carbontrack.system.log import RateLimitedLog
from carbontrack.tracking.record_builder import RecordBuilder

if TYPE_CHECKING:
    from carbontrack.sinks.journal.journal import Journal
    from carbontrack.sinks.timelines import TimelineFiles
    from carbontrack.tracking.propagation import Propagator

_log = logging.getLogger("carbontrack")


class Checkpoint(NamedTuple):
    """The record of open work so far, and its timeline as a JSON object."""

    record: Record
    timeline: Mapping[str, object] | None = None


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
        self._is_writing = False
        self._dropped: set[str] = set()
        """Records that were dropped while checkpoints are being written."""

    def write_soon(self) -> None:
        """Make checkpoints due at the end of the current tick."""
        self._written_s = float("-inf")

    def are_due(self, now_s: float) -> bool:
        """Whether checkpoints are due; if so, the next period begins."""
        if now_s - self._written_s < self.period_s:
            return False
        self._written_s = now_s
        return True

    def write(self, one: Checkpointable) -> str | None:
        """Write a checkpoint, and return its record's id; None where there is nothing to write."""
        try:
            found = one.checkpoint()
            if found is not None:
                self._journal.checkpoint(found.record, self._outputs, found.timeline)
                return found.record.record_id
        except Exception as error:  # the program may be changing its labels
            self._warnings.warn("checkpoint", f"a checkpoint could not be written: {error!r}")
        return None

    def write_all(self, open_ones: Iterable[Checkpointable]) -> None:
        """Write a checkpoint of each, on the sampler's thread.

        Another thread may finish a record between the moment when it is seen and the moment when it
        is written. Its checkpoint would stay behind, and be recovered beside the finished row; so
        what has been dropped meanwhile is dropped again.
        """
        self._is_writing = True
        for one in open_ones:
            record_id = self.write(one)
            if record_id in self._dropped:
                self._journal.finished(record_id)
        self._is_writing = False
        self._dropped.clear()

    def drop(self, record_id: str | None) -> None:
        """Remove the checkpoint of a record that was delivered, or is part of another."""
        if record_id is None:
            return
        if self._is_writing:
            self._dropped.add(record_id)
        self._journal.finished(record_id)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


class Session:
    """The state that all spans and calls of one tracker share; users see the tracker.

    Args:
        builder: builds the records.
        sinks: the sinks that get them.
        spans: which spans are written, "roots" or "all".
        checkpoints: writes checkpoints of open work; None: there are none.
        timelines: the files for the power of root spans over time; None: none is kept.
        propagator: propagates the parent id to child processes; None: it is not propagated.
        parent_id: the parent id of this process's root records, if any.
    """

    def __init__(
        self,
        builder: RecordBuilder,
        *,
        sinks: Sequence[Sink],
        spans: Literal["roots", "all"] = "roots",
        checkpoints: Checkpoints | None = None,
        timelines: TimelineFiles | None = None,
        propagator: Propagator | None = None,
        parent_id: str | None = None,
    ) -> None:
        self.builder = builder
        self.sampler, self.ledger = builder.sampler, builder.ledger
        self.sinks = tuple(sinks)
        self.spans = spans
        self.propagator = propagator
        self._checkpoints = checkpoints
        self._timelines = timelines
        self._warnings = RateLimitedLog(self.sampler.clock)
        self.lost_records = 0
        self.uncounted_calls = 0
        self.closed = self._sinks_closed = False
        self.writes_each_call = False
        """Whether each call writes its own row: at exit, as no later tick could write the sum."""
        self.sites: weakref.WeakValueDictionary[Hashable, Checkpointable] = (
            weakref.WeakValueDictionary()
        )
        """The decorated functions by key; an entry lives while its function does, or while it has
        an open window."""
        self._open_roots: dict[int, Any] = {}
        if checkpoints is not None or timelines is not None:
            with self.sampler.lock:
                self.sampler.tick_listeners.add(self)
        self._parent_id = parent_id
        self._run_id = ""
        self._epoch = -1
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        # A child process after a fork is a run of its own. If anything was open at the fork, the
        # parent counts the child with its process tree, and reports must not add both.
        if self._epoch >= 0 and self.sampler.forked_awake:
            self._parent_id = self._run_id
        self._epoch = self.sampler.epoch
        self._run_id = os.urandom(16).hex()
        self._numbers = itertools.count(1)
        self._open_roots.clear()
        at_end_of_worker(self.end, self.close)

    @property
    def run_id(self) -> str:
        """The id of this tracker in this process."""
        if self._epoch != self.sampler.epoch:
            self._begin_epoch()
        return self._run_id

    @property
    def parent_id(self) -> str | None:
        """The parent id for the roots of this process, if any."""
        if self._epoch != self.sampler.epoch:
            self._begin_epoch()
        return self._parent_id

    def new_ids(self) -> tuple[str, str]:
        """The run's id, and the id of a new record, which is the run's id and a number."""
        run_id = self.run_id
        return run_id, f"{run_id}-{next(self._numbers)}"

    # -- open spans -------------------------------------------------------------------------

    def root_opened(self, span: Any, *, at_once: bool) -> None:
        """Register an open root, so that it is written even if the program ends or is killed.

        `at_once`: the first checkpoint is written now, not at the end of the current tick.
        """
        if self._timelines is not None:
            span.begin_timeline()
        self._open_roots[id(span)] = span
        if self.propagator is not None:
            self.propagator.inject(id(span), span.record_id)
        if self._checkpoints is not None:
            if at_once:
                self._checkpoints.write(span)
            else:
                self._checkpoints.write_soon()

    def span_closed(self, span: Any, record: Record | None, *, written: bool) -> None:
        """Write the record of a closed span, if it has a row, and its timeline."""
        if record is not None:
            self.deliver(record)
        if written and span.power_series is not None:
            self._keep_timeline(span)
        if self._open_roots.pop(id(span), None) is not None:
            if self.propagator is not None:
                self.propagator.withdraw(id(span))
            self.drop_checkpoint(span.record_id)

    def after_tick(self, now_s: float) -> None:
        """Extend the timelines, and write checkpoints when they are due."""
        if self._timelines is not None:
            with self.sampler.lock:
                mark = Mark(self.sampler.counts, self.ledger.account)
                for root in self._open_roots.values():
                    root.extend_timeline(mark)
        if self._checkpoints is not None and self._checkpoints.are_due(now_s):
            with self.sampler.lock:  # other threads may open spans and call sites meanwhile
                open_ones = [*self._open_roots.values(), *self.sites.values()]
            self._checkpoints.write_all(open_ones)

    def drop_checkpoint(self, record_id: str | None) -> None:
        """Remove the checkpoint of a record that was delivered, or is part of another."""
        if self._checkpoints is not None:
            self._checkpoints.drop(record_id)

    def warn_uncounted_call(self, name: str) -> None:
        """Count a call made after the session was closed, and warn of it."""
        self.uncounted_calls += 1
        self._warnings.warn(
            f"closed {name}",
            f"{name} is called after its tracker was closed, and its calls are not counted; "
            f"{self.uncounted_calls} calls so far",
        )

    # -- sinks ------------------------------------------------------------------------------

    def deliver(self, record: Record) -> None:
        """Write a finished record to every sink; the failure of one is logged and counted."""
        for sink in self.sinks:
            try:
                sink.write(record)
            except Exception as error:  # must not reach the measured program
                self.lost_records += 1
                lost = self.lost_records
                self._warnings.warn(
                    f"write {sink!r}", f"{sink!r} did not take a record: {error!r}; {lost} so far"
                )

    def _keep_timeline(self, span: Any) -> None:
        timeline = span.current_checkpoint().timeline
        if self._timelines is None or timeline is None:
            return
        try:
            self._timelines.write(timeline)
        except Exception as error:  # must not reach the measured program
            self._warnings.warn("timeline", f"a timeline could not be written: {error}")

    # -- the end ----------------------------------------------------------------------------

    def end(self) -> None:
        """Write open roots as interrupted, and tell sinks to hurry. `close` follows."""
        if self.closed:
            return
        self.closed = True
        for one in (*list(self._open_roots.values()), *list(self.sites.values())):
            try:
                one.interrupt()
            except Exception:
                _log.exception("something that was open could not be written")
        if self.sinks:
            from carbontrack.sinks.capabilities import HurriedSink

            for sink in self.sinks:
                # starts the last attempts of a sink with a thread, without waiting for them
                if isinstance(sink, HurriedSink):
                    _finish_sink("hurry", sink)

    def close(self) -> None:
        """End, and close the sinks. A second call does nothing."""
        self.end()
        if self._sinks_closed:
            return
        self._sinks_closed = True
        for sink in self.sinks:
            _finish_sink("close", sink)
        self.ledger.deferred_log.flush()
        if self._checkpoints is not None:
            self._checkpoints.close()


def _finish_sink(step: Literal["hurry", "close"], sink: Sink) -> None:
    """Call a sink's method; a failure, or a missing `close`, is logged, and the others go on."""
    try:
        getattr(sink, step)()
    except SinkError as error:  # its message is for users
        _log.warning("%s", error)
    except Exception as error:  # must not reach the measured program
        _log.warning("%r did not close: %s", sink, error)
