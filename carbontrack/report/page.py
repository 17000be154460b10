"""The page of a report: one HTML file that needs no network and explains its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from string import Template
from typing import TYPE_CHECKING, Any

from carbontrack.errors import MissingExtra
from carbontrack.grid.intensity import GridIntensity
from carbontrack.interval import Interval, product
from carbontrack.report import charts, page_data
from carbontrack.report.charts import Chart
from carbontrack.report.page_html import (
    PageContext,
    bars_table,
    cards,
    headline,
    how,
    known_bars,
    known_text,
    period,
    runs_note,
    table,
    time_table,
)
from carbontrack.report.tables import Summary
from carbontrack.report.totals import Total, totals
from carbontrack.system.files import package_text
from carbontrack.system.version import VERSION
from carbontrack.text import visible, visible_html

if TYPE_CHECKING:
    import pandas as pd

_HERE = "as it was"
_POWER = "c-power-"


def page(summary: Summary, frame: pd.DataFrame, context: PageContext) -> str:
    """The page as HTML.

    Raises:
        MissingExtra: the library that draws the charts is not installed.
    """
    drawn = _charts(summary, frame, context)
    data = {
        "runs": page_data.runs(frame),
        "charts": {name: chart.spec for name, chart in drawn.items()},
    }
    return Template(package_text("report/assets/page.html")).substitute(
        version=VERSION,
        css=package_text("report/assets/page.css"),
        js=package_text("report/assets/page.js"),
        vega=_vega(),
        data=_inert(data),
        headline=headline(summary.total),
        period=visible_html(period(frame)),
        cards="\n".join(cards(summary.total, context)),
        known_text=visible_html(known_text(summary.total)),
        known_bars="".join(known_bars(summary.total)),
        figures=_figures(drawn),
        runs_note=visible_html(runs_note(frame)),
        how=how(summary, frame, context),
        sources=visible_html(", ".join(summary.sources)),
    )


def _charts(summary: Summary, frame: pd.DataFrame, context: PageContext) -> dict[str, Chart]:
    """For each chart: its specification, title, text, and the same figures as a table."""
    step, parts = page_data.over_time(frame)
    found = {}
    if parts:
        spec = charts.energy_over_time(parts, step)
        text = "PUE is included and shown separately. Times are UTC."
        found["c-time"] = Chart(spec, "Energy over time", text, time_table(parts, step))
    by = visible(summary.by or "name")
    groups = page_data.bars(list(summary.groups))
    if groups:
        spec = charts.intervals(groups, title=by)
        text = "The point is the best estimate, the band the interval around it."
        found["c-groups"] = Chart(spec, f"CO2e by {by}", text, bars_table(groups, by))
    regions = page_data.bars(totals(frame, "region"))
    if regions and by != "region":
        spec = charts.intervals(regions, title="region")
        text = "The band includes the errors of energy and grid."
        found["c-regions"] = Chart(spec, "CO2e by region", text, bars_table(regions, "region"))
    elsewhere = _elsewhere(summary.total, context.elsewhere)
    if elsewhere:
        spec = charts.intervals(elsewhere, title="grid", here=(_HERE,))
        text = "The same energy on other grids, yearly means of their lifecycle intensity."
        found["c-elsewhere"] = Chart(
            spec, "The same work elsewhere", text, bars_table(elsewhere, "grid")
        )
    for number, run in enumerate(context.timelines):
        if chart := charts.run_power(run):
            found[f"{_POWER}{number}"] = chart
    return found


def _elsewhere(total: Total, grids: Sequence[GridIntensity]) -> list[dict[str, Any]]:
    kwh = total.energy_kwh
    if kwh is None or total.emissions_g is None or not grids:
        return []
    low_kwh = kwh if total.energy_low_kwh is None else total.energy_low_kwh
    high_kwh = kwh if total.energy_high_kwh is None else total.energy_high_kwh
    energy = Interval(kwh, low_kwh, high_kwh)
    rows = []
    for grid in grids:
        ends = Interval(grid.g_per_kwh, grid.low_g_per_kwh, grid.high_g_per_kwh)
        g, low_g, high_g = product(energy, ends)
        rows.append(
            {"key": grid.zone, "g": g, "low_g": low_g, "high_g": high_g, "runs": total.runs}
        )
    own = {"key": _HERE, "g": total.emissions_g, "runs": total.runs}
    rows.append(own | {"low_g": total.emissions_low_g, "high_g": total.emissions_high_g})
    return sorted(rows, key=lambda row: float(str(row["g"])))


def _figures(drawn: dict[str, Chart]) -> str:
    wide = [_figure(name, chart) for name, chart in drawn.items() if name == "c-time"]
    timelines = [_figure(name, chart) for name, chart in drawn.items() if name.startswith(_POWER)]
    others = [
        _figure(name, chart)
        for name, chart in drawn.items()
        if name != "c-time" and not name.startswith(_POWER)
    ]
    pairs = (['<div class="pair">', *some, "</div>"] for some in (others, timelines) if some)
    return "\n".join([*wide, *chain.from_iterable(pairs)])


def _figure(name: str, chart: Chart) -> str:
    return (
        f'<section aria-labelledby="h-{name}"><h2 id="h-{name}">{visible_html(chart.title)}</h2>'
        f'<p class="soft">{visible_html(chart.text)}</p>'
        f'<figure><div class="chart" id="{name}"></div></figure>'
        f"<details><summary>The same as a table</summary>{table(*chart.table)}</details></section>"
    )


def _vega() -> str:
    try:
        from vl_convert import javascript_bundle
    except ImportError as error:
        raise MissingExtra("vl-convert-python", "report", "carbontrack report --html") from error
    return _bundled(javascript_bundle)


@cache
def _bundled(javascript_bundle: Callable[[str], str]) -> str:
    """The charts' library, ready for a script element; making it takes a second of CPU time."""
    bundle = str(javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return bundle.replace("</script", "<\\/script")


def _inert(data: Any) -> str:
    """JSON to stand inside a script element: its strings cannot close it or open a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
