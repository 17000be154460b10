"""Apportions energy to decorated calls that are too short and too many to be measured singly.

A finished call leaves two numbers: how long it ran, and how many CPU seconds the process used in
that time. At every tick the energy set aside since the last one is apportioned in proportion to
them: that of the CPU by CPU seconds if only this process's share is attributed, everything else by
time. Energy that the calls do not account for belongs to no call, as between spans.
"""

from __future__ import annotations

from operator import mul
from typing import Protocol
from weakref import ref

from carbontrack.sampling.counts import Counts, Joules, sub_joules
from carbontrack.sampling.ledger import (
    NOTHING,
    Account,
    Ledger,
    Mark,
    Sums,
    calls_between,
)
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.clock import process_cpu_s
from carbontrack.values import NamedTuple

OWN_ROW_S = 1.0
"""A decorated call at least this long becomes a span with its own row; shorter ones are summed."""


class PriorUsage(NamedTuple):
    """The usage of a call before it became a span.

    Attributes:
        sums: its energy and emissions.
        machine_j: each meter's energy for the whole machine while it ran.
        ran_s: how long it ran.
        began_ago_s: how long ago it began.
    """

    sums: Sums
    machine_j: Joules
    ran_s: float
    began_ago_s: float

    def start(self, now: Mark) -> Mark:
        """The start mark that the call would have as a span from its beginning."""
        counts = now.counts
        machine_j = self.machine_j or (0.0,) * len(counts.energy_j)
        begun = counts.with_sums(
            counts.at_s - self.ran_s,
            sub_joules(counts.energy_j, machine_j),
            tuple(max(0.0, observed - self.ran_s) for observed in counts.observed_s),
            counts.ends_j,
        )
        return Mark(begun, now.account.closed(counts))


class CallUsage(NamedTuple):
    """How long calls ran, and the CPU seconds that the process used in that time."""

    ran_s: float
    cpu_s: float


NO_USAGE = CallUsage(0.0, 0.0)


class Recipient(Protocol):
    """Receives a part of the energy: a single call, or the short calls of a function."""

    @property
    def ledger(self) -> Ledger:
        """The ledger whose policy and grid apply."""
        ...

    def unsettled(self, now_s: float, cpu_s: float) -> CallUsage:
        """The usage since the last call of `usage`."""
        ...

    def usage(self, now_s: float, cpu_s: float) -> CallUsage | None:
        """The usage since the last call of this method; None if there was none."""
        ...

    def credit(self, sums: Sums, machine_j: Joules) -> None:
        """Add a part of the energy."""
        ...


class SummedCalls(Recipient, Protocol):
    """The short calls of a decorated function."""

    def write_row_if_due(self, now_s: float) -> None:
        """Write the row of the summed calls if their window is over."""
        ...


