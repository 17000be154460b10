"""The tree of open spans: how many open leaves are below each, and what each has been credited.

Every open leaf is credited the same at each instant (see `carbontrack.sampling.ledger`), so a span
gets that amount times the number of leaves below it; a span without children is a leaf itself.
Arithmetic is needed only when this number changes. A child that opens in a leaf replaces it as a
leaf, and the number stays the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from carbontrack.sampling.counts import Counts, Joules
from carbontrack.sampling.ledger import NOTHING, Mark, Sums, add_joules, sub_joules, total
from carbontrack.sampling.sampler import Sampler


class Node:
    """One span in the tree of open spans; used with the sampler's lock held.

    A node is a leaf while it is not paused and no node inside it has leaves. So a block is a leaf
    again while the generator that it consumes is suspended.

    A handler of a signal may raise at any line of a change. What must change together is changed by
    one statement, and `recount` makes the numbers of leaves true again.

    Attributes:
        owner: the span, while it is open.
        around: the node of the span around it; None for a root.
        children: the nodes of the open spans inside it.
        was_paused: whether it has been paused since its row began; `ran` says how long it was not.
    """

    __slots__ = (
        "_is_leaf", "_is_paused", "_leaves", "_ran", "_resumed", "_sampler", "_since", "_sums",
        "around", "children", "owner", "was_paused",
    )  # fmt: skip
    _ran: tuple[float, Joules]
    _resumed: Counts

    def __init__(self, owner: Any, around: Node | None, mark: Mark, sums: Sums = NOTHING) -> None:
        self.owner = owner
        self._sampler: Sampler = owner.session.sampler
        self.around = around
        self.children: set[Node] = set()
        self._sums = sums
        self._since = mark
        self._leaves = 1
        self._is_leaf = True
        self._is_paused = False
        self.was_paused = False

    def join(self) -> None:
        """The span opens: it is part of the tree from its first mark on."""
        around = self.around
        if around is None:
            _add_leaves(self._sampler, 1)
            return
        around.children.add(self)
        if around._is_leaf:  # as below, but cheaper: this one replaces it
            around._is_leaf = False
        else:
            around._update(1, self._since)

    def leave(self, mark: Mark) -> Collection[Node]:
        """The span ends; its children move to the node around it, and are returned.

        A second call only returns them.
        """
        if self.owner is None:
            return self.children
        self._end_pause(mark)
        self.owner, around = None, self.around
        if around is not None:
            around.children.discard(self)
            around.children |= self.children
        if self._is_leaf:
            if around is None:
                _add_leaves(self._sampler, -1)
            elif around._leaves == 1 and not around._is_paused:  # as below, but cheaper
                around._is_leaf = True
            else:
                around._update(-1, mark)
        for child in self.children:
            child.around = around
        return self.children

    def finish_leaving(self, mark: Mark) -> None:
        """Settle a span whose end was interrupted: it counts up to `mark`."""
        around = self.around
        if self.owner is not None or self._leaves:
            self._end_pause(mark)
            self._sums, self._since, self._leaves = self.total(mark), mark, 0
        self.owner = None
        if around is not None:
            around.children.discard(self)
            around.children |= self.children
        for child in self.children:
            child.around = around

    def restart(self, mark: Mark) -> None:
        """Count from `mark` on, as if the span began there."""
        self._ran, self._resumed = (0.0, ()), mark.counts
        self._sums, self._since, self.was_paused = NOTHING, mark, self._is_paused

    def total(self, mark: Mark) -> Sums:
        """The span's sums by `mark`, which is at or before its end."""
        if not self._leaves:
            return self._sums
        return total(self._sums, self._since, mark, self._leaves)

    def pause(self, mark: Mark) -> None:
        """The body of a generator is suspended: what its consumer uses meanwhile is not counted."""
        if not self._is_paused:
            if not self.was_paused:
                self._ran, self._resumed = (0.0, ()), self.owner.began[0].counts
            self._ran, self._is_paused, self.was_paused = self.ran(mark.counts), True, True
            self._update(0, mark)

    def resume(self, mark: Mark) -> None:
        """The body resumes."""
        if self._is_paused:
            self._end_pause(mark)
            self._update(0, mark)

    def _end_pause(self, mark: Mark) -> None:
        if self._is_paused:
            self._resumed, self._is_paused = mark.counts, False

    def ran(self, end: Counts) -> tuple[float, Joules]:
        """How long a span that was paused ran by `end`, and what the machine used meanwhile.

        Its runs are added up. The time without the pauses would be off by their rounding, for one
        that did not run at all too.
        """
        ran_s, machine_j = self._ran
        if self._is_paused:
            return ran_s, machine_j
        used_j = sub_joules(end.energy_j, self._resumed.energy_j)
        return ran_s + (end.at_s - self._resumed.at_s), add_joules(machine_j, used_j)

    def _update(self, change: int, mark: Mark) -> None:
        """The leaves inside this node change in number, or it is paused or resumes.

        The nodes around it change as far as their own numbers of leaves do.
        """
        node: Node | None = self
        while node is not None:
            inside = node._leaves - node._is_leaf + change
            is_leaf = not inside and not node._is_paused
            change = inside + is_leaf - node._leaves
            if not change:
                node._is_leaf = is_leaf
                return
            node._settle(mark, inside + is_leaf, is_leaf=is_leaf)
            node = node.around
        _add_leaves(self._sampler, change)

    def _settle(self, mark: Mark, leaves: int, *, is_leaf: bool) -> None:
        """Have another number of leaves from `mark` on."""
        sums = self.total(mark)
        self._sums, self._since, self._leaves, self._is_leaf = sums, mark, leaves, is_leaf

    def recount(self) -> int:
        """Count the leaves of this node and those below anew; returns their number."""
        below = [self]
        for node in below:  # no recursion: spans may lie deeper in each other than functions may
            below.extend(node.children)
        for node in reversed(below):
            inside = sum([child._leaves for child in node.children])
            is_leaf = not inside and not node._is_paused
            leaves = inside + is_leaf
            if (leaves, is_leaf) != (node._leaves, node._is_leaf):
                now = Mark(node._sampler.counts, node.owner.session.ledger.account)
                node._settle(now, leaves, is_leaf=is_leaf)
        return self._leaves


def recount(sampler: Sampler) -> None:
    """Count the leaves of all open spans anew, as a handler has raised in a change of the tree."""
    leaves = 0
    for holder in list(sampler.holders.values()):
        node = getattr(holder(), "node", None)  # windows of summed calls have none
        if node is not None and node.owner is not None and node.around is None:
            leaves += node.recount()
    _add_leaves(sampler, leaves - sampler.leaves)


def _add_leaves(sampler: Sampler, change: int) -> None:
    """Change the number of leaves of all spans, just after a sample.

    While there are none, energy may belong to nobody; so what is set aside for calls is settled
    where that begins or ends.
    """
    before = sampler.leaves
    sampler.leaves = now = before + change
    if sampler.apportioner is not None and not (before and now):
        sampler.apportioner.settle()
