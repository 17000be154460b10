"""Our models beside 694 published servers at wall meters, and the page that shows it."""

from __future__ import annotations

import csv
import re
from functools import cache
from math import hypot
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

from carbontrack.meters.cpu_info import find_part
from carbontrack.meters.load_curve import SINCE_2010
from carbontrack.meters.ram_model import RELATIVE_UNCERTAINTY, W_PER_GIB

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "explanation" / "accuracy.md"
YEARS = ((2007, 2009), (2010, 2013), (2014, 2017), (2018, 2021))


class Server(NamedTuple):
    """A server as the model sees it and as the wall meter saw it."""

    year: int
    cpu_w: float
    """Design power of all packages."""
    ram_w: float
    full_w: float
    idle_w: float

    def model(self, load: float) -> tuple[float, float]:
        """Modelled power and its half-width."""
        share = SINCE_2010.at(load)
        cpu_w, above_w = self.cpu_w * share.best, self.cpu_w * (share.high - share.best)
        half_w = hypot(above_w, self.ram_w * RELATIVE_UNCERTAINTY)
        return cpu_w + self.ram_w, half_w


@cache
def servers() -> tuple[Server, ...]:
    """All whose processor the table knows."""
    found = []
    with (ROOT / "tests" / "support" / "specpower.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            part = find_part(row["cpu"])
            if part is not None:
                cpu_w = part.tdp_w * int(row["chips"])
                ram_w = float(row["memory_gb"]) * W_PER_GIB
                watts = float(row["full_w"]), float(row["idle_w"])
                found.append(Server(int(row["year"]), cpu_w, ram_w, *watts))
    return tuple(found)


def row_of(first: int, last: int) -> tuple[object, ...]:
    """A row of the page: servers, and for full load and idle the median of wall over model and
    the share of servers whose wall power lies in the model's interval."""
    chosen = [server for server in servers() if first <= server.year <= last]
    cells: list[object] = [f"{first} to {last}", str(len(chosen))]
    for load, wall_w in ((1.0, [s.full_w for s in chosen]), (0.0, [s.idle_w for s in chosen])):
        pairs = [(watts, *server.model(load)) for watts, server in zip(wall_w, chosen, strict=True)]
        inside = sum(abs(watts - model_w) <= half_w for watts, model_w, half_w in pairs)
        cells += [f"{median(watts / model_w for watts, model_w, _ in pairs):.2f}"]
        cells += [f"{inside / len(pairs):.0%}"]
    return tuple(cells)


@pytest.mark.parametrize("years", [*YEARS, (2007, 2021)])
def test_the_page_shows_what_the_data_say(years: tuple[int, int]) -> None:
    """Each row of the page's table is what the published data give today."""
    text = PAGE.read_text(encoding="utf-8")
    rows = [
        tuple(cell.strip(" *") for cell in line.strip("| ").split("|"))
        for line in re.findall(r"^\| .* to \d{4}\** \|.*$", text, re.MULTILINE)
    ]
    assert row_of(*years) in rows


def test_the_interval_holds_at_full_load_for_machines_of_today() -> None:
    """Nine of ten servers since 2014 lie within, at full load, power supply and fans included."""
    recent = [server for server in servers() if server.year >= 2014]
    inside = [abs(s.full_w - s.model(1.0)[0]) <= s.model(1.0)[1] for s in recent]
    assert len(recent) > 250
    assert sum(inside) / len(recent) > 0.9
