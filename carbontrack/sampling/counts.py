"""The counts of the machine's meters: cumulative energy, and the time for which it is known.

`advance` is a pure function: the old `Counts` and a `Reading` give the new `Counts`. A meter that
does not answer adds nothing now; its next answer brings what was missed. A value that is not a
number counts as no answer. So does a count that fell or rose implausibly, the first time; the
second time in a row the counter is taken as reset, and counting goes on from the new value.

The ends that some meters count (`low_j`, `high_j`) are summed in addition to the energy, number by
number. A meter's count and its ends are one reading: they are accepted, dropped, or doubted
together.

Where a stand-in has counted instead of a meter, the meter's next step covers that time once more.
The stand-in's energy is then owed: it is subtracted from the meter's steps until it is made up. So
no step is below 0, no written row changes, and the sum of both is the meter's energy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import repeat
from math import isfinite
from operator import add, le, sub
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
        missed: the number of meters that should have had a value and did not.
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


def sub_joules(later: Joules, earlier: Joules) -> Joules:
    """Meter by meter; `later` is at least as long, and what it has more began at 0."""
    return tuple(map(sub, later, earlier)) + later[len(earlier) :]


class Anchor(NamedTuple):
    """What the meters had counted when something other than a plain step was last taken in.

    Attributes:
        counts_j, counted_s: each meter's last known count, None before its first, and its instant.
        energy_j: each meter's energy by that count.
        observed_s: the part of the time by then for which each meter's energy is known.
        missed: failed reads of single meters.
        suspended_s: how long the machine was suspended.
        faults: the number of faults by code.
        doubted: indices of meters whose last answer was implausible.
        end_counts_j: the ends of each meter's last known count.
        ends_j: the ends of each meter's energy.
        owed_j: by index, the joules that are kept back from the meter's next steps.
        returning: by index, the meters that count again, and whose answer was not believed yet;
            what each owes is not known before, and stands as 0 in `owed_j`.
        plain_width: how many counts and ends there are; -1 where the next step cannot be plain, as
            a count is unknown or doubted, or something is owed.
    """

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
    plain_width: int = -1


_NOTHING = Anchor()


class Counts(NamedTuple):
    """What the meters have counted since the sampler started; immutable.

    A plain step, in which every meter has moved on plausibly, changes the counts only. The sums are
    those of the anchor and the difference of the counts, computed when they are asked for, so
    they do not depend on the number of steps.

    Attributes:
        at_s: the instant of the last reading.
        counts_j: each meter's last known count, None before its first.
        end_counts_j: the ends of these counts.
        anchor: the sums as of an earlier reading, or of this one.
    """

    at_s: float
    counts_j: tuple[float | None, ...] = ()
    end_counts_j: Joules = ()
    anchor: Anchor = _NOTHING

    @classmethod
    def of(cls, at_s: float, **sums: Any) -> Counts:
        """The counts whose anchor has these sums, at this instant."""
        return _at_anchor(at_s, Anchor(**sums))

    @property
    def energy_j(self) -> Joules:
        """Each meter's energy so far."""
        base = self.anchor
        if self.counts_j is base.counts_j:
            return base.energy_j
        return tuple(map(add, base.energy_j, map(sub, self.counts_j, base.counts_j)))

    @property
    def ends_j(self) -> Joules:
        """The ends of each meter's energy so far."""
        base = self.anchor
        if self.counts_j is base.counts_j:
            return base.ends_j
        return tuple(map(add, base.ends_j, map(sub, self.end_counts_j, base.end_counts_j)))

    def energy_since(self, earlier: Counts) -> Joules:
        """Each meter's energy since then; a meter that has joined meanwhile began at 0."""
        now_j, then_j = self.counts_j, earlier.counts_j
        if self.anchor.counts_j is not earlier.anchor.counts_j:
            now_j, then_j = self.energy_j, earlier.energy_j
        elif now_j is then_j:
            return (0.0,) * len(now_j)
        return sub_joules(now_j, then_j)  # type: ignore[arg-type]

    def ends_since(self, earlier: Counts) -> Joules:
        """The ends of each meter's energy since then."""
        if self.anchor.counts_j is not earlier.anchor.counts_j:
            return sub_joules(self.ends_j, earlier.ends_j)
        return tuple(map(sub, self.end_counts_j, earlier.end_counts_j))

    @property
    def observed_s(self) -> tuple[float, ...]:
        """The part of the time so far for which each meter's energy is known."""
        base = self.anchor
        if self.counts_j is base.counts_j:
            return base.observed_s
        return tuple(map(add, base.observed_s, map(sub, repeat(self.at_s), base.counted_s)))

    @property
    def counted_s(self) -> tuple[float, ...]:
        """The instant of each meter's last known count."""
        if self.counts_j is self.anchor.counts_j:
            return self.anchor.counted_s
        return (self.at_s,) * len(self.counts_j)

    @property
    def missed(self) -> int:
        """Failed reads of single meters."""
        return self.anchor.missed

    @property
    def suspended_s(self) -> float:
        """How long the machine was suspended."""
        return self.anchor.suspended_s

    @property
    def faults(self) -> Mapping[str, int]:
        """The number of faults by code."""
        return self.anchor.faults

    @property
    def owed_j(self) -> Mapping[int, float]:
        """By index, the joules that are kept back from the meter's next steps."""
        return self.anchor.owed_j

    def summed(self) -> Anchor:
        """All sums as of now: the anchor of what follows."""
        base = self.anchor
        if self.counts_j is base.counts_j:
            return base
        return base._replace(
            counts_j=self.counts_j,
            counted_s=self.counted_s,
            energy_j=self.energy_j,
            observed_s=self.observed_s,
            end_counts_j=self.end_counts_j,
            ends_j=self.ends_j,
        )

    def with_sums(
        self, at_s: float, energy_j: Joules, observed_s: tuple[float, ...], ends_j: Joules
    ) -> Counts:
        """The same counts at another instant, with other sums."""
        base = self.summed()
        return _at_anchor(
            at_s, base._replace(energy_j=energy_j, observed_s=observed_s, ends_j=ends_j)
        )

    def after(self, at_s: float, joules: tuple[Any, ...], ends_j: tuple[Any, ...]) -> Counts | None:
        """The counts after a plain step; None where it is none, and must be looked at closely."""
        _, last_j, last_ends_j, base = self
        now: tuple[Any, ...] = joules + ends_j
        last: tuple[Any, ...] = last_j + last_ends_j
        try:
            if (
                len(now) == base.plain_width
                and False not in map(le, last, now)
                and sum(now) < IMPOSSIBLE_J  # so is each step, as no count is below 0
            ):
                return Counts(at_s, joules, ends_j, base)
        except TypeError:  # a meter has not answered, or not with a number
            pass
        return None


