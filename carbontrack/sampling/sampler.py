"""The sampler: reads the meters at span edges and ticks, and advances the ledgers.

Any thread may call `sample()`; opening and closing a span does. The sampler's own thread, the only
one of the core, is there to catch counter wraps, to integrate power gauges, to follow a grid that
changes, and to settle decorated calls. It ticks at whole multiples of the interval on a clock that
all processes of the host share, and sleeps while nothing is open.

`CallApportioner` and `TickListener` are the protocols of what a tick calls in layers above.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

from carbontrack.attribution.usage import UsageReader
from carbontrack.errors import ConfigError
from carbontrack.meters.meter import Hardware, Meter, MeterSet
from carbontrack.record import Component
from carbontrack.sampling.counts import (
    CLOCK_FAULT,
    Anchor,
    Counts,
    advance,
    with_fault,
    with_missed,
    with_suspend,
    without_counts,
)
from carbontrack.sampling.gpu_shares import GpuShares
from carbontrack.sampling.history import SHORT_S, ReadingHistory
from carbontrack.sampling.ledger import NOW, Ledger, Mark, Sharing
from carbontrack.sampling.meter_bank import MeterBank, MeterState
from carbontrack.sampling.ticker import Ticker, TickEvents
from carbontrack.system.clock import (
    Clock,
    ClockCheck,
    ShiftedClock,
    SystemClock,
    process_cpu_s,
)
from carbontrack.system.forking import holding_forks, remember
from carbontrack.system.interrupts import WeakObjects, pass_on, reentrant_lock, suppressed
from carbontrack.system.reentrance import busily, here


class CallApportioner(Protocol):
    """Apportions energy to decorated calls; see `carbontrack.tracking.apportion.Apportioner`."""

    @property
    def is_idle(self) -> bool:
        """Whether no call is counted; `Sampler.attach` is called before one is again."""
        ...

    def tick(self) -> None:
        """Apportion the energy set aside since the last tick; the sampler's lock is held."""
        ...

    def settle(self) -> None:
        """Apportion the energy set aside so far; the sampler's lock is held."""
        ...

    def usage_in_step(self, now_s: float) -> tuple[float, float]:
        """For how long calls ran since the last step or `settle`, and their CPU seconds."""
        ...

    def write_due_rows(self) -> None:
        """Write the rows that are due; the sampler's lock is not held."""
        ...

    def forget_parent(self) -> None:
        """Reset in a child process."""
        ...


class TickListener(Protocol):
    """Called after each tick, such as a session or a budget guard."""

    def after_tick(self, now_s: float) -> None:
        """Act on the tick at `now_s`; the sampler's lock is not held."""
        ...

    def fall_asleep(self) -> None:
        """Nothing is open any more; the sampler's lock is not held."""
        ...


EARLY_S = 0.02
"""How soon after a span has opened our memory is surveyed, if it has grown."""
SUSPEND_S, SHORTEST_S = 0.5, 0.01
"""A shorter suspend is noise between two clocks; and a rise of what they show that is looked at."""

_log = logging.getLogger("carbontrack")


