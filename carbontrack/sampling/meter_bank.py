"""The meter bank: reads all meters, replaces those that fail, and takes them back.

A meter only reads or raises. A short failure needs no action, because the next count includes the
missed energy. After three silent ticks or ten seconds the next best meter of the same component,
its substitute, covers the outage. When the lost meter answers again, its step covers that time once
more: the energy that the substitute has counted is then subtracted from its steps
(`counts.Returned`).

A counter that answers and stands still although it must move is found by `stillness`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import attrgetter, eq, methodcaller
from typing import TYPE_CHECKING, Final, TypeVar

from carbontrack.errors import MeterError, MeterGone
from carbontrack.meters.meter import (
    BESIDE_CPU_TIME,
    LOWER_BOUND,
    STANDS_STILL,
    Meter,
    MeterSet,
    counts_ends,
    counts_faults,
    max_period_s,
    moves_within_s,
)
from carbontrack.record import Component
from carbontrack.sampling.counts import Counts, Reading, Returned, StandIn
from carbontrack.system.clock import CpuTime, cpu_s_before, process_cpu_s
from carbontrack.system.forking import holding_forks
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import DeferredLog

if TYPE_CHECKING:
    from carbontrack.sampling.stillness import Stillness

LOST_AFTER_TICKS: Final = 3
LOST_AFTER_S: Final = 10.0
FIRST_LOOK_S: Final = 0.05
"""A count that has not moved for less is not looked at more closely."""

_NO_FAULTS: Mapping[str, int] = {}
_NO_COUNTS: Final = Counts(0.0)
_ENDS, _FAULTS = attrgetter("low_j", "high_j"), attrgetter("fault_counts")
_log = logging.getLogger("carbontrack")
T = TypeVar("T")


class MeterState:
    """One meter in service, and its state between two reads."""

    __slots__ = (
        "_counting",
        "_deferred_log",
        "_faults",
        "covered",
        "failed_ticks",
        "gone",
        "gone_counted",
        "is_substitute",
        "meter",
        "place_of_ends",
        "silent_since_s",
        "silent_work",
    )  # fmt: skip

    def __init__(
        self, meter: Meter, deferred_log: DeferredLog, *, is_substitute: bool = False
    ) -> None:
        self.meter = meter
        self._deferred_log = deferred_log
        self.is_substitute = is_substitute
        self.place_of_ends: int | None = None
        """Where its ends are among those of all meters; None where it counts none."""
        self.gone = False
        """Whether it will never be read again."""
        self.gone_counted = False
        self.covered: Returned | None = None
        """The substitute that has counted since its last answer."""
        self.failed_ticks = 0
        self.silent_since_s: float | None = None
        self.silent_work: CpuTime | None = None
        """When it fell silent, with the machine's CPU seconds then."""
        self._counting = meter if counts_faults(meter) else None
        self._faults = dict(self._counting.fault_counts) if self._counting else {}

    def read(self, now_s: float) -> float | None:
        """The count; None if the meter fails, whatever it raises."""
        return None if self.gone else self._asked(partial(self.meter.read_joules, now_s), now_s)

    def ends(self, now_s: float) -> tuple[float, float] | None:
        """The ends as of the last read; None if the meter fails, whatever it raises."""
        return self._asked(partial(_ENDS, self.meter), now_s)

    def count_from(self, since_s: float, machine_s: float | None) -> StandIn | None:
        """Let a substitute count from an instant before now; None if it does not answer.

        `machine_s` is how long the processors had worked at that instant.
        """
        begin_at = getattr(self.meter, "begin_at", None)
        if begin_at is not None and machine_s is not None:
            begin_at(since_s, machine_s)
        start_j = self.read(since_s)
        ends = self.ends(since_s) if self.place_of_ends is not None else ()
        return None if start_j is None or ends is None else StandIn(since_s, start_j, ends)

    def _asked(self, question: Callable[[], T], now_s: float) -> T | None:
        try:
            return question()
        except Exception as error:
            pass_on(error)
            self.mark_silent(error, now_s)
        return None

    def mark_silent(self, error: Exception, now_s: float) -> None:
        """Take in that the meter did not answer; any exception of a plugin counts as silence."""
        if isinstance(error, MeterGone):
            self.gone = True
            self._deferred_log.add(logging.WARNING, f"meter {self.meter.id} is gone: {error}")
        elif isinstance(error, MeterError):
            self._deferred_log.add(logging.DEBUG, f"meter {self.meter.id} is silent: {error}")
        elif not self.failed_ticks:
            self._deferred_log.add(logging.ERROR, f"meter {self.meter.id} failed", error)
        if self.silent_since_s is None:
            self.silent_since_s = now_s
            self.silent_work = None

    def new_faults(self) -> Mapping[str, int]:
        """The faults that the meter has counted since the last call, by code."""
        faults = self._counting.fault_counts if self._counting is not None else _NO_FAULTS
        if not faults or faults == self._faults:
            return _NO_FAULTS
        new = {code: times - self._faults.get(code, 0) for code, times in faults.items()}
        self._faults = dict(faults)
        return new

    def is_lost(self, now_s: float) -> bool:
        """Whether the silence has lasted so long that a substitute should take over."""
        if self.silent_since_s is None:
            return False
        long_s = now_s - self.silent_since_s
        return self.gone or self.failed_ticks >= LOST_AFTER_TICKS or long_s >= LOST_AFTER_S


