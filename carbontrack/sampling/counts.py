"""The counts of the machine's meters: cumulative energy, gaps between readings, recent power.

`advance` is a pure function: the old `Counts` and a `Reading` give the new `Counts`. A meter that
does not answer adds nothing now; its next answer brings what was missed. A value that is not a
number counts as no answer. So does a count that fell or rose implausibly, the first time; the
second time in a row the counter is taken as reset, and counting goes on from the new value.

The ends that some meters count (`low_j`, `high_j`) are summed beside the energy, number by number.
A meter's count and its ends are one answer: they are believed, dropped, or doubted together.

Where a stand-in has counted instead of a meter, the meter's next step covers that time once more.
What the stand-in counted is then owed: it is kept back from the meter's steps until it is made up.
So no step is below 0, no row that was written changes, and the sum of both is what the meter says.

`ReadingHistory` keeps what the sums do not: the longest gaps and each meter's last mean power.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from math import ceil, isfinite
from operator import add, sub
from typing import Any

from carbontrack.values import NamedTuple

Joules = tuple[float, ...]
"""One number for each meter, in the order of the sampler's meters. Where the name has `ends`, two
for each meter that counts its ends: low, high, low, high, …"""
IMPOSSIBLE_J = 1e12
"""A larger step is implausible: it is a megawatt for eleven days."""
CLOCK_FAULT = "clock"
"""The fault of a clock that went back or stood still; times and energies around it are unknown."""


_NONE_DOUBTED: frozenset[int] = frozenset()
_NOTHING_OWED: Mapping[int, float] = {}


class StandIn(NamedTuple):
    """A stand-in that has counted since before the reading that it joins.

    Attributes:
        since_s: the instant from which on it counts.
        joules, ends_j: its count at that instant, and the ends of it.
        owed_j: what other meters of the component have counted since then.
    """

    since_s: float
    joules: float
    ends_j: Joules = ()
    owed_j: float = 0.0


class Returned(NamedTuple):
    """A meter that counts again: its stand-ins' indices, and for how many meters they stood."""

    stand_ins: tuple[int, ...]
    meters: int = 1


_NONE_RETURNING: Mapping[int, Returned] = {}


class Reading(NamedTuple):
    """The counts of all meters at one instant.

    Attributes:
        at_s: the instant, on the monotonic clock.
        joules: each meter's count; None where it did not answer.
        ends_j: the ends of the meters that count them; those of a silent meter are not used.
        end_meters: for each of them, the index of its meter.
        missed: how many meters should have answered and did not.
        dropped: indices of meters whose step since their last answer is discarded; their counts go
            on from here.
        lower_bounds: indices of meters whose step is a lower bound: the energy is added, and the
            time does not count as observed.
        joined: by index, the stand-ins that come with this reading and count from before it.
        returned: by index, the meters that count again after a stand-in.
    """

    at_s: float
    joules: tuple[float | None, ...]
    ends_j: tuple[float | None, ...] = ()
    end_meters: tuple[int, ...] = ()
    missed: int = 0
    dropped: frozenset[int] = frozenset()
    lower_bounds: frozenset[int] = frozenset()
    joined: Mapping[int, StandIn] = {}
    returned: Mapping[int, Returned] = {}


class Counts(NamedTuple):
    """What the meters have counted since the sampler started; immutable.

    Attributes:
        at_s: the instant of the last reading.
        counts_j, counted_s: each meter's last known count, None before its first, and its instant.
        energy_j: each meter's energy so far.
        observed_s: the part of the time so far for which each meter's energy is known.
        missed: failed reads of single meters.
        suspended_s: how long the machine was suspended.
        faults: the number of faults by code.
        doubted: indices of meters whose last answer was implausible.
        end_counts_j: the ends of each meter's last known count.
        ends_j: the ends of each meter's energy so far.
        owed_j: by index, the joules that are kept back from the meter's next steps.
        returning: by index, the meters that count again, and whose answer was not believed yet;
            what each owes is not known before, and stands as 0 in `owed_j`.
    """

    at_s: float
    counts_j: tuple[float | None, ...] = ()
    counted_s: tuple[float, ...] = ()
    energy_j: Joules = ()
    observed_s: tuple[float, ...] = ()
    missed: int = 0
    suspended_s: float = 0.0
    faults: Mapping[str, int] = {}
    doubted: frozenset[int] = _NONE_DOUBTED
    end_counts_j: Joules = ()
    ends_j: Joules = ()
    owed_j: Mapping[int, float] = _NOTHING_OWED
    returning: Mapping[int, Returned] = _NONE_RETURNING


