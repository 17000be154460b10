"""One tracker's ledger: its policy, its grid and its account, advanced with every sample.

The running sum: joules of the machine, joules of ours, grams. Pure functions on immutable facts.

Two ledgers advance together at every sample. The *machine's* takes the difference of each meter's
count. An *account*, one for each tracker, takes its share of that difference, weighs it with the
grid's intensity of the moment, and splits it evenly among what is open. A span is then the
difference between two marks in both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import repeat
from operator import add, mul, sub
from typing import Final, NamedTuple

from carbontrack.attribution.policy import WHOLE, Attribution, Shares, Usage
from carbontrack.attribution.usage import UsageReader
from carbontrack.grid.intensity import GridIntensity, IntensitySource
from carbontrack.grid.nonblocking import NonblockingSource
from carbontrack.record import Component
from carbontrack.sampling.counts import Counts, Joules
from carbontrack.system.clock import Clock
from carbontrack.system.log import DeferredLog
from carbontrack.units import JOULES_PER_KWH

Grams = tuple[float, float, float]
"""Best estimate, low and high end of the grid's interval."""

Operation = Callable[[float, float], float]
Served = Mapping[str, float]
"""Joules by the source of the intensity they were weighed with; empty where it never changes."""

NO_GRAMS: Grams = (0.0, 0.0, 0.0)
NOTHING_SERVED: Served = {}


class Sums(NamedTuple):
    """Energy and grams of a span, or of calls, or of several together; they add up."""

    ours_j: Joules = ()
    grams: Grams = NO_GRAMS
    served_j: Served = NOTHING_SERVED

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        if not self.ours_j:
            return other
        if not other.ours_j:
            return self
        return Sums(
            add_joules(self.ours_j, other.ours_j),
            each(add, self.grams, other.grams),
            merged(add, self.served_j, other.served_j),
        )

    def times(self, factor: int) -> Sums:
        """So many times as much."""
        if factor == 1:
            return self
        best, low, high = self.grams
        return Sums(
            tuple(map(mul, self.ours_j, repeat(factor))),
            (best * factor, low * factor, high * factor),
            {source: joules * factor for source, joules in self.served_j.items()},
        )


NOTHING = Sums()


def each(operation: Operation, a: Grams, b: Grams) -> Grams:
    """The operation on both estimates and on both ends."""
    return operation(a[0], b[0]), operation(a[1], b[1]), operation(a[2], b[2])


def merged(operation: Operation, a: Served, b: Served) -> Served:
    """The operation source by source; one that a side does not know has served nothing there."""
    if not a and not b:
        return a
    return {source: operation(a.get(source, 0.0), b.get(source, 0.0)) for source in {**a, **b}}


def add_joules(a: Joules, b: Joules) -> Joules:
    """Meter by meter; a meter that one side does not know yet has counted nothing there."""
    if len(a) == len(b):
        return tuple(map(add, a, b))
    if len(a) < len(b):
        a, b = b, a
    return tuple(map(add, a, b)) + a[len(b) :]


def sub_joules(a: Joules, b: Joules) -> Joules:
    """Meter by meter, `a` being the later and not the shorter."""
    if len(a) == len(b):
        return tuple(map(sub, a, b))
    return tuple(map(sub, a, b)) + a[len(b) :]


class Step(NamedTuple):
    """What happened between two samples, and among how many it is shared.

    Attributes:
        joules: what each meter counted.
        components: what each meter's energy belongs to.
        leaves: open spans that hold no open span.
        calls: decorated calls under way, which take their part by weight, later.
        elapsed_s, cpu_s: the step's length, and the CPU seconds this process used in it.
        parts: the part of each meter that this process tree used, where something tells; for those
            who count for the process.
    """

    at_s: float
    joules: Joules
    components: tuple[Component, ...]
    leaves: int
    calls: int
    elapsed_s: float
    cpu_s: float
    parts: tuple[float | None, ...] = ()


class Terms(NamedTuple):
    """What a joule means to one account: the part that is ours and what it emits.

    Attributes:
        shares: the part of each meter's energy that is ours, 0 to 1.
        intensity: the grid's, None where nothing is known.
        pue: facility energy per energy of the computers.
        names_sources: whether to keep account of which source served how much.
    """

    shares: Joules
    intensity: GridIntensity | None
    pue: float
    names_sources: bool = False


class Account(NamedTuple):
    """What one tracker's policy and grid make of the machine's energy; immutable.

    Attributes:
        leaf_j, leaf_g: what one span that was open, and a leaf, all the time would have got.
        calls_j, calls_g: what was set aside for decorated calls.
        calls_s, calls_cpu_s: the time, and CPU time, for which that stands.
        leaf_served_j, calls_served_j: the joules by the source that said what they emit.
    """

    leaf_j: Joules = ()
    leaf_g: Grams = NO_GRAMS
    calls_j: Joules = ()
    calls_g: Grams = NO_GRAMS
    calls_s: float = 0.0
    calls_cpu_s: float = 0.0
    leaf_served_j: Served = NOTHING_SERVED
    calls_served_j: Served = NOTHING_SERVED