class Sampler:
    """Reads the meters and keeps the ledgers of all trackers that share it.

    Args:
        meters: disjoint meters; a `MeterSet` may hold substitutes for them.
        interval_s: time between two ticks, above 0; span edges are read in addition.
        clock: the time source.
        usage: reads the CPU time and memory of this process and the machine; by default made when
            first needed.
        again: signs of other meters, and how to detect all; None: none is looked for later.
    """

    def __init__(
        self,
        meters: MeterSet | Iterable[Meter],
        *,
        interval_s: float = 1.0,
        clock: Clock | None = None,
        usage: UsageReader | None = None,
        again: tuple[Callable[[], Hashable], Callable[[], MeterSet]] | None = None,
    ) -> None:
        if not 0.0 < interval_s <= 3600.0:
            raise ConfigError(f"interval_s must be above 0 and at most 3600 s, not {interval_s!r}")
        self.clock: Clock = clock or SystemClock()
        self.meters = meters if isinstance(meters, MeterSet) else MeterSet(tuple(meters))
        # until `_due_s` no account changes its terms, so that a sample only replaces the counts;
        # with `_with_calls`, some of each step may belong to decorated calls
        self._leaves, self._due_s, self._met_itself, self._with_calls = 0, NOW, False, False
        self.under_way: dict[Any, Any] = {}
        """Decorated calls that are running; each is its own key."""
        self.apportioner: CallApportioner | None = None
        """Apportions energy to decorated calls; None until the first one."""
        self.tick_listeners: WeakObjects[Any] = WeakObjects()
        self.epoch = 0
        """Incremented in a child process after a fork; what was open before is the parent's."""
        self.forked_awake = False
        """In a child process: whether anything was open in the parent at the fork."""
        self.bank = MeterBank(self.meters)
        self.hardware: Hardware = self.meters.hardware
        """The hardware of the machine."""
        self.meter_states: list[MeterState] = self.bank.states
        """The meters in service, in the order of every tuple of joules."""
        self.gpu_shares = GpuShares(self.bank.states)
        self.counts = Counts(self.clock.monotonic_s())
        """The machine's counts as of the last reading."""
        self._ledgers: dict[Ledger, None] = {}
        """Those that something is open on, in the order of opening."""
        self.components: tuple[Component, ...] = ()
        """The component of each meter."""
        self.end_meters: tuple[int, ...] = ()
        """For each end that meters count, low and high in turn, the index of its meter."""
        self.holders: dict[int, weakref.ref[Any]] = {}
        """The roots and windows of summed calls that are open, by identity."""
        self._closed, self._interval_s, self.usage = False, interval_s, usage
        self._rescan: Any = again  # a Rescan once it has looked
        # what the sums do not keep; used with the lock held
        self.history = ReadingHistory(self.counts, self.bank.resolutions_s)
        self._most_slept_s = self.clock.suspended_s() + SHORTEST_S
        self._cpu_s, self.clock_check = process_cpu_s(), ClockCheck()
        self.when_asleep: Callable[[], object] = object
        """Called in the sampler's thread, when nothing is open."""
        self._begin()
        remember(self)

    def _begin(self) -> None:
        self.lock = reentrant_lock()
        self._inside = self._is_early = False
        deadline = partial(_to_the_end, partial(_at_deadline, self), "a deadline was missed")
        events = TickEvents(deadline, partial(fall_asleep, self))
        due_s, wanted = partial(_period_s, self), partial(_is_wanted, self)
        self.ticker = Ticker(events, self.clock, period_s=due_s, is_wanted=wanted)
        self.nudge = self.ticker.nudge

    @property
    def awake(self) -> bool:
        """Whether anything is open, so that time and energy count."""
        return bool(self.holders)

    @property
    def leaves(self) -> int:
        """The number of open spans without an open child; changed only with the lock held."""
        return self._leaves

    @leaves.setter
    def leaves(self, number: int) -> None:
        self._due_s = NOW  # as the next step is shared among another number
        if not number and self.apportioner is not None:  # not read while spans are open
            self._cpu_s = process_cpu_s()
        self._leaves = number

    def hold(self, ledger: Ledger, holder: object) -> Mark:
        """Keep the sampler awake for what opens on this ledger, and read the meters.

        It may be called again for the same `holder`, as may `release`: a handler of a signal may
        raise at any line.
        """
        with self.lock:
            before = self.counts.anchor
            if self.holders:
                self._sample()
            else:
                _wake(self)
            if not ledger.holders:
                _begin(self, ledger)
            key = id(holder)
            try:
                ledger.holders.add(key)
                self.holders[key] = weakref.ref(holder)
                if self.ticker.dozes or (len(self.holders) == 1 and _needs_survey(self)):
                    self.ticker.wake()
            except BaseException:
                _let_go(self, ledger, key)
                raise
            return _first_mark(self.counts, ledger, before)

    def mark_inside(self, ledger: Ledger) -> Mark:
        """Read the meters as something begins inside what has a hold; the lock is held."""
        before = self.counts.anchor
        self._sample()
        if self.ticker.dozes:  # it could not be started
            self.ticker.wake()
        if self.counts.anchor is before:
            return Mark(self.counts, ledger.account)
        return _first_mark(self.counts, ledger, before)

    def release(self, ledger: Ledger, holder: object) -> None:
        """End a hold; after the last one the sampler falls asleep at its next tick."""
        with self.lock:
            _let_go(self, ledger, id(holder))

    def uninterrupted(self, do: Callable[[], None]) -> None:
        """Run a function to its end, whatever signal handlers raise in the meantime."""
        if self.lock._is_owned():  # type: ignore[attr-defined]
            busily(do)  # the ticker's thread may want the lock
        else:
            self.ticker.do(partial(busily, do))

    def mark(self, ledger: Ledger) -> Mark:
        """Read the meters, and return the counts and the account; the lock is held."""
        self._sample()
        return Mark(self.counts, ledger.account)

    def sample(self) -> None:
        """Read all meters and advance every open ledger; any thread may call it."""
        with self.lock:
            self._sample()

    def _sample(self) -> None:
        """As `sample`, with the lock held."""
        if self._inside:
            # The garbage collector ran a finalizer that closes a span, in the middle of a sample:
            # the span takes the sums as they are, and this sample adds the rest.
            self._met_itself = True
            return
        self._inside = True
        try:
            clock, before = self.clock, self.counts
            now_s = clock.monotonic_s()
            gap_s = now_s - before.at_s
            if gap_s <= 0.0:
                now_s, before = _time_after_check(self, now_s), self.counts
            counts = self.bank.step(before, now_s)
            if counts is None or clock.suspended_s() > self._most_slept_s:
                counts = _judged(self, now_s)
            if now_s < self._due_s and not self._with_calls:
                if gap_s > SHORT_S:
                    self.history.add_gap(now_s, gap_s)
                self.counts = counts
            else:
                _credit(self, counts)
        except Exception as error:
            pass_on(error)
            _note_failure(self, error)
        finally:
            self._inside = False

    def tick(self) -> None:
        """Do the work of one deadline, on the sampler's thread; never raises."""
        try:
            shares = False
            for ledger in tuple(self._ledgers):
                if ledger.waits_for_grid:
                    ledger.refresh(self.clock)
                shares = shares or ledger.attribution.scope == "process"
            if self.gpu_shares:  # first, so that the coming step uses the answer
                self.gpu_shares.update(self.usage, self.clock, is_shared=shares)
            with self.lock:
                here.thread.busy = True  # what a finalizer begins meanwhile passes through
                self._due_s = NOW
                self.sample()
                _replace_lost_meters(self)
                apportioner, tick_listeners = self.apportioner, self.tick_listeners.living()
                if apportioner is not None:
                    apportioner.tick()
                logs = [self.bank.deferred_log, *(one.deferred_log for one in self._ledgers)]
            here.thread.busy = False
            for log in logs:
                log.flush()
            if shares and self.usage is not None:
                self.usage.survey(self.clock)
            if apportioner is not None:
                apportioner.write_due_rows()
            for listener in tick_listeners:
                listener.after_tick(self.counts.at_s)
        except Exception as error:
            here.thread.busy = False
            pass_on(error)  # a test may call this in the main thread
            # The thread must outlive any error, or wraps and gauges would be missed from here on.
            _log.exception("a tick of the sampler failed")

    def attach(self, apportioner: CallApportioner) -> None:
        """Have `apportioner` settle decorated calls at every tick; they count from now on."""
        self._cpu_s, self._due_s, self._with_calls = process_cpu_s(), NOW, True
        self.apportioner = apportioner

    def request_interval(self, interval_s: float) -> None:
        """Tick at least this often: trackers that share a sampler share the shortest interval."""
        if interval_s < self._interval_s:
            self._interval_s = interval_s
            self.nudge(None)  # it may be waiting for a later deadline

    def close(self, *, with_meters: bool = True) -> None:
        """End the thread, at once, or wait for it and close the meters; once."""
        if not self._closed:
            self.ticker.close(waits=with_meters)
            _rest_usage(self)  # the thread may have ended before it fell asleep
            if with_meters:
                self.bank.close()
            self.bank.deferred_log.flush()
            self._closed = True

    def forget_parent(self) -> None:
        """Start anew in a child process: locks, thread and open spans are the parent's."""
        self.epoch += 1
        self.forked_awake = self.awake
        self.leaves = 0
        self.under_way.clear()
        self.holders.clear()
        for ledger in tuple(self._ledgers):
            ledger.holders.clear()
            _let_go(self, ledger, 0)
        self.history.restart(self.counts)
        self.gpu_shares.forget_parent()
        if self.apportioner is not None:
            self.apportioner.forget_parent()
        if self.usage is not None:
            self.usage = self.usage.for_child()
        self._begin()


