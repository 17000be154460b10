"""What each meter of the machine has counted, whatever its answers are worth.

Pure functions on immutable facts. A silent meter counts nothing now and everything with its next
answer. An answer that is no number is a silence. So is a count that has fallen, or risen beyond
all reason, the first time; the second time in a row it was reset, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from math import isfinite
from operator import add, sub
from typing import NamedTuple

from carbontrack.sampling.amounts import Joules

IMPOSSIBLE_J = 1e12
"""No machine uses so much between two readings: a megawatt for eleven days."""


class Reading(NamedTuple):
    """What one tick saw: an instant, and the count of each meter that answered.

    `joules` holds None for a meter that was silent; `missed` is how many should have answered and
    did not. `dropped` holds the places of meters whose step since their last answer is not to be
    counted: it is left out and the count goes on from here. `unsure` holds the places of those
    whose step is the least that it was: it counts, and the time does not count as observed.
    """

    at_s: float
    joules: tuple[float | None, ...]
    missed: int = 0
    dropped: frozenset[int] = frozenset()
    unsure: frozenset[int] = frozenset()


class Counts(NamedTuple):
    """What the meters have counted since the sampler began; immutable.

    Attributes:
        at_s: the instant of the last reading.
        counts_j, counted_s: each meter's last known count, None before its first, and when it was.
        energy_j: each meter's energy so far.
        observed_s: for how much of the time so far each meter's energy is known.
        missed: failed reads of single meters.
        suspended_s: how long the machine slept.
        faults: how often each kind of fault was met.
        doubted: meters whose last answer did not fit their count.
    """

    at_s: float
    counts_j: tuple[float | None, ...] = ()
    counted_s: tuple[float, ...] = ()
    energy_j: Joules = ()
    observed_s: tuple[float, ...] = ()
    missed: int = 0
    suspended_s: float = 0.0
    faults: Mapping[str, int] = {}
    doubted: frozenset[int] = frozenset()


def advance(counts: Counts, reading: Reading) -> tuple[Counts, Joules]:
    """Take a reading in; returns the new sums and what each meter has counted since the old ones.

    A missed read neither invents energy nor loses any.
    """
    at_s = reading.at_s
    if len(reading.joules) > len(counts.counts_j):
        counts = _widened(counts, len(reading.joules))
    joules, last_j = reading.joules, counts.counts_j
    if reading.dropped or reading.unsure or None in joules or None in last_j:
        return _advance_with_gaps(counts, reading)
    try:
        steps: Joules = tuple(map(sub, joules, last_j))
        believed = not steps or (min(steps) >= 0.0 and sum(steps) < IMPOSSIBLE_J)
    except TypeError:
        believed = False
    if not believed:
        return _advance_with_gaps(counts, reading)
    since_s = map(sub, repeat(at_s), counts.counted_s)
    return Counts(
        at_s,
        joules,
        (at_s,) * len(joules),
        tuple(map(add, counts.energy_j, steps)),
        tuple(map(add, counts.observed_s, since_s)),
        counts.missed,
        counts.suspended_s,
        counts.faults,
    ), steps


def _advance_with_gaps(counts: Counts, reading: Reading) -> tuple[Counts, Joules]:
    steps, observed_s = [0.0] * len(reading.joules), list(counts.observed_s)
    counts_j, counted_s = list(counts.counts_j), list(counts.counted_s)
    doubted: set[int] = set()
    missed = resets = 0
    for place, joules in enumerate(reading.joules):
        last_j = counts_j[place]
        if joules is None:
            continue
        if not _is_count(joules):
            missed += 1
            continue
        if last_j is not None and place not in reading.dropped:
            if 0.0 <= joules - last_j < IMPOSSIBLE_J:
                steps[place] = joules - last_j
                if place not in reading.unsure:
                    observed_s[place] += reading.at_s - counted_s[place]
            elif place not in counts.doubted:
                missed += 1
                doubted.add(place)
                continue
            else:
                resets += 1
        counts_j[place], counted_s[place] = joules, reading.at_s
    counts = with_fault(counts, "reset", resets) if resets else counts
    return counts._replace(
        at_s=reading.at_s,
        counts_j=tuple(counts_j),
        counted_s=tuple(counted_s),
        energy_j=tuple(map(add, counts.energy_j, steps)),
        observed_s=tuple(observed_s),
        missed=counts.missed + reading.missed + missed,
        doubted=frozenset(doubted),
    ), tuple(steps)


def _is_count(joules: object) -> bool:
    # A meter of someone else's making may answer anything.
    return isinstance(joules, (int, float)) and isfinite(joules) and joules >= 0.0


def _widened(counts: Counts, width: int) -> Counts:
    more = width - len(counts.counts_j)
    return counts._replace(
        counts_j=counts.counts_j + (None,) * more,
        counted_s=counts.counted_s + (counts.at_s,) * more,
        energy_j=counts.energy_j + (0.0,) * more,
        observed_s=counts.observed_s + (0.0,) * more,
    )


def without_counts(counts: Counts) -> Counts:
    """The same sums, going on from each meter's next count, whatever it was used for meanwhile."""
    return counts._replace(counts_j=(None,) * len(counts.counts_j))


def with_fault(counts: Counts, code: str, times: int = 1) -> Counts:
    """The same sums with one more fault noted."""
    return counts._replace(faults={**counts.faults, code: counts.faults.get(code, 0) + times})


def with_suspend(counts: Counts, slept_s: float) -> Counts:
    """The same sums, and that the machine slept meanwhile."""
    counts = with_fault(counts, "suspend")
    return counts._replace(suspended_s=counts.suspended_s + slept_s)
