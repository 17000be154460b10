"""Counters that stand still although they must move: found by other signs, and set aside.

Any processor draws more than 0.1 W and a RAPL counter has a unit of 61 uJ or less, so a live one
changes within 0.6 ms, or at its next refresh. A meter says with `moves_within_s` after how long an
unchanged count cannot be true; for RAPL that is 0.5 s, hundreds of refreshes. Before a counter is
set aside, two more things must hold, because time alone may deceive: a virtual machine can have
been paused, and a clock may be one that a test moves.

- The processors have worked meanwhile, by the system's count or our own; or ten times as long has
  passed, and several readings far from each other saw the same count.
- A counter that has never moved since it was taken in has a tenth of the time. It is not proven:
  the first block of a program may be short, and must not be attributed 0 J by a dead counter.

A counter that moves after all is taken back, and what its stand-in has counted meanwhile is owed
(see `carbontrack.sampling.counts`). It then has more time before it is doubted again: some are
slow, such as those that QEMU shows to a guest, which move once a second.

This module is loaded when a counter is first seen to stand still.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from carbontrack.meters.meter import STANDS_STILL
from carbontrack.record import Component
from carbontrack.sampling.counts import Reading, Returned
from carbontrack.system.clock import CpuTime, cpu_s_before, process_cpu_s
from carbontrack.system.log import DeferredLog
from carbontrack.values import NamedTuple

UNPROVEN: Final = 0.1
"""The part of its time after which a counter that has never moved is doubted."""
WORKED: Final = 0.4
"""Work of the processors that counts as a sign, in CPU seconds per second of the time to wait."""
WORKED_S: Final = 2.0
"""And no more than this, however long that time is."""
WHATEVER_THE_LOAD: Final = 10.0
"""How many times the time must pass where the processors have hardly worked."""
READINGS: Final = 3
"""And in how many readings, each at least that time after the one before."""
_LATER: Final = 4.0
"""How many times as long as it stood still a counter has next time, when it moved after all."""
_LONGEST_S: Final = 60.0


class Bank(Protocol):
    """What is needed of the meter bank."""

    @property
    def states(self) -> Sequence[Any]:
        """The meters in service, stand-ins among them."""
        ...

    @property
    def end_meters(self) -> tuple[int, ...]:
        """For each end that is counted, the index of its meter."""
        ...

    @property
    def deferred_log(self) -> DeferredLog:
        """Messages to be logged once no lock is held."""
        ...

    def stand_in(self, component: Component, told: str) -> int | None:
        """Put the component's substitute in service, and return its index."""
        ...

    def retire(self, component: Component) -> None:
        """Take it out of service again."""
        ...


class Work(NamedTuple):
    """CPU seconds at one instant: the machine's, None where unknown, and this process's.

    The first two are a `CpuTime`.
    """

    at_s: float
    machine_s: float | None
    own_s: float

    def until(self, later: Work) -> float:
        """CPU seconds that have been worked since, at the least."""
        own_s = later.own_s - self.own_s
        if self.machine_s is None or later.machine_s is None:
            return own_s
        return max(own_s, later.machine_s - self.machine_s)


def work_at(now_s: float, machine_s: Callable[[], float | None] | None) -> Work:
    """The CPU seconds up to now."""
    return Work(now_s, machine_s() if machine_s is not None else None, process_cpu_s())


class Bill(NamedTuple):
    """From where a stand-in would count: the instant, all counts and the machine's CPU seconds."""

    at_s: float
    counts_j: tuple[float | None, ...]
    machine_s: float | None

    def count_j(self, index: int) -> float | None:
        """A meter's count then; None where it had none, or was not there yet."""
        return self.counts_j[index] if index < len(self.counts_j) else None


