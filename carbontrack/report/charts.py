"""The charts of the page: Vega-Lite specifications, whose colours are the page's CSS variables.

`energy_over_time`, `intervals` and `power` draw rows that others have prepared; `run_power` makes
the whole chart of one run from its timeline.
"""

from __future__ import annotations

import math
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from carbontrack.report.timelines import RunTimeline
from carbontrack.text import cut_to, visible
from carbontrack.tracking.timeline import Timeline
from carbontrack.units import format_joules, format_seconds, format_watts
from carbontrack.values import NamedTuple

_PARTS = ("cpu", "gpu", "ram", "other", "building")
_PART_NAMES = {
    "cpu": "CPU",
    "gpu": "GPU",
    "ram": "memory",
    "other": "other",
    "building": "PUE",
}
_SOFT = {"domain": False, "ticks": False, "labelPadding": 6}
_CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelLimit": 220,
    },
    "legend": {"labelColor": "var(--text)", "labelFontSize": 12, "symbolType": "square"},
}
_TICKS = 6
_TIME_UNITS = {
    "minute": "utcyearmonthdatehoursminutes",
    "hour": "utcyearmonthdatehours",
    "day": "utcyearmonthdate",
    "month": "utcyearmonth",
}
_TIME_FORMATS = {"minute": "%H:%M", "hour": "%b %-d %H:%M", "month": "%b %Y"}
_LONGEST_NAME = 60
_LONGEST_KEY = 26
_TIMES = ((180.0, 1.0, "s"), (10_800.0, 60.0, "min"), (math.inf, 3600.0, "h"))
"""Seconds that a run lasts at most, and the unit of its time axis: its seconds and its name."""

Spec = dict[str, Any]
Rows = list[dict[str, Any]]


class Chart(NamedTuple):
    """A chart: its specification, title, a sentence on it, and the same figures as a table."""

    spec: Spec
    title: str
    text: str
    table: list[list[str]]


def energy_over_time(rows: Rows, step: str) -> Spec:
    """Stacked bars of energy by component, a bar for each minute, hour, day, week or month."""
    largest = max((row["kwh"] for row in rows), default=1.0)
    scale, unit = (1.0, "kWh") if largest >= 1.0 else (1e3, "Wh")
    x, when = _weeks() if step == "week" else _times(rows, step)
    tooltip = [
        when,
        {"field": "part", "title": "part"},
        {"field": "amount", "title": unit, "format": ",.4g"},
    ]
    return _specification(
        {
            "height": 240,
            "data": {"values": _energy_values(rows, scale)},
            "mark": {"type": "bar", "cornerRadiusEnd": 1, "stroke": "var(--card)"},
            "encoding": {
                "x": x,
                "y": {
                    "field": "amount",
                    "type": "quantitative",
                    "title": f"{unit} per {step}",
                    "axis": {**_SOFT, "tickCount": 5},
                },
                "color": _colour_of_parts(rows),
                "order": {"field": "place"},
                "tooltip": tooltip,
            },
        }
    )


def _times(rows: Rows, step: str) -> tuple[Spec, Spec]:
    """The axis of time, and the line of the tooltip on it."""
    form = _TIME_FORMATS.get(step, "%b %-d")
    axis = _time_axis(rows) | {"format": form}
    x = {"field": "at", "type": "temporal", "timeUnit": _TIME_UNITS[step], "title": None}
    return x | {"axis": axis}, {"field": "at", "type": "temporal", "title": step, "format": form}


def _weeks() -> tuple[Spec, Spec]:
    """The same for weeks, which begin on Mondays here, and on Sundays in Vega."""
    axis = {"grid": False, "labelOverlap": "greedy", "labelAngle": 0, "ticks": False}
    x = {"field": "when", "type": "ordinal", "sort": None, "title": None, "axis": axis}
    return x, {"field": "when", "title": "week from"}


def power(rows: Rows, bins: Rows, *, time_title: str, unit: str) -> Spec:
    """Steps of power by component, stacked, with gaps where nothing is known.

    Each row is a component (`part`) from `t` on, and the ends of its band, `y0` and `y1`. Each of
    `bins` goes from `t` to `t2`, and has the texts that are shown while the pointer is on it.
    """
    values = [row | {"part": _PART_NAMES[row["part"]]} for row in rows]
    bands = {
        "data": {"values": values},
        "mark": {
            "type": "area",
            "interpolate": "step-after",
            "invalid": "break-paths-filter-domains",
            "tooltip": None,
        },
        "encoding": {
            "x": {
                "field": "t",
                "type": "quantitative",
                "title": time_title,
                "scale": {"nice": False},
                "axis": {"grid": False, "tickCount": 6},
            },
            "y": {
                "field": "y1",
                "type": "quantitative",
                "title": unit,
                "stack": None,
                "scale": {"zero": True},
                "axis": {**_SOFT, "tickCount": 4},
            },
            "y2": {"field": "y0"},
            "color": _colour_of_parts(rows),
        },
    }
    return _specification({"height": 190, "layer": [bands, _under_the_pointer(bins)]})