def advance(counts: Counts, reading: Reading) -> tuple[Counts, Joules, Joules]:
    """Add a reading; returns the new counts, each meter's step since the old ones, and their ends.

    A missed read neither invents nor loses energy.
    """
    at_s = reading.at_s
    if len(reading.joules) > len(counts.counts_j):
        counts = _widened(counts, reading)
    joules, last_j = reading.joules, counts.counts_j
    if reading.dropped or reading.lower_bounds or None in joules or None in last_j or counts.owed_j:
        return _advance_with_gaps(counts, reading)
    try:
        steps: Joules = tuple(map(sub, joules, last_j))
        believed = not steps or (min(steps) >= 0.0 and sum(steps) < IMPOSSIBLE_J)
    except TypeError:
        believed = False
    if not believed:
        return _advance_with_gaps(counts, reading)
    if reading.ends_j:
        return _advance_with_ends(counts, reading, steps)
    since_s = map(sub, repeat(at_s), counts.counted_s)
    return (
        Counts(
            at_s,
            joules,
            (at_s,) * len(joules),
            tuple(map(add, counts.energy_j, steps)),
            tuple(map(add, counts.observed_s, since_s)),
            counts.missed,
            counts.suspended_s,
            counts.faults,
        ),
        steps,
        (),
    )


def _advance_with_ends(
    counts: Counts, reading: Reading, steps: Joules
) -> tuple[Counts, Joules, Joules]:
    """All meters have answered, and their steps are believed; their ends are not yet."""
    at_s, ends_j = reading.at_s, reading.ends_j
    try:
        end_steps: Joules = tuple(map(sub, ends_j, counts.end_counts_j))
        believed = min(end_steps) >= 0.0 and sum(end_steps) < IMPOSSIBLE_J
    except TypeError:
        believed = False
    if not believed:
        return _advance_with_gaps(counts, reading)
    since_s = map(sub, repeat(at_s), counts.counted_s)
    counts = Counts(
        at_s,
        reading.joules,
        (at_s,) * len(steps),
        tuple(map(add, counts.energy_j, steps)),
        tuple(map(add, counts.observed_s, since_s)),
        counts.missed,
        counts.suspended_s,
        counts.faults,
        _NONE_DOUBTED,
        ends_j,  # type: ignore[arg-type]
        tuple(map(add, counts.ends_j, end_steps)),
    )
    return counts, steps, end_steps


def _advance_with_gaps(counts: Counts, reading: Reading) -> tuple[Counts, Joules, Joules]:
    steps, observed_s = [0.0] * len(reading.joules), list(counts.observed_s)
    counts_j, counted_s = list(counts.counts_j), list(counts.counted_s)
    end_steps, end_counts_j = [0.0] * len(reading.ends_j), list(counts.end_counts_j)
    doubted, missed, resets = set[int](), 0, 0
    owed_j, returning = dict(counts.owed_j), {**counts.returning, **reading.returned}
    for index, ends, answer in _answers(reading):
        if not all(map(_is_count, answer)):
            missed += 1
            continue
        if counts_j[index] is not None and index not in reading.dropped:
            step = tuple(map(sub, answer, (counts_j[index], *end_counts_j[ends])))
            if all(0.0 <= step_j < IMPOSSIBLE_J for step_j in step):
                covered_s = _settle(index, returning, counts, owed_j)
                steps[index], *end_steps[ends] = _kept(index, step, owed_j)
                if index not in reading.lower_bounds:
                    observed_s[index] += max(0.0, reading.at_s - counted_s[index] - covered_s)
            elif index not in counts.doubted:
                doubted.add(index)
                continue
            else:
                resets += 1
        if returning:
            returning.pop(index, None)
        counted_s[index] = reading.at_s
        counts_j[index], *end_counts_j[ends] = answer
    counts = with_fault(counts, "reset", resets) if resets else counts
    counts = counts._replace(
        at_s=reading.at_s,
        counts_j=tuple(counts_j),
        counted_s=tuple(counted_s),
        energy_j=tuple(map(add, counts.energy_j, steps)),
        observed_s=tuple(observed_s),
        missed=counts.missed + reading.missed + missed + len(doubted),
        doubted=frozenset(doubted),
        end_counts_j=tuple(end_counts_j),
        ends_j=tuple(map(add, counts.ends_j, end_steps)),
        owed_j=dict.fromkeys(returning, 0.0) | owed_j if returning else owed_j,
        returning=returning,
    )
    return counts, tuple(steps), tuple(end_steps)