def at_least_once(sampler: Sampler, do: Callable[[], None]) -> None:
    """As `Sampler.uninterrupted`, for what may be done twice, and needs no other thread for that.

    It is done here; if a handler raises in the middle, it is done again, uninterrupted.
    """
    try:
        busily(do)
    except BaseException as error:
        sampler.uninterrupted(do)
        if not isinstance(error, Exception):
            raise
        pass_on(error)


def _first_mark(counts: Counts, ledger: Ledger, before: Anchor) -> Mark:
    """The mark at which something begins: a read that failed just now is one of its own."""
    if counts.anchor is not before:
        counts = with_missed(counts, before.missed)
    return Mark(counts, ledger.account)


def _is_wanted(sampler: Sampler) -> bool:
    """Whether deadlines are wanted; after an early one in a pause, the next tick ends them."""
    return sampler.awake or sampler._is_early


def _period_s(sampler: Sampler) -> float:
    """The time between two deadlines, on the sampler's thread."""
    period_s = min(sampler._interval_s, sampler.bank.max_period_s)
    sampler._is_early = _needs_survey(sampler)
    return min(period_s, EARLY_S) if sampler._is_early else period_s


def _needs_survey(sampler: Sampler) -> bool:
    """Whether our memory is surveyed before the next tick, at an early deadline."""
    usage = sampler.usage
    return usage is not None and usage.needs_survey and _shares(sampler)


