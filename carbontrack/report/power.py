"""Power over time of one run, for the page: what its chart draws, says and lists."""

from __future__ import annotations

import math
from typing import Any

from carbontrack.curve import Timeline
from carbontrack.report import charts
from carbontrack.report.timelines import RunTimeline
from carbontrack.units import format_joules, format_seconds, format_watts

_LONGEST_NAME = 60
_TIMES = ((180.0, 1.0, "s"), (10_800.0, 60.0, "min"), (math.inf, 3600.0, "h"))
"""Seconds that a run lasts at most, and the seconds and the name of the unit of its axis then."""


def drawn(run: RunTimeline) -> tuple[charts.Spec, str, str, list[list[str]]] | None:
    """The chart of a run, its title, a sentence on it, and its figures; None without any."""
    timeline = run.timeline
    length_s = timeline.edges_s[-1] if timeline.edges_s else 0.0
    watts = {
        component: [_watts(timeline, component, bin_) for bin_ in range(len(timeline.edges_s) - 1)]
        for component in timeline.energy_j
    }
    highest_w = max((w for column in watts.values() for w in column if w is not None), default=None)
    if highest_w is None or length_s <= 0.0:
        return None
    per_unit_s, time_unit = next((s, name) for most_s, s, name in _TIMES if length_s <= most_s)
    scale, unit = (1.0, "W") if highest_w >= 1.0 else (1e-3, "mW")
    bands = _bands(timeline, watts, per_unit_s, scale)
    spec = charts.power(bands, time_title=f"{time_unit} since the start", unit=unit)
    name = run.name if len(run.name) <= _LONGEST_NAME else run.name[: _LONGEST_NAME - 1] + "…"
    whole_j = sum(joules[-1] for joules in timeline.energy_j.values())
    text = (
        f"Started {run.started_at[:19].replace('T', ' ')} UTC, {format_seconds(length_s)}, "
        f"{format_joules(whole_j)} before PUE, {format_watts(whole_j / length_s)} on average."
    )
    if any(w is None for column in watts.values() for w in column):
        text += " Where no meter answered there is a gap."
    return spec, f"Power of {name}", text, _table(timeline, watts)


def _watts(timeline: Timeline, component: Any, place: int) -> float | None:
    seen_s = timeline.observed_s[component][place]
    joules = timeline.energy_j[component]
    return (joules[place + 1] - joules[place]) / seen_s if seen_s > 0.0 else None


def _bands(
    timeline: Timeline, watts: dict[Any, list[float | None]], per_unit_s: float, scale: float
) -> charts.Rows:
    rows: charts.Rows = []
    before: dict[Any, charts.Spec] = {}
    for place, edge_s in enumerate(timeline.edges_s):
        base, t = 0.0, _short(edge_s / per_unit_s)
        for component, column in watts.items():
            # the last bin's band goes on to the end of the run
            power_w = column[min(place, len(column) - 1)]
            row: charts.Spec = {"t": t, "part": component, "y0": None, "y1": None}
            if power_w is not None:
                top = base + power_w / scale
                row |= {"y0": _short(base), "y1": _short(top)}
                base, before[component] = top, row
            elif component in before:  # the step ends where the gap begins
                rows.append(before.pop(component) | {"t": t})
            rows.append(row)
    return rows


def _short(number: float) -> float:
    return float(f"{number:.6g}")


def _table(timeline: Timeline, watts: dict[Any, list[float | None]]) -> list[list[str]]:
    heads = ["from", "to", *charts.part_names(list(watts))]
    lines = [
        [
            f"{timeline.edges_s[place]:.1f} s",
            f"{timeline.edges_s[place + 1]:.1f} s",
            *(
                "gap" if (w := column[place]) is None else format_watts(w)
                for column in watts.values()
            ),
        ]
        for place in range(len(timeline.edges_s) - 1)
    ]
    return [heads, *lines]