def _settle(
    index: int, returning: Mapping[int, Returned], counts: Counts, owed_j: dict[int, float]
) -> float:
    """A meter counts again: its step owes what its stand-in counted; returns for how long that."""
    if index not in returning:
        return 0.0
    stand_ins, meters = returning[index]
    read = [stand_in for stand_in in stand_ins if stand_in < len(counts.energy_j)]
    billed_j = sum(counts.energy_j[stand_in] for stand_in in read)
    owed_j[index] = owed_j.get(index, 0.0) + billed_j / meters
    for stand_in in read:
        owed_j.pop(stand_in, None)  # it counts no more
    return max((counts.observed_s[stand_in] for stand_in in read), default=0.0)


def _kept(index: int, step: Joules, owed_j: dict[int, float]) -> Joules:
    """A step and its ends, less what it owes."""
    if index not in owed_j:
        return step
    step_j, left_j = step[0], owed_j[index] - step[0]
    if left_j > 0.0:
        owed_j[index] = left_j
        return (0.0,) * len(step)
    part = -left_j / step_j if step_j > 0.0 else 0.0
    del owed_j[index]
    return tuple(joules * part for joules in step)


def _answers(reading: Reading) -> Iterator[tuple[int, slice, tuple[Any, ...]]]:
    """For each meter that answered: its index, the place of its ends, and its count with them."""
    for index, joules in enumerate(reading.joules):
        if joules is not None:
            ends = _place_of_ends(index, reading)
            yield index, ends, (joules, *reading.ends_j[ends])


def _place_of_ends(index: int, reading: Reading) -> slice:
    """The place of a meter's ends among those of all meters; empty where it counts none."""
    if index not in reading.end_meters:
        return slice(0, 0)
    place = reading.end_meters.index(index)
    return slice(place, place + 2)


def _is_count(joules: object) -> bool:
    # A plugin's meter may return anything.
    return isinstance(joules, (int, float)) and isfinite(joules) and joules >= 0.0


def _widened(counts: Counts, reading: Reading) -> Counts:
    more = len(reading.joules) - len(counts.counts_j)
    more_ends = len(reading.ends_j) - len(counts.ends_j)
    counts = counts._replace(
        counts_j=counts.counts_j + (None,) * more,
        counted_s=counts.counted_s + (counts.at_s,) * more,
        energy_j=counts.energy_j + (0.0,) * more,
        observed_s=counts.observed_s + (0.0,) * more,
        end_counts_j=counts.end_counts_j + (0.0,) * more_ends,
        ends_j=counts.ends_j + (0.0,) * more_ends,
    )
    for index, joined in reading.joined.items():
        counts = _with_joined(counts, index, joined, _place_of_ends(index, reading))
    return counts


def _with_joined(counts: Counts, index: int, joined: StandIn, ends: slice) -> Counts:
    counts_j, counted_s = list(counts.counts_j), list(counts.counted_s)
    end_counts_j = list(counts.end_counts_j)
    counts_j[index], counted_s[index] = joined.joules, joined.since_s
    end_counts_j[ends] = joined.ends_j
    owed_j = counts.owed_j
    if joined.owed_j > 0.0:
        owed_j = {**owed_j, index: joined.owed_j}
    return counts._replace(
        counts_j=tuple(counts_j),
        counted_s=tuple(counted_s),
        end_counts_j=tuple(end_counts_j),
        owed_j=owed_j,
    )


def without_counts(counts: Counts) -> Counts:
    """The same sums; each meter's next answer becomes its new starting point, and owes nothing.

    What a stand-in counted too much is in rows of the time before. Those of another time, or of a
    child process, are not to be short of it.
    """
    counts = counts._replace(counts_j=(None,) * len(counts.counts_j))
    if not counts.owed_j:
        return counts
    return counts._replace(owed_j=_NOTHING_OWED, returning=_NONE_RETURNING)


def with_fault(counts: Counts, code: str, times: int = 1) -> Counts:
    """The same sums with a fault added."""
    return counts._replace(faults={**counts.faults, code: counts.faults.get(code, 0) + times})


def with_suspend(counts: Counts, slept_s: float) -> Counts:
    """The same sums with a suspend of the machine added."""
    counts = with_fault(counts, "suspend")
    return counts._replace(suspended_s=counts.suspended_s + slept_s)


_LONGER_MS = float("inf")
"""More than any gap."""


