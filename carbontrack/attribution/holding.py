"""Which part of a GPU is ours: by who holds a context on it, and who has kept it busy. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

How = Literal["assumed", "alone", "absent", "time", "even"]


class Held(NamedTuple):
    """The part that is ours, 0 to 1, and how that is known.

    `assumed`: nobody tells, so all of it; `alone` and `absent`: who holds a context says it all;
    `time`: by the time for which each process kept the multiprocessors busy; `even`: an equal part
    for each process that holds a context.
    """

    share: float
    how: How


def held(
    holders: Collection[int] | None, busy: Mapping[int, float] | None, ours: Collection[int] | None
) -> Held:
    """Our part of a board, or of a slice of one.

    Args:
        holders: the processes that hold a context; None where the driver does not tell.
        busy: how busy each of them has kept the board of late, in any unit; None where not told.
        ours: the processes of our tree as the driver numbers them; None where that is not known.

    The parts of disjoint trees that see the same holders add up to 1 at most.
    """
    if holders is None or ours is None:
        return Held(1.0, "assumed")
    ours_here = set(holders) & set(ours)
    if not ours_here:
        return Held(0.0, "absent")
    if len(ours_here) == len(set(holders)):
        return Held(1.0, "alone")
    shown = {pid: max(0.0, busy.get(pid, 0.0)) for pid in holders} if busy is not None else {}
    all_busy = sum(shown.values())
    if all_busy > 0.0:
        return Held(sum(shown[pid] for pid in ours_here) / all_busy, "time")
    return Held(len(ours_here) / len(set(holders)), "even")
