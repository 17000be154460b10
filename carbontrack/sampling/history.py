"""The last known power of each meter, for spans too short to be measured by a difference.

The longest gap since any instant, in memory that does not grow with time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import ceil

from carbontrack.sampling.counts import Counts


class Gaps:
    """Gaps between readings; one is kept only while no later one is as long.

    What is left is a falling sequence, so the longest gap since an instant is the first that ended
    after it. Gaps are rounded up to a millisecond, which bounds how many can fall one below the
    other.
    """

    def __init__(self) -> None:
        self._ended_s: list[float] = []
        self._gap_ms: list[int] = []

    def add(self, ended_s: float, gap_s: float) -> None:
        """A gap ended at `ended_s`, later than all before."""
        gap_ms = ceil(gap_s * 1e3)
        while self._gap_ms and self._gap_ms[-1] <= gap_ms:
            self._gap_ms.pop()
            self._ended_s.pop()
        self._ended_s.append(ended_s)
        self._gap_ms.append(gap_ms)

    def longest_since(self, since_s: float) -> float | None:
        """The longest gap that ended after `since_s`, in seconds; None where none did."""
        place = bisect_right(self._ended_s, since_s)
        return self._gap_ms[place] / 1e3 if place < len(self._gap_ms) else None

    def clear(self) -> None:
        """Forget everything."""
        self._ended_s.clear()
        self._gap_ms.clear()


WINDOW_S = 0.05
"""A power is the mean over at least this long, fifty refreshes of a RAPL counter."""
REFRESHES = 5
"""And over so many refreshes of the meter's own: over less than one of a GPU's counter there is no
energy or too much, and over five the mean is off by a fifth at most."""


class Powers:
    """Follows the counts and remembers the last mean power of each meter.

    Args:
        counts: where they stand now.
        resolutions_s: the time between two changes of each meter, in the order of the ledger's.
    """

    def __init__(self, counts: Counts, resolutions_s: Callable[[], Sequence[float]]) -> None:
        self._resolutions_s = resolutions_s
        self._refresh_s: Sequence[float] = ()
        self._last_w: list[float | None] = []
        self.restart(counts)

    def restart(self, counts: Counts) -> None:
        """A pause has ended: what was used in it says nothing about now."""
        self._looked_at_s = counts.at_s
        self._since = [(counts.at_s, joules) for joules in counts.energy_j]
        self._widen(counts)

    def follow(self, counts: Counts) -> None:
        """Take a new mean of each meter that has been watched for long enough."""
        at_s = counts.at_s
        if at_s - self._looked_at_s < WINDOW_S and len(self._since) == len(counts.energy_j):
            return
        self._looked_at_s = at_s
        self._widen(counts)
        for place, (joules, since) in enumerate(zip(counts.energy_j, self._since, strict=True)):
            elapsed_s = at_s - since[0]
            if elapsed_s >= max(WINDOW_S, REFRESHES * self._refresh_s[place]):
                self._last_w[place] = (joules - since[1]) / elapsed_s
                self._since[place] = (at_s, joules)

    def _widen(self, counts: Counts) -> None:
        width = len(counts.energy_j)
        self._since += [(counts.at_s, joules) for joules in counts.energy_j[len(self._since) :]]
        self._last_w += [None] * (width - len(self._last_w))
        if len(self._refresh_s) < width:
            self._refresh_s = self._resolutions_s()

    def known_w(self, counts: Counts) -> Sequence[float | None]:
        """The power of each meter; None, or no entry, where none has been seen."""
        return [
            self._lately_w(counts, place) if power_w is None else power_w
            for place, power_w in enumerate(self._last_w)
        ]

    def _lately_w(self, counts: Counts, place: int) -> float | None:
        # Nothing better yet: the mean of the last moments, where the count has moved at all. What
        # came with one refresh is at least one refresh's.
        begun_s, begun_j = self._since[place]
        elapsed_s = max(counts.at_s - begun_s, self._refresh_s[place])
        joules = counts.energy_j[place] - begun_j
        return joules / elapsed_s if joules > 0.0 and elapsed_s > 0.0 else None
