"""What a tracker's spans share: the sampler, their ledger, the facts about the host, the sinks.

The end of sinks: together, so that what one waits for holds up no other.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from carbontrack.attribution.policy import Attribution
from carbontrack.grid.intensity import GridIntensity, IntensitySource
from carbontrack.record import Record, Sink
from carbontrack.sampling.amounts import Joules, Sums
from carbontrack.sampling.counts import Counts
from carbontrack.sampling.ledger import Ledger, Mark
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.forking import at_end_of_worker
from carbontrack.system.log import RateLimitedLog
from carbontrack.system.version import VERSION
from carbontrack.tracking.record_builder import (
    Circumstances,
    Course,
    Ending,
    FactsOfMeters,
    MeterFacts,
    beside_figures,
    emission_figures,
    energy_figures,
    parts_of,
    quality_figures,
    system_name,
)

if TYPE_CHECKING:
    from carbontrack.tracking.record_builder import Timelines

_log = logging.getLogger("carbontrack")


def hurry(sinks: Iterable[Sink]) -> None:
    """Tell those that send records behind the program's back that they are closed in a moment.

    A sink that has a method `hurry` begins its last attempts in it, and waits for nothing yet.
    """
    for sink in sinks:
        begin: Callable[[], None] | None = getattr(sink, "hurry", None)
        if begin is not None:
            _done(begin, sink)


def close(sinks: Iterable[Sink]) -> None:
    """Close them; one that fails is said, and the others are closed."""
    for sink in sinks:
        _done(sink.close, sink)


def _done(act: Callable[[], None], sink: Sink) -> None:
    try:
        act()
    except Exception as error:  # whatever it is, it is not the measured program's
        _log.warning("%r did not close: %s", sink, error)


class Checkpointed(Protocol):
    """Something open whose record so far is worth keeping."""

    def checkpoint(self) -> Record | None:
        """The record so far; None where there is nothing to keep."""
        ...


class Root(Checkpointed, Protocol):
    """A root span; it may keep a timeline."""

    record_id: str | None

    def begin_curve(self) -> None:
        """Keep a timeline from the beginning on."""
        ...


class Site(Checkpointed, Protocol):
    """A decorated function; its short calls are summed."""

    def close(self) -> None:
        """Write the last row."""
        ...


class Session:
    """One tracker's inside. Spans and summed calls hang on it; users see the tracker."""

    def __init__(
        self,
        sampler: Sampler,
        *,
        grid: IntensitySource | None,
        attribution: Attribution,
        sinks: Sequence[Sink],
        circumstances: Circumstances,
    ) -> None:
        self.sampler = sampler
        self.ledger = Ledger(attribution, grid)
        self.circumstances = circumstances
        self.lost_records = 0
        self._warnings = RateLimitedLog(sampler.clock)
        self.closed = self._sinks_closed = False
        self.uncounted_calls = 0
        self.writes_at_once = False
        """Whether each call has its row when it ends, as nobody will come later to write a sum."""
        self.sites: weakref.WeakValueDictionary[Hashable, Site] = weakref.WeakValueDictionary()
        """The decorated functions, by what tells them apart; one lives while its function does,
        or while its sums wait to be written."""
        self._open_roots: dict[int, Any] = {}
        self._checkpointed_s = float("-inf")
        if circumstances.journal is not None or circumstances.timelines is not None:
            with sampler.lock:
                sampler.watchers.add(self)
        self.sinks = tuple(sinks)
        self._facts = FactsOfMeters(attribution)
        self._parent_id = circumstances.parent_id
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

    def new_record_id(self) -> str:
        """The run's id and a number: the same record always has the same id."""
        return f"{self.run_id}-{next(self._numbers)}"

    def intensity(self) -> GridIntensity | None:
        """The grid's intensity now."""
        return self.ledger.fresh_intensity(self.sampler.clock)

    def meters(self) -> Sequence[MeterFacts]:
        """What the records say of each meter, in the order of every tuple of joules."""
        return self._facts.of(self.sampler.meter_states, self.sampler.gpu_shares)

    def ending(self, start: Counts, end: Counts, duration_s: float, machine_j: Joules) -> Ending:
        """What can only be known at the end of a span or a window, which is now.

        `duration_s` is for how much of the time it was running, `machine_j` what each meter counted
        for the whole machine meanwhile.
        """
        sampler, length_s = self.sampler, end.at_s - start.at_s
        gap_s = sampler.max_gap_s(start.at_s)
        course = Course(start, end, length_s, duration_s, machine_j, gap_s)
        now = sampler.clock.now_utc()
        return Ending(course, now, self.ledger.intensity(now), sampler.powers_w())

    def figures(self, sums: Sums, ending: Ending) -> dict[str, Any]:
        """The columns that come from measuring."""
        try:
            measured = self._measured(sums, ending)
        except Exception:  # a meter of someone else's making may say anything of itself
            _log.exception("the figures of a record could not be made")
            measured = {}
        return measured | self._constants()

    def _measured(self, sums: Sums, ending: Ending) -> dict[str, Any]:
        meters, attribution, course = self.meters(), self.ledger.attribution, ending.course
        parts = parts_of(sums, course, meters, ending.powers_w)
        energy = energy_figures(parts, course, attribution)
        figures = energy | emission_figures(sums, energy, ending.grid, attribution.pue)
        circumstances = self.circumstances
        figures |= beside_figures(parts, course, energy, attribution, circumstances)
        return figures | quality_figures(course, meters)

    def _constants(self) -> dict[str, Any]:
        attribution, hardware = self.ledger.attribution, self.sampler.hardware
        return {
            "region_basis": self.circumstances.region_basis,
            "pue": attribution.pue,
            "scope": attribution.scope,
            "idle": attribution.idle,
            "cpu_model": hardware.cpu_model,
            "cpu_threads": hardware.cpu_threads,
            "cpu_tdp_w": hardware.cpu_tdp_w,
            "gpu_models": ";".join(hardware.gpu_models) or None,
            "gpu_count": hardware.gpu_count,
            "ram_gib": hardware.ram_gib,
            "pid": os.getpid(),
            "os": system_name(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "carbontrack": VERSION,
            **self.circumstances.facts,
        }

    def root_opened(self, span: Root, *, at_once: bool) -> None:
        """Keep an open root, so that an end of the program can still write it, even a violent one.

        `at_once`: the first checkpoint is written now, not at the end of the present tick.
        """
        if self.circumstances.timelines is not None:
            span.begin_curve()
        self._open_roots[id(span)] = span
        if self.circumstances.relatives is not None and span.record_id is not None:
            self.circumstances.relatives.opened(id(span), span.record_id)
        if at_once:
            self._checkpoint([span])
        else:
            self._checkpointed_s = float("-inf")

    def span_closed(self, span: Any, *, is_root: bool, written: bool) -> None:
        """A span has ended; write what is to be written of it."""
        if written and self.sinks and (is_root or self.circumstances.spans == "all"):
            self.deliver(span.record)
        if written and span.curve is not None:
            keep_timeline(span, self.circumstances.timelines, self._warnings)
        if self._open_roots.pop(id(span), None) is not None:
            if self.circumstances.relatives is not None:
                self.circumstances.relatives.closed(id(span))
            self.forget(span.record_id)

    def after_tick(self, now_s: float) -> None:
        """Take the instant into the timelines, and leave checkpoints behind when it is time."""
        if self.circumstances.timelines is not None:
            with self.sampler.lock:
                mark = Mark(self.sampler.counts, self.ledger.account)
                for root in self._open_roots.values():
                    root.draw(mark)
        if now_s - self._checkpointed_s >= self.circumstances.checkpoint_s:
            self._checkpointed_s = now_s
            with self.sampler.lock:  # other threads open and decorate meanwhile
                open_ones = [*self._open_roots.values(), *self.sites.values()]
            self._checkpoint(open_ones)

    def _checkpoint(self, open_ones: Iterable[Checkpointed]) -> None:
        journal = self.circumstances.journal
        if journal is None:
            return
        for one in open_ones:
            try:
                record, timeline = checkpoint_of(one)
                if record is not None:
                    journal.checkpoint(record, self.circumstances.outputs, timeline)
            except Exception as error:  # labels are the program's, and it may change them just now
                self._warnings.warn("checkpoint", f"a checkpoint could not be written: {error!r}")

    def forget(self, record_id: str | None) -> None:
        """A record has been given to its outputs, or is part of another: drop its checkpoint."""
        if self.circumstances.journal is not None and record_id is not None:
            self.circumstances.journal.finished(record_id)

    def end(self) -> None:
        """Write open roots as interrupted; the sinks may begin to finish. `close` follows."""
        if self.closed:
            return
        self.closed = True
        endings: list[Callable[[], object]] = [
            partial(span.close, "interrupted") for span in list(self._open_roots.values())
        ]
        endings += [site.close for site in list(self.sites.values())]
        for end in endings:
            try:
                end()
            except Exception:
                _log.exception("something that was open could not be written")
        hurry(self.sinks)

    def close(self) -> None:
        """Come to an end and close the sinks. A second call does nothing."""
        self.end()
        if self._sinks_closed:
            return
        self._sinks_closed = True
        close(self.sinks)
        self.ledger.deferred_log.say()
        if self.circumstances.journal is not None:
            self.circumstances.journal.close()

    def leave_out(self, name: str) -> None:
        """A call was made after the end; count it and say so."""
        self.uncounted_calls += 1
        self._warnings.warn(
            f"closed {name}",
            f"{name} is called after its tracker was closed, and its calls are not counted; "
            f"{self.uncounted_calls} calls so far",
        )

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


def checkpoint_of(one: Any) -> tuple[Record | None, Mapping[str, object] | None]:
    """The record so far of something open, and its timeline as an object where it keeps one."""
    if getattr(one, "curve", None) is None:
        return one.checkpoint(), None
    if not one.is_open:
        return None, None
    from carbontrack.tracking.timeline import timeline_object

    record, timeline = one.so_far()
    return record, None if timeline is None else timeline_object(record, timeline)


def keep_timeline(span: Any, timelines: Timelines | None, warnings: RateLimitedLog) -> None:
    """Write the timeline of a finished span; a failure is said and stops nothing."""
    timeline = span.whole_timeline()
    if timelines is None or timeline is None:
        return
    from carbontrack.tracking.timeline import timeline_object

    try:
        timelines.write(timeline_object(span.record, timeline))
    except Exception as error:
        warnings.warn("timeline", f"a timeline could not be written: {error}")
