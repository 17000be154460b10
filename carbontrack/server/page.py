"""The page with a project's totals: HTML without scripts or external resources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from string import Template
from urllib.parse import urlencode

from carbontrack.report.frame import Loaded
from carbontrack.report.page_data import UNKNOWN, places_of
from carbontrack.report.page_html import (
    PageContext,
    cards,
    covers_text,
    headline,
    known_chips,
    period,
    range_text,
    title,
)
from carbontrack.report.tables import Summary, combined, notes
from carbontrack.report.totals import Total
from carbontrack.server.totals import ReportQuery
from carbontrack.system.files import package_text
from carbontrack.system.version import VERSION
from carbontrack.text import visible_html
from carbontrack.units import (
    format_best,
    format_grams,
    format_interval,
    format_joules,
    format_seconds,
    joules_from,
)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Styles of the page itself, and the icon in it; no script, no form, no external resources."""
MOST_GROUPS = 200
_WAYS = ("name", "day", "host", "region")
_PERIODS = (("7 days", 7), ("30 days", 30), ("365 days", 365))
_NOTHING = (
    "<p>No record of this project has begun in this time. Programs send theirs to the path "
    "<code>v1/records</code> of this server, with a token for sending.</p>"
)


def project_page(query: ReportQuery, loaded: Loaded, summary: Summary, now: datetime) -> str:
    """The page; `now` is what the periods that it offers end with."""
    total = summary.total
    groups = _shown(summary.groups, query.by)
    widest_g = max((_reach_g(group) for group in groups), default=0.0)
    keys = [group.key for group in groups if group.key is not None]
    names = places_of(keys) if query.by == "region" else {}
    return Template(package_text("server/assets/project.html")).substitute(
        version=VERSION,
        css=package_text("report/assets/page.css"),
        project=visible_html(query.project),
        title=visible_html(title(total, query.project) if total.runs else query.project),
        range=visible_html(range_text(total)),
        headline=visible_html(headline(total) if total.runs else "No records"),
        period=visible_html(_period(query, loaded)),
        figures=_headline_figures(total) if total.runs else _NOTHING,
        by=visible_html(query.by),
        ways="\n".join(_ways(query)),
        periods="\n".join(_periods(query, now)),
        rows="\n".join([*(_row(group, widest_g, names) for group in groups), _total_row(total)]),
        shown=_shown_text(len(groups), len(summary.groups)),
        notes="".join(f"<p>{visible_html(text)}</p>" for text in _notes(summary)),
        json=visible_html(f"v1/report?{_parameters(query, query.by, query.since)}"),
    )


def _headline_figures(total: Total) -> str:
    return (
        f'<dl class="cards">{"".join(cards(total, PageContext()))}</dl>'
        f'<p class="known">{known_chips(total)}</p>'
        f'<p class="soft known-text">{visible_html(covers_text(total))}</p>'
    )


def _shown(groups: Sequence[Total], by: str) -> Sequence[Total]:
    """The largest groups; of days the latest, the last one first."""
    return groups[::-1][:MOST_GROUPS] if by == "day" else groups[:MOST_GROUPS]


def _shown_text(shown: int, count: int) -> str:
    return "" if shown == count else f"{shown:,} of {count:,} are shown; all are in the total."


def _period(query: ReportQuery, loaded: Loaded) -> str:
    texts = [] if loaded.frame.empty else [period(loaded.frame)]
    if query.since is not None:
        texts.append(f"since {query.since:%Y-%m-%d %H:%M} UTC")
    if query.until is not None:
        texts.append(f"until {query.until:%Y-%m-%d %H:%M} UTC")
    return "; ".join(texts)


def _notes(summary: Summary) -> Iterator[str]:
    yield (
        "Emissions are those of the electricity used, at the carbon intensity of each place. Each "
        "figure has an interval; runs share their errors, so the interval of a sum is not the sum "
        "of the intervals."
    )
    yield from notes(summary)
    yield from combined(summary)


def _ways(query: ReportQuery) -> Iterator[str]:
    for way in dict.fromkeys((*_WAYS, query.by)):
        yield _link(f"by {way}", _parameters(query, way, query.since), is_here=way == query.by)


def _periods(query: ReportQuery, now: datetime) -> Iterator[str]:
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    yield _link("all", _parameters(query, query.by, None), is_here=query.since is None)
    for text, days in _PERIODS:
        since = today - timedelta(days=days)
        is_here = query.since == since
        yield _link(text, _parameters(query, query.by, since), is_here=is_here)


def _link(text: str, parameters: str, *, is_here: bool) -> str:
    here = ' aria-current="true"' if is_here else ""
    return f'<li><a href="?{visible_html(parameters)}"{here}>{visible_html(text)}</a></li>'


def _parameters(query: ReportQuery, by: str, since: datetime | None) -> str:
    given = {"by": by}
    for name, when in (("since", since), ("until", query.until)):
        if when is not None:
            given[name] = f"{when:%Y-%m-%dT%H:%M:%SZ}"
    return urlencode(given)


def _row(group: Total, widest_g: float, names: Mapping[str, str]) -> str:
    key = UNKNOWN if group.key is None else names.get(group.key, group.key)
    return f"<tr>{_cell(key, 'key')}{_figures(group, _bar(group, widest_g))}</tr>"


def _total_row(total: Total) -> str:
    low_g, high_g = total.emissions_low_g, total.emissions_high_g
    text, grams = "", total.emissions_g
    if grams is not None and low_g is not None and high_g is not None:
        text = format_interval(low_g, high_g, format_grams, like=grams)
    figure = None if grams is None else format_best(grams, low_g, high_g, format_grams)
    cells = _figures(total, visible_html(text), figure)
    return f'<tr class="total">{_cell("total", "key")}{cells}</tr>'


def _figures(total: Total, interval: str, emissions: str | None = None) -> str:
    """The cells of a row; `emissions` is the figure as it is shown beside its interval."""
    joules, grams = joules_from(total.energy_kwh), total.emissions_g
    if emissions is None:
        emissions = "" if grams is None else format_grams(grams)
    share, seconds = total.measured_share, total.duration_s
    return "".join(
        (
            _cell(f"{total.runs:,}", "num"),
            _cell("" if joules is None else format_joules(joules), "num"),
            _cell(emissions, "num"),
            f'<td class="span wide">{interval}</td>',
            _cell("" if share is None else f"{share:.0%}", "num wide"),
            _cell("" if seconds is None else format_seconds(seconds), "num wide"),
        )
    )


def _cell(text: str, style: str) -> str:
    return f'<td class="{style}">{visible_html(text)}</td>'


def _reach_g(total: Total) -> float:
    """The end of the group's band."""
    return max(total.emissions_high_g or 0.0, total.emissions_g or 0.0)


def _bar(group: Total, widest_g: float) -> str:
    """A group's emissions and their interval, on the scale of the widest."""
    best, low, high = group.emissions_g, group.emissions_low_g, group.emissions_high_g
    if best is None or widest_g <= 0.0:
        return ""
    place = best / widest_g * 100.0
    band = ""
    if low is not None and high is not None:
        left, width = low / widest_g * 100.0, (high - low) / widest_g * 100.0
        band = f'<i style="left:{left:.2f}%;width:{width:.2f}%"></i>'
    return f'<span class="bar">{band}<b style="left:{place:.2f}%"></b></span>'
