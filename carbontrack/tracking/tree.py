"""The tree of open spans: the arithmetic of its nodes, and what becomes of those that outlive it.

A span that is still open when the one around it ends is counted by the next one outwards. Where
there is none it becomes a root: what it used up to that moment is in the row of the span that
ended, what it uses from then on in a row of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from carbontrack.record import Record
from carbontrack.sampling.counts import Joules
from carbontrack.sampling.ledger import NOTHING, Mark, Sums, add_joules, sub_joules, total
from carbontrack.sampling.sampler import Sampler
from carbontrack.tracking.context import nearest_open


class Node:
    """One span in the tree of open spans; used with the sampler's lock held.

    Attributes:
        owner: the span, while it is open.
        around: the node of the span around it; None for a root.
        children: the nodes of the open spans inside it.
        paused_s, paused_j: how long it was paused, and what the machine used meanwhile.
    """

    __slots__ = (
        "_leaves", "_paused", "_sampler", "_since", "_sums", "around", "children", "owner",
        "paused_j", "paused_s",
    )  # fmt: skip

    def __init__(self, owner: Any, around: Node | None, mark: Mark, sums: Sums = NOTHING) -> None:
        self.owner = owner
        self._sampler: Sampler = owner.session.sampler
        sampler = self._sampler
        self.around = around
        self.children: set[Node] = set()
        self._sums = sums
        self._since = mark
        self._leaves = 1
        self._paused: Mark | None = None
        self.paused_s = 0.0
        self.paused_j: Joules = ()
        if around is None:
            sampler.leaves += 1
            return
        if around.children or around._paused is not None:
            around._grow(1, mark)
        around.children.add(self)

    def leave(self, mark: Mark) -> Collection[Node]:
        """The span ends; its children move to the node around it, and are returned."""
        self._end_pause(mark)
        self.owner = None
        around = self.around
        if around is not None:
            around.children.discard(self)
            around.children |= self.children
            becomes_leaf = not around.children and around._paused is None
            change = becomes_leaf - (0 if self.children else self._leaves)
            if change:
                around._grow(change, mark)
        elif not self.children:
            self._sampler.leaves -= self._leaves
        for child in self.children:
            child.around = around
        return self.children

    def restart(self, mark: Mark) -> None:
        """Count from `mark` on, as if the span began there."""
        self._sums, self._since = NOTHING, mark
        self.paused_s, self.paused_j = 0.0, ()
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
            if not self.children:
                self._grow(-1, mark)

    def resume(self, mark: Mark) -> None:
        """The body resumes."""
        if self._paused is not None:
            self._end_pause(mark)
            if not self.children:
                self._grow(1, mark)

    def _end_pause(self, mark: Mark) -> None:
        if self._paused is not None:
            paused, now = self._paused.counts, mark.counts
            self.paused_s += now.at_s - paused.at_s
            self.paused_j = add_joules(self.paused_j, sub_joules(now.energy_j, paused.energy_j))
            self._paused = None

    def _grow(self, leaves: int, mark: Mark) -> None:
        """Change the number of leaves of this node and all its ancestors."""
        self._sampler.leaves += leaves
        node: Node | None = self
        while node is not None:
            node._sums = node.total(mark)
            node._since = mark
            node._leaves += leaves
            node = node.around


def hand_over(ended: Any, nodes: Collection[Node], mark: Mark) -> Iterator[Record]:
    """Give the spans that outlive the span `ended` to the one around it, or make them roots.

    The sampler's lock is held. Yields the records of what became of them until `mark`, where they
    have rows.
    """
    for node in tuple(nodes):
        span = node.owner
        if node.around is not None:
            span.move_into(node.around.owner)
        else:
            yield from split(span, mark, ended.row_id)
            span.become_root(ended.row_id)


def split(
    span: Any, mark: Mark, parent_id: str | None, *, has_row: bool = False
) -> Iterator[Record]:
    """End a span's row at `mark`, and begin its next there; likewise those of the spans inside it.

    The sampler's lock is held. Yields the records until `mark` if inner spans have rows, or this
    one has; they have new ids, since the span keeps its own.
    """
    inner_have_rows, at = span.session.spans == "all", span.time_of(mark)
    if has_row or inner_have_rows:
        held = span.record_until(mark, at, parent_id)
        yield held
        for child in tuple(span.node.children if inner_have_rows else ()):
            yield from split(child.owner, mark, held.record_id)
    span.restart(mark, at)


def keep_awake_for(ending: Any) -> None:
    """Open the windows of the decorated calls that will be roots when the span `ending` has ended.

    The sampler's lock is held. It comes before the span's last reading, so that there is no instant
    at which the sampler has nothing to count for.
    """
    if nearest_open(ending.around) is None:
        for call in tuple(ending.covered):
            call.open_window()


def release(ended: Any, at_s: float) -> None:
    """Give the decorated calls that outlive a span or call to the one around it, if there is one.

    Otherwise they are roots from `at_s` on, when it ended. The sampler's lock is held.
    """
    calls = tuple(ended.covered)
    ended.covered.clear()
    around = nearest_open(ended.around)
    for call in calls:
        call.outlive(around, at_s)
