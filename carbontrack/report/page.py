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
from carbontrack.report import charts, page_data, page_run
from carbontrack.report.charts import Chart
from carbontrack.report.page_html import (
    MEASURE,
    PageContext,
    bars_table,
    cards,
    covers_text,
    headline,
    how,
    known_chips,
    missing_text,
    period_html,
    range_text,
    runs_note,
    table,
    time_table,
    title,
)
from carbontrack.report.page_narrow import narrow
from carbontrack.report.tables import Summary
from carbontrack.report.totals import Total, totals
from carbontrack.system.files import package_text
from carbontrack.system.version import VERSION
from carbontrack.text import cut_to, visible, visible_html

if TYPE_CHECKING:
    import pandas as pd

_POWER = "c-power-"
_WORLD = "WORLD"
_LONGEST_TITLE = 80
_ERROR_BARS = "Bars are best estimates, with their intervals as error bars."
_SHARED = (
    ' Runs share their errors: <a href="#intervals">intervals are not added up, and do not average '
    "out</a>."
)


def page(summary: Summary, frame: pd.DataFrame, context: PageContext) -> str:
    """The page as HTML: of one run if the frame has one, else of many.

    Raises:
        MissingExtra: the library that draws the charts is not installed.
    """
    is_one = len(frame) == 1
    drawn = _charts_of_one(summary, context) if is_one else _charts(summary, frame, context)
    on_a_phone = {} if is_one else _on_a_phone(frame)
    data = {
        "runs": page_data.runs(frame),
        "charts": {name: chart.spec for name, chart in drawn.items()},
        "narrow": on_a_phone,
    }
    what = visible(str(frame["name"].iloc[0])) if is_one else f"{summary.total.runs:,} runs"
    return Template(package_text("report/assets/page.html")).substitute(
        version=VERSION,
        css=package_text("report/assets/page.css"),
        js=package_text("report/assets/page.js"),
        vega=_vega(),
        data=_inert(data),
        title=visible_html(title(summary.total, cut_to(what, _LONGEST_TITLE))),
        skip="details" if is_one else "runs",
        headline=visible_html(_headline(summary.total, what, is_one=is_one)),
        range=visible_html(range_text(summary.total)),
        period=period_html(frame),
        figures=_headline_figures(summary.total, context),
        sections=_one(summary, frame, drawn) if is_one else _many(summary, frame, drawn),
        how=how(summary, frame, context),
        sources=visible_html(", ".join(summary.sources)),
    )


def _headline(total: Total, name: str, *, is_one: bool) -> str:
    text = headline(total)
    return text.replace("One run", cut_to(name, _LONGEST_TITLE), 1) if is_one else text


def _headline_figures(total: Total, context: PageContext) -> str:
    missing, covers = missing_text(total), covers_text(total)
    return "".join(
        (
            f'<dl class="cards">{"".join(cards(total, context))}</dl>',
            f'<p class="known">{known_chips(total, MEASURE)}</p>',
            f'<p class="soft known-text">{visible_html(covers)}</p>' if covers else "",
            f'<p class="empty">{missing}</p>' if missing else "",
        )
    )


def _one(summary: Summary, frame: pd.DataFrame, drawn: dict[str, Chart]) -> str:
    """The sections of the page of one run."""
    run = page_run.only_run(frame)
    curves = [_figure(name, chart) for name, chart in drawn.items() if name.startswith(_POWER)]
    others = [_figure(name, chart) for name, chart in drawn.items() if not name.startswith(_POWER)]
    power = curves or [page_run.no_power_curve()]
    advice = narrow(summary.total, frame)
    return "\n".join(
        [page_run.parts(run), *power, advice, page_run.details(run, summary.total), *others]
    )


def _many(summary: Summary, frame: pd.DataFrame, drawn: dict[str, Chart]) -> str:
    """The sections of the page of many runs: charts, and the table of runs."""
    table_of_runs = Template(package_text("report/assets/page_runs.html"))
    runs = table_of_runs.substitute(runs_note=visible_html(runs_note(frame)))
    return "\n".join([_figures(drawn), runs, narrow(summary.total, frame)])


