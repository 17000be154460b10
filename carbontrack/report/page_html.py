"""The text and tables of the page as HTML; all text from the data is escaped here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carbontrack.grid.intensity import GridIntensity
from carbontrack.impact.embodied import AS_ANTIMONY
from carbontrack.record import BASES, boundary_text
from carbontrack.report import page_data
from carbontrack.report.tables import Summary, combined, left_out, selected
from carbontrack.report.timelines import RunTimeline
from carbontrack.report.totals import Total
from carbontrack.text import visible_html
from carbontrack.units import (
    JOULES_PER_KWH,
    format_best,
    format_grams,
    format_interval,
    format_joules,
    format_seconds,
    format_watts,
    format_with_interval,
    joules_from,
)

if TYPE_CHECKING:
    import pandas as pd

PART_NAMES = {"cpu": "CPU", "gpu": "GPU", "ram": "memory", "other": "other"}
MEASURE = "#narrow"
"""The section of the page that says how to measure what is modelled."""
_INTERVALS = "docs/explanation/adding-up-intervals.md"
_SMALLEST_WATER_L = 1e-3


@dataclass(frozen=True, slots=True)
class PageContext:
    """What a page shows in addition to the records.

    Attributes:
        elsewhere: grids for which the emissions of the same energy are computed.
        comparison: an everyday thing of the same size as text, whom to cite, and the source
            in full; None where there is none.
        timelines: the power over time of the runs with the most energy.
    """

    elsewhere: Sequence[GridIntensity] = ()
    comparison: tuple[str, str, str] | None = None
    timelines: Sequence[RunTimeline] = ()


def code(text: str) -> str:
    """A command or a setting as HTML."""
    return f"<code>{visible_html(text)}</code>"


def headline(total: Total) -> str:
    """The main figure in one line of plain text."""
    runs = "One run" if total.runs == 1 else f"{total.runs:,} runs"
    if total.emissions_g is None:
        return f"{runs}, emissions unknown"
    ends = (total.emissions_low_g, total.emissions_high_g)
    return f"{runs} emitted {format_best(total.emissions_g, *ends, format_grams)} CO2e"


def title(total: Total, what: str) -> str:
    """The title of the document: emissions with their interval, and what they are of."""
    grams = total.emissions_g
    if grams is None:
        return f"{what}: emissions unknown"
    ends = (total.emissions_low_g, total.emissions_high_g)
    return f"{what}: {format_with_interval(grams, *ends, format_grams, of=' CO2e')}"


def range_text(total: Total) -> str:
    """The interval of the emissions under the headline; empty where there is none."""
    low_g, high_g = total.emissions_low_g, total.emissions_high_g
    if total.emissions_g is None or low_g is None or high_g is None:
        return ""
    widest_g = max(total.emissions_g, high_g)  # as in the headline
    low, high = (format_grams(end, like=widest_g) for end in (low_g, high_g))
    return f"between {low} and {high}"


def period(frame: pd.DataFrame) -> str:
    """From when to when the runs started, and on how many hosts."""
    known = frame["started_at"].dropna()
    hosts = int(frame["host_id"].nunique())
    where = f" on {hosts} hosts" if hosts > 1 else ""
    if known.empty:
        return where.strip()
    first, last = known.min(), known.max()
    start, end = f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M}"
    return f"{start} UTC{where}" if start == end else f"{start} to {end} UTC{where}"


def period_html(frame: pd.DataFrame) -> str:
    """The same as HTML whose times do not wrap."""
    times = r"\d{4}-\d\d-\d\d \d\d:\d\d(?: UTC)?"
    return re.sub(times, r'<span class="date">\g<0></span>', visible_html(period(frame)))


def cards(total: Total, context: PageContext) -> Iterator[str]:
    """The main figures as cards, each with its interval or a remark."""
    joules = joules_from(total.energy_kwh)
    ends_j = joules_from(total.energy_low_kwh), joules_from(total.energy_high_kwh)
    yield _card("Energy", *_figure(joules, *ends_j, format_joules))
    ends_g = (total.emissions_low_g, total.emissions_high_g)
    yield _card("CO2e", *_figure(total.emissions_g, *ends_g, format_grams))
    if total.duration_s is not None:
        yield _run_time(total, total.duration_s)
    if total.water_l is not None and total.water_l >= _SMALLEST_WATER_L:
        yield _card("Water", _litres(total.water_l), "at power plants and data centres")
    if total.market_emissions_g is not None:
        share = total.market_share
        partly = share is not None and share < 1.0 - 1e-9
        known = f", for {share:.0%} of the energy" if partly else ""
        more = f"by contract; the CO2e above is location-based{known}"
        yield _card("Market-based", format_grams(total.market_emissions_g), more)
    if total.embodied_g is not None:
        ends_g = (total.embodied_low_g, total.embodied_high_g)
        figure, ends = _figure(total.embodied_g, *ends_g, format_grams)
        more = "" if total.embodied_low_g is None else f"{ends}, "
        yield _card("Embodied emissions", figure, f"{more}not part of the CO2e")
    if total.abiotic_kg_sb is not None:
        yield _metals(total)
    if context.comparison is not None:
        yield _card("About as much as", context.comparison[0], context.comparison[1], "words")


def _metals(total: Total) -> str:
    """The card of scarce minerals and metals, in grams of antimony."""
    kg_sb = (total.abiotic_kg_sb, total.abiotic_low_kg_sb, total.abiotic_high_kg_sb)
    best_g, low_g, high_g = (None if kg is None else kg * 1e3 for kg in kg_sb)
    figure, ends = _figure(best_g, low_g, high_g, format_grams)
    return _card("Scarce minerals and metals", figure, f"{ends}, as antimony (Sb eq)")


def _card(title: str, figure: str, more: str, style: str = "") -> str:
    return (
        f'<div><dt>{visible_html(title)}</dt><dd class="big {style}">{visible_html(figure)}</dd>'
        f'<dd class="more">{visible_html(more)}</dd></div>'
    )


def _litres(litres: float) -> str:
    return f"{litres:,.3g} L" if litres >= 0.1 else f"{litres * 1e3:.3g} mL"


def _figure(
    best: float | None, low: float | None, high: float | None, form: Callable[..., str]
) -> tuple[str, str]:
    """A figure and its interval, in one unit."""
    if best is None:
        return "unknown", "no interval"
    if low is None or high is None:
        return form(best), "no interval"
    return format_best(best, low, high, form), format_interval(low, high, form, like=best)


def _run_time(total: Total, seconds: float) -> str:
    text = f"{seconds / 3600.0:,.0f} h" if seconds >= 360_000.0 else format_seconds(seconds)
    if total.runs != 1:
        return _card("Total run time", text, f"{total.runs:,} runs together")
    joules = joules_from(total.energy_kwh)
    if joules is None or seconds <= 0.0:
        return _card("Duration", text, "")
    return _card("Duration", text, f"{format_watts(joules / seconds)} on average")


def known_chips(total: Total, measure: str | None = None) -> str:
    """How much of the energy is measured, modelled and assumed; `measure` leads to how to measure.

    All of it is HTML.
    """
    if total.measured_share is None:
        return "<span>How the energy is known is unknown.</span>"
    shares: dict[str, float] = {basis: getattr(total, f"{basis}_share") for basis in BASES}
    shares["of unrecorded origin"] = total.unrecorded_share
    return " ".join(_known_chip(how, share, measure) for how, share in shares.items() if share)


def _known_chip(basis: str, share: float, measure: str | None) -> str:
    text = f"{'less than 1%' if share < 0.005 else f'{share:.0%}'} {basis}"
    if measure is not None and basis in BASES[1:]:
        how = "<span>: <u>how to measure</u></span>"
        return f'<a class="chip {basis}" href="{measure}">{text}{how}</a>'
    return f'<span class="chip {basis if basis in BASES else ""}">{text}</span>'


def covers_text(total: Total) -> str:
    """Which parts of the machine the energy is that of, where not all of it is measured."""
    ends_at = boundary_text(total) if (total.measured_share or 0.0) < 1.0 else None
    return "" if ends_at is None else f"The energy of {ends_at}."


def missing_text(total: Total) -> str:
    """Why there are no emissions, and what to do, as HTML; empty where there are."""
    if total.energy_kwh is None:
        return (
            "No energy is known: no meter answered while these ran, or they were too short for "
            f"one. {code('carbontrack doctor')} shows what this machine can measure."
        )
    if total.emissions_g is None:
        return (
            "No emissions are known, since there is no carbon intensity for these runs. Say where "
            f"they run, for example by {code('--region FR')} or {code('CARBONTRACK_REGION=FR')}."
        )
    return ""


def runs_note(frame: pd.DataFrame) -> str:
    """The note above the table of runs."""
    press = "Choose a name for its details, or a label to see only the runs that have it."
    if len(frame) > page_data.MOST_RUNS:
        most = f"{page_data.MOST_RUNS:,} of {len(frame):,} runs"
        return f"The {most} with the largest emissions; all are in the figures above. {press}"
    return press


def table(heads: Sequence[str], *rows: Sequence[str]) -> str:
    """A table in HTML; the cells are escaped."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{visible_html(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    head = line(heads, 'th scope="col"').replace('</th scope="col">', "</th>")
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def bars_table(rows: Sequence[dict[str, Any]], title: str) -> list[list[str]]:
    """The figures of a chart of intervals as a table; the first line holds the headings."""
    heads = [title, "CO2e", "low", "high"]
    ends = ("g", "low_g", "high_g")
    return [
        heads,
        *(
            [
                row["key"],
                *("" if row[e] is None else format_grams(row[e], like=_reach(row)) for e in ends),
            ]
            for row in rows
        ),
    ]


