"""What the sums do not keep: the longest gaps between readings, and each meter's recent power."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import ceil

from carbontrack.sampling.counts import Counts
from carbontrack.values import NamedTuple

SHORT_S = 0.001
"""Gaps are kept in whole milliseconds, rounded up; one that is not longer than this is left out,
because it is the answer if none is kept."""
_LONGER_MS = float("inf")
"""More than any gap."""


class ReadingGaps:
    """The gaps between readings that are longer than every later one.

    These form a strictly falling sequence, so the longest gap since an instant is the first that
    ended after it. Gaps are rounded up to a millisecond, which bounds the length of the sequence.
    """

    def __init__(self) -> None:
        self._gaps: list[tuple[float, int]] = []
        """When each ended, and its length in ms."""

    def add(self, ended_s: float, gap_s: float) -> None:
        """Add a gap that ended at `ended_s`, later than all others."""
        gap_ms = ceil(gap_s * 1e3)
        gaps = self._gaps
        while gaps and gaps[-1][1] <= gap_ms:
            gaps.pop()
        gaps.append((ended_s, gap_ms))

    def longest_since(self, since_s: float) -> float | None:
        """The longest gap that ended after `since_s`, in seconds; None where none did."""
        index = bisect_right(self._gaps, (since_s, _LONGER_MS))
        return self._gaps[index][1] / 1e3 if index < len(self._gaps) else None

    def clear(self) -> None:
        """Remove all gaps."""
        self._gaps.clear()


WINDOW_S = 0.05
"""The shortest time over which a mean power is taken: fifty refreshes of a RAPL counter."""
REFRESHES = 5
"""And the fewest refreshes of the meter: within one refresh of a GPU's counter the energy is 0 or
too much, and over five the error of the mean is at most a fifth."""


class Mean(NamedTuple):
    """The last mean power of meters that have the same refresh period.

    Attributes:
        refresh_s: this period, which says how long is averaged over.
        meters: the index of the first of these meters, and that behind the last.
        since: from when on the next one is taken.
        over: from when to when the last one was taken; None before the first.
    """

    refresh_s: float
    meters: tuple[int, int]
    since: Counts
    over: tuple[Counts, Counts] | None = None

    def by(self, counts: Counts) -> Mean:
        """With a new mean, if the time for it has come."""
        refresh_s, since = self.refresh_s, self.since
        if counts.at_s - since.at_s < max(WINDOW_S, REFRESHES * refresh_s):
            return self
        return Mean(refresh_s, self.meters, counts, (since, counts))


class RecentPowers(NamedTuple):
    """The last mean power of each meter; immutable, and computed when it is asked for.

    Attributes:
        before, updated: the counts of the last two updates. From the former on, the ends show the
            uncertainty of the powers.
        means: the means of meters that follow each other.
        refresh_s: the refresh period of each meter.
    """

    before: Counts
    updated: Counts
    means: tuple[Mean, ...] = ()
    refresh_s: Sequence[float] = ()

    def by(self, counts: Counts) -> RecentPowers:
        """With new means of the meters that have been observed for long enough."""
        means = tuple([mean.by(counts) for mean in self.means])
        return RecentPowers(self.updated, counts, means, self.refresh_s)

    def of_more(self, counts: Counts, refresh_s: Sequence[float]) -> RecentPowers:
        """With meters that have joined; their means begin here."""
        means, count = list(self.means), len(self.refresh_s)
        for index, period_s in enumerate(refresh_s[count:], count):
            if len(means) > len(self.means) and means[-1].refresh_s == period_s:
                means[-1] = means[-1]._replace(meters=(means[-1].meters[0], index + 1))
            else:
                means.append(Mean(period_s, (index, index + 1), counts))
        return self._replace(means=tuple(means), refresh_s=refresh_s)

    def restarted(self, counts: Counts) -> RecentPowers:
        """With new means from here on, after a pause whose energy must not enter them."""
        means = tuple(mean._replace(since=counts) for mean in self.means)
        return RecentPowers(counts, counts, means, self.refresh_s)

    def known_w(self, counts: Counts) -> Sequence[float | None]:
        """Each meter's power; None, or no entry, where none is known."""
        known_w: list[float | None] = []
        for mean in self.means:
            begun, end = mean.over or (mean.since, counts)
            used_j, (first, behind) = end.energy_since(begun), mean.meters
            indices = range(first, min(behind, len(used_j)))  # one may have joined after a failure
            if mean.over is not None:
                known_w += [used_j[n] / (end.at_s - begun.at_s) for n in indices]
                continue
            # No full window yet: take the mean since its start, if the count has moved at all. A
            # step covers at least one refresh period.
            for n in indices:
                elapsed_s = max(end.at_s - begun.at_s, mean.refresh_s)
                is_known = used_j[n] > 0.0 and elapsed_s > 0.0
                known_w.append(used_j[n] / elapsed_s if is_known else None)
        return known_w


class ReadingHistory:
    """The longest gaps between readings and the recent power of each meter.

    Args:
        counts: the current counts.
        resolutions_s: returns each meter's refresh period.

    Attributes:
        powers: the recent powers.
        add_gap: adds a gap between two readings; those of `SHORT_S` need not be added.
    """

    def __init__(self, counts: Counts, resolutions_s: Callable[[], Sequence[float]]) -> None:
        self._resolutions_s = resolutions_s
        self._gaps = ReadingGaps()
        self.add_gap = self._gaps.add
        self.powers = RecentPowers(counts, counts)
        self.restart(counts)

    def restart(self, counts: Counts) -> None:
        """Restart after a pause."""
        self._gaps.clear()
        powers = self.powers
        if len(powers.refresh_s) < len(counts.counts_j):
            powers = powers.of_more(counts, self._resolutions_s())
        self.powers = powers.restarted(counts)

    def follow(self, counts: Counts) -> float:
        """Add the current counts; returns when to do it again."""
        powers = self.powers
        if len(powers.refresh_s) < len(counts.counts_j):
            powers = self.powers = powers.of_more(counts, self._resolutions_s())
        elif counts.at_s - powers.updated.at_s < WINDOW_S:
            return powers.updated.at_s + WINDOW_S
        self.powers = powers.by(counts)
        return counts.at_s + WINDOW_S

    def longest_gap_s(self, since_s: float, now_s: float) -> float | None:
        """The longest gap that ended after `since_s`; None without a reading up to now."""
        if now_s <= since_s:
            return None
        return self._gaps.longest_since(since_s) or SHORT_S
