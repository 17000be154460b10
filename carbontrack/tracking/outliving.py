"""What becomes of what is still open when the span or call around it ends.

It is counted by the next one outwards. Where there is none it becomes a root: what it used up to
that moment is in the row of the span that ended, what it uses from then on in a row of its own. The
functions are called with the sampler's lock held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

from carbontrack.record import Record
from carbontrack.sampling.ledger import Mark
from carbontrack.tracking.context import nearest_open


def hand_over(ended: Any, nodes: Collection[Any], mark: Mark) -> Iterator[Record]:
    """Give the spans that outlive the span `ended` to the one around it, or make them roots.

    The sampler's lock is held. Yields the records of what became of them until `mark`, where they
    have rows.
    """
    for node in tuple(nodes):
        span = node.owner
        if node.around is not None:
            span.move_into(node.around.owner)
        else:
            yield from split(span, mark, ended.ended_at, ended.row_id)
            span.become_root(ended.row_id)


def split(
    span: Any, mark: Mark, at: datetime, parent_id: str | None, *, has_row: bool = False
) -> Iterator[Record]:
    """End a span's row at `mark`, and begin its next there; likewise those of the spans inside it.

    `at` is the wall-clock time of the mark. The sampler's lock is held. Yields the records until
    `mark` if inner spans have rows, or this one has; they have new ids, since the span keeps its
    own.
    """
    if has_row or span.session.spans == "all":
        held = span.record_until(mark, at, parent_id)
        yield held
        parent_id = held.record_id
    yield from _split_inside(span, mark, at, parent_id)
    span.restart(mark, at)


def _split_inside(span: Any, mark: Mark, at: datetime, parent_id: str | None) -> Iterator[Record]:
    """Split the spans inside that have rows: all of them, or only decorated calls with a budget."""
    for node in tuple(span.node.children):
        inner = node.owner
        if inner.session.spans == "all" or inner.call_site is not None:
            yield from split(inner, mark, at, parent_id, has_row=True)
        else:
            yield from _split_inside(inner, mark, at, parent_id)


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
