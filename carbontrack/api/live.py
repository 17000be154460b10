"""What is measured now, for exporters: meters, open blocks, carbon intensity, failures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carbontrack.api.track import PROVIDER
from carbontrack.record import Basis, Component, Record, Sink
from carbontrack.sampling.ledger import Mark
from carbontrack.system.forking import remember
from carbontrack.system.interrupts import reentrant_lock
from carbontrack.tracking.session import Session, add_sink, open_roots, remove_sink
from carbontrack.tracking.span import Span
from carbontrack.tracking.span_edges import SpanEnd
from carbontrack.tracking.tracker import Tracker
from carbontrack.values import NamedTuple

if TYPE_CHECKING:
    from carbontrack.sampling.sampler import Sampler

__all__ = ["LiveFigures", "LiveView", "MeterSum", "Span", "Tracker", "when_closed"]

WAIT_S = 0.05
"""The longest wait for a reading in progress; after that the previous reading is used."""


class MeterSum(NamedTuple):
    """A meter's energy while anything was measured, and its power now; None: not known."""

    id: str
    component: Component
    basis: Basis
    joules: float
    watts: float | None


class LiveFigures(NamedTuple):
    """The result of one look.

    Attributes:
        meters: those of all trackers, each once.
        open_blocks: the records so far of the blocks that are open.
        intensities: the carbon intensity now, in g CO2e/kWh, by zone and source.
        missed_reads: failed reads of single meters.
        lost_records: how often an output did not accept a record.
        facts: the columns that are the same in all records of a tracker; empty without one.
    """

    meters: Sequence[MeterSum] = ()
    open_blocks: Sequence[Record] = ()
    intensities: Mapping[tuple[str, str], float] = {}
    missed_reads: int = 0
    lost_records: int = 0
    facts: Mapping[str, Any] = {}


class LiveView:
    """Looks at one tracker, or at all that `track` and `auto` have made in this process.

    The meters count while something is measured. Their sums never fall, though trackers come and
    go, each with a count of its own.
    """

    def __init__(self, tracker: Tracker | None = None) -> None:
        self._tracker = tracker
        self._sums: dict[str, MeterSum] = {}
        self._seen: dict[Sampler, tuple[Sequence[float], int]] = {}
        """For each sampler, the energies and failed reads that the sums already contain."""
        self._missed = 0
        self.forget_parent()
        remember(self)

    def forget_parent(self) -> None:
        """Make a new lock: one that another thread held at the fork would never be released."""
        self._lock = reentrant_lock()

    def sessions(self) -> list[Session]:
        """The sessions that are viewed; none if measuring is disabled."""
        if self._tracker is None:
            return PROVIDER.sessions()
        own = getattr(self._tracker, "session", None)  # a tracker that does nothing has none
        return [] if own is None else [own]

    def add_sink(self, sink: Sink) -> None:
        """Send the records of the sessions viewed now to this sink too.

        Raises:
            ConfigError: it does not accept the records of such a tracker.
        """
        for session in self.sessions():
            add_sink(session, sink)

    def remove_sink(self, sink: Sink) -> None:
        """Send it no further records."""
        for session in self.sessions():
            remove_sink(session, sink)

    def look(self) -> LiveFigures:
        """Read the meters once, if anything is open, and return what is known now."""
        with self._lock:
            return self._look()

    def _look(self) -> LiveFigures:
        sessions = self.sessions()
        samplers = list(dict.fromkeys([*self._seen, *(one.sampler for one in sessions)]))
        open_blocks = [row for one in samplers for row in _read(one, sessions)]
        self._sums = {key: one._replace(watts=None) for key, one in self._sums.items()}
        for sampler in samplers:
            self._add(sampler)
        in_use = {one.sampler for one in sessions}
        self._seen = {one: seen for one, seen in self._seen.items() if one in in_use}
        grids = [one.ledger.intensity(one.sampler.clock.now_utc()) for one in sessions]
        facts = sessions[0].builder.constants() if sessions else {}
        return LiveFigures(
            tuple(self._sums.values()),
            open_blocks,
            {(one.zone, one.source): one.g_per_kwh for one in grids if one is not None},
            self._missed,
            sum(one.lost_records for one in sessions),
            facts,
        )

    def _add(self, sampler: Sampler) -> None:
        counts, powers = sampler.counts, sampler.history.powers
        powers_w = powers.known_w(counts) if sampler.awake else ()
        energies_j, (seen_j, missed) = counts.energy_j, self._seen.get(sampler, ((), 0))
        for index, joules in enumerate(energies_j):
            meter = sampler.meter_states[index].meter
            before_j = seen_j[index] if index < len(seen_j) else 0.0
            known = self._sums.get(meter.id)
            sum_j = (known.joules if known else 0.0) + max(0.0, joules - before_j)
            watts = powers_w[index] if index < len(powers_w) else None
            self._sums[meter.id] = MeterSum(meter.id, meter.component, meter.basis, sum_j, watts)
        self._missed += max(0, counts.missed - missed)
        self._seen[sampler] = energies_j, counts.missed


def _read(sampler: Sampler, sessions: Sequence[Session]) -> list[Record]:
    """Read the meters, if anything is open; returns the records so far of the open blocks."""
    lock = sampler.lock
    if not sampler.awake or not lock.acquire(timeout=WAIT_S):
        return []
    try:
        sampler.sample()
        own = {
            one: Mark(sampler.counts, one.ledger.account)
            for one in sessions
            if one.sampler is sampler
        }
        return [root.record_at(mark) for one, mark in own.items() for root in open_roots(one)]
    finally:
        lock.release()


def when_closed(tell: Callable[[Span], None] | None) -> None:
    """Call `tell` with each block right after it closes, in the same context; it must not raise."""
    SpanEnd.on_close = tell