def _shares(sampler: Sampler) -> bool:
    """Whether a ledger takes the part of this process tree only."""
    return any(one.attribution.scope == "process" for one in tuple(sampler._ledgers))


def _at_deadline(sampler: Sampler) -> None:
    """Check for new meters, and do the work of a tick, on the sampler's thread.

    No tick while a survey of our memory is awaited: what several processes share would be counted
    once for each of them in the step until then. A span that ends meanwhile takes its step all the
    same.
    """
    usage, is_early = sampler.usage, sampler._is_early
    if not sampler.awake:
        return
    if not is_early and _may_rescan(sampler):
        with suppressed(OSError, ImportError):  # for lack of descriptors, say; tried again later
            _look_for_meters(sampler)
    if usage is not None and _shares(sampler) and usage.awaits_survey(sampler.clock):
        return
    if not is_early:
        sampler.tick()


def _may_rescan(sampler: Sampler) -> bool:
    """Whether it is time to check for changed meters."""
    rescan = sampler._rescan
    if rescan is None or isinstance(rescan, tuple):
        return rescan is not None
    return bool(sampler.clock.monotonic_s() >= rescan.due_s)


def _look_for_meters(sampler: Sampler) -> None:
    if isinstance(sampler._rescan, tuple):
        with holding_forks():
            from carbontrack.sampling.rescan import Rescan  # not in a short program

        sampler._rescan = Rescan(*sampler._rescan)
    sampler._rescan.look(sampler)


def _note_failure(sampler: Sampler, error: Exception) -> None:
    # This may be a user's thread. The next sample contains what this one missed.
    sampler.counts, sampler._due_s = with_fault(sampler.counts, "sample"), NOW
    sampler.bank.deferred_log.add(logging.ERROR, "a sample failed", error)


def _judged(sampler: Sampler, now_s: float) -> Counts:
    """The counts after a step in which something else than the counts may have changed."""
    sampler._due_s = NOW
    reading, faults = sampler.bank.judge(now_s)
    before, most_s = sampler.counts, sampler.clock.suspended_s() + SHORTEST_S
    slept_s = most_s - sampler._most_slept_s  # in this step: short ones do not add up
    if slept_s > SUSPEND_S:
        reading = reading._replace(dropped=frozenset(range(len(reading.joules))))
        before = with_suspend(before, slept_s)
    sampler.counts, sampler._most_slept_s = before, max(most_s, sampler._most_slept_s)
    counts, _, _ = advance(before, reading)
    for code, times in faults.items():
        counts = with_fault(counts, code, times)
    return counts


def _credit(sampler: Sampler, counts: Counts) -> None:
    """Publish the counts, with what each ledger takes of the step, all or nothing of it."""
    before, ledgers, history = sampler.counts, tuple(sampler._ledgers), sampler.history
    if ledgers:
        history.add_gap(counts.at_s, counts.at_s - before.at_s)
    sampler._met_itself = False
    usage = 0.0, 0.0
    if sampler._with_calls:  # some of the step may be that of decorated calls
        usage = _usage_of_calls(sampler, before, counts)
        if counts.at_s < sampler._due_s and not any(usage):
            sampler.counts = counts
            return
    due_s = history.follow(counts)
    if not ledgers:
        sampler.counts = counts
        return
    sharing, used_s = _sharing(sampler, usage, counts), sampler._cpu_s
    if not sampler.leaves:
        used_s += sharing.cpu_s
    if sharing.parts:
        counts = sampler.gpu_shares.with_assumptions(counts)
    if sampler.gpu_shares.codes:
        due_s = NOW
    accounts = [one.after(before, counts, sharing, sampler.clock) for one in ledgers]
    for ledger in ledgers:
        due_s = min(due_s, ledger.due_s)
    apportioner = sampler.apportioner
    with_calls = apportioner is not None and not (sampler.leaves and apportioner.is_idle)
    # one call of C, within which no handler of a signal runs
    names = ("counts", "_cpu_s", "_due_s", "_with_calls", *repeat("account", len(ledgers)))
    values = (counts, used_s, due_s, with_calls, *accounts)
    deque(map(setattr, (*repeat(sampler, 4), *ledgers), names, values), 0)
    if sampler._met_itself:  # what a finalizer has opened and closed is not in the terms
        sampler._due_s = NOW