class ReadingGaps:
    """The gaps between readings that are longer than every later one.

    These form a strictly falling sequence, so the longest gap since an instant is the first that
    ended after it. Gaps are rounded up to a millisecond, which bounds the length of the sequence.
    """

    def __init__(self) -> None:
        self._gaps: list[tuple[float, int]] = []
        """When each ended, and its length in ms."""

    def add(self, ended_s: float, gap_s: float) -> None:
        """Add a gap that ended at `ended_s`, later than all others."""
        gap_ms = ceil(gap_s * 1e3)
        gaps = self._gaps
        while gaps and gaps[-1][1] <= gap_ms:
            gaps.pop()
        gaps.append((ended_s, gap_ms))

    def longest_since(self, since_s: float) -> float | None:
        """The longest gap that ended after `since_s`, in seconds; None where none did."""
        index = bisect_right(self._gaps, (since_s, _LONGER_MS))
        return self._gaps[index][1] / 1e3 if index < len(self._gaps) else None

    def clear(self) -> None:
        """Remove all gaps."""
        self._gaps.clear()


WINDOW_S = 0.05
"""The shortest time over which a mean power is taken: fifty refreshes of a RAPL counter."""
REFRESHES = 5
"""And the fewest refreshes of the meter: within one refresh of a GPU's counter the energy is 0 or
too much, and over five the mean is off by a fifth at most."""


class RecentPowers:
    """The last mean power of each meter, updated from the counts.

    Args:
        counts: the current counts.
        resolutions_s: returns each meter's refresh period, in the order of the counts.
    """

    def __init__(self, counts: Counts, resolutions_s: Callable[[], Sequence[float]]) -> None:
        self._resolutions_s = resolutions_s
        self._refresh_s: Sequence[float] = ()
        self._last_w: list[float | None] = []
        self.restart(counts)

    def restart(self, counts: Counts) -> None:
        """Start new means after a pause, whose energy must not enter them."""
        self.before = self._updated = counts
        self._since = [(counts.at_s, joules) for joules in counts.energy_j]
        self._widen(counts)

    def follow(self, counts: Counts) -> None:
        """Update the mean of each meter that has been observed for long enough."""
        at_s = counts.at_s
        if at_s - self._updated.at_s < WINDOW_S and len(self._since) == len(counts.energy_j):
            return
        self.before, self._updated = self._updated, counts
        self._widen(counts)
        for index, (joules, since) in enumerate(zip(counts.energy_j, self._since, strict=True)):
            elapsed_s = at_s - since[0]
            if elapsed_s >= max(WINDOW_S, REFRESHES * self._refresh_s[index]):
                mean_w = (joules - since[1]) / elapsed_s
                self._last_w[index], self._since[index] = mean_w, (at_s, joules)

    def _widen(self, counts: Counts) -> None:
        width = len(counts.energy_j)
        self._since += [(counts.at_s, joules) for joules in counts.energy_j[len(self._since) :]]
        self._last_w += [None] * (width - len(self._last_w))
        if len(self._refresh_s) < width:
            self._refresh_s = self._resolutions_s()

    def known_w(self, counts: Counts) -> Sequence[float | None]:
        """Each meter's power; None, or no entry, where none is known."""
        return [
            self._recent_w(counts, index) if power_w is None else power_w
            for index, power_w in enumerate(self._last_w)
        ]

    def _recent_w(self, counts: Counts, index: int) -> float | None:
        # No full window yet: take the mean since its start, if the count has moved at all. A step
        # covers at least one refresh period.
        begun_s, begun_j = self._since[index]
        elapsed_s = max(counts.at_s - begun_s, self._refresh_s[index])
        joules = counts.energy_j[index] - begun_j
        return joules / elapsed_s if joules > 0.0 and elapsed_s > 0.0 else None


Recent = tuple[float | None, Sequence[float | None], Counts]
"""What the sums do not have: the longest gap between two readings, None where there was none; the
last known power of each meter, None or no entry where none is known; the counts of a moment before,
from which on the ends show how far off these powers are."""


class ReadingHistory:
    """The longest gaps between readings and the recent power of each meter.

    Args:
        counts: the current counts.
        resolutions_s: returns each meter's refresh period.
    """

    def __init__(self, counts: Counts, resolutions_s: Callable[[], Sequence[float]]) -> None:
        self._powers = RecentPowers(counts, resolutions_s)
        self._gaps = ReadingGaps()

    def follow(self, counts: Counts, gap_s: float | None) -> None:
        """Take in new counts, `gap_s` after the last; None while nothing was open."""
        if gap_s is not None:
            self._gaps.add(counts.at_s, gap_s)
        self._powers.follow(counts)

    def restart(self, counts: Counts) -> None:
        """Start anew after a pause."""
        self._powers.restart(counts)
        self._gaps.clear()

    def since(self, since_s: float, counts: Counts) -> Recent:
        """The longest gap that ended after `since_s`, and the recent powers."""
        powers = self._powers
        return self._gaps.longest_since(since_s), powers.known_w(counts), powers.before
