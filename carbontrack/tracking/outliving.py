"""Spans and calls that are still open when the span or call around them ends, here or elsewhere.

They are counted by the next enclosing one. If there is none, they become roots: their use up to
that moment is in the row of the span that ended, and their later use in a separate row. A root also
begins a new row when a record of another process begins or stops including it. The functions are
called with the sampler's lock held, unless stated otherwise.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from carbontrack.record import Record
from carbontrack.sampling.ledger import Mark
from carbontrack.tracking.context import current, nearest_open
from carbontrack.tracking.record_builder import rfc3339

if TYPE_CHECKING:
    from carbontrack.tracking.remote_parent import RemoteParents

_MOMENT_S = 0.05
"""What a child uses in a shorter time its parent does not tell apart: it looks at its children this
often at most (see `carbontrack.attribution.process_tree`)."""
Parent = tuple[str | None, bool | None]
"""The parent id of a row, and whether the parent's record includes it."""


def hand_over(ended: Any, spans: Iterable[Any], mark: Mark) -> list[Record]:
    """Give the spans that outlive the span `ended` to the one around it, or make them roots.

    Returns their records until `mark`, for those that have rows.
    """
    records: list[Record] = []
    for span in spans:
        if span.parent is not None:
            span.change_parent(span.parent, span.parent.row_id, holds=True)
        else:
            records += split(span, mark, ended.ended.ended_at, (ended.row_id, True))
            span.change_parent(None, ended.row_id, holds=False)
            _hold(span)
            span.session.root_opened(span)
    return records


def _hold(span: Any) -> None:
    """Keep the sampler awake for a span that outlives a root, whose own hold is not ended yet.

    The span goes on from the root's last reading. In another one a read that fails would have
    failed twice.
    """
    session = span.session
    session.ledger.holders.add(id(span))
    session.sampler.holders[id(span)] = weakref.ref(span)


def split(
    span: Any, mark: Mark, at: datetime, parent: Parent, *, has_row: bool = False
) -> list[Record]:
    """End a span's row at `mark`, and begin its next there; also those of the spans inside it.

    `at` is the wall-clock time of the mark, `parent` that of the row which ends. Returns the
    records until `mark` of the spans that have rows; they have new ids, as each span keeps its own.
    """
    records: list[Record] = []
    ended: list[tuple[Any, datetime]] = []
    waiting = [(span, at, parent)]
    while waiting:  # no recursion: spans may lie deeper in each other than functions may
        one, at, parent = waiting.pop()
        ends = has_row if one is span else one.call_site is not None  # a call with a budget
        ends = ends or one.session.spans == "all"
        if ends or one is span:
            at = max(at, one.began[1])  # which is noted a moment after the mark at which it began
            ended.append((one, at))
        if ends:
            records.append(one.record_until(mark, at, parent))
            parent = (records[-1].record_id, True)
        waiting += [(inner, at, parent) for inner in one.spans_inside]
    for one, at in reversed(ended):
        one.restart(mark, at)
    return records


def follow_parents(
    root: Any, parents: RemoteParents, now: Mark, *, is_end: bool = False
) -> Sequence[Record]:
    """Begin a new row of a root if a record of another process has started or stopped including it.

    Not for a moment, at the root's beginning or, with `is_end`, at its end. Returns the records of
    the rows that have ended.
    """
    before, after = (root.parent_id, root.parent_holds), (parents.parent_id, parents.holds)
    if root.parent is not None or before == after or not (before[1] or after[1]):
        return ()
    start, started_at = root.began
    contains = after[1] and parents.holder_began <= rfc3339(started_at)
    if before[1] and after[1] and parents.is_continued:
        contains = True  # one after the other, they do
    if before[1] is None and before[0] is not None:
        contains = True  # until now it could not be found out
    records: list[Record] = []
    if not contains or (before[1] and not after[1]):
        changed = parents.mark_at_change(start, now)
        if is_end and now.counts.at_s - changed.counts.at_s < _MOMENT_S:
            return ()
        if changed.counts.at_s - start.counts.at_s >= _MOMENT_S:
            records = split(root, changed, root.time_of(changed), before, has_row=True)
    if after[1]:
        root.change_parent(None, after[0], holds=True)
    elif records or before[0] == parents.of_new_root()[0]:
        root.change_parent(None, before[0], holds=False)
    else:  # the parent had ended before it began
        parent_id, holds = parents.of_new_root()
        root.change_parent(None, parent_id, holds=holds)
    return records


def keep_around(span: Any) -> None:
    """Keep checkpoints of the spans around one that has a row, which names them.

    Otherwise a killed process would leave a row whose parent is in no file. No lock is held.
    """
    around = span.parent
    while around is not None and around.parent is not None and not around.is_kept:
        around.is_kept = True
        around.session.keep(around)
        around = around.parent


def keep_awake_for(ending: Any) -> None:
    """Open the windows of the decorated calls that will be roots when the span `ending` has ended.

    It comes before the span's last reading, so that there is no instant at which the sampler has
    nothing to count for.
    """
    if nearest_open(ending.around) is None:
        for call in tuple(ending.covered):
            call.open_window()


def release(ended: Any, at_s: float) -> None:
    """Give the decorated calls that outlive a span or call to the one around it, if there is one.

    Otherwise they are roots from `at_s` on, when it ended.
    """
    calls = tuple(ended.covered)
    ended.covered.clear()
    around = nearest_open(ended.around)
    for call in calls:
        call.outlive(around, at_s)


def leave_overlapping(ended: Any) -> None:
    """A span has ended inside another that was opened inside it, in this context.

    Where `with` has ended it, what was left open by mistake stops being the current span. Where it
    was closed by hand, or `with` will still end the inner one, that one stays. No lock is held.
    """
    inner: Any = current.get()
    if not _is_inside(inner, ended):
        return
    ended.session.warn(
        f"overlap {ended.name} {inner.name}",
        f"{ended.name!r} was closed before {inner.name!r}, which was opened inside it; "
        f"{inner.name!r} counts as a separate run from then on. Close blocks in the reverse order "
        "of opening, best with `with`",
    )
    if ended.is_block:
        while inner is not ended and not inner.is_block:
            inner = inner._before
        while getattr(inner, "_end", None) is not None:
            inner = inner._before
        current.set(inner)


def _is_inside(here: Any, ended: Any) -> bool:
    while here is not None and here is not ended:
        here = getattr(here, "_before", None)
    return here is ended
