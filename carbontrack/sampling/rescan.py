"""The rescan: meters that appear while a program runs are added, and no energy is counted twice.

A board may be plugged in, a driver loaded, or a permission granted after the start: once a minute,
while anything is open, `Rescan` compares cheap signs of that, and only if they have changed it
detects all meters again. Both are done in a separate thread. A new meter joins the bank with its
own index; a model of a component that is measured from now on is retired, as a substitute is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from carbontrack.meters.meter import Meter, MeterSet, is_shared
from carbontrack.record import Component
from carbontrack.sampling.counts import without_counts_of
from carbontrack.sampling.meter_bank import MeterBank, MeterState
from carbontrack.system.forking import OwnThread, holding_forks
from carbontrack.values import NamedTuple, replace

PERIOD_S: Final = 60.0
"""The time from one check to the next."""

_log = logging.getLogger("carbontrack")


class Rescan:
    """Checks once a minute whether the available meters have changed.

    Args:
        signs: the signs of a change, cheap to read; the first time they are only stored.
        detect: the meters that there are now.
    """

    def __init__(self, signs: Callable[[], Hashable], detect: Callable[[], MeterSet]) -> None:
        self.due_s = float("-inf")
        """When the next check is due."""
        self._signs, self._detect = signs, detect
        self._noted: Hashable = None
        self._looking_pid: int | None = None  # a fork has no thread of its parent's

    def look(self, sampler: Any) -> None:
        """Check in the background, unless a check is running; returns at once."""
        self.due_s = sampler.clock.monotonic_s() + PERIOD_S
        if self._looking_pid == os.getpid():  # a driver hangs
            return
        self._looking_pid = os.getpid()
        try:
            OwnThread(partial(self.look_now, sampler), "carbontrack-rescan").start()
        except RuntimeError:  # the program ends, or may have no more threads
            self._looking_pid = None

    def look_now(self, sampler: Any) -> None:
        """Check, and add new meters; never raises."""
        try:
            signs = self._signs()
            if self._noted is not None and signs != self._noted:
                with holding_forks():  # it imports what was not needed before
                    found = self._detect()
                if take_in(sampler, found):
                    return  # the next look finds them once more
            self._noted = signs
        except Exception as error:  # whatever a driver raises; the next look may succeed
            _log.debug("meters could not be searched for again: %r", error)
        finally:
            self._looking_pid = None


# -- what changes ------------------------------------------------------------------------------


class Changes(NamedTuple):
    """How the meters in service change.

    Attributes:
        new: meters that join.
        back: by index, meters that go on from one of the same id: one that was gone, or a board
            that is divided in another way.
        retired: indices of models whose component is measured from now on.
        waits: whether a meter has to wait, because what measures its component is only stood in
            for, and may return.
    """

    new: tuple[Meter, ...] = ()
    back: tuple[tuple[int, Meter], ...] = ()
    retired: tuple[int, ...] = ()
    waits: bool = False


def changes(states: Sequence[MeterState], found: MeterSet) -> Changes:
    """The changes after which no energy is counted twice and no measured component is lost.

    A GPU is one of several, known by its id. Meters of all else may be the same energy by other
    means, so they join only if no measuring meter would remain with them.
    """
    gpus = _changes(states, [meter for meter in found if meter.component == "gpu"], gpu=True)
    rest = _changes(states, [meter for meter in found if meter.component != "gpu"], gpu=False)
    return Changes(
        gpus.new + rest.new, gpus.back + rest.back, gpus.retired + rest.retired, rest.waits
    )


def _changes(states: Sequence[MeterState], wanted: Sequence[Meter], *, gpu: bool) -> Changes:
    mine = [(n, s) for n, s in enumerate(states) if (s.meter.component == "gpu") is gpu]
    alive = {state.meter.id: (n, state) for n, state in mine if not state.gone}
    counted = {state.meter.component for _, state in alive.values()}
    ids = {meter.id for meter in wanted}
    stale = [(n, state) for name, (n, state) in alive.items() if name not in ids]
    more = [
        meter
        for meter in wanted
        if meter.id not in alive
        and (gpu or meter.basis == "measured" or meter.component not in counted)
    ]
    if not gpu and any(state.meter.basis == "measured" for _, state in stale):
        return Changes()
    stood_in = _stood_in(alive.values())
    new = [meter for meter in more if meter.component not in stood_in]
    gone = {s.meter.id: n for n, s in mine if s.gone and not s.is_substitute}
    retired = [
        n
        for n, state in stale
        if state.meter.basis != "measured" and state.meter.component not in stood_in
    ]
    if not any(meter.basis == "measured" for meter in new):
        retired = []
    back = [(gone[meter.id], meter) for meter in new if meter.id in gone]
    back += [
        (alive[meter.id][0], meter)
        for meter in wanted
        if meter.id in alive and _is_divided_anew(alive[meter.id][1].meter, meter)
    ]
    joining = tuple(meter for meter in new if meter.id not in gone)
    return Changes(joining, tuple(back), tuple(retired), len(new) < len(more))


def _stood_in(alive: Iterable[tuple[int, MeterState]]) -> set[Component]:
    """The components with a stand-in for meters that are silent or stand still, and may return.

    The stand-in counts the whole component, so another meter of it would count a part twice.
    """
    states = [state for _, state in alive]
    own = {state.meter.component for state in states if not state.is_substitute}
    return own & {state.meter.component for state in states if state.is_substitute}


def _is_divided_anew(old: Meter, new: Meter) -> bool:
    """Whether a board has slices, or had some."""
    return is_shared(old) and is_shared(new) and min(old.part, new.part) < 1.0


# -- the change --------------------------------------------------------------------------------


def take_in(sampler: Any, found: MeterSet) -> bool:
    """Change the meters in service at one instant, and close those of `found` that are not used.

    Returns whether some of them have to wait.
    """
    with sampler.lock:
        bank = sampler.bank
        what = Changes() if sampler._closed else changes(bank.states, found)
        used = [*what.new, *(meter for _, meter in what.back)]
        if used:
            if sampler.awake:
                sampler.sample()  # up to now those count that are there
            _change(bank, what, found)
            sampler.counts = without_counts_of(sampler.counts, [index for index, _ in what.back])
            sampler.gpu_shares.take(bank.states)
        if not sampler._closed:
            _tell(sampler, found)
        if used and sampler.awake:
            sampler.sample()  # from now on the new ones do
            bank.ticked = sampler.counts
    for meter in found:
        if not any(meter is one for one in used):
            meter.close()
    bank.deferred_log.flush()
    return what.waits


def _tell(sampler: Any, found: MeterSet) -> None:
    """Update what records report as measured and not measured."""
    bank = sampler.bank
    meters = tuple(state.meter for state in bank.states if not state.gone)
    sampler.meters = replace(found, meters=meters, substitutes=dict(bank.substitutes))
    sampler.hardware = found.hardware
    if sampler.usage is not None:
        memory = (meter for meter in meters if meter.component == "ram")
        sampler.usage.within_limit = all(meter.basis != "measured" for meter in memory)


def _change(bank: MeterBank, what: Changes, found: MeterSet) -> None:
    for index in what.retired:
        _set_aside(bank, index)
    for index, meter in what.back:
        bank.states[index].meter.close()
        _go_on(bank, index, meter)
        bank.watch.take(index, meter)
    for meter in what.new:
        state = MeterState(meter, bank.deferred_log)
        bank.take_ends(len(bank.states), state)
        bank.watch.take(len(bank.states), meter)
        bank.states.append(state)
    bank.read_singly()
    new = {name: make for name, make in found.substitutes.items() if name not in bank.stand_ins}
    bank.substitutes = {**new, **bank.substitutes}
    names = ", ".join(meter.id for meter in (*what.new, *(meter for _, meter in what.back)))
    bank.deferred_log.add(logging.INFO, f"{names}: found only now, and read from now on")


def _go_on(bank: MeterBank, index: int, meter: Meter) -> None:
    """Read a meter in the place of one that was gone; it counts from its next answer on."""
    old, state = bank.states[index], MeterState(meter, bank.deferred_log)
    state.covered, state.place_of_ends = old.covered, old.place_of_ends
    bank.with_ends = [meter if one is old.meter else one for one in bank.with_ends]
    bank.states[index] = state


def _set_aside(bank: MeterBank, index: int) -> None:
    """Stop reading a model, because its component is measured; it may replace the meter later."""
    state = bank.states[index]
    component = state.meter.component
    if bank.stand_ins.get(component) is state:
        del bank.stand_ins[component]
    state.gone = state.gone_counted = state.is_substitute = True
    state.silent_since_s = None
    # one that was completed from the zones that could be read says nothing where these are lost
    bank.substitutes.setdefault(component, lambda: state.meter)
