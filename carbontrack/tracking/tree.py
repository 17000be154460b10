"""The tree of open spans: who is a leaf, and how much of what a leaf gets belongs to whom.

Every open leaf gets the same at each instant (see `carbontrack.sampling.ledger`), so a span gets
that many times as much as it has leaves below it; a span without children is a leaf itself. Only a
change of that number needs arithmetic: a child that opens in a leaf takes its place, and nothing
changes.
"""

from __future__ import annotations

from typing import NamedTuple

from carbontrack.sampling.amounts import NOTHING, Joules, Sums, add_joules, sub_joules
from carbontrack.sampling.ledger import Mark, between
from carbontrack.sampling.sampler import Sampler

OWN_ROW_S = 1.0
"""A decorated call of this length or longer is a span with a row of its own; shorter ones are
summed."""


class Used(NamedTuple):
    """What a call has used before it became a span.

    Attributes:
        sums: its energy and grams.
        machine_j: what each meter counted for the whole machine while it ran.
        ran_s: how long it ran.
        began_ago_s: how long ago it began.
    """

    sums: Sums
    machine_j: Joules
    ran_s: float
    began_ago_s: float

    def start(self, now: Mark) -> Mark:
        """Where the call would have begun, had it been counted as a span from its beginning."""
        counts = now.counts
        machine_j = self.machine_j or (0.0,) * len(counts.energy_j)
        begun = counts._replace(
            at_s=counts.at_s - self.ran_s,
            energy_j=sub_joules(counts.energy_j, machine_j),
            observed_s=tuple(max(0.0, observed - self.ran_s) for observed in counts.observed_s),
        )
        return Mark(begun, now.account)


class Node:
    """One span's place in the tree. Everything here happens with the sampler's lock held."""

    __slots__ = (
        "_around", "_children", "_leaves", "_paused", "_sampler", "_since", "_sums",
        "paused_j", "paused_s",
    )  # fmt: skip

    def __init__(
        self, sampler: Sampler, around: Node | None, mark: Mark, sums: Sums = NOTHING
    ) -> None:
        self._sampler = sampler
        self._around = around
        self._children: set[Node] = set()
        self._sums = sums
        self._since = mark
        self._leaves = 1
        self._paused: Mark | None = None
        self.paused_s = 0.0
        self.paused_j: Joules = ()
        if around is None:
            sampler.leaves += 1
            return
        if around._children or around._paused is not None:
            around._grow(1, mark)
        around._children.add(self)

    def leave(self, mark: Mark) -> None:
        """The span ends; children that outlive it go to the one around it."""
        self._end_pause(mark)
        around = self._around
        if around is not None:
            around._children.discard(self)
            around._children |= self._children
            becomes_leaf = not around._children and around._paused is None
            change = becomes_leaf - (0 if self._children else self._leaves)
            if change:
                around._grow(change, mark)
        elif not self._children:
            self._sampler.leaves -= self._leaves
        for child in self._children:
            child._around = around

    def total(self, mark: Mark) -> Sums:
        """What the span has got by `mark`, or got by its end, if `mark` is that."""
        if not self._leaves:
            return self._sums
        return self._sums.plus(between(self._since, mark).times(self._leaves))

    def pause(self, mark: Mark) -> None:
        """The body of a generator is suspended: what its consumer does meanwhile is not ours."""
        if self._paused is None:
            self._paused = mark
            if not self._children:
                self._grow(-1, mark)

    def resume(self, mark: Mark) -> None:
        """The body goes on."""
        if self._paused is not None:
            self._end_pause(mark)
            if not self._children:
                self._grow(1, mark)

    def _end_pause(self, mark: Mark) -> None:
        if self._paused is not None:
            paused, now = self._paused.counts, mark.counts
            self.paused_s += now.at_s - paused.at_s
            self.paused_j = add_joules(self.paused_j, sub_joules(now.energy_j, paused.energy_j))
            self._paused = None

    def _grow(self, leaves: int, mark: Mark) -> None:
        """So many leaves more, or fewer, below this node and all around it."""
        self._sampler.leaves += leaves
        node: Node | None = self
        while node is not None:
            node._sums = node.total(mark)
            node._since = mark
            node._leaves += leaves
            node = node._around