class Watch:
    """One counter that may be standing still.

    Attributes:
        index, within_s: the meter's index, and the time within which it must move.
        count_j, since_s: where it stands, and since when, as far as is known.
        work: the CPU seconds at that instant, or at the first look after it.
        is_proven: whether it has ever moved.
        is_aside: whether it is no longer counted.
    """

    __slots__ = (
        "_patience_s", "_read_at_s", "_readings", "bill", "count_j", "index", "is_aside",
        "is_proven", "since_s", "within_s", "work",
    )  # fmt: skip

    def __init__(self, index: int, within_s: float) -> None:
        self.index, self.within_s = index, within_s
        self.is_proven = self.is_aside = False
        self._patience_s = 0.0

    def begin(self, counts_j: tuple[float | None, ...], work: Work, since_s: float) -> None:
        """Watch it from here: it has just moved, or was just taken in."""
        self.count_j, self.since_s, self.work = counts_j[self.index] or 0.0, since_s, work
        # from where on a substitute would count its energy
        self.bill = Bill(since_s, counts_j, None)
        self._readings, self._read_at_s = 0, since_s

    @property
    def bound_s(self) -> float:
        """How long it may stand still where the processors work."""
        bound_s = self.within_s if self.is_proven else self.within_s * UNPROVEN
        return max(bound_s, self._patience_s)

    def moved(self, now_s: float) -> None:
        """It has moved: it is proven, and slower than was thought if it had been set aside."""
        if self.is_aside:
            self._patience_s = min(_LONGEST_S, _LATER * (now_s - self.since_s))
        self.is_proven, self.is_aside = True, False

    def must_have_moved(self, now_s: float, work_now: Callable[[], Work]) -> bool:
        """Whether a count that is still the same cannot be true."""
        stood_s, bound_s = now_s - self.since_s, self.bound_s
        if stood_s < bound_s:
            return False
        if now_s - self._read_at_s >= bound_s:
            self._readings, self._read_at_s = self._readings + 1, now_s
        if self.work.until(work_now()) >= min(WORKED * bound_s, WORKED_S):
            return True
        long_s = WHATEVER_THE_LOAD * max(self.within_s, bound_s)
        return stood_s >= long_s and self._readings >= READINGS

    def billed_from(self, now: Work) -> CpuTime:
        """From when on a stand-in counts, with the machine's CPU seconds then.

        Where these were noted later only, as if the processors had worked evenly since.
        """
        at_s, machine_s = self.bill.at_s, self.bill.machine_s
        if machine_s is None:
            machine_s = cpu_s_before(at_s, self.work[:2], now[:2])
        return at_s, machine_s


class Aside(NamedTuple):
    """A component whose meters are set aside: their indices, and those of what stands in.

    A sensor may cover more than its own component; each of them has a stand-in.
    """

    meters: tuple[int, ...]
    stand_ins: Mapping[Component, int]