def credit(account: Account, step: Step, terms: Terms) -> Account:
    """Share one step of the machine's energy out among what is open.

    At each instant the energy is split evenly among the open leaves; calls under way count as
    leaves. Where only calls may be under way everything is set aside for them, and
    `carbontrack.tracking.apportion` decides how much of it was somebody's.
    """
    ours = tuple(map(mul, step.joules, terms.shares))
    if not step.leaves:
        return _set_aside_for_calls(account, step, ours, terms, part=1.0)
    sharers = step.leaves + step.calls
    if sharers == 1:
        each = ours
    else:
        each = tuple(map(mul, ours, repeat(1.0 / sharers)))
        if step.calls:
            account = _set_aside_for_calls(account, step, ours, terms, part=step.calls / sharers)
    if terms.names_sources:
        account = account._replace(leaf_served_j=_plus_served(account.leaf_served_j, each, terms))
    return Account(
        add_joules(account.leaf_j, each), _plus_grams(account.leaf_g, each, terms), *account[2:]
    )


def _set_aside_for_calls(
    account: Account, step: Step, ours: Joules, terms: Terms, part: float
) -> Account:
    joules = tuple(map(mul, ours, repeat(part)))
    if terms.names_sources:
        account = account._replace(
            calls_served_j=_plus_served(account.calls_served_j, joules, terms)
        )
    return account._replace(
        calls_j=add_joules(account.calls_j, joules),
        calls_g=_plus_grams(account.calls_g, joules, terms),
        calls_s=account.calls_s + step.elapsed_s * part,
        calls_cpu_s=account.calls_cpu_s + step.cpu_s * part,
    )


def _plus_grams(grams: Grams, joules: Joules, terms: Terms) -> Grams:
    grid = terms.intensity
    if grid is None:
        return grams
    kwh = sum(joules) * terms.pue / JOULES_PER_KWH
    return (
        grams[0] + kwh * grid.g_per_kwh,
        grams[1] + kwh * grid.low_g_per_kwh,
        grams[2] + kwh * grid.high_g_per_kwh,
    )


def _plus_served(served_j: Served, joules: Joules, terms: Terms) -> Served:
    source = terms.intensity.source if terms.intensity is not None else ""
    return {**served_j, source: served_j.get(source, 0.0) + sum(joules)}


class Mark(NamedTuple):
    """An instant in both ledgers."""

    counts: Counts
    account: Account


def between(start: Mark, end: Mark) -> Sums:
    """What a span got that was an open leaf from `start` to `end`."""
    after, before = end.account, start.account
    return Sums(
        sub_joules(after.leaf_j, before.leaf_j),
        each(sub, after.leaf_g, before.leaf_g),
        merged(sub, after.leaf_served_j, before.leaf_served_j),
    )


def total(sums: Sums, start: Mark, end: Mark, leaves: int) -> Sums:
    """These sums, and what so many open leaves got from `start` to `end`."""
    got = between(start, end)
    return sums.plus(got if leaves == 1 else got.times(leaves))


def calls_between(before: Account, after: Account) -> Sums:
    """What was set aside for calls between two states of an account."""
    return Sums(
        sub_joules(after.calls_j, before.calls_j),
        each(sub, after.calls_g, before.calls_g),
        merged(sub, after.calls_served_j, before.calls_served_j),
    )


SHARE_WINDOW_S: Final = 0.2
"""The shortest time over which a share of CPU time is taken. The machine's count moves in steps of
10 ms, which is 5 % of the window; what one window gets too much the next one gets too little."""
USAGE_PERIOD_S: Final = 0.02
"""Usage is read this often at most. At edges that follow each other more closely nothing could be
learned from it, and reading it costs as much as the rest of the edge."""
STALE_S: Final = 2.0
"""A window that ended longer ago than this says nothing about now."""


Parts = tuple[float | None, ...]


