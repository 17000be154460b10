"""What a tracker's spans share: the sampler, the ledger, the builder of records, the sinks."""

from __future__ import annotations

import itertools
import logging
import os
import weakref
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

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
    """What is kept of something open: its record so far, and its timeline as an object of JSON."""

    record: Record
    timeline: Mapping[str, object] | None = None


class Open(Protocol):
    """Something open: a root span, or a decorated function with summed calls."""

    def checkpoint(self) -> Checkpoint | None:
        """What is to be kept of it; None where there is nothing."""
        ...

    def interrupt(self) -> None:
        """The program ends: write what there is."""
        ...


class Checkpoints:
    """Keeps what is open in a journal, so that a killed process loses little.

    Args:
        journal: where checkpoints are written.
        outputs: where recovered records are to go: absolute paths and URLs.
        period_s: seconds between two checkpoints of a run.
    """

    def __init__(self, journal: Journal, outputs: tuple[str, ...], period_s: float) -> None:
        self._journal = journal
        self._outputs = outputs
        self.period_s = period_s
        self._warnings = RateLimitedLog()
        self._written_s = float("-inf")

    def write_soon(self) -> None:
        """Write everything at the end of the present tick."""
        self._written_s = float("-inf")

    def are_due(self, now_s: float) -> bool:
        """Whether it is time again; if so, the time begins anew."""
        if now_s - self._written_s < self.period_s:
            return False
        self._written_s = now_s
        return True

    def write(self, open_ones: Iterable[Open]) -> None:
        """Write a checkpoint of each."""
        for one in open_ones:
            try:
                found = one.checkpoint()
                if found is not None:
                    self._journal.checkpoint(found.record, self._outputs, found.timeline)
            except Exception as error:  # labels are the program's, and it may change them just now
                self._warnings.warn("checkpoint", f"a checkpoint could not be written: {error!r}")

    def drop(self, record_id: str | None) -> None:
        """The record has been given to its outputs, or is part of another."""
        if record_id is not None:
            self._journal.finished(record_id)

    def close(self) -> None:
        """Give up the journal's file."""
        self._journal.close()


class Session:
    """One tracker's inside. Spans and summed calls hang on it; users see the tracker.

    Args:
        builder: makes the records.
        sinks: where they go.
        spans: which spans are written, "roots" or "all".
        checkpoints: keeps what is open; None: nothing does.
        timelines: where root spans' power over time goes; None: none is kept.
        propagator: has child processes find the run that started them; None: nothing does.
        parent_id: the record that the records of this process belong to, if any.
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
        self.writes_at_once = False
        """Whether each call has its row when it ends, as nobody will come later to write a sum."""
        self.sites: weakref.WeakValueDictionary[Hashable, Open] = weakref.WeakValueDictionary()
        """The decorated functions, by what tells them apart; one lives while its function does,
        or while its sums wait to be written."""
        self._open_roots: dict[int, Any] = {}
        if checkpoints is not None or timelines is not None:
            with self.sampler.lock:
                self.sampler.watchers.add(self)
        self._parent_id = parent_id
        self._run_id = ""
        self._epoch = -1
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        # A child process after a fork is a run of its own. If something was open at the fork, the
        # parent counts the child with its tree, and reports must not add both.
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
        """What a root of this process belongs to: the run that started the process, or None."""
        if self._epoch != self.sampler.epoch:
            self._begin_epoch()
        return self._parent_id

    def new_ids(self) -> tuple[str, str]:
        """The run's id, and that of a new record: the run's and a number, always the same."""
        run_id = self.run_id
        return run_id, f"{run_id}-{next(self._numbers)}"

    # -- what is open -----------------------------------------------------------------------

    def root_opened(self, span: Any, *, at_once: bool) -> None:
        """Keep an open root, so that an end of the program can still write it, even a violent one.

        `at_once`: the first checkpoint is written now, not at the end of the present tick.
        """
        if self._timelines is not None:
            span.begin_timeline()
        self._open_roots[id(span)] = span
        if self.propagator is not None:
            self.propagator.inject(id(span), span.record_id)
        if self._checkpoints is not None:
            if at_once:
                self._checkpoints.write([span])
            else:
                self._checkpoints.write_soon()

    def span_closed(self, span: Any, record: Record | None, *, written: bool) -> None:
        """A span has ended; write its record, if it has a row, and its timeline."""
        if record is not None:
            self.deliver(record)
        if written and span.power_series is not None:
            self._keep_timeline(span)
        if self._open_roots.pop(id(span), None) is not None:
            if self.propagator is not None:
                self.propagator.withdraw(id(span))
            self.forget(span.record_id)

    def after_tick(self, now_s: float) -> None:
        """Take the instant into the timelines, and leave checkpoints behind when it is time."""
        if self._timelines is not None:
            with self.sampler.lock:
                mark = Mark(self.sampler.counts, self.ledger.account)
                for root in self._open_roots.values():
                    root.extend_timeline(mark)
        if self._checkpoints is not None and self._checkpoints.are_due(now_s):
            with self.sampler.lock:  # other threads open and decorate meanwhile
                open_ones = [*self._open_roots.values(), *self.sites.values()]
            self._checkpoints.write(open_ones)

    def forget(self, record_id: str | None) -> None:
        """A record has been given to its outputs, or is part of another: drop its checkpoint."""
        if self._checkpoints is not None:
            self._checkpoints.drop(record_id)

    def leave_out(self, name: str) -> None:
        """A call was made after the end; count it and say so."""
        self.uncounted_calls += 1
        self._warnings.warn(
            f"closed {name}",
            f"{name} is called after its tracker was closed, and its calls are not counted; "
            f"{self.uncounted_calls} calls so far",
        )

    # -- where records go -------------------------------------------------------------------

    def deliver(self, record: Record) -> None:
        """Give a finished record to every sink. A sink that fails is said and counted, no more."""
        for sink in self.sinks:
            try:
                sink.write(record)
            except Exception as error:  # whatever it is, it is not the measured program's
                self.lost_records += 1
                lost = self.lost_records
                self._warnings.warn(
                    f"write {sink!r}", f"{sink!r} did not take a record: {error!r}; {lost} so far"
                )

    def _keep_timeline(self, span: Any) -> None:
        timeline = span.so_far().timeline
        if self._timelines is None or timeline is None:
            return
        try:
            self._timelines.write(timeline)
        except Exception as error:  # a failure is said and stops nothing
            self._warnings.warn("timeline", f"a timeline could not be written: {error}")

    # -- the end ----------------------------------------------------------------------------

    def end(self) -> None:
        """Write open roots as interrupted; the sinks may begin to finish. `close` follows."""
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
                if isinstance(sink, HurriedSink):
                    _done("hurry", sink)

    def close(self) -> None:
        """Come to an end and close the sinks. A second call does nothing."""
        self.end()
        if self._sinks_closed:
            return
        self._sinks_closed = True
        for sink in self.sinks:
            _done("close", sink)
        self.ledger.deferred_log.say()
        if self._checkpoints is not None:
            self._checkpoints.close()


def _done(step: Literal["hurry", "close"], sink: Sink) -> None:
    """Let a sink finish; one that fails, or has no `close`, is logged, and the others go on."""
    try:
        getattr(sink, step)()
    except Exception as error:  # whatever it is, it is not the measured program's
        _log.warning("%r did not close: %s", sink, error)
