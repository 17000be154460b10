"""A record as a few lines of HTML, for notebooks; every text in it is escaped."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from carbontrack.units import JOULES_PER_KWH, format_grams, format_joules, format_seconds

_PARTS = (("cpu", "CPU"), ("gpu", "GPU"), ("ram", "memory"), ("other", "other"))


def record_html(record: Any, *, state: str | None = None) -> str:
    """The record as a small table; `state` stands in for its status."""
    length = "" if record.duration_s is None else f", {format_seconds(record.duration_s)}"
    status = state or record.status
    heading = f"<b>{escape(record.name)}</b>{escape(length)}, {escape(status)}"
    rows = "".join(_row(label, text) for label, text in _rows(record))
    return f"<div>{heading}</div><table>{rows}</table>"


def plain_html(text: str) -> str:
    """A text, escaped."""
    return f"<code>{escape(text)}</code>"


def _row(label: str, text: str) -> str:
    left = ' style="text-align:left"'
    return f"<tr><th{left}>{escape(label)}</th><td{left}>{escape(text)}</td></tr>"


def _rows(record: Any) -> Iterator[tuple[str, str]]:
    if record.error:
        yield "error", record.error
    yield "energy", energy_text(record)
    yield "CO2e", emissions_text(record)
    parts = list(_parts(record))
    if parts:
        yield "parts", "; ".join(parts)
    if record.intensity_g_per_kwh is not None:
        year = f", {record.intensity_year}" if record.intensity_year else ""
        source = f", {record.intensity_source}" if record.intensity_source else ""
        grams = f"{record.intensity_g_per_kwh:.0f} g CO2e/kWh"
        yield "grid", f"{record.region}, {grams}{source}{year}"


def energy_text(record: Any) -> str:
    """The energy and its interval: "1.50 Wh (1.20 to 1.80 Wh)"."""
    kwhs = (record.energy_kwh, record.energy_low_kwh, record.energy_high_kwh)
    joules = [None if kwh is None else kwh * JOULES_PER_KWH for kwh in kwhs]
    return _with_interval(joules[0], joules[1], joules[2], form=format_joules)


def emissions_text(record: Any) -> str:
    """The emissions and their interval."""
    ends = record.emissions_low_g, record.emissions_high_g
    return _with_interval(record.emissions_g, ends[0], ends[1], form=format_grams)


def _with_interval(best: float | None, low: float | None, high: float | None, form: Any) -> str:
    if best is None:
        return "unknown"
    if low is None or high is None:
        return str(form(best))
    number, _, _ = form(low, like=best).partition(" ")
    return f"{form(best)} ({number} to {form(high, like=best)})"


def _parts(record: Any) -> Iterator[str]:
    for column, name in _PARTS:
        kwh = getattr(record, f"{column}_kwh")
        if kwh is not None:
            basis = getattr(record, f"{column}_basis", record.basis)
            known = f" {basis}" if basis else ""
            yield f"{name} {format_joules(kwh * JOULES_PER_KWH)}{known}"
