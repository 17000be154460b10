"""The tree of open spans: who is a leaf, since when, and whose sums go where.

What a node got is its own time as a leaf plus what its children got. A node that is left before its
children hands them to the node around it, and keeps what they had used until then.
"""

from __future__ import annotations

from carbontrack.ledger import NOTHING, Joules, Mark, Sums, add_joules, between, sub_joules
from carbontrack.sampler import Sampler


class Node:
    """One open span's place in the tree. Everything here happens with the sampler's lock held."""

    __slots__ = (
        "_around",
        "_children",
        "_from_children",
        "_leaf_since",
        "_own",
        "_passed_up",
        "_paused",
        "_sampler",
        "paused_j",
        "paused_s",
    )

    def __init__(self, sampler: Sampler, around: Node | None, mark: Mark) -> None:
        self._sampler = sampler
        self._around = around
        self._children: set[Node] = set()
        self._own = self._from_children = self._passed_up = NOTHING
        self._leaf_since: Mark | None = None
        self._paused: Mark | None = None
        self.paused_s = 0.0
        self.paused_j: Joules = ()
        if around is not None:
            if not around._children:
                around._stop_being_leaf(mark)
            around._children.add(self)
        self._be_leaf(mark)

    def start_with(self, sums: Sums) -> None:
        """Count from what has been used before there was a node."""
        self._own = sums

    def leave(self, mark: Mark) -> Sums:
        """The span ends; returns what it got."""
        self._end_pause(mark)
        self._stop_being_leaf(mark)
        around = self._around
        for child in self._children:
            # What it has used so far is ours, the rest belongs further up.
            so_far = child.total(mark)
            self._from_children = self._from_children.plus(so_far.minus(child._passed_up))
            child._passed_up = so_far
            child._around = around
            if around is not None:
                around._children.add(child)
        self._children.clear()
        total = self._own.plus(self._from_children)
        if around is not None:
            around._child_left(self, total, mark)
        return total

    def _child_left(self, child: Node, total: Sums, mark: Mark) -> None:
        self._from_children = self._from_children.plus(total.minus(child._passed_up))
        self._children.discard(child)
        if not self._children and self._paused is None:
            self._be_leaf(mark)

    def total(self, mark: Mark) -> Sums:
        """What it has got so far, children included."""
        total = self._own.plus(self._from_children)
        if self._leaf_since is not None:
            total = total.plus(between(self._leaf_since, mark))
        for child in self._children:
            total = total.plus(child.total(mark).minus(child._passed_up))
        return total

    def pause(self, mark: Mark) -> None:
        """The body of a generator is suspended: what its consumer does meanwhile is not ours."""
        if self._paused is None:
            self._paused = mark
            self._stop_being_leaf(mark)

    def resume(self, mark: Mark) -> None:
        """The body goes on."""
        if self._paused is not None:
            self._end_pause(mark)
            if not self._children:
                self._be_leaf(mark)

    def _end_pause(self, mark: Mark) -> None:
        if self._paused is not None:
            paused, now = self._paused.machine, mark.machine
            self.paused_s += now.at_s - paused.at_s
            self.paused_j = add_joules(self.paused_j, sub_joules(now.energy_j, paused.energy_j))
            self._paused = None

    def _be_leaf(self, mark: Mark) -> None:
        self._leaf_since = mark
        self._sampler.leaves += 1

    def _stop_being_leaf(self, mark: Mark) -> None:
        if self._leaf_since is not None:
            self._own = self._own.plus(between(self._leaf_since, mark))
            self._leaf_since = None
            self._sampler.leaves -= 1