def _reach(row: dict[str, Any]) -> float:
    return float(row["g"] if row["high_g"] is None else max(row["g"], row["high_g"]))


def time_table(parts: Sequence[dict[str, Any]], step: str) -> list[list[str]]:
    """The figures of the chart over time as a table, without the steps that have no energy."""
    from datetime import datetime, timezone

    names = list(dict.fromkeys(row["part"] for row in parts))
    by_time: dict[int, dict[str, float]] = {}
    for row in parts:
        by_time.setdefault(row["at"], {})[row["part"]] = row["kwh"]
    form = "%Y-%m-%d %H:%M" if step in ("minute", "hour") else "%Y-%m-%d"
    lines = [
        [
            datetime.fromtimestamp(at / 1000, timezone.utc).strftime(form),
            *(f"{kwh.get(name, 0.0):.4g} kWh" for name in names),
        ]
        for at, kwh in by_time.items()
        if any(kwh.values())
    ]
    return [[step, *(PART_NAMES.get(name, name) for name in names)], *lines]


def how(summary: Summary, frame: pd.DataFrame, context: PageContext) -> str:
    """The section of the page on meters, grids, intervals and what was read."""
    meters = [
        [PART_NAMES[row["component"]], row["basis"], format_joules(row["kwh"] * JOULES_PER_KWH)]
        for row in page_data.meters(frame)
    ]
    found = page_data.grids(frame)
    places = page_data.places_of(dict.fromkeys(row["region"] for row in found if row["region"]))
    grids = [
        [
            places.get(row["region"], "unknown"),
            str(row["region_basis"] or ""),
            _per_kwh(row),
            str(row["intensity_source"] or ""),
            "" if row["intensity_year"] is None else f"{row['intensity_year']:.0f}",
            f"{row['runs']:,}",
        ]
        for row in found
    ]
    omitted = " ".join([*selected(summary), *left_out(summary)]) or "Nothing was left out."
    return (
        '<section class="how" aria-labelledby="h-how"><h2 id="h-how">How each number was calculated'
        "</h2><h3>Energy</h3><p>Measured: read from a counter or sensor. Modelled: from a known "
        "part's design power and its load. Assumed: from a default. Before PUE.</p>"
        f"{table(['part', 'basis', 'energy'], *meters)}{_RATE}"
        "<h3>Grid</h3><p>Emissions are energy times the carbon intensity of the place, in g CO2e "
        f"per kWh.{_world_text(context)}</p>"
        f"{table(['region', 'found by', 'g CO2e/kWh', 'source', 'year', 'runs'], *grids)}"
        f"{_UNTRACED}{_intervals_text(summary)}"
        f"{_compared(context)}{_antimony(summary.total)}"
        f"<h3>What was read</h3><p>{visible_html(omitted)}</p></section>"
    )