class Apportioner:
    """Apportions, at every tick, the energy set aside for calls; one for each sampler."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.sites: set[SummedCalls] = set()
        """Decorated functions with an open window of summed calls."""
        self.single: dict[int, Recipient] = {}
        """Calls that are credited singly: running ones, and suspended generators."""
        self.counts_cpu = False
        """Whether calls store the CPU seconds of the process, because energy is divided by them."""
        self._settled: dict[int, tuple[ref[Ledger], Account]] = {}
        """By the ledger's id: the account up to which its calls have been given their part."""
        self._counts = sampler.counts
        self._in_steps = NO_USAGE
        """The usage since the last `settle` that a step took into account, while spans are open."""

    @classmethod
    def of(cls, sampler: Sampler) -> Apportioner:
        """The sampler's apportioner, made when first needed."""
        with sampler.lock:
            if not isinstance(sampler.apportioner, Apportioner):
                sampler.attach(Apportioner(sampler))
            apportioner = sampler.apportioner
            assert isinstance(apportioner, Apportioner)
            return apportioner

    def begin(self, ledger: Ledger) -> None:
        """Begin to count calls on this ledger; energy set aside before belongs to no call."""
        self._sampler.attach(self)
        self.settle()
        for key, (known, _) in list(self._settled.items()):
            if known() is None:
                self._settled.pop(key, None)
        self._settled[id(ledger)] = ref(ledger), self._account(ledger)
        if ledger.attribution.scope != "machine":
            # From then on for all calls, as those that overlap share them. What runs now has been
            # marked by `settle`.
            self.counts_cpu = True

    @property
    def is_idle(self) -> bool:
        """Whether no call is counted: a call that runs has a site with a window."""
        return not (self.sites or self.single or self._sampler.under_way)

    def tick(self) -> None:
        """Settle, and promote long calls to spans; the sampler's lock is held."""
        self.settle()
        now_s = self._sampler.counts.at_s
        for call in list(self._sampler.under_way.values()):
            if call.grows and call.ran_for_s(now_s) >= OWN_ROW_S:
                call.promote()

    def usage_in_step(self, now_s: float) -> tuple[float, float]:
        """For how long calls ran since the last step or `settle`, and their CPU seconds."""
        recipients: list[Recipient] = [*self.sites, *list(self.single.values())]
        if not recipients and not self._sampler.under_way:
            return NO_USAGE
        cpu_s, before = process_cpu_s() if self.counts_cpu else 0.0, self._in_steps
        running = [c for c in list(self._sampler.under_way.values()) if id(c) not in self.single]
        found = [one.unsettled(now_s, cpu_s) for one in (*recipients, *running)]
        ran_s, used_s = sum(c.ran_s for c in found), sum(c.cpu_s for c in found)
        # less than before: a call has ended, and its thread has not yet left its length
        self._in_steps = CallUsage(max(ran_s, before.ran_s), max(used_s, before.cpu_s))
        return max(0.0, ran_s - before.ran_s), max(0.0, used_s - before.cpu_s)

    def settle(self) -> None:
        """Apportion the energy set aside since the last call; the sampler's lock is held."""
        counts, before = self._sampler.counts, self._counts
        self._counts, self._in_steps = counts, NO_USAGE
        now_s, cpu_s = counts.at_s, process_cpu_s()
        self._separate_running()
        recipients: list[Recipient] = [*self.sites, *list(self.single.values())]
        usages = [(one, one.usage(now_s, cpu_s)) for one in recipients]
        real = [(one, usage) for one, usage in usages if usage is not None]
        everyone = CallUsage(sum(c.ran_s for _, c in real), sum(c.cpu_s for _, c in real))
        for one, usage in real:
            sums = self._part(one.ledger, usage, everyone)
            one.credit(sums, _machine_part(before, counts, usage))
        for ledger in {one.ledger for one in recipients}:
            self._settled[id(ledger)] = ref(ledger), self._account(ledger)

    def _separate_running(self) -> None:
        # A call that is running at a tick may turn out to be long, so from here on it is credited
        # singly. One that has just ended in its own thread is left to that thread.
        # Not `items()`: making its tuples may start the garbage collector, up to Python 3.11, and
        # so let another thread change the mapping meanwhile.
        for call in list(self._sampler.under_way.values()):
            if id(call) not in self.single:
                call.become_single()
                if call not in self._sampler.under_way:
                    self.single.pop(id(call), None)

    def _account(self, ledger: Ledger) -> Account:
        return ledger.account.at(self._sampler.counts)

    def _part(self, ledger: Ledger, usage: CallUsage, everyone: CallUsage) -> Sums:
        now = self._account(ledger)
        known, before = self._settled.get(id(ledger), (None, now))
        if known is None or known() is not ledger:
            before = now  # nothing is set aside for calls of a ledger that has not begun
        set_aside = calls_between(before, now)
        whole_j = sum(set_aside.ours_j)
        if whole_j <= 0.0:
            return NOTHING
        by_time = _ratio(usage.ran_s, everyone.ran_s, now.calls_s - before.calls_s)
        by_cpu, cpu_s = by_time, now.calls_cpu_s - before.calls_cpu_s
        if ledger.attribution.scope != "machine" and max(everyone.cpu_s, cpu_s) > 0.0:
            by_cpu = _ratio(usage.cpu_s, everyone.cpu_s, cpu_s)
        parts = {"cpu": by_cpu, "other": by_cpu, "gpu": by_time, "ram": by_time}
        weights = [parts[component] for component in self._sampler.components]
        joules = tuple(map(mul, set_aside.ours_j, weights))
        ends_j = tuple(
            map(mul, set_aside.ends_j, map(weights.__getitem__, self._sampler.end_meters))
        )
        fraction = sum(joules) / whole_j
        best, low, high = (grams * fraction for grams in set_aside.grams)
        served_j = {source: part_j * fraction for source, part_j in set_aside.served_j.items()}
        return Sums(joules, (best, low, high), served_j, ends_j)

    def write_due_rows(self) -> None:
        """Write the rows whose windows are over; the sampler's lock is not held."""
        now_s = self._sampler.counts.at_s
        with self._sampler.lock:
            sites = list(self.sites)
        for site in sites:
            site.write_row_if_due(now_s)

    def forget_parent(self) -> None:
        """Reset in a child process."""
        self.single.clear()
        self.sites.clear()


def _ratio(part: float, everyone: float, available: float) -> float:
    whole = max(everyone, available)
    return part / whole if whole > 0.0 else 0.0


def _machine_part(before: Counts, now: Counts, usage: CallUsage) -> Joules:
    elapsed_s = now.at_s - before.at_s
    if elapsed_s <= 0.0:
        return ()
    part = min(1.0, usage.ran_s / elapsed_s)
    return tuple(joules * part for joules in sub_joules(now.energy_j, before.energy_j))