class MeterBank:
    """All meters in service. A meter keeps its index; a substitute is appended at the end."""

    def __init__(self, meters: MeterSet) -> None:
        self.deferred_log = DeferredLog()
        """Messages to be logged once no lock is held."""
        self.substitutes = dict(meters.substitutes)
        """By component, how to make what stands in for its meters."""
        self.stand_ins: dict[Component, MeterState] = {}
        """Those in service."""
        self.states = [MeterState(meter, self.deferred_log) for meter in meters]
        self._all_answer = self._is_plain = True
        self._note_fault_counting()
        self._meters = [state.meter for state in self.states]
        self.end_meters: tuple[int, ...] = ()
        """For each end that is counted, low and high in turn, the index of its meter."""
        self.with_ends: list[Meter] = []
        self._joules: tuple[float | None, ...] = ()
        self._ends_j: tuple[float | None, ...] = ()
        for index, state in enumerate(self.states):
            self.take_ends(index, state)
        self.standing_faults: dict[str, int] = {}  # of counters that are set aside now
        self.watch = CounterWatch(self.states, meters.busy_s)
        self._is_plain = self._is_plain and not self.watch.is_on
        self.ticked = _NO_COUNTS
        """Those of the last tick, or of a later instant at which counting began."""
        self.joining: dict[int, StandIn] = {}  # that come with the next reading

    def wake(self) -> None:
        """The time before the next reading is attributed to no span."""
        self.watch.woke = True
        if not self._all_answer:
            for state in self.states:  # a lost meter begins anew: it covers nothing
                if state.covered is not None:
                    state.covered = state.covered._replace(stand_ins=())

    def take_ends(self, index: int, state: MeterState) -> None:
        """Give the ends of a meter that counts them their place, behind those of all others."""
        if counts_ends(state.meter):
            state.place_of_ends = len(self.end_meters)
            self.with_ends.append(state.meter)
            self.end_meters += (index, index)

    @property
    def max_period_s(self) -> float:
        """The longest time between two reads at which no meter loses a wrap."""
        limits = (max_period_s(state.meter) for state in self.states)
        return min((limit for limit in limits if limit), default=float("inf"))

    def resolutions_s(self) -> list[float]:
        """Each meter's refresh period: the time between two changes of its count."""
        return [state.meter.resolution_s for state in self.states]

    def read(self, now_s: float) -> tuple[Reading, Mapping[str, int]]:
        """Read every meter; returns the reading and the new faults by code."""
        self.step(_NO_COUNTS, now_s)
        return self.judge(now_s)

    def step(self, before: Counts, now_s: float) -> Counts | None:
        """Read every meter; returns the counts after a plain step.

        None if something other than the counts may have changed; `judge` determines what.
        """
        if not self._all_answer:
            self._joules = tuple([state.read(now_s) for state in self.states])
            return None
        answers: list[float | None] = []
        try:  # those before an error are kept
            answers += map(methodcaller("read_joules", now_s), self._meters)
            if self.with_ends:
                self._ends_j = tuple(chain.from_iterable(map(_ENDS, self.with_ends)))
        except Exception as error:
            pass_on(error)
            self._all_answer = self._is_plain = False
            _read_the_rest(self.states, error, answers, now_s)
        self._joules = joules = tuple(answers)
        if self._is_plain and list(map(_FAULTS, self._fault_meters)) == self._known_faults:
            return before.after(now_s, joules, self._ends_j)
        return None

    def judge(self, now_s: float) -> tuple[Reading, Mapping[str, int]]:
        """The reading for which `step` has returned None, and the new faults by code."""
        joules, faults = self._joules, _NO_FAULTS
        if not self._is_plain:
            return self._with_more(now_s, joules)
        reading = Reading(now_s, joules)
        if list(map(_FAULTS, self._fault_meters)) != self._known_faults:
            reading, faults = self._with_faults(now_s, joules)
        return reading._replace(ends_j=self._ends_j, end_meters=self.end_meters), faults

    def _with_more(
        self, now_s: float, joules: tuple[float | None, ...]
    ) -> tuple[Reading, Mapping[str, int]]:
        """Some meter has not answered, or counts its ends as well."""
        if not self._all_answer:
            joules, self._ends_j = _asked_for_ends(self, now_s, joules)
            reading, faults = self._with_returns(now_s, joules)
        elif any(map(_FAULTS, self._fault_meters)):
            reading, faults = self._with_faults(now_s, joules)
        elif self.watch.is_on or self.joining:
            reading, faults = Reading(now_s, joules), _NO_FAULTS
        else:
            return Reading(now_s, joules, self._ends_j, self.end_meters), _NO_FAULTS
        reading = reading._replace(ends_j=self._ends_j, end_meters=self.end_meters)
        if self.joining:
            reading, self.joining = reading._replace(joined=self.joining), {}
            self.refresh()
        return self.watch.compare(self, reading, faults) if self.watch.is_on else (reading, faults)

    def refresh(self) -> None:
        """Update the list of meters, and whether all of them have a value."""
        self._is_plain = self._all_answer and not (self.watch.is_on or self.joining)
        self._meters = [state.meter for state in self.states]

    def _with_faults(
        self, now_s: float, joules: tuple[float | None, ...]
    ) -> tuple[Reading, Mapping[str, int]]:
        faults: dict[str, int] = {}
        dropped, lower_bounds = set[int](), set[int]()
        for index, state in self._fault_counting:
            _classify(index, state.new_faults(), dropped, lower_bounds, faults)
        self._know_faults()
        if not faults:
            return Reading(now_s, joules), faults
        return Reading(
            now_s, joules, (), (), 0, frozenset(dropped), frozenset(lower_bounds)
        ), faults

    def _with_returns(
        self, now_s: float, joules: tuple[float | None, ...]
    ) -> tuple[Reading, Mapping[str, int]]:
        faults: dict[str, int] = {}
        dropped, lower_bounds, silent = set[int](), set[int](), 0
        returned: dict[int, Returned] = {}
        for index, state in enumerate(self.states):
            _classify(index, state.new_faults(), dropped, lower_bounds, faults)
            if state.gone and not state.gone_counted:
                state.gone_counted = True
                _add_faults({"gone": 1}, faults)
            if joules[index] is not None:
                state.silent_since_s, state.failed_ticks = None, 0
                if state.covered is not None:
                    returned[index], state.covered = state.covered, None
                    self.retire(state.meter.component)
            elif state.silent_since_s is not None:
                silent += 1
                if state.silent_work is None:
                    state.silent_work = now_s, self.watch.machine_s()
        if returned:  # from this reading on the substitute counts no more
            back = {index for one in returned.values() for index in one.stand_ins}
            joules = tuple(None if i in back else j for i, j in enumerate(joules))
        reading = Reading(now_s, joules, (), (), silent, frozenset(dropped),
                          frozenset(lower_bounds), {}, returned)  # fmt: skip
        return reading, faults

    def replace_lost(self, now_s: float, counts: Counts = _NO_COUNTS) -> Mapping[str, int]:
        """Put substitutes in service for lost meters, once a tick; returns faults by code.

        A substitute counts from its meter's last answer on, which `counts` tells.
        """
        ticked = self.ticked
        self.ticked = counts
        if True in map(eq, ticked.counts_j, counts.counts_j):
            self.ticked = self.watch.suspect(ticked, counts)
            self._is_plain = self._is_plain and not self.watch.is_on
        if self._all_answer:
            return _NO_FAULTS
        faults: dict[str, int] = {}
        for state in self.states:
            state.failed_ticks += state.silent_since_s is not None
        for component in {state.meter.component for state in self.states if state.is_lost(now_s)}:
            if _substitute(self, component, now_s, counts):
                _add_faults({"substituted": 1}, faults)
        self._all_answer = not any(s.gone or s.silent_since_s is not None for s in self.states)
        self.refresh()
        return faults

    def stand_in(self, component: Component, told: str) -> int | None:
        """Put the component's substitute in service, and return its index; None: there is none.

        `told` is why, for the log.
        """
        make = self.substitutes.pop(component, None)
        try:
            substitute = None if make is None else MeterState(
                make(), self.deferred_log, is_substitute=True
            )  # fmt: skip
        except MeterError as error:
            told, substitute = f"{told} ({error})", None
        if substitute is None:
            self.deferred_log.add(logging.WARNING, f"{told}; there is no substitute for it")
            return None
        self.deferred_log.add(logging.WARNING, f"{told}; {substitute.meter.id} replaces it")
        self.stand_ins[component] = substitute
        index = len(self.states)
        self.take_ends(index, substitute)
        self.states.append(substitute)
        self.refresh()
        return index

    def retire(self, component: Component) -> None:
        """Take the component's substitute out of service: its meters count again."""
        substitute = self.stand_ins.pop(component, None)
        if substitute is not None:
            substitute.gone = substitute.gone_counted = True
            substitute.silent_since_s = None
            self.substitutes[component] = lambda: substitute.meter
            self._all_answer = self._is_plain = False
            self.deferred_log.add(logging.WARNING, f"{component} is measured again")

    def read_singly(self) -> None:
        """Read each meter separately until the next tick, which checks whether all have a value."""
        self._all_answer = self._is_plain = False
        self._note_fault_counting()

    def _note_fault_counting(self) -> None:
        counting = [
            (index, state, state.meter)
            for index, state in enumerate(self.states)
            if counts_faults(state.meter) and not state.gone
        ]
        self._fault_counting = [(index, state) for index, state, _ in counting]
        self._fault_meters = [meter for _, _, meter in counting]
        self._know_faults()

    def _know_faults(self) -> None:
        self._known_faults = [dict(meter.fault_counts) for meter in self._fault_meters]

    def rest(self) -> None:
        """Let the meters close what they hold open, until the next read."""
        for rest in [getattr(state.meter, "rest", None) for state in self.states]:
            if callable(rest):
                rest()

    def close(self) -> None:
        """Close every meter; one that fails to close is logged."""
        for state in self.states:
            try:
                state.meter.close()
            except Exception as error:
                pass_on(error)
                _log.exception("meter %s did not close", state.meter.id)