def _under_the_pointer(bins: Rows) -> Spec:
    """An invisible layer of bins; the one under the pointer is marked and shows its figures."""
    texts = [name for name in bins[0] if name not in ("t", "t2")]
    return {
        "data": {"values": bins},
        "params": [
            {
                "name": "pointed",
                "select": {"type": "point", "on": "pointerover", "clear": "pointerout"},
            }
        ],
        "mark": {"type": "rect", "color": "var(--text)"},
        "encoding": {
            "x": {"field": "t", "type": "quantitative"},
            "x2": {"field": "t2"},
            "fillOpacity": {
                "condition": {"param": "pointed", "empty": False, "value": 0.16},
                "value": 0,
            },
            "tooltip": [{"field": name} for name in texts],
        },
    }


def intervals(
    rows: Rows, *, title: str, here: tuple[str, ...] = (), reference: str | None = None
) -> Spec:
    """A bar for each row, with the interval as an error bar; rows of `here` stand out.

    The keys of the rows are visible texts. A dashed line is drawn at the row of `reference`.
    """
    scale, unit = _grams_unit(max((row["g"] for row in rows), default=1.0))
    names = ("g", "low_g", "high_g")
    values = [
        row
        | {name: None if row[name] is None else row[name] / scale for name in names}
        # two long keys may be cut to one text; a space of no width keeps their rows apart
        | {"here": row["key"] in here, "label": cut_to(row["key"], _LONGEST_KEY) + "\u200b" * place}
        for place, row in enumerate(rows)
    ]
    label = {"field": "label", "type": "ordinal", "title": None, "sort": None}
    tooltip = [
        {"field": "key", "title": title},
        {"field": "g", "title": f"{unit} CO2e", "format": ",.3g"},
        {"field": "low_g", "title": "low", "format": ",.3g"},
        {"field": "high_g", "title": "high", "format": ",.3g"},
    ]
    layers = [_bars(unit, with_here=bool(here))]
    # Vega complains of a scale without any number
    if any(row["low_g"] is not None for row in rows):
        layers += _error_bars()
    layers += _reference_line(next((v["g"] for v in values if v["key"] == reference), None))
    return _specification(
        {
            "height": 28 * len(values),
            "data": {"values": values},
            "encoding": {
                "y": {**label, "axis": {**_SOFT, "labelLimit": 170}},
                "tooltip": tooltip,
            },
            "layer": layers,
        }
    )


def run_power(run: RunTimeline) -> Chart | None:
    """The power over time of one run; None where no meter answered."""
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
    bins = _bins(timeline, watts, per_unit_s)
    spec = power(bands, bins, time_title=f"{time_unit} since the start", unit=unit)
    name = cut_to(visible(run.name), _LONGEST_NAME)
    whole_j = sum(joules[-1] for joules in timeline.energy_j.values())
    text = (
        f"Started {run.started_at[:19].replace('T', ' ')} UTC, {format_seconds(length_s)}, "
        f"{format_joules(whole_j)} before PUE, {format_watts(whole_j / length_s)} on average."
    )
    if any(w is None for column in watts.values() for w in column):
        text += " Where no meter answered there is a gap."
    return Chart(spec, f"Power of {name}", text, _table(timeline, watts))


def _bars(unit: str, *, with_here: bool) -> Spec:
    """The layer of a chart of intervals with a bar up to each best estimate."""
    return {
        "mark": {"type": "bar", "height": 16, "cornerRadiusEnd": 3},
        "encoding": {
            "x": {
                "field": "g",
                "type": "quantitative",
                "title": f"{unit} CO2e",
                "scale": {"zero": True},
                "axis": {"tickCount": 5, "labelOverlap": "greedy"},
            },
            "color": {
                "condition": {"test": "datum.here", "value": "var(--bar)"},
                "value": "var(--bar-other)" if with_here else "var(--bar)",
            },
        },
    }


def _error_bars() -> list[Spec]:
    """The layers of a chart of intervals with a line from end to end, and a tick at both."""
    known = [{"filter": "datum.low_g !== null"}]
    ink = {"value": "var(--error)"}
    ends = [
        {
            "mark": {"type": "tick", "size": 10, "thickness": 2},
            "encoding": {"x": {"field": end, "type": "quantitative"}, "color": ink},
            "transform": known,
        }
        for end in ("low_g", "high_g")
    ]
    line: Spec = {
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {
            "x": {"field": "low_g", "type": "quantitative"},
            "x2": {"field": "high_g"},
            "color": ink,
        },
        "transform": known,
    }
    return [line, *ends]


