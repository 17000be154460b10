"""The ledger of one tracker: running sums of energy and emissions, advanced at every sample.

The sampler's `Counts` hold the energy of the whole machine. A tracker's `Account` takes its share
of every step, multiplies it by the grid's intensity at that moment, and splits it evenly among the
open spans. A span's energy and emissions are the difference between two `Mark`s, each a pair of
counts and account.

The first half of this module is values and pure functions on them; the second half is the state:
`ShareWindow`, the share of the machine that this process tree uses, and `Ledger`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import repeat
from operator import add, mul, sub
from typing import Any, Final

from carbontrack.attribution.policy import WHOLE, Attribution, Shares, Usage
from carbontrack.attribution.usage import UsageReader
from carbontrack.grid.intensity import GridIntensity, IntensitySource
from carbontrack.grid.nonblocking import NonblockingSource
from carbontrack.record import Component
from carbontrack.sampling.counts import Counts, Joules, sub_joules
from carbontrack.system.clock import Clock
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import DeferredLog
from carbontrack.units import JOULES_PER_KWH
from carbontrack.values import NamedTuple

Grams = tuple[float, float, float]
"""Grams of CO2e: best estimate, lower and upper bound by the grid's interval."""

Operation = Callable[[float, float], float]
Served = Mapping[str, float]
"""Joules by the name of the intensity source used for them; empty where it never changes."""

NO_GRAMS: Grams = (0.0, 0.0, 0.0)
NOTHING_SERVED: Served = {}


# -- sums: additive energy and emissions -------------------------------------------------------


class Sums(NamedTuple):
    """The energy and emissions of a span, of calls, or of several of them; they are additive.

    `ends_j` is the energy at the ends of the meters that count them, with the same shares.
    """

    ours_j: Joules = ()
    grams: Grams = NO_GRAMS
    served_j: Served = NOTHING_SERVED
    ends_j: Joules = ()

    def plus(self, other: Sums) -> Sums:
        """The sum of both."""
        if not self.ours_j:
            return other
        if not other.ours_j:
            return self
        return Sums(
            add_joules(self.ours_j, other.ours_j),
            each(add, self.grams, other.grams),
            merged(add, self.served_j, other.served_j),
            add_joules(self.ends_j, other.ends_j),
        )

    def times(self, factor: float) -> Sums:
        """The sums multiplied by `factor`."""
        if factor == 1:
            return self
        best, low, high = self.grams
        return Sums(
            tuple(map(mul, self.ours_j, repeat(factor))),
            (best * factor, low * factor, high * factor),
            {source: joules * factor for source, joules in self.served_j.items()},
            tuple(map(mul, self.ends_j, repeat(factor))),
        )


NOTHING = Sums()


def each(operation: Operation, a: Grams, b: Grams) -> Grams:
    """Apply the operation to the estimates and to both bounds."""
    return operation(a[0], b[0]), operation(a[1], b[1]), operation(a[2], b[2])


def merged(operation: Operation, a: Served, b: Served) -> Served:
    """Apply the operation source by source; a missing source counts as 0."""
    if not a and not b:
        return a
    return {source: operation(a.get(source, 0.0), b.get(source, 0.0)) for source in {**a, **b}}


def add_joules(a: Joules, b: Joules) -> Joules:
    """Add meter by meter; a meter that one side lacks counts as 0 there."""
    if len(a) == len(b):
        return tuple(map(add, a, b))
    if len(a) < len(b):
        a, b = b, a
    return tuple(map(add, a, b)) + a[len(b) :]


# -- the account: what one tracker takes of every step -----------------------------------------


class Step(NamedTuple):
    """The machine's energy between two samples, and the number of spans and calls that share it.

    Attributes:
        at_s: the instant of the later sample.
        joules: each meter's energy.
        components: each meter's component.
        leaves: open spans without an open child.
        calls: the mean number of decorated calls that ran in this time, while a span was open;
            their part is apportioned later.
        elapsed_s: the step's length.
        cpu_s: the CPU seconds that this process used in it; while a span was open, those calls.
        parts: the part of each meter that this process tree used, None where it is not known;
            applied by ledgers of scope "process".
        ends_j: the energy at the ends of the meters that count them.
        end_meters: for each of them, the index of its meter.
    """

    at_s: float
    joules: Joules
    components: tuple[Component, ...]
    leaves: int
    calls: float
    elapsed_s: float
    cpu_s: float
    parts: tuple[float | None, ...] = ()
    ends_j: Joules = ()
    end_meters: tuple[int, ...] = ()