def _world_text(context: PageContext) -> str:
    world = next((grid for grid in context.elsewhere if grid.zone == "WORLD"), None)
    if world is None:
        return ""
    year = "" if world.year is None else f" ({world.year})"
    return f" The world average is {world.g_per_kwh:.0f} g CO2e/kWh{year}."


def _intervals_text(summary: Summary) -> str:
    errors = "".join(f" {visible_html(text)}" for text in combined(summary))
    return (
        '<h3 id="intervals">Intervals</h3><p>Runs share their errors: one part known in one way is '
        "wrong by the same factor in every run, so its half-widths add up and do not average out. "
        "Errors of different parts, and of measured GPUs on different hosts, are independent: they "
        "combine as the root of the sum of squares. Models of different kinds of processor share "
        "a part of their error. The grid's error is a factor and combines as a ratio. So the "
        f"interval of a sum is not the sum of the intervals.{errors} The rule, derived: "
        f"{code(_INTERVALS)} in carbontrack's documentation.</p>"
    )


_UNTRACED = (
    "<p>The tables count what a country generates: where imports are traced, one country in three "
    "lies outside its interval.</p>"
)
_RATE = (
    "<p>Intervals of modelled processors: nine of ten published servers lay inside; of servers "
    "that the model was not fitted to, eight to nine of ten, and of small client processors fewer. "
    "Virtual machines and laptops were not measured. This is no 95 % confidence interval for "
    "one machine. Like the figure, it covers the named parts and not the energy at the wall.</p>"
)


def _compared(context: PageContext) -> str:
    if context.comparison is None:
        return ""
    thing, _cite, source = context.comparison
    return f"<h3>The comparison</h3><p>{visible_html(thing)}: {visible_html(source)}</p>"


def _antimony(total: Total) -> str:
    if total.abiotic_kg_sb is None:
        return ""
    return f"<h3>Minerals and metals</h3><p>Sb eq is {visible_html(AS_ANTIMONY)}.</p>"


def _per_kwh(row: dict[str, Any]) -> str:
    if row["g_per_kwh"] is None:
        return "unknown"
    if row["low_g_per_kwh"] is None or row["high_g_per_kwh"] is None:
        return f"{row['g_per_kwh']:.4g}"
    ends = format_interval(row["low_g_per_kwh"], row["high_g_per_kwh"], ".3g")
    return f"{row['g_per_kwh']:.4g} ({ends})"
