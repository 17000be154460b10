"""The page of one run: its parts as one bar, and every detail of its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from carbontrack.record import COMPONENTS
from carbontrack.report.page_data import labels_of, places_of
from carbontrack.report.page_html import PART_NAMES, code
from carbontrack.report.totals import Total
from carbontrack.text import visible_html
from carbontrack.units import (
    JOULES_PER_KWH,
    format_grams,
    format_interval,
    format_joules,
    format_seconds,
    format_with_interval,
    joules_from,
)

if TYPE_CHECKING:
    import pandas as pd

_FOUND_BY = {
    "argument": "given as an argument",
    "environment": "given in the environment",
    "config": "given in a settings file",
    "cloud": "reported by the cloud",
    "metadata": "reported by the cloud's metadata service",
    "timezone": "guessed from the time zone",
    "unknown": "not known",
}
_SCOPES = {
    "process": "process: this program's share of the machine",
    "machine": "machine: the whole machine",
}
Run = Mapping[str, Any]
"""A record's columns; unknown is None."""


def only_run(frame: pd.DataFrame) -> Run:
    """The one record of the frame; what is unknown in it is None."""
    (row,) = frame.to_dict("records")
    return {
        str(name): None if cell != cell else cell  # noqa: PLR0124 - NaN is not itself
        for name, cell in row.items()
    }


def parts(run: Run) -> str:
    """The section with the parts of the energy as one stacked bar, and as a table."""
    found = list(_parts(run))
    whole = sum(kwh for _name, kwh, _basis in found)
    if whole <= 0.0:
        return ""
    segments = "".join(
        f'<i style="flex-grow:{kwh / whole:.6f};background:var(--{name})"></i>'
        for name, kwh, _basis in found
        if kwh > 0.0
    )
    rows = "".join(_part_row(name, kwh, whole, basis) for name, kwh, basis in found)
    said = ", ".join(f"{_NAMES[name]} {kwh / whole:.0%}" for name, kwh, _basis in found)
    return (
        '<section class="parts" aria-labelledby="h-parts"><h2 id="h-parts">Where the energy went'
        f'</h2><div class="stack" role="img" aria-label="{visible_html(said)}">{segments}</div>'
        '<table><thead><tr><th scope="col">part</th><th scope="col" class="num">energy</th>'
        '<th scope="col" class="num">share</th><th scope="col">basis</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


_NAMES = {**PART_NAMES, "building": "data centre (PUE)"}


def _parts(run: Run) -> Iterator[tuple[str, float, str]]:
    """Each known part: its name, its kWh, and how it is known; what PUE adds comes last."""
    known = 0.0
    for name in COMPONENTS:
        kwh = run[f"{name}_kwh"]
        if kwh is not None:
            known += kwh
            yield name, kwh, run["basis" if name == "other" else f"{name}_basis"] or ""
    rest = (run["energy_kwh"] or 0.0) - known
    if known and rest > known * 1e-9:
        yield "building", rest, "" if run["pue"] is None else f"PUE {run['pue']:.4g}"


def _part_row(name: str, kwh: float, whole: float, basis: str) -> str:
    chip = visible_html(basis)
    if basis in ("measured", "modelled", "assumed"):
        chip = f'<span class="chip {basis}">{basis}</span>'
    return (
        f'<tr><td><i class="dot" style="background:var(--{name})"></i>{visible_html(_NAMES[name])}'
        f'</td><td class="num">{visible_html(format_joules(kwh * JOULES_PER_KWH))}</td>'
        f'<td class="num">{kwh / whole:.0%}</td><td>{chip}</td></tr>'
    )


def no_power_curve() -> str:
    """The section that says how to keep a power curve, where none was kept."""
    command = code("carbontrack run --timeline -- COMMAND")
    return (
        '<section aria-labelledby="h-power"><h2 id="h-power">Power over time</h2><p class="empty">'
        f"No power curve was kept for this run. To see one here, measure with {command} or "
        f"{code('carbontrack.track(NAME, timeline=True)')}</p></section>"
    )


def details(run: Run, total: Total) -> str:
    """The section with all that the record says of the run; `total` is the sum that it is."""
    items = "".join(
        f"<dt>{visible_html(term)}</dt><dd>{content}</dd>"
        for term, content in _details(run, total)
        if content
    )
    return (
        '<section class="record" id="details" tabindex="-1" aria-labelledby="h-record">'
        '<h2 id="h-record">Details</h2>'
        f"<dl>{items}</dl></section>"
    )


def _details(run: Run, total: Total) -> Iterator[tuple[str, str]]:
    """Terms and their contents; the contents are HTML."""
    yield "Name", _text(run["name"])
    yield "Labels", _label_chips(run.get("labels") or "")
    yield "Status", _text(run["status"])
    yield "Started", _moment(run["started_at"])
    yield "Ended", _moment(run["ended_at"])
    if run["duration_s"] is not None:
        yield "Duration", _text(format_seconds(run["duration_s"]))
    if run["calls"] is not None and run["calls"] > 1.0:
        yield "Calls", f"{run['calls']:,.0f}"
    yield from _figures(run["basis"], total)
    yield from _grid(run)
    yield "Scope", _text(_SCOPES.get(run["scope"] or "", run["scope"]))
    if run["pue"] is not None:
        yield "PUE", f"{run['pue']:.4g}"
    if run.get("coverage") is not None:
        yield "Observed", f"{run['coverage']:.0%} of the time"
    yield "Meters", _text((run.get("meters") or "").replace(";", ", "))
    yield "Machine", _text(run["host_id"])
    yield "Hardware", _text("; ".join(filter(None, (run["cpu_model"], run["gpu_models"]))))
    yield "Faults", _text((run["faults"] or "").replace(";", ", "))
    yield (
        "Recorded by",
        _text(f"carbontrack {run['carbontrack']}" if run.get("carbontrack") else ""),
    )


def _figures(basis: str | None, total: Total) -> Iterator[tuple[str, str]]:
    joules, grams = joules_from(total.energy_kwh), total.emissions_g
    if joules is not None:
        ends_j = joules_from(total.energy_low_kwh), joules_from(total.energy_high_kwh)
        energy = format_with_interval(joules, *ends_j, format_joules)
        yield "Energy", _text(f"{energy}, {basis}" if basis else energy)
    if grams is not None:
        ends_g = (total.emissions_low_g, total.emissions_high_g)
        yield "Emissions", _text(format_with_interval(grams, *ends_g, format_grams, of=" CO2e"))


def _grid(run: Run) -> Iterator[tuple[str, str]]:
    region = run["region"]
    if region is not None:
        place = places_of([region])[region]
        named = place if region in place else f"{place} ({region})"
        way = run.get("region_basis")
        found = f", {_FOUND_BY.get(way, way)}" if way else ""
        yield "Region", _text(f"{named}{found}")
    best, low, high = (run[f"intensity_{end}g_per_kwh"] for end in ("", "low_", "high_"))
    if best is None:
        return
    ends = "" if low is None or high is None else f" ({format_interval(low, high, '.3g')})"
    year = run.get("intensity_year")
    source = ", ".join(
        filter(None, (run.get("intensity_source"), "" if year is None else f"{year:.0f}"))
    )
    yield "Carbon intensity", _text(f"{best:.4g} g CO2e/kWh{ends}{f'; {source}' if source else ''}")


def _label_chips(text: str) -> str:
    pairs = labels_of(text) if text else []
    return " ".join(
        f'<span class="chip label">{visible_html(key)}={visible_html(value)}</span>'
        for key, value in pairs
    )


def _moment(at: Any) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _text(text: str | None) -> str:
    return visible_html(text or "")