def _reference_line(g: float | None) -> list[Spec]:
    """A dashed line from top to bottom at so much; none where that is unknown."""
    if g is None:
        return []
    mark = {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5, "color": "var(--soft)"}
    encoding = {"x": {"datum": g, "type": "quantitative"}, "y": None, "tooltip": None}
    return [{"data": {"values": [{}]}, "mark": mark, "encoding": encoding}]


def _colour_of_parts(rows: Rows) -> Spec:
    """The colour and the legend of the components that occur in the rows."""
    own = [part for part in _PARTS if any(row["part"] == part for row in rows)]
    return {
        "field": "part",
        "type": "nominal",
        "title": None,
        "scale": {
            "domain": [_PART_NAMES[part] for part in own],
            "range": [f"var(--{part})" for part in own],
        },
        "legend": {"orient": "top"},
    }


def _energy_values(rows: Rows, scale: float) -> Rows:
    starts = sorted({row["at"] for row in rows})
    one_year = not starts or starts[-1] - starts[0] < 360 * 86_400_000
    return [
        {
            "at": row["at"],
            "when": _day_text(row["at"], with_year=not one_year),
            "part": _PART_NAMES[row["part"]],
            "place": _PARTS.index(row["part"]),
            "amount": row["kwh"] * scale,
        }
        for row in rows
    ]


def _day_text(at_ms: int, *, with_year: bool) -> str:
    at = datetime.fromtimestamp(at_ms / 1000, timezone.utc)
    return f"{at:%b} {at.day} {at.year}" if with_year else f"{at:%b} {at.day}"


def _time_axis(rows: Rows) -> Spec:
    """At most one tick a step: closer ones would repeat the label of a step."""
    steps = len({row["at"] for row in rows})
    return {"grid": False, "labelOverlap": "greedy", "tickCount": min(steps, _TICKS)}


def _specification(spec: Spec) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
        **spec,
    }


def _grams_unit(grams: float) -> tuple[float, str]:
    steps = ((1e6, "t"), (1e3, "kg"), (1.0, "g"), (1e-3, "mg"))
    return next((step for step in steps if grams >= step[0]), (1e-6, "µg"))


def _watts(timeline: Timeline, component: Any, place: int) -> float | None:
    seen_s = timeline.observed_s[component][place]
    joules = timeline.energy_j[component]
    return (joules[place + 1] - joules[place]) / seen_s if seen_s > 0.0 else None


def _bands(
    timeline: Timeline, watts: dict[Any, list[float | None]], per_unit_s: float, scale: float
) -> Rows:
    rows: Rows = []
    before: dict[Any, Spec] = {}
    for place, edge_s in enumerate(timeline.edges_s):
        base, t = 0.0, _short(edge_s / per_unit_s)
        for component, column in watts.items():
            # the last bin's band goes on to the end of the run
            power_w = column[min(place, len(column) - 1)]
            row: Spec = {"t": t, "part": component, "y0": None, "y1": None}
            if power_w is not None:
                top = base + power_w / scale
                row |= {"y0": _short(base), "y1": _short(top)}
                base, before[component] = top, row
            elif component in before:  # the step ends where the gap begins
                rows.append(before.pop(component) | {"t": t})
            rows.append(row)
    return rows


def _bins(timeline: Timeline, watts: dict[Any, list[float | None]], per_unit_s: float) -> Rows:
    """What is shown of each bin: when it was, the power of each component, and their sum."""
    rows = []
    for place, (start_s, end_s) in enumerate(pairwise(timeline.edges_s)):
        known = [column[place] for column in watts.values()]
        parts = {
            _PART_NAMES[component]: _watts_text(column[place])
            for component, column in watts.items()
        }
        whole = None if None in known else sum(w for w in known if w is not None)
        row: Spec = {"t": _short(start_s / per_unit_s), "t2": _short(end_s / per_unit_s)}
        row["time"] = f"{format_seconds(start_s)} to {format_seconds(end_s)}"
        rows.append(row | parts | ({"sum": _watts_text(whole)} if len(parts) > 1 else {}))
    return rows


def _watts_text(watts: float | None) -> str:
    return "gap" if watts is None else format_watts(watts)


def _short(number: float) -> float:
    return float(f"{number:.6g}")


def _table(timeline: Timeline, watts: dict[Any, list[float | None]]) -> list[list[str]]:
    heads = ["from", "to", *(_PART_NAMES[component] for component in watts)]
    lines = [
        [
            f"{timeline.edges_s[place]:.1f} s",
            f"{timeline.edges_s[place + 1]:.1f} s",
            *(_watts_text(column[place]) for column in watts.values()),
        ]
        for place in range(len(timeline.edges_s) - 1)
    ]
    return [heads, *lines]
