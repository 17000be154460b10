"""The meter bank: reads all meters, replaces those that fail, and takes them back.

A meter only reads or raises. A short silence needs no action, because the next count contains what
was missed. After three silent ticks or ten seconds the next best meter of the same component, its
substitute, covers the outage. When the lost meter answers again, its step over the covered time is
dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import Final, TypeVar

from carbontrack.errors import MeterError, MeterGone
from carbontrack.meters.meter import (
    LOWER_BOUND,
    STANDS_STILL,
    FaultCounting,
    Meter,
    MeterSet,
    counts_ends,
    counts_faults,
    max_period_s,
)
from carbontrack.record import Component
from carbontrack.sampling.counts import Reading
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import DeferredLog

LOST_AFTER_TICKS: Final = 3
LOST_AFTER_S: Final = 10.0

_NO_FAULTS: Mapping[str, int] = {}
_ENDS = attrgetter("low_j", "high_j")
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
        self.covered = False
        """Whether a substitute has counted since its last answer."""
        self.failed_ticks = 0
        self.silent_since_s: float | None = None
        self._counting = meter if counts_faults(meter) else None
        self._faults = dict(self._counting.fault_counts) if self._counting else {}

    def read(self, now_s: float) -> float | None:
        """The count; None if the meter fails, whatever it raises."""
        return None if self.gone else self._asked(partial(self.meter.read_joules, now_s), now_s)

    def ends(self, now_s: float) -> tuple[float, float] | None:
        """The ends as of the last read; None if the meter fails, whatever it raises."""
        return self._asked(partial(_ENDS, self.meter), now_s)

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
        self._substitutes = dict(meters.substitutes)
        self._active: dict[Component, MeterState] = {}
        self.states = [MeterState(meter, self.deferred_log) for meter in meters]
        self._all_answer = self._is_plain = True
        self._fault_counting: list[tuple[int, MeterState, FaultCounting]] = [
            (index, state, state.meter)
            for index, state in enumerate(self.states)
            if counts_faults(state.meter)
        ]
        self._reads = [state.meter.read_joules for state in self.states]
        self.end_meters: tuple[int, ...] = ()
        """For each end that is counted, low and high in turn, the index of its meter."""
        self._with_ends: list[Meter] = []
        self._ends_j: tuple[float | None, ...] = ()
        for index, state in enumerate(self.states):
            self._take_ends(index, state)

    def _take_ends(self, index: int, state: MeterState) -> None:
        if counts_ends(state.meter):
            state.place_of_ends = len(self.end_meters)
            self._with_ends.append(state.meter)
            self.end_meters += (index, index)
            self._is_plain = False

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
        joules = self._read_all(now_s)
        if not self._is_plain:
            return self._with_more(now_s, joules)
        for _, _, meter in self._fault_counting:
            if meter.fault_counts:
                return self._with_faults(now_s, joules)
        return Reading(now_s, joules), _NO_FAULTS

    def _with_more(
        self, now_s: float, joules: tuple[float | None, ...]
    ) -> tuple[Reading, Mapping[str, int]]:
        """Some meter has not answered, or counts its ends as well."""
        if not self._all_answer:
            joules = self._ask_for_ends(now_s, joules)
            reading, faults = self._with_returns(now_s, joules)
        elif any(meter.fault_counts for _, _, meter in self._fault_counting):
            reading, faults = self._with_faults(now_s, joules)
        else:
            return Reading(now_s, joules, self._ends_j, self.end_meters), _NO_FAULTS
        return reading._replace(ends_j=self._ends_j, end_meters=self.end_meters), faults

    def _ask_for_ends(
        self, now_s: float, joules: tuple[float | None, ...]
    ) -> tuple[float | None, ...]:
        """Ask each meter that has answered, singly; one without its ends has not answered."""
        answers, ends_j = list(joules), list[float | None]()
        for index in self.end_meters[::2]:
            ends = None if answers[index] is None else self.states[index].ends(now_s)
            if ends is None:
                answers[index] = None
            ends_j.extend(ends or (None, None))
        self._ends_j = tuple(ends_j)
        return tuple(answers)

    def _with_faults(
        self, now_s: float, joules: tuple[float | None, ...]
    ) -> tuple[Reading, Mapping[str, int]]:
        faults: dict[str, int] = {}
        dropped, lower_bounds = set[int](), set[int]()
        for index, state, meter in self._fault_counting:
            if meter.fault_counts:
                _classify(index, state.new_faults(), dropped, lower_bounds, faults)
        if not faults:
            return Reading(now_s, joules), faults
        return Reading(
            now_s, joules, (), (), 0, frozenset(dropped), frozenset(lower_bounds)
        ), faults

    def _read_all(self, now_s: float) -> tuple[float | None, ...]:
        if not self._all_answer:
            return tuple([state.read(now_s) for state in self.states])
        joules: list[float | None] = []
        try:
            for read in self._reads:
                joules.append(read(now_s))  # noqa: PERF401 - values read before an error are kept
            if self._with_ends:
                self._ends_j = tuple(chain.from_iterable(map(_ENDS, self._with_ends)))
        except Exception as error:
            pass_on(error)
            # Read each meter once for an instant: a second answer would hide the silence.
            self._all_answer = self._is_plain = False
            index = len(joules)
            if index < len(self.states):  # else all have answered, and the ends are asked for again
                self.states[index].mark_silent(error, now_s)
                joules.append(None)
                joules.extend(state.read(now_s) for state in self.states[index + 1 :])
        return tuple(joules)

    def _with_returns(
        self, now_s: float, joules: tuple[float | None, ...]
    ) -> tuple[Reading, Mapping[str, int]]:
        faults: dict[str, int] = {}
        dropped, lower_bounds, silent = set[int](), set[int](), 0
        for index, state in enumerate(self.states):
            _classify(index, state.new_faults(), dropped, lower_bounds, faults)
            if state.gone and not state.gone_counted:
                state.gone_counted = True
                _add_faults({"gone": 1}, faults)
            if joules[index] is not None:
                state.silent_since_s, state.failed_ticks = None, 0
                if state.covered:
                    state.covered = False
                    dropped.add(index)
                    self._retire(state.meter.component)
            elif state.silent_since_s is not None:
                silent += 1
        return Reading(
            now_s, joules, (), (), silent, frozenset(dropped), frozenset(lower_bounds)
        ), faults

    def replace_lost(self, now_s: float) -> Mapping[str, int]:
        """Put substitutes in service for lost meters, once a tick; returns faults by code."""
        faults: dict[str, int] = {}
        if self._all_answer:
            return faults
        for state in self.states:
            state.failed_ticks += state.silent_since_s is not None
        for component in {state.meter.component for state in self.states if state.is_lost(now_s)}:
            if self._substitute(component, now_s):
                _add_faults({"substituted": 1}, faults)
        self._all_answer = not any(s.gone or s.silent_since_s is not None for s in self.states)
        self._is_plain = self._all_answer and not self._with_ends
        self._reads = [state.meter.read_joules for state in self.states]
        return faults

    def _substitute(self, component: Component, now_s: float) -> bool:
        # A substitute covers a whole component. It may start only when all of the component's
        # meters are lost, or it would count twice what the others still count.
        lost = [s for s in self.states if s.meter.component == component and not s.is_substitute]
        if component not in self._substitutes or not all(state.is_lost(now_s) for state in lost):
            return False
        make = self._substitutes.pop(component)
        try:
            substitute = MeterState(make(), self.deferred_log, is_substitute=True)
        except MeterError as error:
            self.deferred_log.add(
                logging.WARNING, f"nothing stands in for {lost[0].meter.id}: {error}"
            )
            return False
        self.deferred_log.add(
            logging.WARNING,
            f"{lost[0].meter.id} does not answer; {substitute.meter.id} stands in",
        )
        for state in lost:
            state.covered = True
        self._active[component] = substitute
        self._take_ends(len(self.states), substitute)
        self.states.append(substitute)
        return True

    def _retire(self, component: Component) -> None:
        substitute = self._active.pop(component, None)
        if substitute is not None:
            substitute.gone = substitute.gone_counted = True
            substitute.silent_since_s = None
            self._substitutes[component] = lambda: substitute.meter
            self.deferred_log.add(logging.WARNING, f"{component} is measured again")

    # -- meters that appear or return later, see `rescan` ------------------------------------

    def join(self, meter: Meter) -> None:
        """Read one more meter from now on."""
        state = MeterState(meter, self.deferred_log)
        self._take_ends(len(self.states), state)
        self.states.append(state)
        self._read_singly()

    def go_on(self, index: int, meter: Meter) -> None:
        """Read a meter in the place of one that was gone; it counts from its next answer on."""
        old = self.states[index]
        state = MeterState(meter, self.deferred_log)
        state.covered, state.place_of_ends = old.covered, old.place_of_ends
        self._with_ends = [meter if one is old.meter else one for one in self._with_ends]
        self.states[index] = state
        self._read_singly()

    def set_aside(self, index: int) -> None:
        """Read a model no more, as its component is measured; it may stand in for that later."""
        state = self.states[index]
        component = state.meter.component
        if self._active.get(component) is state:
            del self._active[component]
        state.gone = state.gone_counted = state.is_substitute = True
        state.silent_since_s = None
        self._substitutes[component] = lambda: state.meter

    def add_substitutes(self, substitutes: Mapping[Component, Callable[[], Meter]]) -> None:
        """Let components have these substitutes that have none."""
        self._substitutes = {
            **{name: make for name, make in substitutes.items() if name not in self._active},
            **self._substitutes,
        }

    def _read_singly(self) -> None:
        """Read each meter by itself until the next tick, which finds out whether all answer."""
        self._all_answer = self._is_plain = False
        self._fault_counting = [
            (index, state, state.meter)
            for index, state in enumerate(self.states)
            if counts_faults(state.meter) and not state.gone
        ]

    def rest(self) -> None:
        """Let the meters close what they hold open, until the next read."""
        for state in self.states:
            rest = getattr(state.meter, "rest", None)
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
        codes = {code for code in new if new[code]} - {STANDS_STILL}
        if codes:
            (lower_bounds if codes == {LOWER_BOUND} else dropped).add(index)