class Sharing(NamedTuple):
    """Among how many spans and calls a step is shared; see `Step`."""

    components: tuple[Component, ...]
    leaves: int
    calls: float = 0.0
    cpu_s: float = 0.0
    parts: tuple[float | None, ...] = ()
    end_meters: tuple[int, ...] = ()

    def of(self, before: Counts, after: Counts) -> Step:
        """The step from `before` to `after`."""
        return Step(
            after.at_s,
            after.energy_since(before),
            self.components,
            self.leaves,
            self.calls,
            after.at_s - before.at_s,
            self.cpu_s,
            self.parts,
            after.end_counts_j and after.ends_since(before),
            self.end_meters,
        )


class Terms(NamedTuple):
    """The factors that turn the machine's energy into an account's energy and emissions.

    Attributes:
        shares: our share of each meter's energy, 0 to 1.
        intensity: the carbon intensity of the grid; None where it is unknown.
        pue: power usage effectiveness: energy of the site per energy of the computers.
        names_sources: whether to sum the energy by intensity source as well.
    """

    shares: Joules
    intensity: GridIntensity | None
    pue: float
    names_sources: bool = False


class Account(NamedTuple):
    """The running sums of one tracker, by its policy and grid; immutable.

    Attributes:
        leaf_j, leaf_g: energy and emissions of a span that was an open leaf all the time.
        leaf_ends_j, calls_ends_j: the energies at the ends of the meters that count them.
        calls_j, calls_g: energy and emissions set aside for decorated calls.
        calls_s, calls_cpu_s: the time, and CPU time, in which the latter were used.
        leaf_served_j, calls_served_j: the energies by intensity source.
    """

    leaf_j: Joules = ()
    leaf_g: Grams = NO_GRAMS
    leaf_ends_j: Joules = ()
    calls_j: Joules = ()
    calls_g: Grams = NO_GRAMS
    calls_s: float = 0.0
    calls_cpu_s: float = 0.0
    leaf_served_j: Served = NOTHING_SERVED
    calls_served_j: Served = NOTHING_SERVED
    calls_ends_j: Joules = ()


def credit(account: Account, step: Step, terms: Terms) -> Account:
    """Credit one step of the machine's energy to the open spans and running calls.

    At each instant the energy is split evenly among the open leaves; running calls count as leaves,
    each for as long as it ran. If no span is open, everything is set aside for calls, and
    `carbontrack.tracking.apportion` decides how much of it belongs to one.
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
    leaf_j, leaf_g = add_joules(account.leaf_j, each), _plus_grams(account.leaf_g, each, terms)
    if not step.ends_j:
        return Account(leaf_j, leaf_g, *account[2:])
    ends_j = add_joules(account.leaf_ends_j, _our_ends(step, terms, 1.0 / sharers))
    return Account(leaf_j, leaf_g, ends_j, *account[3:])


def _our_ends(step: Step, terms: Terms, part: float) -> Joules:
    ours = map(mul, step.ends_j, map(terms.shares.__getitem__, step.end_meters))
    return tuple(ours if part == 1.0 else map(mul, ours, repeat(part)))


def _set_aside_for_calls(
    account: Account, step: Step, ours: Joules, terms: Terms, part: float
) -> Account:
    joules = tuple(map(mul, ours, repeat(part)))
    if terms.names_sources:
        account = account._replace(
            calls_served_j=_plus_served(account.calls_served_j, joules, terms)
        )
    if step.ends_j:
        ends_j = add_joules(account.calls_ends_j, _our_ends(step, terms, part))
        account = account._replace(calls_ends_j=ends_j)
    return account._replace(
        calls_j=add_joules(account.calls_j, joules),
        calls_g=_plus_grams(account.calls_g, joules, terms),
        calls_s=account.calls_s + step.elapsed_s * (step.calls if step.leaves else 1.0),
        calls_cpu_s=account.calls_cpu_s + step.cpu_s,
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


class RunningAccount(NamedTuple):
    """An account at an earlier reading, and the terms by which it goes on from there; immutable.

    As long as the terms and the number of leaves stay the same, the energy since then is one step,
    however many readings there are. It is credited when it is read.

    Attributes:
        settled: the sums by `since`.
        since: the machine's counts from which on these terms apply.
        terms: the factors; None: nothing more is credited.
        sharing: the spans and calls that share the energy.
    """

    settled: Account = Account()
    since: Counts = Counts(0.0)
    terms: Terms | None = None
    sharing: Sharing = Sharing((), 0)

    def at(self, counts: Counts) -> Account:
        """The account at these counts, which are those of its start or later ones."""
        if self.terms is None or counts is self.since:
            return self.settled
        return credit(self.settled, self.sharing.of(self.since, counts), self.terms)

    def goes_on(self, before: Counts, after: Counts) -> bool:
        """Whether the energy by `after` is computed as that by `before`, so that it cannot fall.

        The difference of two counts of one anchor, and that of two sums, may differ by a rounding.
        """
        known = before.anchor.counts_j
        return after.anchor.counts_j is known or self.since.anchor.counts_j is not known

    def closed(self, counts: Counts) -> RunningAccount:
        """The account, fixed at these counts."""
        return self if self.terms is None else RunningAccount(self.at(counts), counts)


class Mark(NamedTuple):
    """The counts of the machine and a tracker's account at one instant."""

    counts: Counts
    account: RunningAccount = RunningAccount()

    @property
    def settled(self) -> Account:
        """The sums of the account at this instant."""
        return self.account.at(self.counts)


