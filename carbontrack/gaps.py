"""The longest gap since any instant, in memory that does not grow with time."""

from __future__ import annotations

from bisect import bisect_right
from math import ceil


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
