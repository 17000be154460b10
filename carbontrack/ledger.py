"""The running sum: joules of the machine, joules of ours, grams. Pure functions on immutable facts.

Two ledgers advance together at every sample. The *machine's* takes the difference of each meter's
count. An *account*, one for each tracker, takes its share of that difference, weighs it with the
grid's intensity of the moment, and splits it evenly among what is open. A span is then the
difference between two marks in both.
"""

from __future__ import annotations

from itertools import repeat
from operator import mul, sub
from typing import NamedTuple

from carbontrack.grid.intensity import GridIntensity
from carbontrack.machine import Machine
from carbontrack.records import Component
from carbontrack.sums import (
    NO_GRAMS,
    NOTHING_SERVED,
    Grams,
    Joules,
    Served,
    Sums,
    add_joules,
    each,
    merged,
    sub_joules,
)
from carbontrack.units import JOULES_PER_KWH


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
        pool_j, pool_g: what was set aside for decorated calls.
        pool_s, pool_cpu_s: the time, and CPU time, for which the pool stands.
        leaf_served_j, pool_served_j: the joules by the source that said what they emit.
    """

    leaf_j: Joules = ()
    leaf_g: Grams = NO_GRAMS
    pool_j: Joules = ()
    pool_g: Grams = NO_GRAMS
    pool_s: float = 0.0
    pool_cpu_s: float = 0.0
    leaf_served_j: Served = NOTHING_SERVED
    pool_served_j: Served = NOTHING_SERVED


def credit(account: Account, step: Step, terms: Terms) -> Account:
    """Share one step of the machine's energy out among what is open.

    At each instant the energy is split evenly among the open leaves; calls under way count as
    leaves. Where only calls may be under way the pool takes everything, and its own rule decides
    how much of it was somebody's.
    """
    ours = tuple(map(mul, step.joules, terms.shares))
    if not step.leaves:
        return _into_pool(account, step, ours, terms, part=1.0)
    heads = step.leaves + step.calls
    if heads == 1:
        each = ours
    else:
        each = tuple(map(mul, ours, repeat(1.0 / heads)))
        if step.calls:
            account = _into_pool(account, step, ours, terms, part=step.calls / heads)
    if terms.names_sources:
        account = account._replace(leaf_served_j=_plus_served(account.leaf_served_j, each, terms))
    return Account(
        add_joules(account.leaf_j, each), _plus_grams(account.leaf_g, each, terms), *account[2:]
    )


def _into_pool(account: Account, step: Step, ours: Joules, terms: Terms, part: float) -> Account:
    pooled = tuple(map(mul, ours, repeat(part)))
    if terms.names_sources:
        account = account._replace(pool_served_j=_plus_served(account.pool_served_j, pooled, terms))
    return account._replace(
        pool_j=add_joules(account.pool_j, pooled),
        pool_g=_plus_grams(account.pool_g, pooled, terms),
        pool_s=account.pool_s + step.elapsed_s * part,
        pool_cpu_s=account.pool_cpu_s + step.cpu_s * part,
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

    machine: Machine
    account: Account


def between(start: Mark, end: Mark) -> Sums:
    """What a span got that was an open leaf from `start` to `end`."""
    after, before = end.account, start.account
    return Sums(
        sub_joules(after.leaf_j, before.leaf_j),
        each(sub, after.leaf_g, before.leaf_g),
        merged(sub, after.leaf_served_j, before.leaf_served_j),
    )


def pooled_between(before: Account, after: Account) -> Sums:
    """What was set aside for calls between two states of an account."""
    return Sums(
        sub_joules(after.pool_j, before.pool_j),
        each(sub, after.pool_g, before.pool_g),
        merged(sub, after.pool_served_j, before.pool_served_j),
    )