def between(start: Mark, end: Mark) -> Sums:
    """The sums of a span that was an open leaf from `start` to `end`."""
    after, before = end.settled, start.settled
    return Sums(
        sub_joules(after.leaf_j, before.leaf_j),
        each(sub, after.leaf_g, before.leaf_g),
        merged(sub, after.leaf_served_j, before.leaf_served_j),
        after.leaf_ends_j and sub_joules(after.leaf_ends_j, before.leaf_ends_j),
    )


def total(sums: Sums, start: Mark, end: Mark, leaves: int) -> Sums:
    """These sums plus those of `leaves` open leaves from `start` to `end`."""
    got = between(start, end)
    return sums.plus(got if leaves == 1 else got.times(leaves))


def mark_at(at_s: float, before: Mark, after: Mark) -> Mark:
    """The mark of an instant between two marks, assuming that everything was even between them."""
    length_s = after.counts.at_s - before.counts.at_s
    part = (at_s - before.counts.at_s) / length_s if length_s > 0.0 else 1.0
    if not 0.0 < part < 1.0:
        return after if part >= 1.0 else before

    def mean(old: Any, new: Any) -> Any:
        if isinstance(new, float):
            return old + (new - old) * part
        if isinstance(new, Mapping):
            return {key: mean(old.get(key, 0.0), value) for key, value in new.items()}
        old = (*old, *[0.0] * (len(new) - len(old)))
        return tuple(mean(*pair) for pair in zip(old, new, strict=True))

    old, new = before.counts, after.counts
    counts = new.with_sums(
        at_s,
        mean(old.energy_j, new.energy_j),
        mean(old.observed_s, new.observed_s),
        mean(old.ends_j, new.ends_j),
    )
    account = Account(*map(mean, before.settled, after.settled))
    return Mark(counts, RunningAccount(account))


def calls_between(before: Account, after: Account) -> Sums:
    """The energy set aside for calls between two states of an account."""
    return Sums(
        sub_joules(after.calls_j, before.calls_j),
        each(sub, after.calls_g, before.calls_g),
        merged(sub, after.calls_served_j, before.calls_served_j),
        after.calls_ends_j and sub_joules(after.calls_ends_j, before.calls_ends_j),
    )


# -- state: the share of this process tree, and the ledger ------------------------------------

SHARE_WINDOW_S: Final = 0.2
"""The shortest time over which a share of CPU time is taken. The kernel counts in steps of 10 ms,
which is 5 % of the window; an excess in one window is missing in the next."""
USAGE_PERIOD_S: Final = 0.02
"""The shortest time between two reads of the usage. Closer reads would show nothing new, and one
costs as much as the rest of a span's start or end."""
STALE_S: Final = 2.0
"""A window that ended longer ago than this is discarded."""
NOW: Final = float("-inf")
"""The instant of what is due at any time."""


Parts = tuple[float | None, ...]