class ShareWindow:
    """Our share of each component, over the last `SHARE_WINDOW_S` or a little more."""

    def __init__(self, attribution: Attribution, reader: UsageReader, now_s: float) -> None:
        self._attribution = attribution
        self.reader = reader
        reserves = attribution.splits_idle() and attribution.idle == "reserved"
        self._reservation = reader.reservation() if reserves else None
        self._before = self._middle = self._last = self._look(now_s)
        # Until the counts have said anything all of it is ours: the upper end, never nothing.
        self._shares = WHOLE._replace(idle=self._last.reserved_share)
        self._known = False

    @property
    def at_s(self) -> float:
        """The instant of the last look."""
        return self._last.at_s

    @property
    def known(self) -> Shares:
        """The shares of the last look."""
        return self._shares

    def shares(self, now_s: float) -> Shares:
        """The share of each component now."""
        if self._known and now_s - self._last.at_s < USAGE_PERIOD_S:
            return self._shares
        usage = self._last = self._look(now_s)
        if usage.at_s - self._middle.at_s >= SHARE_WINDOW_S:
            self._before, self._middle = self._middle, usage
        new = self._attribution.shares(self._before, usage)
        self._known = self._known or new.cpu is not None
        self._shares = new.over(self._shares)
        return self._shares

    def _look(self, now_s: float) -> Usage:
        usage, reservation = self.reader.read(now_s), self._reservation
        if reservation is None:
            return usage
        return usage._replace(reserved_share=reservation.share, reserved_cpu_s=reservation.cpu_s())


class Ledger:
    """What one tracker's policy and grid make of the machine's energy, so far.

    Attributes:
        attribution: who shares.
        account: the sums; immutable, replaced at every sample.
        deferred_log: messages that wait until no lock is held.
        holds: how many spans, and windows of summed calls, are open on it.
    """

    def __init__(self, attribution: Attribution, grid: IntensitySource | None) -> None:
        self.attribution = attribution
        self.account = Account()
        self.deferred_log = DeferredLog()
        self.holds = 0
        self._grid = NonblockingSource(grid, self.deferred_log)
        self.follows_grid = self._grid.changes
        """Whether the grid's intensity changes with time."""
        self.waits_for_grid = self._grid.waits
        """Whether the intensity must be asked for anew with `refresh`, since that takes time."""
        self._intensity: GridIntensity | None = None
        self._begun_at: datetime | None = None
        self._window: ShareWindow | None = None
        self._shares: Shares | None = None
        self._parts: Parts = ()
        self._split = attribution.idle_split()
        self._terms = Terms((), None, attribution.pue, self._grid.changes)

    def begin(self, usage: UsageReader | None, now_s: float, when: datetime) -> None:
        """The first span opens: from here on this ledger takes its part."""
        window = self._window
        # A reader of another process is what a fork has left behind.
        if usage is not None and not (
            window and window.reader is usage and now_s - window.at_s <= STALE_S
        ):
            self._window = self._new_window(usage, now_s)
        self._begun_at, self._intensity = when, self._grid.now(when)

    def _new_window(self, usage: UsageReader, now_s: float) -> ShareWindow | None:
        try:
            return ShareWindow(self.attribution, usage, now_s)
        except Exception as error:
            self.deferred_log.add(logging.ERROR, "what this process uses could not be read", error)
        return None

    def intensity(self, when: datetime) -> GridIntensity | None:
        """The grid's intensity at `when`; None where nothing is known."""
        if self._intensity is not None and not self.follows_grid:
            return self._intensity
        return self._grid.now(when)

    def refresh(self, clock: Clock) -> None:
        """Ask for the grid's intensity anew where that takes time; no lock is held."""
        self._grid.refresh(clock)

    def fresh_intensity(self, clock: Clock) -> GridIntensity | None:
        """The grid's intensity now, asked for anew where that takes time; no lock is held."""
        self.refresh(clock)
        return self.intensity(clock.now_utc())

    def take(self, step: Step, when: datetime | None) -> None:
        """Take this ledger's part of one step of the machine's energy."""
        shares = self._shares_now(step.at_s)
        if self._split is not None:
            shares = self._split.shares(shares, step.components, step.joules, step.elapsed_s)
        when = when or self._begun_at
        if when is not None and (self._grid.changes or self._intensity is None):
            self._intensity = self._grid.now(when)
        old = self._terms
        parts = step.parts if self._window is not None else ()
        known = shares is self._shares and parts is self._parts
        if not known or len(old.shares) != len(step.components):
            self._shares, self._parts = shares, parts
            old = old._replace(shares=_by_meter(shares, step.components, parts))
        if old.intensity is not self._intensity:
            old = old._replace(intensity=self._intensity)
        self._terms = old
        self.account = credit(self.account, step, old)

    def _shares_now(self, at_s: float) -> Shares:
        if self._window is None:
            return WHOLE
        try:
            return self._window.shares(at_s)
        except Exception as error:
            self.deferred_log.add(logging.ERROR, "what this process uses could not be read", error)
        return self._window.known  # what was known last holds on


def _by_meter(shares: Shares, components: tuple[Component, ...], parts: Parts) -> Joules:
    ours = tuple(float(getattr(shares, component)) for component in components)
    if not parts:
        return ours
    known = (*parts, *repeat(None, len(ours) - len(parts)))  # what stands in comes after the rest
    return tuple(s if p is None else s * p for s, p in zip(ours, known, strict=True))
