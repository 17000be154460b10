"""What would narrow the interval: the largest causes of uncertainty, and what to do about each."""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import TYPE_CHECKING, Any

from carbontrack.report import page_data
from carbontrack.report.page_html import PART_NAMES, code
from carbontrack.report.totals import USUAL_UNCERTAINTY, Total
from carbontrack.text import visible_html
from carbontrack.values import NamedTuple

if TYPE_CHECKING:
    import pandas as pd

_SMALLEST = 0.01
"""Causes of a smaller share of the variance are not named."""
_GIVEN = ("argument", "environment", "config")
"""Ways in which a user states the region."""


class Cause(NamedTuple):
    """One cause of uncertainty.

    Attributes:
        what: what is not known well.
        advice: what to do about it, as HTML.
        share: of the variance above the best estimate of the emissions, from 0 to 1.
    """

    what: str
    advice: str
    share: float


def narrow(total: Total, frame: pd.DataFrame) -> str:
    """The section of the page with the causes, the largest first."""
    found = sorted(_causes(total, frame), key=lambda cause: -cause.share)
    found = [cause for cause in found if cause.share >= _SMALLEST]
    is_one = total.runs == 1
    items = "".join(
        f"<li><b>{visible_html(cause.what)}</b>"
        f"{_share_text(cause.share) if is_one else ''}<p>{cause.advice}</p></li>"
        for cause in found
    )
    if not found:
        note = ""
        items = f"<li>{_without_causes(total, frame)}</li>"
    elif is_one:
        note = "Percentages are shares of the variance above the best estimate; the rest is "
        note += "measured. "
    else:
        note = "The cause that matters most comes first. "
    return (
        '<section class="narrow" id="narrow" tabindex="-1" aria-labelledby="h-narrow">'
        '<h2 id="h-narrow">How to narrow the interval</h2>'
        f'<p class="soft">{note}{code("carbontrack doctor")} shows what this machine '
        f"can measure.</p><ol>{items}</ol></section>"
    )


def _without_causes(total: Total, frame: pd.DataFrame) -> str:
    """What there is to say where no cause is found: that there is none, or that it is not known."""
    is_measured = total.energy_kwh is not None and (total.measured_share or 0.0) > 1.0 - _SMALLEST
    if is_measured and bool(frame["region_basis"].isin(_GIVEN).all()):
        return "Nothing here is modelled, and the region was given."
    if total.energy_kwh is None:
        return "No energy is known, so there is no interval to narrow."
    return "What was recorded does not tell what would narrow it."


def _share_text(share: float) -> str:
    return f' <span class="chip label">{share:.0%} of the uncertainty</span>'


def _causes(total: Total, frame: pd.DataFrame) -> Iterator[Cause]:
    """The parts whose energy is not measured, and the grid, with their shares of the variance."""
    parts = page_data.meters(frame)
    squares = [_usual_width(part) ** 2 for part in parts]
    energy, grid = _log_width(total.energy_kwh, total.energy_high_kwh), _grid_width(total, frame)
    whole = energy**2 + grid**2
    if whole <= 0.0:
        return
    for part, square in zip(parts, squares, strict=True):
        if part["basis"] in ("modelled", "assumed"):
            name, basis = part["component"], part["basis"]
            share = square / sum(squares) * energy**2 / whole
            what = f"{PART_NAMES[name]} energy is {basis}"
            yield Cause(what[0].upper() + what[1:], _part_advice(name, basis), share)
    yield _grid_cause(frame, grid**2 / whole)


def _usual_width(part: dict[str, Any]) -> float:
    """As rule 1 of adding up intervals splits a record's half-width."""
    known = USUAL_UNCERTAINTY[part["component"]].get(part["basis"])
    return 0.0 if known is None else float(part["kwh"]) * known.above


def _log_width(best: float | None, high: float | None) -> float:
    return log(high / best) if best and high and high > best > 0.0 else 0.0


def _grid_width(total: Total, frame: pd.DataFrame) -> float:
    """The logarithm of the mean ratio of the grid's upper end to its best estimate."""
    high_g = (frame["energy_kwh"] * frame["intensity_high_g_per_kwh"]).sum()
    return _log_width(total.emissions_g, float(high_g))


def _part_advice(component: str, basis: str) -> str:
    wall = f"Or calibrate with a wall meter, once: {code('carbontrack calibrate --wall WATTS')}."
    if component == "gpu":
        return (
            "The driver showed neither energy nor power. With a driver that does, the sensor of "
            f"the board is read; {code('carbontrack doctor')} names what is missing."
        )
    if component == "other":
        meter = code("carbontrack calibrate --wall WATTS")
        return f"Power beyond processor, memory and GPUs needs a wall meter: {meter}."
    if component == "ram":
        return f"On servers, RAPL also counts memory (see CPU). {wall}"
    name = code("cpu_tdp_w")
    unknown = (
        f" The processor is not in the table: give its design power by {name}."
        if basis == "assumed"
        else ""
    )
    return (
        "Processors of Intel and AMD count their own energy (RAPL). Linux lets only root read the "
        f"counters until access is given; {code('carbontrack doctor')} prints the commands, and "
        f"the guide “Enable RAPL” explains them.{unknown} Virtual machines often have no counters. "
        f"{wall}"
    )


def _grid_cause(frame: pd.DataFrame, share: float) -> Cause:
    ways = {str(way) for way in frame["region_basis"].dropna().unique()}
    if ways & {"unknown", "timezone"}:
        what = "The region was not given"
        setting, option = code("CARBONTRACK_REGION=FR"), code("--region FR")
        advice = (
            f"Say where the machine is, for example by {setting} or {option}. Without a region the "
            "world average is used, or a guess from the time zone."
        )
        return Cause(what, advice, share)
    advice = (
        "The figure is a yearly average. A live source follows the grid hour by hour: "
        f"{code('CARBONTRACK_INTENSITY_SOURCE=electricitymaps')}, and others in the guide “Use the "
        "intensity of the hour”. Part of the uncertainty remains: lifecycle factors of fuels."
    )
    return Cause("Carbon intensity of the grid", advice, share)