def _at_anchor(at_s: float, base: Anchor) -> Counts:
    return Counts(at_s, base.counts_j, base.end_counts_j, base)


def advance(counts: Counts, reading: Reading) -> tuple[Counts, Joules, Joules]:
    """Add a reading; returns the new counts, each meter's step since the old ones, and their ends.

    A missed read neither invents nor loses energy.
    """
    base = counts.summed()
    if len(reading.joules) > len(base.counts_j):
        base = _widened(base, counts.at_s, reading)
    if base.counts_j.count(None) == len(base.counts_j) and not (reading.missed or reading.returned):
        answers = reading.joules + reading.ends_j
        if all(map(_is_count, answers)):
            return _begun(base, reading)
    base, steps, end_steps = _advance(base, reading)
    return _at_anchor(reading.at_s, base), steps, end_steps


def _begun(base: Anchor, reading: Reading) -> tuple[Counts, Joules, Joules]:
    """No count was known, as before the first reading and after a pause: begin at these."""
    joules: Any = reading.joules
    ends_j: Any = reading.ends_j
    base = base._replace(
        counts_j=joules,
        counted_s=(reading.at_s,) * len(joules),
        doubted=_NONE_DOUBTED,
        end_counts_j=ends_j,
        returning=_NONE_RETURNING,
        plain_width=-1 if base.owed_j else _plain_width(joules, ends_j),
    )
    zeros, end_zeros = (0.0,) * len(joules), (0.0,) * len(ends_j)
    return _at_anchor(reading.at_s, base), zeros, end_zeros