def _sharing(sampler: Sampler, calls: tuple[float, float], after: Counts) -> Sharing:
    """The spans and calls that share a step."""
    if len(sampler.components) != len(after.counts_j):
        sampler.components = tuple(state.meter.component for state in sampler.bank.states)
        sampler.end_meters = sampler.bank.end_meters
    parts = sampler.gpu_shares.parts
    return Sharing(sampler.components, sampler._leaves, *calls, parts, sampler.end_meters)


def _usage_of_calls(sampler: Sampler, before: Counts, after: Counts) -> tuple[float, float]:
    """How many calls ran in a step, on the mean, and their CPU seconds.

    While no span is open those are the CPU seconds of this process.
    """
    apportioner = sampler.apportioner
    if apportioner is None:
        return 0.0, 0.0
    if not sampler.leaves:
        return 0.0, process_cpu_s() - sampler._cpu_s
    ran_s, cpu_s = apportioner.usage_in_step(after.at_s)
    elapsed_s = after.at_s - before.at_s
    return ran_s / elapsed_s if elapsed_s > 0.0 else 0.0, cpu_s


def _begin(sampler: Sampler, ledger: Ledger) -> None:
    """Include a ledger in samples from now on."""
    usage = None
    if ledger.attribution.scope == "process":
        usage = sampler.usage = sampler.usage or UsageReader()
    ledger.begin(usage, sampler.counts.at_s, sampler.clock.now_utc())
    sampler._ledgers[ledger], sampler._due_s = None, NOW


def _let_go(sampler: Sampler, ledger: Ledger, key: int) -> None:
    """End the hold with this key; a ledger without any takes no part in samples any more."""
    sampler.holders.pop(key, None)
    ledger.holders.discard(key)
    if not ledger.holders and ledger in sampler._ledgers:
        ledger.account, sampler._due_s = ledger.account.closed(sampler.counts), NOW
        sampler._ledgers.pop(ledger, None)


def _wake(sampler: Sampler) -> None:
    """Begin to count; the lock is held.

    Energy used while nothing was open belongs to no span. A meter that is silent just now must not
    bring it with its next answer.
    """
    sampler.counts = without_counts(sampler.counts)
    sampler.bank.wake()
    sampler.sample()
    sampler.bank.ticked = sampler.counts
    sampler.history.restart(sampler.counts)
    sampler._cpu_s = process_cpu_s()
    sampler.clock_check.since = sampler.counts.at_s, sampler._cpu_s


def _replace_lost_meters(sampler: Sampler) -> None:
    faults = sampler.bank.replace_lost(sampler.counts.at_s, sampler.counts)
    if faults:
        for code, times in faults.items():
            sampler.counts = with_fault(sampler.counts, code, times)
        sampler.sample()  # a substitute counts from now on, not from the next tick


def _time_after_check(sampler: Sampler, now_s: float) -> float:
    """The time from which to go on, after a look at a clock that has not moved on."""
    at_s = sampler.counts.at_s
    if sampler.clock_check.fails(sampler.clock, at_s, now_s):
        sampler.counts = with_fault(sampler.counts, CLOCK_FAULT)
        if now_s < at_s:
            sampler.clock = ShiftedClock(sampler.clock, at_s - now_s)
    return at_s


def take_in(sampler: Sampler, group: Path, leaves_out: Callable[[int, int], bool]) -> None:
    """Include daemons of a control group that only we use, see `ProcessTree.take_in`."""
    with sampler.lock:
        if sampler.usage is not None:
            sampler.usage.take_in(group, leaves_out)


def fall_asleep(sampler: Sampler) -> None:
    """Nothing is open: release what only open runs need; on the sampler's thread."""
    _to_the_end(partial(_rest, sampler), "the sampler could not fall asleep")


def _rest(sampler: Sampler) -> None:
    with sampler.lock:
        listeners = sampler.tick_listeners.living()
        if not sampler.awake:
            for one in (sampler.bank, sampler.usage):
                if one is not None:
                    one.rest()  # it holds no descriptor until it reads again
    for listener in listeners:
        listener.fall_asleep()
    if not sampler.awake:
        sampler.when_asleep()


def _rest_usage(sampler: Sampler) -> None:
    if sampler.usage is not None:
        _to_the_end(sampler.usage.rest, "the reader of usage could not be closed")


def _to_the_end(do: Callable[[], None], failure: str) -> None:
    try:
        do()
    except Exception as error:
        pass_on(error)  # a test may call this in the main thread
        _log.exception(failure)
