"""The tree of open spans: the number of open leaves below each, and the energy credited to each.

Every open leaf is credited the same at each instant (see `carbontrack.sampling.ledger`), so a span
gets that amount times the number of leaves below it; a span without children is a leaf itself.
Arithmetic is needed only when this number changes. A child that opens in a leaf replaces it as a
leaf, and the number stays the same.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from carbontrack.sampling.counts import Counts, Joules, sub_joules
from carbontrack.sampling.ledger import NOTHING, Mark, Sums, add_joules, total
from carbontrack.sampling.sampler import Sampler

NO_SPANS: AbstractSet[Any] = frozenset()


class Node:
    """The place of a span in the tree of open spans; used with the sampler's lock held.

    A node is a leaf while it is not paused and no node inside it has leaves. So a block is a leaf
    again while the generator that it consumes is suspended.

    A signal handler may raise at any line of a change. Values that must change together are changed
    by one statement, and `recount` corrects the numbers of leaves.
    """

    session: Any
    spans_inside: AbstractSet[Any] = NO_SPANS  # those that are open
    was_paused = False  # since its row began; `ran` says how long it was not
    _parent: Any = None  # the span around it; None for a root
    _start: Mark | None = None
    _since: Mark | None = None  # since when it has had as many leaves, if not since its start
    _sums = NOTHING
    _leaves = 1
    _is_leaf = True
    _is_paused = False
    _has_left = False
    _ran: tuple[float, Joules]
    _resumed: Counts

    def join_tree(self) -> None:
        """The span opens: it is part of the tree from its first mark on."""
        around = self._parent
        if around is None:
            _add_leaves(self.session.sampler, 1)
            return
        if around.spans_inside:
            around.spans_inside |= {self}
        else:
            around.spans_inside = {self}
        if around._is_leaf:  # as below, but cheaper: this one replaces it
            around._is_leaf = False
        else:
            around._update(1, self._start)

    def leave_tree(self, mark: Mark) -> None:
        """The span ends; the spans inside move to the one around it. A second call does nothing."""
        if self._has_left:
            return
        if self._is_paused:
            self._end_pause(mark)
        around, self._has_left = self._parent, True
        if around is not None:
            around.spans_inside -= {self}
        if self.spans_inside:
            self._hand_over_inside()
        if self._is_leaf:
            if around is None:
                _add_leaves(self.session.sampler, -1)
            elif around._leaves == 1 and not around._is_paused:  # as below, but cheaper
                around._is_leaf = True
            else:
                around._update(-1, mark)

    def _hand_over_inside(self) -> None:
        """Have the spans inside be inside of the one around this one."""
        around = self._parent
        if around is not None:
            around.spans_inside |= self.spans_inside
        for span in self.spans_inside:
            span._parent = around

    def finish_leaving(self, mark: Mark) -> None:
        """Settle a span whose end was interrupted: it counts up to `mark`."""
        if not self._has_left or self._leaves:
            self._end_pause(mark)
            self._sums, self._since, self._leaves = self.sums(mark), mark, 0
        self._has_left = True
        if self._parent is not None:
            self._parent.spans_inside -= {self}
        self._hand_over_inside()

    def restart_in_tree(self, mark: Mark) -> None:
        """Count from `mark` on, as if the span began there."""
        self._ran, self._resumed = (0.0, ()), mark.counts
        self._sums, self._since, self.was_paused = NOTHING, mark, self._is_paused

    def sums(self, mark: Mark) -> Sums:
        """The span's energy and emissions by `mark`, which is at or before its end."""
        if not self._leaves:
            return self._sums
        since = self._since or self._start
        assert since is not None
        return total(self._sums, since, mark, self._leaves)

    def pause_at(self, mark: Mark) -> None:
        """The body of a generator is suspended; its consumer's use is not counted."""
        if not self._is_paused:
            if not self.was_paused and self._start is not None:
                self._ran, self._resumed = (0.0, ()), self._start.counts
            self._ran, self._is_paused, self.was_paused = self.ran(mark.counts), True, True
            self._update(0, mark)

    def resume_at(self, mark: Mark) -> None:
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
            node = node._parent
        _add_leaves(self.session.sampler, change)

    def _settle(self, mark: Mark, leaves: int, *, is_leaf: bool) -> None:
        """Have another number of leaves from `mark` on."""
        sums = self.sums(mark)
        self._sums, self._since, self._leaves, self._is_leaf = sums, mark, leaves, is_leaf

    @property
    def _is_root(self) -> bool:
        has_joined = self._start is not None
        return has_joined and self._parent is None and not self._has_left

    def recount(self) -> int:
        """Count the leaves of this node and those below anew; returns their number."""
        below = [self]
        for node in below:  # no recursion: spans may lie deeper in each other than functions may
            below.extend(node.spans_inside)
        for node in reversed(below):
            inside = sum([child._leaves for child in node.spans_inside])
            is_leaf = not inside and not node._is_paused
            leaves = inside + is_leaf
            if (leaves, is_leaf) != (node._leaves, node._is_leaf):
                now = Mark(node.session.sampler.counts, node.session.ledger.account)
                node._settle(now, leaves, is_leaf=is_leaf)
        return self._leaves


def recount(sampler: Sampler) -> None:
    """Count the leaves of all open spans anew, as a handler has raised in a change of the tree."""
    roots: set[Node] = set()
    for holder in list(sampler.holders.values()):
        node = holder()
        if isinstance(node, Node):  # what outlives a root that is just ending has no hold yet
            roots |= node.spans_inside if node._has_left else {node}
    leaves = sum([node.recount() for node in roots if node._is_root])
    _add_leaves(sampler, leaves - sampler.leaves)


def _add_leaves(sampler: Sampler, change: int) -> None:
    """Change the number of leaves of all spans, just after a sample.

    While there are none, energy may belong to no span; so the energy set aside for calls is settled
    when that starts or ends.
    """
    before = sampler.leaves
    sampler.leaves = now = before + change
    if sampler.apportioner is not None and not (before and now):
        sampler.apportioner.settle()


def open_tasks(roots: list[Any]) -> list[Any]:
    """The tasks of a framework that are open directly inside these roots, and have rows.

    Their checkpoints are kept, so that a worker that is killed leaves the attempt that it was at.
    """
    inner = [span for root in roots for span in tuple(root.spans_inside)]
    tasks = [span for span in inner if span.task is not None]
    for task in tasks:
        task.is_kept = True
    return tasks