class ShareWindow:
    """Our share of each component over the last `SHARE_WINDOW_S` or a little more."""

    def __init__(self, attribution: Attribution, reader: UsageReader, now_s: float) -> None:
        self._attribution = attribution
        self.reader = reader
        reserves = attribution.splits_idle() and attribution.idle == "reserved"
        self._reservation = reader.reservation() if reserves else None
        self._before = self._middle = self._last = self._look(now_s)
        # Until the counts show a share, everything is ours: an upper bound, never zero.
        self._shares = WHOLE._replace(idle=self._last.reserved_share)
        self._known = False

    @property
    def at_s(self) -> float:
        """The instant of the last read."""
        return self._last.at_s

    @property
    def due_s(self) -> float:
        """When the usage is to be read again at the earliest."""
        return self._last.at_s + USAGE_PERIOD_S if self._known else NOW

    @property
    def known(self) -> Shares:
        """The shares by the last read."""
        return self._shares

    def shares(self, now_s: float) -> Shares:
        """The share of each component now."""
        if now_s < self.due_s:
            return self._shares
        usage = self._last = self._look(now_s)
        if usage.at_s - self._middle.at_s >= SHARE_WINDOW_S:
            self._before, self._middle = self._middle, usage
        new = self._attribution.shares(self._before, usage)
        self._known = self._known or new.cpu is not None
        self._shares = new.over(self._shares)
        return self._shares

    def shares_of_step(self, since_s: float, now_s: float, own_cpu_s: float) -> Shares:
        """The shares of a step that ends now, with the CPU seconds of this process in it.

        If the window is longer than the step, or older, our load may have started or stopped since.
        A window that has just started has no information on other processes yet.
        """
        before, last = self._before, self._last
        is_long = last.at_s - before.at_s >= SHARE_WINDOW_S
        if not is_long or (since_s <= before.at_s and now_s <= last.at_s):
            return self._shares
        cpu = _cpu_share_of_step(before, last, now_s - since_s, own_cpu_s)
        known = self._shares
        return known if cpu is None else Shares(cpu, known.gpu, known.ram, cpu, known.idle)

    def _look(self, now_s: float) -> Usage:
        usage, reservation = self.reader.read(now_s), self._reservation
        if reservation is None:
            return usage
        return usage._replace(reserved_share=reservation.share, reserved_cpu_s=reservation.cpu_s())


def _cpu_share_of_step(
    before: Usage, after: Usage, step_s: float, own_cpu_s: float
) -> float | None:
    """Our CPU share of a step, in which this process has used so many CPU seconds.

    The snapshots enclose a longer time, or one that ended before the step. Other processes, and our
    child processes, are assumed to have continued as in that time. None if something is not known.
    """
    own_s, all_s = after.own_cpu_s, after.machine_cpu_s
    if None in (own_s, all_s, before.own_cpu_s, before.machine_cpu_s):
        return None
    own_s -= before.own_cpu_s  # type: ignore[operator]
    all_s -= before.machine_cpu_s  # type: ignore[operator]
    tree_s, part = after.process_cpu_s - before.process_cpu_s, step_s / (after.at_s - before.at_s)
    ours_s = max(0.0, tree_s - own_s) * part + own_cpu_s
    both_s = ours_s + max(0.0, all_s - tree_s) * part
    return ours_s / both_s if both_s > 0.0 else None