class Stillness:
    """The watches of a bank's counters, and what is done about those that stand still."""

    def __init__(
        self, watched: Mapping[int, float], machine_s: Callable[[], float | None] | None
    ) -> None:
        self._within_s = watched
        self._machine_s = machine_s
        self._known: dict[int, Watch] = {}
        self._aside: dict[Component, Aside] = {}
        self._slept = set[Component]()
        """Those of them that were already when the time that counts began."""
        self.active: list[Watch] = []
        """Those that have not moved since they were last looked at, or are set aside."""

    def watch(
        self, index: int, counts_j: tuple[float | None, ...], work: Work, since_s: float
    ) -> Watch:
        """Watch the counter of this index, which has stood at its count since then."""
        watch = self._known.setdefault(index, Watch(index, self._within_s[index]))
        if watch not in self.active:
            watch.begin(counts_j, work, since_s)
            self.active.append(watch)
        return watch

    def begin(self, index: int, first: Reading, machine_s: float | None, own_s: float) -> None:
        """Watch a counter from its first reading on, with the CPU seconds at that instant."""
        watch = self.watch(index, first.joules, Work(first.at_s, machine_s, own_s), first.at_s)
        watch.bill = watch.bill._replace(machine_s=machine_s)

    def suspect(
        self, index: int, counts_j: tuple[float | None, ...], now_s: float, since_s: float
    ) -> None:
        """Watch a counter that has moved before."""
        work = work_at(now_s, self._machine_s)
        self.watch(index, counts_j, work, since_s).is_proven = True

    def forget(self, index: int) -> None:
        """Another meter has this index now."""
        watch = self._known.pop(index, None)
        if watch in self.active:
            watch.is_aside = False
            self.active.remove(watch)

    def woke(self, reading: Reading, machine_s: float | None) -> None:
        """Energy of the time before belongs to nobody, so no stand-in may bring it."""
        self._slept = set(self._aside)
        for watch in self.active:
            watch.bill = Bill(reading.at_s, reading.joules, machine_s)

    def compare(
        self, bank: Bank, reading: Reading, faults: Mapping[str, int]
    ) -> tuple[Reading, Mapping[str, int]]:
        """The reading without the counters that stand still, and with their stand-ins."""
        now_s, work = reading.at_s, list[Work]()

        def work_now() -> Work:
            if not work:
                work.append(work_at(now_s, self._machine_s))
            return work[0]

        still = list[Watch]()
        for watch in self.active.copy():
            count_j = reading.joules[watch.index]
            if count_j is None:
                continue
            if count_j > watch.count_j:
                watch.moved(now_s)
                self.active.remove(watch)
            elif watch.index in reading.returned:  # a stand-in has counted up to now
                watch.begin(reading.joules, work_now(), now_s)
            elif not watch.is_aside and watch.must_have_moved(now_s, work_now):
                still.append(watch)
        reading = self._without_aside(bank, reading)
        for watch in still:
            faults = {**faults, STANDS_STILL: faults.get(STANDS_STILL, 0) + 1}
            reading = self._set_aside(bank, watch, reading, work_now())
        return reading, faults

    def tell_standing_faults(self, faults: dict[str, int]) -> None:
        """Put into `faults` how many counters are set aside now, which every record says."""
        aside = sum(watch.is_aside for watch in self.active)
        faults.pop(STANDS_STILL, None)
        if aside:
            faults[STANDS_STILL] = aside

    def _without_aside(self, bank: Bank, reading: Reading) -> Reading:
        if not self._aside:
            return reading
        joules, returned = list(reading.joules), dict(reading.returned)
        for component, (meters, stand_ins) in tuple(self._aside.items()):
            if any(watch.is_aside for watch in self.active if watch.index in meters):
                for index in meters:
                    joules[index] = None
                continue
            del self._aside[component]
            for name in stand_ins:
                bank.retire(name)
            back = Returned(tuple(stand_ins.values()), len(meters))
            if component in self._slept:  # its meters begin to count now: nothing is covered twice
                self._slept.remove(component)
                back = back._replace(stand_ins=())
            for index in back.stand_ins:
                joules[index] = None
            for index in meters:
                if joules[index] is None:
                    bank.states[index].covered = back
                else:
                    returned[index] = back
        return reading._replace(joules=tuple(joules), returned=returned)

    def _set_aside(self, bank: Bank, watch: Watch, reading: Reading, now: Work) -> Reading:
        """Stop to count a component by its meters; a stand-in has counted since it was last true.

        The other meters of the component have counted up to now: what they have is owed.
        """
        watch.is_aside = True
        state = bank.states[watch.index]
        component = state.meter.component
        told = (
            f"{state.meter.id} has not changed for {now.at_s - watch.since_s:.2g} s, while the "
            f"processors worked for {watch.work.until(now):.2g} CPU seconds"
        )
        if component in self._aside:
            bank.deferred_log.add(logging.WARNING, told)
            return reading
        meters = tuple(
            index
            for index, other in enumerate(bank.states)
            if other.meter.component == component and not (other.is_substitute or other.gone)
        )
        owed_j = sum(
            max(0.0, now_j - then_j)
            for index in meters
            if (now_j := reading.joules[index]) is not None
            and (then_j := watch.bill.count_j(index)) is not None
        )
        stand_ins: dict[Component, int] = {}
        covered = set[Component](getattr(state.meter, "covers", ())) - {component}
        for name in (component, *sorted(covered)):
            stand_in = bank.stand_in(name, told)
            if stand_in is not None:
                stand_ins[name] = stand_in
                reading = _joined(bank, stand_in, reading, watch.billed_from(now), owed_j)
                owed_j = 0.0
        self._aside[component] = Aside(meters, stand_ins)
        return reading


def _joined(
    bank: Bank,
    index: int,
    reading: Reading,
    billed_from: CpuTime,
    owed_j: float,
) -> Reading:
    """The reading with the count of a stand-in that has counted since an instant before it."""
    state = bank.states[index]
    start = state.count_from(*billed_from)
    now_j, ends = state.read(reading.at_s), tuple[float | None, ...]()
    if state.place_of_ends is not None:
        ends = state.ends(reading.at_s) or (None, None)
    joined = dict(reading.joined)
    if start is not None and now_j is not None:
        joined[index] = start._replace(owed_j=owed_j)
    return reading._replace(
        joules=(*reading.joules, now_j),
        ends_j=(*reading.ends_j, *ends),
        end_meters=bank.end_meters,
        joined=joined,
    )
