"""The timeline: power over time of a span, from a series of bounded length.

The series holds instants and the energy used by each of them; power is the difference between two
of them over time. Removing an instant merges the bins on both sides without losing energy, so the
series can be thinned as often as needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from carbontrack.record import COMPONENTS, Component, Record
from carbontrack.sampling.counts import Counts, Joules
from carbontrack.sampling.ledger import Mark
from carbontrack.tracking.part import MeterFacts
from carbontrack.tracking.record_builder import value_at
from carbontrack.units import JOULES_PER_KWH, kwh_from
from carbontrack.values import NamedTuple, Value, field

MOST_BINS: Final = 360
"""The largest number of bins. A screen cannot show more: a run of six minutes keeps each tick of
one second, a run of a day keeps bins of three to six minutes."""


TIMELINE_SCHEMA: Final = 1
"""The version of the JSON object of a timeline."""


class Edge(NamedTuple):
    """The boundary between two bins: an instant, and the energy used by then.

    Attributes:
        at_s: the instant, on the monotonic clock.
        joules: the span's energy by meter.
        observed_s: the time for which each meter's energy was known.
    """

    at_s: float
    joules: Joules
    observed_s: tuple[float, ...]


class PowerSeries:
    """The edges of a span's bins: at most `most_bins` bins, however long the span lasts.

    When it is full, bins are merged until each is twice as wide as before; later bins have the new
    width.
    """

    def __init__(self, start: Edge, *, most_bins: int = MOST_BINS) -> None:
        self.edges: list[Edge] = [start]
        self._most_bins = most_bins
        self._width_s = 0.0

    @classmethod
    def begin(cls, counts: Counts) -> PowerSeries:
        """A series that starts now, with no energy used."""
        return cls(Edge(counts.at_s, (), counts.observed_s))

    def extend(self, counts: Counts, joules: Joules) -> None:
        """Add the energy used by now."""
        self.add(Edge(counts.at_s, joules, counts.observed_s))

    def add(self, edge: Edge) -> None:
        """Add an edge; it replaces the last one if its bin is not full or the time is the same."""
        edges = self.edges
        if len(edges) > 1 and self._belongs_to_last(edge):
            edges[-1] = edge
        else:
            edges.append(edge)
        if len(edges) > self._most_bins + 1:
            self._thin()

    def _belongs_to_last(self, edge: Edge) -> bool:
        before, last = self.edges[-2], self.edges[-1]
        width_s = last.at_s - before.at_s
        return edge.at_s <= last.at_s or width_s <= 0.0 or width_s < self._width_s

    def _thin(self) -> None:
        first, *middle, last = self.edges
        self._width_s = max(2.0 * self._width_s, 2.0 * (last.at_s - first.at_s) / self._most_bins)
        kept = [first]
        for edge in middle:
            if edge.at_s - kept[-1].at_s >= self._width_s:
                kept.append(edge)
        self.edges = [*kept, last]


class PowerRow(NamedTuple):
    """One component in one bin of a timeline.

    Attributes:
        start_s, end_s: the bin, in seconds since the span began.
        component: cpu, gpu, ram or other.
        energy_j: the attributed share of the component's energy, before PUE.
        observed_s: the seconds in which this energy was used. More than the bin's length if the
            first reading after failed ones included their energy; 0 in a gap.
        watts: the mean power in the observed time; None in a gap.
    """

    start_s: float
    end_s: float
    component: Component
    energy_j: float
    observed_s: float
    watts: float | None


class Timeline(Value):
    """Power over time of one span, open or finished.

    Attributes:
        edges_s: the edges of the bins, in seconds since the span began, from 0.
        energy_j: for each component, the energy used by each edge; the last is the total.
        observed_s: for each component and bin, the seconds in which its energy was used.
    """

    edges_s: tuple[float, ...]
    energy_j: Mapping[Component, tuple[float, ...]] = field(default_factory=dict)
    observed_s: Mapping[Component, tuple[float, ...]] = field(default_factory=dict)

    def rows(self) -> list[PowerRow]:
        """A row for each bin and component, in chronological order."""
        found = []
        for index, (start_s, end_s) in enumerate(pairwise(self.edges_s)):
            for component, joules in self.energy_j.items():
                step_j = joules[index + 1] - joules[index]
                seen_s = self.observed_s[component][index]
                watts = step_j / seen_s if seen_s > 0.0 else None
                found.append(PowerRow(start_s, end_s, component, step_j, seen_s, watts))
        return found


def timeline_of(edges: Sequence[Edge], meters: Sequence[MeterFacts], record: Record) -> Timeline:
    """The timeline of a span; its total for each component is that of the record.

    Where the record's energy is not the sum of the counts, as for a span shorter than a counter's
    refresh period, the series is scaled to it.
    """
    energy_j: dict[Component, tuple[float, ...]] = {}
    observed_s: dict[Component, tuple[float, ...]] = {}
    for component in COMPONENTS:
        kwh = getattr(record, f"{component}_kwh")
        if kwh is not None:
            indices = [index for index, m in enumerate(meters) if m.component == component]
            counted_j = [sum(value_at(edge.joules, index) for index in indices) for edge in edges]
            energy_j[component] = _scaled(counted_j, edges, kwh)
            regular = [index for index in indices if not meters[index].is_substitute]
            others = [index for index in indices if meters[index].is_substitute]
            seen_s = tuple(_seen_s(a, b, regular, others) for a, b in pairwise(edges))
            observed_s[component] = seen_s if any(seen_s) else _lengths_s(edges)
    return Timeline(tuple(edge.at_s - edges[0].at_s for edge in edges), energy_j, observed_s)


def _seen_s(a: Edge, b: Edge, regular: Sequence[int], others: Sequence[int]) -> float:
    def seen(index: int) -> float:
        return max(0.0, value_at(b.observed_s, index) - value_at(a.observed_s, index))

    return min(map(seen, regular), default=0.0) + sum(map(seen, others))


def _lengths_s(edges: Sequence[Edge]) -> tuple[float, ...]:
    # No count changed, but the record has an energy: power times the whole length.
    return tuple(b.at_s - a.at_s for a, b in pairwise(edges))


def _scaled(counted_j: Sequence[float], edges: Sequence[Edge], kwh: float) -> tuple[float, ...]:
    whole_j = counted_j[-1]
    if kwh_from(whole_j) == kwh:
        return tuple(counted_j)
    wanted_j = kwh * JOULES_PER_KWH
    if whole_j > 0.0:
        return tuple(joules * (wanted_j / whole_j) for joules in counted_j)
    length_s = edges[-1].at_s - edges[0].at_s
    if length_s <= 0.0:
        return (*(0.0 for _ in counted_j[1:]), wanted_j)
    return tuple(wanted_j * (edge.at_s - edges[0].at_s) / length_s for edge in edges)


def timeline_object(record: Record, timeline: Timeline) -> dict[str, object]:
    """The JSON object of a timeline; instants are rounded to the microsecond, energy is not."""
    return {
        "schema": TIMELINE_SCHEMA,
        "record_id": record.record_id,
        "run_id": record.run_id,
        "name": record.name,
        "started_at": record.started_at,
        "edges_s": [round(edge_s, 6) for edge_s in timeline.edges_s],
        "energy_j": timeline.energy_j,
        "observed_s": {
            component: [round(seen_s, 6) for seen_s in seen]
            for component, seen in timeline.observed_s.items()
        },
    }


def with_timeline(span: Any) -> tuple[Record, Timeline]:
    """The record so far of a span that keeps a timeline, and the timeline."""
    session = span.session
    assert span.power_series is not None
    with session.sampler.lock:
        is_over = span.record is not None
        record = span.snapshot()
        if not is_over:
            span.extend_timeline(Mark(session.sampler.counts, session.ledger.account))
        edges = list(span.power_series.edges)
    return record, timeline_of(edges, session.builder.meters(), record)