class Ledger:
    """The energy and emissions of one tracker so far, by its policy and grid.

    Attributes:
        attribution: the policy by which the machine's energy is shared.
        account: the running sums; immutable, replaced where their terms change.
        deferred_log: messages that wait until no lock is held.
        holders: the identities of the roots and windows of summed calls that are open on it.
    """

    def __init__(self, attribution: Attribution, grid: IntensitySource | None) -> None:
        self.attribution = attribution
        self.account = RunningAccount()
        self.deferred_log = DeferredLog()
        self.holders: set[int] = set()
        self._grid = NonblockingSource(grid, self.deferred_log)
        self._has_grid = grid is not None
        self.follows_grid = self._grid.changes
        """Whether the grid's intensity changes with time."""
        self.waits_for_grid = self._grid.waits
        """Whether the intensity must be fetched with `refresh`, since that may block."""
        self._intensity: GridIntensity | None = None
        self._begun_at: datetime | None = None
        self._window: ShareWindow | None = None
        self._shares: Shares | None = None
        self._parts: Parts = ()
        self._split = attribution.idle_split()
        self._terms = Terms((), None, attribution.pue, self._grid.changes)

    def begin(self, usage: UsageReader | None, now_s: float, when: datetime) -> None:
        """Begin to take part in samples, as the first span opens."""
        window = self._window
        # After a fork the window has the reader of the parent process.
        if usage is not None and not (
            window and window.reader is usage and now_s - window.at_s <= STALE_S
        ):
            self._window = self._new_window(usage, now_s)
        self._begun_at, self._intensity = when, self._grid.now(when)

    def _new_window(self, usage: UsageReader, now_s: float) -> ShareWindow | None:
        try:
            return ShareWindow(self.attribution, usage, now_s)
        except Exception as error:
            pass_on(error)
            self.deferred_log.add(
                logging.ERROR, "the resource usage of this process could not be read", error
            )
        return None

    def intensity(self, when: datetime) -> GridIntensity | None:
        """The grid's intensity at `when`; None where nothing is known."""
        if self._intensity is not None and not self.follows_grid:
            return self._intensity
        return self._grid.now(when)

    def refresh(self, clock: Clock) -> None:
        """Fetch the grid's intensity where that may block; no lock may be held."""
        self._grid.refresh(clock)

    def fresh_intensity(self, clock: Clock) -> GridIntensity | None:
        """The grid's intensity now, fetched where that may block; no lock may be held."""
        self.refresh(clock)
        return self.intensity(clock.now_utc())

    def after(
        self, before: Counts, after: Counts, sharing: Sharing, clock: Clock
    ) -> RunningAccount:
        """The account with this ledger's share of one step of the machine's energy."""
        account, shares = self.account, self._shares_now(after.at_s)
        if self._split is None and not (sharing.calls or sharing.cpu_s):
            terms = self._terms_with(shares, sharing, clock)
            same = account.terms is terms and account.sharing.leaves == sharing.leaves
            if same and account.goes_on(before, after):
                return account
            return RunningAccount(account.at(before), before, terms, sharing)
        # these terms hold for this step alone, so it is credited at once
        if self._window is not None and sharing.cpu_s and not sharing.leaves:
            shares = self._window.shares_of_step(before.at_s, after.at_s, sharing.cpu_s)
        step = sharing.of(before, after)
        if self._split is not None:
            shares = self._split.shares(shares, step.components, step.joules, step.elapsed_s)
        terms = self._terms_with(shares, sharing, clock)
        settled = credit(account.at(before), step, terms)
        return RunningAccount(settled, after, terms, sharing._replace(calls=0.0, cpu_s=0.0))

    @property
    def due_s(self) -> float:
        """Until when its terms stay the same."""
        knows_grid = self._intensity is not None or not self._has_grid
        if self.follows_grid or self._split is not None or not knows_grid:
            return NOW
        return float("inf") if self._window is None else self._window.due_s

    def _terms_with(self, shares: Shares, sharing: Sharing, clock: Clock) -> Terms:
        if self.follows_grid:
            self._intensity = self._grid.now(clock.now_utc())
        elif self._intensity is None and self._begun_at is not None:
            self._intensity = self._grid.now(self._begun_at)
        old = self._terms
        parts = sharing.parts if self._window is not None else ()
        known = shares is self._shares and parts is self._parts
        if not known or len(old.shares) != len(sharing.components):
            self._shares, self._parts = shares, parts
            old = Terms(_by_meter(shares, sharing.components, parts), *old[1:])
        if old.intensity is not self._intensity:
            old = old._replace(intensity=self._intensity)
        self._terms = old
        return old

    def _shares_now(self, at_s: float) -> Shares:
        if self._window is None:
            return WHOLE
        try:
            return self._window.shares(at_s)
        except Exception as error:
            pass_on(error)
            self.deferred_log.add(
                logging.ERROR, "the resource usage of this process could not be read", error
            )
        return self._window.known  # the last known shares stay valid


def _by_meter(shares: Shares, components: tuple[Component, ...], parts: Parts) -> Joules:
    ours = tuple(float(getattr(shares, component)) for component in components)
    if not parts:
        return ours
    known = (*parts, *repeat(None, len(ours) - len(parts)))  # substitutes come last
    return tuple(s if p is None else s * p for s, p in zip(ours, known, strict=True))