def _read_the_rest(
    states: Sequence[MeterState], error: Exception, joules: list[float | None], now_s: float
) -> None:
    """Read the meters after the one that raised.

    Each once, because a second reading would hide a failure.
    """
    index = len(joules)
    if index < len(states):  # else all have answered, and the ends are asked for again
        states[index].mark_silent(error, now_s)
        joules.append(None)
        joules.extend(state.read(now_s) for state in states[index + 1 :])


def _asked_for_ends(
    bank: MeterBank, now_s: float, joules: tuple[float | None, ...]
) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Ask each meter that has answered, singly; one without its ends has not answered."""
    answers, ends_j = list(joules), list[float | None]()
    for index in bank.end_meters[::2]:
        ends = None if answers[index] is None else bank.states[index].ends(now_s)
        if ends is None:
            answers[index] = None
        ends_j.extend(ends or (None, None))
    return tuple(answers), tuple(ends_j)


class CounterWatch:
    """Notices counters that do not move although they must; `stillness` deals with them.

    From the first reading on each counter is watched at every reading, until all have moved; from
    then on once a tick, and at every reading again while one of them stands still.
    """

    _woke: tuple[Reading, float | None] | None = None

    def __init__(
        self, states: Sequence[MeterState], busy_s: Callable[[], float | None] | None
    ) -> None:
        self._busy_s = busy_s
        self._within_s = {
            index: within_s
            for index, state in enumerate(states)
            if (within_s := moves_within_s(state.meter)) is not None
        }
        self.is_on = bool(self._within_s)
        """Whether every reading is compared."""
        self.woke = False
        self._first: tuple[Reading, float | None, float] | None = None
        self._stillness: Stillness | None = None

    def machine_s(self) -> float | None:
        """CPU seconds that all processors have worked; None: unknown."""
        return self._busy_s() if self._busy_s is not None else None

    def compare(
        self, bank: MeterBank, reading: Reading, faults: Mapping[str, int]
    ) -> tuple[Reading, Mapping[str, int]]:
        """The reading without counters that stand still; the first one is where it all begins."""
        if self._first is None:
            self._first, self.woke = (reading, self.machine_s(), process_cpu_s()), False
        elif self.woke:
            self._woke, self.woke = (reading, self.machine_s()), False
            if self._stillness is not None:
                self._stillness.woke(*self._woke)
        if self._stillness is None:
            begun_j, now_j = self._first[0].joules, reading.joules
            if all(_has_moved(begun_j[index], now_j[index]) for index in self._within_s):
                self._end(bank)
                return reading, faults
            if reading.at_s - self._first[0].at_s < FIRST_LOOK_S:
                return reading, faults
            self._look_closer()
        stillness = self._closer()
        reading, faults = stillness.compare(bank, reading, faults)
        stillness.tell_standing_faults(bank.standing_faults)
        if not stillness.active:
            self._end(bank)
        return reading, faults

    def _end(self, bank: MeterBank) -> None:
        self.is_on = False
        bank.refresh()

    def suspect(self, ticked: Counts, now: Counts) -> Counts:
        """Watch those closely that have not moved since the last tick; returns the later tick."""
        if now.at_s - ticked.at_s < FIRST_LOOK_S:
            return ticked
        if self.is_on and self._stillness is None:
            return now  # each reading is compared with the first one
        if not self.is_on:
            self.woke = False  # it was before `ticked`
        closely = [watch.index for watch in self._stillness.active] if self._stillness else ()
        for index in self._within_s:
            # a silent meter has the count of its last answer, and one that is new has none
            if (
                index not in closely
                and ticked.counts_j[index : index + 1] == (now.counts_j[index],)
                and ticked.counted_s[index] == ticked.at_s
                and now.counted_s[index] == now.at_s
                and now.counts_j[index] is not None
            ):
                self._closer().suspect(index, now.counts_j, now.at_s, ticked.at_s)
                self.is_on = True
        return now

    def take(self, index: int, meter: Meter) -> None:
        """Watch a meter that has joined, or that takes the place of another one."""
        if self.is_on and self._stillness is None:
            self._look_closer()
        if self._stillness is not None:
            self._stillness.forget(index)
        self._within_s.pop(index, None)
        within_s = moves_within_s(meter)
        if within_s is not None:
            self._within_s[index] = within_s

    def _look_closer(self) -> None:
        """Watch all from the first reading on; their time is attributed from the last pause on."""
        if self._first is not None:
            for index in self._within_s:
                self._closer().begin(index, *self._first)
            if self._woke is not None:
                self._closer().woke(*self._woke)

    def _closer(self) -> Stillness:
        if self._stillness is None:
            with holding_forks():
                from carbontrack.sampling.stillness import Stillness  # rarely needed

            self._stillness = Stillness(self._within_s, self._busy_s)
        return self._stillness


def _substitute(bank: MeterBank, component: Component, now_s: float, counts: Counts) -> bool:
    """Let a substitute stand in for a whole component.

    Only when all of its meters are lost, or it would count twice what the others still count.
    """
    lost = [
        (index, state)
        for index, state in enumerate(bank.states)
        if state.meter.component == component and not state.is_substitute
    ]
    if component not in bank.substitutes or not all(s.is_lost(now_s) for _, s in lost):
        return False
    index = bank.stand_in(component, f"{lost[0][1].meter.id} does not answer")
    if index is None:
        return False
    for _, state in lost:  # one may have been lost before, and not have answered since
        before = state.covered.stand_ins if state.covered is not None else ()
        state.covered = Returned((*before, index), len(lost))
    start = _started(bank.states[index], lost, counts, (now_s, bank.watch.machine_s()))
    if start is not None:
        bank.joining[index] = start
    return True


def _started(
    substitute: MeterState, lost: Sequence[tuple[int, MeterState]], counts: Counts, now: CpuTime
) -> StandIn | None:
    """Let a substitute count from its meters' last answer on; None where that is not known."""
    if not counts.counts_j or any(counts.counts_j[index] is None for index, _ in lost):
        return None
    since_s = max(counts.counted_s[index] for index, _ in lost)
    noted = max((state.silent_work for _, state in lost if state.silent_work), default=now)
    start = substitute.count_from(since_s, cpu_s_before(since_s, noted, now))
    substitute.read(now[0])  # others count what it has counted, and are read before it
    return start


def _has_moved(before_j: float | None, now_j: float | None) -> bool:
    return before_j is not None and now_j is not None and now_j > before_j


def _add_faults(faults: Mapping[str, int], into: dict[str, int]) -> None:
    for code, times in faults.items():
        into[code] = into.get(code, 0) + times


def _classify(
    index: int,
    new: Mapping[str, int],
    dropped: set[int],
    lower_bounds: set[int],
    faults: dict[str, int],
) -> None:
    """Add new faults of the meter at `index`, and drop its step or mark it as a lower bound."""
    if new:
        _add_faults({code: times for code, times in new.items() if times}, faults)
        codes = {code for code in new if new[code]} - {STANDS_STILL, BESIDE_CPU_TIME}
        if codes:
            (lower_bounds if codes == {LOWER_BOUND} else dropped).add(index)
