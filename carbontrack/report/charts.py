"""The page's charts as Vega-Lite specifications. Colours are the page's CSS variables."""

from __future__ import annotations

from typing import Any

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

Spec = dict[str, Any]
Rows = list[dict[str, Any]]


def energy_over_time(rows: Rows, step: str) -> Spec:
    """Stacked bars of energy by component, a bar for each minute, hour, day, week or month."""
    largest = max((row["kwh"] for row in rows), default=1.0)
    scale, unit = (1.0, "kWh") if largest >= 1.0 else (1e3, "Wh")
    values = [
        {
            "at": row["at"],
            "part": _PART_NAMES[row["part"]],
            "place": _PARTS.index(row["part"]),
            "amount": row["kwh"] * scale,
        }
        for row in rows
    ]
    parts = [_PART_NAMES[part] for part in _PARTS if any(row["part"] == part for row in rows)]
    colours = [f"var(--{part})" for part in _PARTS if _PART_NAMES[part] in parts]
    shown = {"minute": "%H:%M", "hour": "%b %-d %H:%M", "month": "%b %Y"}.get(step, "%b %-d")
    time_unit = {
        "hour": "utcyearmonthdatehours",
        "day": "utcyearmonthdate",
        "week": "utcyearweek",
        "minute": "utcyearmonthdatehoursminutes",
    }
    return _whole(
        {
            "height": 240,
            "data": {"values": values},
            "mark": {"type": "bar", "cornerRadiusEnd": 1, "stroke": "var(--card)"},
            "encoding": {
                "x": {
                    "field": "at",
                    "type": "temporal",
                    "timeUnit": time_unit.get(step, "utcyearmonth"),
                    "title": None,
                    "axis": _time_axis(rows) | {"format": shown},
                },
                "y": {
                    "field": "amount",
                    "type": "quantitative",
                    "title": f"{unit} per {step}",
                    "axis": {**_SOFT, "tickCount": 5},
                },
                "color": {
                    "field": "part",
                    "type": "nominal",
                    "title": None,
                    "scale": {"domain": parts, "range": colours},
                    "legend": {"orient": "top"},
                },
                "order": {"field": "place"},
                "tooltip": [
                    {"field": "at", "type": "temporal", "title": step, "format": shown},
                    {"field": "part", "title": "part"},
                    {"field": "amount", "title": unit, "format": ",.4g"},
                ],
            },
        }
    )


def _time_axis(rows: Rows) -> Spec:
    """No more ticks than steps: closer ones would repeat a step's name."""
    steps = len({row["at"] for row in rows})
    return {"grid": False, "labelOverlap": "greedy", "tickCount": min(steps, _TICKS)}


def power(rows: Rows, *, time_title: str, unit: str) -> Spec:
    """Steps of power by component, stacked; where nothing is known there is nothing.

    Each row is a component (`part`) from `t` on, and the ends of its band, `y0` and `y1`.
    """
    values = [row | {"part": _PART_NAMES[row["part"]]} for row in rows]
    own = [part for part in _PARTS if any(row["part"] == part for row in rows)]
    return _whole(
        {
            "height": 180,
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
                "color": {
                    "field": "part",
                    "type": "nominal",
                    "title": None,
                    "scale": {
                        "domain": [_PART_NAMES[part] for part in own],
                        "range": [f"var(--{part})" for part in own],
                    },
                    "legend": {"orient": "top"},
                },
            },
        }
    )


def intervals(rows: Rows, *, title: str, here: tuple[str, ...] = ()) -> Spec:
    """A point for each row, with the interval around it; rows of `here` stand out."""
    scale, unit = _grams_unit(max((row["g"] for row in rows), default=1.0))
    names = ("g", "low_g", "high_g")
    values = [
        row
        | {name: None if row[name] is None else row[name] / scale for name in names}
        # two long keys may be cut to one text; a space of no width keeps their rows apart
        | {"here": row["key"] in here, "label": _cut(row["key"]) + "\u200b" * place}
        for place, row in enumerate(rows)
    ]
    label = {"field": "label", "type": "ordinal", "title": None, "sort": None}
    axis = {**_SOFT, "labelLimit": 170}
    colour = {
        "condition": {"test": "datum.here", "value": "var(--accent)"},
        "value": "var(--here)" if here else "var(--accent)",
    }
    tooltip = [
        {"field": "key", "title": title},
        {"field": "g", "title": unit, "format": ",.3g"},
        {"field": "low_g", "title": "low", "format": ",.3g"},
        {"field": "high_g", "title": "high", "format": ",.3g"},
    ]
    points: Spec = {
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
        "encoding": {"x": {"field": "g", "type": "quantitative"}, "color": colour},
    }
    bands: Spec = {
        "mark": {
            "type": "rule",
            "strokeWidth": 8,
            "opacity": 0.28,
            "strokeCap": "round",
        },
        "encoding": {
            "x": {
                "field": "low_g",
                "type": "quantitative",
                "title": f"{unit} CO2e",
                "scale": {"zero": True},
                "axis": {"tickCount": 5, "labelOverlap": "greedy"},
            },
            "x2": {"field": "high_g"},
            "color": colour,
        },
        "transform": [{"filter": "datum.low_g !== null"}],
    }
    # Vega complains of a scale without any number
    layers = [bands, points] if any(row["low_g"] is not None for row in rows) else [points]
    return _whole(
        {
            "height": 26 * len(values),
            "data": {"values": values},
            "encoding": {"y": {**label, "axis": axis}, "tooltip": tooltip},
            "layer": layers,
        }
    )


def _whole(spec: Spec) -> Spec:
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


def _cut(text: str, longest: int = 26) -> str:
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def part_names(parts: list[str]) -> list[str]:
    """What people call the components."""
    return [_PART_NAMES[part] for part in parts]
