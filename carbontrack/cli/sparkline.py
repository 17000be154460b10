"""Power over time as a line of small bars."""

from __future__ import annotations

from collections.abc import Sequence

from carbontrack.curve import PowerRow
from carbontrack.units import format_watts

_BARS = "▁▂▃▄▅▆▇█"
_GAP = " "
_MOST = 24
"""Bars at most: with the figures behind them they fit a narrow terminal."""


def sparkline(rows: Sequence[PowerRow]) -> str:
    """A bar for each part of the time, from 0 to the highest, and what the highest is.

    A space is a part in which no meter answered.
    """
    watts = _means_w(rows)
    known = [power_w for power_w in watts if power_w is not None]
    if not known:
        return "unknown"
    highest_w = max(known)
    if len(watts) == 1 or highest_w <= 0.0:
        return f"{format_watts(highest_w)} all the time"
    bars = "".join(_GAP if w is None else _bar(w / highest_w) for w in watts)
    low, high = format_watts(min(known)), format_watts(highest_w)
    return f"{bars}  {low} to {high}"


def _bar(height: float) -> str:
    return _BARS[min(len(_BARS) - 1, int(height * len(_BARS)))]


def _means_w(rows: Sequence[PowerRow]) -> list[float | None]:
    """The mean power in equal parts of the time; a bin counts in each that it reaches into."""
    length_s = max((row.end_s for row in rows), default=0.0)
    count = max(1, min(_MOST, len({row.start_s for row in rows})))
    sums: list[dict[str, tuple[float, float]]] = [{} for _ in range(count)]
    for row in rows:
        if row.observed_s > 0.0 and length_s > 0.0:
            first = min(count - 1, int(row.start_s / length_s * count))
            for place in range(first, count):
                overlap_s = _overlap_s(
                    row, place * length_s / count, (place + 1) * length_s / count
                )
                if overlap_s <= 0.0:
                    break
                share = overlap_s / (row.end_s - row.start_s)
                joules, seen_s = sums[place].get(row.component, (0.0, 0.0))
                seen_s += row.observed_s * share
                sums[place][row.component] = (joules + row.energy_j * share, seen_s)
    return [
        sum(joules / seen_s for joules, seen_s in part.values()) if part else None for part in sums
    ]


def _overlap_s(row: PowerRow, start_s: float, end_s: float) -> float:
    return min(row.end_s, end_s) - max(row.start_s, start_s)