def _advance(base: Anchor, reading: Reading) -> tuple[Anchor, Joules, Joules]:
    steps, observed_s = [0.0] * len(reading.joules), list(base.observed_s)
    counts_j, counted_s = list(base.counts_j), list(base.counted_s)
    end_steps, end_counts_j = [0.0] * len(reading.ends_j), list(base.end_counts_j)
    doubted, missed, resets = set[int](), 0, 0
    owed_j, returning = dict(base.owed_j), {**base.returning, **reading.returned}
    for index, ends, answer in _answers(reading):
        if not all(map(_is_count, answer)):
            missed += 1
            continue
        if counts_j[index] is not None and index not in reading.dropped:
            step = tuple(map(sub, answer, (counts_j[index], *end_counts_j[ends])))
            if all(0.0 <= step_j < IMPOSSIBLE_J for step_j in step):
                covered_s = _settle(index, returning, base, owed_j)
                steps[index], *end_steps[ends] = _kept(index, step, owed_j)
                if index not in reading.lower_bounds:
                    observed_s[index] += max(0.0, reading.at_s - counted_s[index] - covered_s)
            elif index not in base.doubted:
                doubted.add(index)
                continue
            else:
                resets += 1
        returning.pop(index, None)
        counted_s[index] = reading.at_s
        counts_j[index], *end_counts_j[ends] = answer
    base = Anchor(
        tuple(counts_j),
        tuple(counted_s),
        tuple(map(add, base.energy_j, steps)),
        tuple(observed_s),
        base.missed + reading.missed + missed + len(doubted),
        base.suspended_s,
        _plus_faults(base.faults, "reset", resets),
        frozenset(doubted),
        tuple(end_counts_j),
        tuple(map(add, base.ends_j, end_steps)),
        dict.fromkeys(returning, 0.0) | owed_j if returning else owed_j,
        returning,
        -1 if doubted or owed_j or returning else _plain_width(counts_j, end_counts_j),
    )
    return base, tuple(steps), tuple(end_steps)


def _plain_width(counts_j: Sequence[float | None], end_counts_j: Sequence[float]) -> int:
    return -1 if None in counts_j else len(counts_j) + len(end_counts_j)


def _settle(
    index: int, returning: Mapping[int, Returned], base: Anchor, owed_j: dict[int, float]
) -> float:
    """A meter counts again: its step owes what its stand-in counted; returns for how long that."""
    if index not in returning:
        return 0.0
    stand_ins, meters = returning[index]
    read = [stand_in for stand_in in stand_ins if stand_in < len(base.energy_j)]
    billed_j = sum(base.energy_j[stand_in] for stand_in in read)
    owed_j[index] = owed_j.get(index, 0.0) + billed_j / meters
    for stand_in in read:
        owed_j.pop(stand_in, None)  # it counts no more
    return max((base.observed_s[stand_in] for stand_in in read), default=0.0)


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


def _widened(base: Anchor, at_s: float, reading: Reading) -> Anchor:
    more = len(reading.joules) - len(base.counts_j)
    more_ends = len(reading.ends_j) - len(base.ends_j)
    base = base._replace(
        counts_j=base.counts_j + (None,) * more,
        counted_s=base.counted_s + (at_s,) * more,
        energy_j=base.energy_j + (0.0,) * more,
        observed_s=base.observed_s + (0.0,) * more,
        end_counts_j=base.end_counts_j + (0.0,) * more_ends,
        ends_j=base.ends_j + (0.0,) * more_ends,
    )
    for index, joined in reading.joined.items():
        base = _with_joined(base, index, joined, _place_of_ends(index, reading))
    return base


def _with_joined(base: Anchor, index: int, joined: StandIn, ends: slice) -> Anchor:
    counts_j, counted_s = list(base.counts_j), list(base.counted_s)
    end_counts_j = list(base.end_counts_j)
    counts_j[index], counted_s[index] = joined.joules, joined.since_s
    end_counts_j[ends] = joined.ends_j
    owed_j = base.owed_j
    if joined.owed_j > 0.0:
        owed_j = {**owed_j, index: joined.owed_j}
    return base._replace(
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
    base = counts.summed()
    base = base._replace(counts_j=(None,) * len(base.counts_j), plain_width=-1)
    if base.owed_j:
        base = base._replace(owed_j=_NOTHING_OWED, returning=_NONE_RETURNING)
    return _at_anchor(counts.at_s, base)


def without_counts_of(counts: Counts, indices: Collection[int]) -> Counts:
    """The same sums; the next answer of these meters becomes their new starting point."""
    base = counts.summed()
    counts_j = tuple(None if i in indices else j for i, j in enumerate(base.counts_j))
    return _at_anchor(counts.at_s, base._replace(counts_j=counts_j, plain_width=-1))


def with_missed(counts: Counts, missed: int) -> Counts:
    """The same sums with another number of failed reads."""
    return _with(counts, missed=missed)


def with_fault(counts: Counts, code: str, times: int = 1) -> Counts:
    """The same sums with a fault added."""
    return _with(counts, faults=_plus_faults(counts.faults, code, times))


def _plus_faults(faults: Mapping[str, int], code: str, times: int) -> Mapping[str, int]:
    if not times:
        return faults
    return {**faults, code: faults.get(code, 0) + times}


def with_suspend(counts: Counts, slept_s: float) -> Counts:
    """The same sums with a suspend of the machine added."""
    counts = with_fault(counts, "suspend")
    return _with(counts, suspended_s=counts.suspended_s + slept_s)


def _with(counts: Counts, **changed: Any) -> Counts:
    return counts._replace(anchor=counts.anchor._replace(**changed))
