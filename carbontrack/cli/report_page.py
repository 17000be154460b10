"""The page of `carbontrack report --html`: its surroundings looked up, then written in one go."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from carbontrack.equivalents import compare
from carbontrack.errors import NoIntensity
from carbontrack.grid.intensity import GridIntensity
from carbontrack.grid.table import lookup
from carbontrack.report.formats import Summary
from carbontrack.report.page import page
from carbontrack.report.page_parts import Around
from carbontrack.report.timelines import largest, timelines_beside
from carbontrack.report.totals import Total
from carbontrack.units import JOULES_PER_KWH

_ZONES = (
    "SE",
    "FR",
    "CA-QC",
    "BR",
    "GB",
    "US",
    "US-CA",
    "DE",
    "JP",
    "CN",
    "AU",
    "PL",
    "IN",
    "WORLD",
)
"""Grids from clean to dirty on which many data centres stand."""


_MOST_CURVES = 6
"""Runs whose power over time is drawn; those with the most energy."""


def write_page(path: Path, summary: Summary, frame: Any, files: Sequence[Path] = ()) -> None:
    """Write the page; what stood there before stays until the new one is whole.

    Timelines are looked for beside `files`.
    """
    curves = largest(timelines_beside(files), frame, _MOST_CURVES)
    around = Around(elsewhere=tuple(_grids()), comparison=_comparison(summary.total), curves=curves)
    text = page(summary, frame, around)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _grids() -> Iterator[GridIntensity]:
    for zone in _ZONES:
        try:
            yield lookup(zone)
        except NoIntensity:
            continue


def _comparison(total: Total) -> tuple[str, str, str] | None:
    kwh = total.energy_kwh
    joules = None if kwh is None else kwh * JOULES_PER_KWH
    found = compare(energy_joules=joules, emissions_g=total.emissions_g)
    if found is None:
        return None
    number, _, _ = found.text.partition(" ")
    noun = found.thing.one if number == "1" else found.thing.many
    return f"{number} {noun}", found.thing.cite, found.thing.source