def _charts_of_one(summary: Summary, context: PageContext) -> dict[str, Chart]:
    curves = (charts.run_power(run) for run in context.timelines)
    found = {
        f"{_POWER}{number}": chart._replace(title="Power over time")
        for number, chart in enumerate(curves)
        if chart is not None
    }
    return found | _chart_elsewhere(summary.total, context)


def _charts(summary: Summary, frame: pd.DataFrame, context: PageContext) -> dict[str, Chart]:
    """For each chart: its specification, title, text, and the same figures as a table."""
    step, parts = page_data.over_time(frame)
    found = {}
    if parts:
        spec = charts.energy_over_time(parts, step)
        text = "PUE is included and shown separately. Times are UTC."
        found["c-time"] = Chart(spec, "Energy over time", text, time_table(parts, step))
    by = visible(summary.by or "name")
    is_by_region = summary.by == "region"
    of_groups = page_data.with_places if is_by_region else page_data.bars
    groups = of_groups(list(summary.groups))
    if groups:
        spec = charts.intervals(groups, title=by)
        found["c-groups"] = Chart(spec, f"CO2e by {by}", _ERROR_BARS, bars_table(groups, by))
    regions = [] if is_by_region else page_data.with_places(totals(frame, "region"))
    if regions:
        spec = charts.intervals(regions, title="region")
        text = "The error bars include the uncertainty of energy and of carbon intensity."
        found["c-regions"] = Chart(spec, "CO2e by region", text, bars_table(regions, "region"))
    found |= _chart_elsewhere(summary.total, context)
    for number, run in enumerate(context.timelines):
        if chart := charts.run_power(run):
            found[f"{_POWER}{number}"] = chart
    return found


def _on_a_phone(frame: pd.DataFrame) -> dict[str, Any]:
    """Specifications of the charts that a phone draws instead."""
    longer = page_data.coarser(frame, *page_data.over_time(frame))
    return {} if longer is None else {"c-time": charts.energy_over_time(longer[1], longer[0])}


def _chart_elsewhere(total: Total, context: PageContext) -> dict[str, Chart]:
    here = "this run" if total.runs == 1 else "these runs"
    rows, places = _elsewhere(total, context.elsewhere, here)
    if not rows:
        return {}
    world = places.get(_WORLD)
    spec = charts.intervals(rows, title="grid", here=(here,), reference=world)
    text = "The same energy with the yearly average carbon intensity of other grids (lifecycle)."
    if world is not None:
        text += " The dashed line is the world average."
    table_of = bars_table(rows, "grid")
    return {"c-elsewhere": Chart(spec, "The same work elsewhere", text, table_of)}


def _elsewhere(
    total: Total, grids: Sequence[GridIntensity], here: str
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows of the chart, and the name of each grid by its code."""
    kwh = total.energy_kwh
    if kwh is None or total.emissions_g is None or not grids:
        return [], {}
    low_kwh = kwh if total.energy_low_kwh is None else total.energy_low_kwh
    high_kwh = kwh if total.energy_high_kwh is None else total.energy_high_kwh
    energy = Interval(kwh, low_kwh, high_kwh)
    places = page_data.places_of(grid.zone for grid in grids)
    rows = []
    for grid in grids:
        ends = Interval(grid.g_per_kwh, grid.low_g_per_kwh, grid.high_g_per_kwh)
        g, low_g, high_g = product(energy, ends)
        row = {"key": places[grid.zone], "g": g, "low_g": low_g, "high_g": high_g}
        rows.append(row | {"runs": total.runs})
    own = {"key": here, "g": total.emissions_g, "runs": total.runs}
    rows.append(own | {"low_g": total.emissions_low_g, "high_g": total.emissions_high_g})
    return sorted(rows, key=lambda row: float(str(row["g"]))), places


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
    shared = _SHARED if name == "c-groups" else ""
    return (
        f'<section aria-labelledby="h-{name}"><h2 id="h-{name}">{visible_html(chart.title)}</h2>'
        f'<p class="soft">{visible_html(chart.text)}{shared}</p>'
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
