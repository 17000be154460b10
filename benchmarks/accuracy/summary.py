"""From measured spans to errors, and from errors to tables and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Span = dict[str, Any]
"""What the probe says of a span, and its group, case and tool."""

PROMISED_S = 0.05
PROMISED_PERCENT = 0.5
FLOOR = "perfect reader"
IDEAL = "carbontrack, counter live"


def error_percent(span: Span, key: str = "found_j") -> float:
    """How far what was found is off the truth of the body, in percent of it."""
    return float((span[key] / span["inner_j"] - 1.0) * 100.0)


def outside_percent(span: Span) -> float:
    """How far it lies outside what can be true: at least the body, at most the whole window."""
    below = span["inner_j"] - span["found_j"]
    above = span["found_j"] - span["outer_j"]
    return float(max(0.0, below, above) / span["inner_j"] * 100.0)


def errors_of(spans: Iterable[Span], key: str = "found_j") -> dict[str, float]:
    """Median and 95th percentile of the size, the worst, and the mean with its sign."""
    errors = [error_percent(span, key) for span in spans]
    sizes = sorted(abs(error) for error in errors)
    return {
        "spans": len(sizes),
        "median_percent": statistics.median(sizes),
        "p95_percent": sizes[min(len(sizes) - 1, int(0.95 * len(sizes)))],
        "worst_percent": sizes[-1],
        "bias_percent": statistics.fmean(errors),
    }


def sum_error_percent(spans: Sequence[Span]) -> float:
    """How far the sum of all is off the sum of the truth: what is lost, or counted twice."""
    true_j = sum(span["inner_j"] for span in spans)
    return float((sum(span["found_j"] for span in spans) / true_j - 1.0) * 100.0)


def shown(percent: float) -> str:
    """Two digits, or three where they are whole."""
    return f"{percent:,.0f}" if abs(percent) >= 99.5 else f"{percent:.2g}"


def length_of(length_s: float) -> str:
    """A length in ms or s."""
    return f"{length_s * 1e3:g} ms" if length_s < 1.0 else f"{length_s:g} s"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def by_length(spans: Sequence[Span], tools: Sequence[str]) -> str:
    """Tool against length, over all curves: median and 95th percentile."""
    curves = [span for span in spans if span["group"] in ("curves", "long")]
    lengths = sorted({span["length_s"] for span in curves})
    rows = []
    for tool, chosen, key in _series(spans, tools):
        cells = []
        for length_s in lengths:
            same = [span for span in chosen if span["length_s"] == length_s]
            found = errors_of(same, key) if same else None
            cells.append(
                f"{shown(found['median_percent'])} ({shown(found['p95_percent'])})"
                if found
                else "—"
            )
        rows.append([tool, *cells])
    return markdown(["tool", *map(length_of, lengths)], rows)


def _series(spans: Sequence[Span], tools: Sequence[str]) -> list[tuple[str, list[Span], str]]:
    curves = [span for span in spans if span["group"] in ("curves", "long")]
    ours = [span for span in curves if span["tool"] == "carbontrack"]
    ideal = [span for span in spans if span["group"] == "ideal"]
    series = [(FLOOR, ours, "shown_j"), (IDEAL, ideal, "found_j")]
    series += [(tool, [s for s in curves if s["tool"] == tool], "found_j") for tool in tools]
    return [one for one in series if one[1]]


def by_case(
    spans: Sequence[Span], tools: Sequence[str], group: str, *, from_s: float, below_s: float = 1e9
) -> str:
    """Case against tool, spans of these lengths: median error and error of the sum."""
    chosen = [s for s in spans if s["group"] == group and from_s <= s["length_s"] < below_s]
    present = [tool for tool in tools if any(span["tool"] == tool for span in chosen)]
    rows = []
    for case in dict.fromkeys(span["case"] for span in chosen):
        cells = []
        for tool in present:
            same = [s for s in chosen if s["case"] == case and s["tool"] == tool]
            median = shown(errors_of(same)["median_percent"]) if same else "—"
            cells.append(f"{median}; {sum_error_percent(same):+.2g}" if same else "—")
        rows.append([case, *cells])
    return markdown(["", *present], rows)


WRONG_PERCENT = 5.0
"""Off by more than this: no matter of the edges in spans of 50 ms and longer."""


def own_words(results: Sequence[dict[str, Any]]) -> str:
    """For carbontrack with faults: wrong spans, those that say so, and the error of the whole."""
    rows = []
    for result in results:
        if result["group"] != "faults" or result["tool"] != "carbontrack":
            continue
        wrong = [s for s in result["spans"] if abs(error_percent(s)) > WRONG_PERCENT]
        said = sum(span["flagged"] for span in wrong)
        whole = f"{result['whole_percent']:+.2g}" if "whole_percent" in result else "—"
        numbers = (len(result["spans"]), result["unknown"], len(wrong), said)
        rows.append([result["case"], *map(str, numbers), whole])
    head = ["", "spans with a figure", "without", f"off by > {WRONG_PERCENT:g} %"]
    return markdown([*head, "of these flagged", "whole run, %"], rows)


def firsts(spans: Sequence[Span], tools: Sequence[str]) -> str:
    """The error of first spans, and how long the tool itself takes to open and close later ones."""
    rows = []
    for tool in tools:
        own = [s for s in spans if s["tool"] == tool and s["group"] in ("curves", "long")]
        first = [span for span in own if span["first"]]
        later = [span["overhead_s"] * 1e3 for span in own if not span["first"]]
        if first and later:
            found = errors_of(first)
            cells = (found["median_percent"], found["worst_percent"], statistics.median(later))
            rows.append([tool, *map(shown, cells)])
    return markdown(["tool", "median", "worst", "open and close, ms"], rows)


def failures(results: Sequence[dict[str, Any]]) -> list[str]:
    """What could not be measured, and why; one line for each tool and reason."""
    lines: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for error in dict.fromkeys(result["errors"]):
            lines.setdefault((result["tool"], error), []).append(result["case"])
    return [
        f"- {tool}: `{error}` ({', '.join(dict.fromkeys(cases))})"
        for (tool, error), cases in lines.items()
    ]


def promise(spans: Sequence[Span]) -> dict[str, Any]:
    """What carbontrack promises: at most 0.5 % off, in spans of 50 ms and longer.

    A span is off by what lies outside of body and whole window; in between, the edge of the span is
    a matter of definition. With a counter that shows each joule at once, nothing else is in it.
    """
    chosen = [s for s in spans if s["group"] == "ideal" and s["length_s"] >= PROMISED_S]
    found = sorted(outside_percent(span) for span in chosen)
    sizes = sorted(abs(error_percent(span)) for span in chosen)
    return {
        "spans": len(found),
        "worst_outside_percent": found[-1] if found else None,
        "median_error_percent": statistics.median(sizes) if sizes else None,
        "p95_error_percent": sizes[int(0.95 * len(sizes))] if sizes else None,
        "broken": sum(error > PROMISED_PERCENT for error in found),
    }


def plot(spans: Sequence[Span], tools: Sequence[str]) -> dict[str, Any]:
    """The median error against the length of the span, as a Vega-Lite specification."""
    values = []
    for tool, chosen, key in _series(spans, tools):
        for length_s in sorted({span["length_s"] for span in chosen}):
            same = [span for span in chosen if span["length_s"] == length_s]
            median = errors_of(same, key)["median_percent"]
            values.append({"tool": tool, "length": length_s, "error": max(median, 1e-3)})
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": "Median error of a span's energy, all curves, counter changing each millisecond",
        "width": 560,
        "height": 340,
        "data": {"values": values},
        "mark": {"type": "line", "point": True},
        "encoding": {
            "x": {
                "field": "length",
                "type": "quantitative",
                "scale": {"type": "log"},
                "title": "length of the span, s",
            },
            "y": {
                "field": "error",
                "type": "quantitative",
                "scale": {"type": "log"},
                "title": "median error, % (0.001 and less drawn as 0.001)",
            },
            "color": {"field": "tool", "type": "nominal", "title": None},
            "strokeDash": {"field": "tool", "type": "nominal", "title": None},
        },
    }
