"""The tree of open spans: how many open leaves are below each, and what each has been credited.

Every open leaf is credited the same at each instant (see `carbontrack.sampling.ledger`), so a span
gets that amount times the number of leaves below it; a span without children is a leaf itself.
Arithmetic is needed only when this number changes. A child that opens in a leaf replaces it as a
leaf, and the number stays the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from carbontrack.sampling.counts import Joules
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
        paused_s, paused_j: how long it was paused, and what the machine used meanwhile.
    """

    __slots__ = (
        "_is_leaf", "_leaves", "_paused", "_sampler", "_since", "_sums", "around", "children",
        "owner", "paused_j", "paused_s",
    )  # fmt: skip

    def __init__(self, owner: Any, around: Node | None, mark: Mark, sums: Sums = NOTHING) -> None:
        self.owner = owner
        self._sampler: Sampler = owner.session.sampler
        self.around = around
        self.children: set[Node] = set()
        self._sums = sums
        self._since = mark
        self._leaves = 1
        self._is_leaf = True
        self._paused: Mark | None = None
        self.paused_s = 0.0
        self.paused_j: Joules = ()

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
            elif around._leaves == 1 and around._paused is None:  # as below, but cheaper
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
        self._sums, self._since, self.paused_s, self.paused_j = NOTHING, mark, 0.0, ()
        if self._paused is not None:
            self._paused = mark

    def total(self, mark: Mark) -> Sums:
        """The span's sums by `mark`, which is at or before its end."""
        if not self._leaves:
            return self._sums
        return total(self._sums, self._since, mark, self._leaves)

    def pause(self, mark: Mark) -> None:
        """The body of a generator is suspended: what its consumer uses meanwhile is not counted."""
        if self._paused is None:
            self._paused = mark
            self._update(0, mark)

    def resume(self, mark: Mark) -> None:
        """The body resumes."""
        if self._paused is not None:
            self._end_pause(mark)
            self._update(0, mark)

    def _end_pause(self, mark: Mark) -> None:
        if self._paused is not None:
            paused, now = self._paused.counts, mark.counts
            paused_s = self.paused_s + now.at_s - paused.at_s
            paused_j = add_joules(self.paused_j, sub_joules(now.energy_j, paused.energy_j))
            self.paused_s, self.paused_j, self._paused = paused_s, paused_j, None

    def _update(self, change: int, mark: Mark) -> None:
        """The leaves inside this node change in number, or it is paused or resumes.

        The nodes around it change as far as their own numbers of leaves do.
        """
        node: Node | None = self
        while node is not None:
            inside = node._leaves - node._is_leaf + change
            is_leaf = not inside and node._paused is None
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
        inside = sum([child.recount() for child in self.children])
        is_leaf = not inside and self._paused is None
        leaves = inside + is_leaf
        if (leaves, is_leaf) != (self._leaves, self._is_leaf):
            now = Mark(self._sampler.counts, self.owner.session.ledger.account)
            self._settle(now, leaves, is_leaf=is_leaf)
        return leaves


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
