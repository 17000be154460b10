"""The tree of open spans: how many open leaves are below each, and what each has been credited.

Every open leaf is credited the same at each instant (see `carbontrack.sampling.ledger`), so a span
gets that amount times the number of leaves below it; a span without children is a leaf itself.
Arithmetic is needed only when this number changes. A child that opens in a leaf replaces it as a
leaf, and the number stays the same.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet
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

    children: AbstractSet[Node] = frozenset()
    was_paused = False
    _sums = NOTHING
    _leaves = 1
    _is_leaf = True
    _is_paused = False
    _ran: tuple[float, Joules]
    _resumed: Counts

    def __init__(self, owner: Any, around: Node | None, mark: Mark) -> None:
        self.owner = owner
        self.around = around
        self._sampler: Sampler = owner.session.sampler
        self._since = mark

    @classmethod
    def of_root(cls, owner: Any, mark: Mark, sums: Sums) -> Node:
        """The node of a root that has used `sums` before `mark`."""
        node = cls(owner, None, mark)
        node._sums = sums
        return node

    def join(self) -> None:
        """The span opens: it is part of the tree from its first mark on."""
        around = self.around
        if around is None:
            _add_leaves(self._sampler, 1)
            return
        if around.children:
            around.children |= {self}
        else:
            around.children = {self}
        if around._is_leaf:  # as below, but cheaper: this one replaces it
            around._is_leaf = False
        else:
            around._update(1, self._since)

    def leave(self, mark: Mark) -> Collection[Node]:
        """The span ends; its children move to the node around it, and are returned.

        A second call only returns them.
        """
        around, children = self.around, self.children
        if self.owner is None:
            return children
        if self._is_paused:
            self._end_pause(mark)
        self.owner = None
        if around is not None:
            around.children -= {self}
        if children:
            self._hand_over(children)
        if self._is_leaf:
            if around is None:
                _add_leaves(self._sampler, -1)
            elif around._leaves == 1 and not around._is_paused:  # as below, but cheaper
                around._is_leaf = True
            else:
                around._update(-1, mark)
        return children

    def _hand_over(self, children: AbstractSet[Node]) -> None:
        """Have the node around this one as that of its children."""
        around = self.around
        if around is not None:
            around.children |= children
        for child in children:
            child.around = around

    def finish_leaving(self, mark: Mark) -> None:
        """Settle a span whose end was interrupted: it counts up to `mark`."""
        if self.owner is not None or self._leaves:
            self._end_pause(mark)
            self._sums, self._since, self._leaves = self.total(mark), mark, 0
        self.owner = None
        if self.around is not None:
            self.around.children -= {self}
        self._hand_over(self.children)

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
        inside = sum([child.recount() for child in self.children])
        is_leaf = not inside and not self._is_paused
        leaves = inside + is_leaf
        if (leaves, is_leaf) != (self._leaves, self._is_leaf):
            now = Mark(self._sampler.counts, self.owner.session.ledger.account)
            self._settle(now, leaves, is_leaf=is_leaf)
        return leaves


def recount(sampler: Sampler) -> None:
    """Count the leaves of all open spans anew, as a handler has raised in a change of the tree."""
    roots: set[Node] = set()
    for holder in list(sampler.holders.values()):
        node = getattr(holder(), "node", None)  # windows of summed calls have none
        if node is not None:  # what outlives a root that is just ending has no hold yet
            roots |= node.children if node.owner is None else {node}
    leaves = sum(
        [node.recount() for node in roots if node.owner is not None and node.around is None]
    )
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
