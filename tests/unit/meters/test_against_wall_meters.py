"""Our models beside published servers at wall meters and packages read by RAPL, and the page that
shows them.

Two kinds of data: rows, where they may be passed on (`tests/support/specpower.csv`,
`tests/support/package_power.csv`), and quantiles by load where they may not, made of 245 servers
since 2014 and 128 before 2010 by `benchmarks/accuracy/wall_meters.py`.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pytest

from carbontrack.interval import Interval, total
from carbontrack.meters.cpu_info import CpuFacts
from carbontrack.meters.cpu_power import CpuPower, cpu_power
from carbontrack.meters.load_curve import BEFORE_2010, SINCE_2010, LoadCurve
from carbontrack.meters.ram_model import W_PER_GIB
from tests.support.published import rows_of as published_rows

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "explanation" / "accuracy.md"
RESULTS = ROOT / "benchmarks" / "results" / "wall_meters.md"
YEARS = ((2007, 2009), (2010, 2013), (2014, 2017), (2018, 2021))
LOADS = tuple(range(0, 101, 10))
CURVES = {"since 2014": SINCE_2010, "before 2010": BEFORE_2010}


def rows_of(name: str) -> list[dict[str, str]]:
    """A file of data, without the attribution on its top."""
    with (ROOT / "tests" / "data" / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def modelled(curve: LoadCurve, load: float, tdp_w: float, gib: float) -> Interval:
    """Processor and memory."""
    cpu_w = Interval(*(share * tdp_w for share in curve.at(load)))
    return total([cpu_w, Interval(*(watts * gib for watts in W_PER_GIB))])


# -- by quantiles: eleven loads ----------------------------------------------------------------


def greatest_sums(servers: str, load_percent: int) -> dict[float, float]:
    """By k in W/GiB, the greatest (TDP + k x GiB) / wall that any of the servers has."""
    return {
        float(row["k_w_per_gib"]): float(row["greatest"])
        for row in rows_of("wall_meters.csv")
        if row["servers"] == servers and int(row["load_percent"]) == load_percent
    }


@pytest.mark.parametrize("load_percent", LOADS)
@pytest.mark.parametrize("servers", CURVES)
def test_no_low_end_is_above_a_published_wall(servers: str, load_percent: int) -> None:
    """Not for one server, at any load, although its wall feeds supply, fans, disks and board too.

    Known is the greatest M = (TDP + k x GiB) / wall that any server has, for several k. So no
    server's low end is more than the greatest one of all mixtures with TDP + k x GiB = M, and it is
    enough that this is at most 1 for one of the k.
    """
    greatest_lows = []
    for k, most in greatest_sums(servers, load_percent).items():
        mixtures = ((most * (1 - part / 200), most * part / 200 / k) for part in range(201))
        curve, load = CURVES[servers], load_percent / 100
        greatest_lows.append(max(modelled(curve, load, *mixture).low for mixture in mixtures))
    assert min(greatest_lows) <= 1.0


@pytest.mark.parametrize("load_percent", LOADS)
@pytest.mark.parametrize("servers", CURVES)
def test_both_low_ends_together_stay_below_the_wall(servers: str, load_percent: int) -> None:
    """Even if one server had the greatest TDP of all for its wall power, and the most memory.

    From the sums: TDP / wall is at most the one with the least k, GiB / wall at most one of the
    others over its k.
    """
    sums = greatest_sums(servers, load_percent)
    tdp_of_wall = sums[min(sums)]
    gib_of_wall = min(most / k for k, most in sums.items())
    cpu = CURVES[servers].at(load_percent / 100).low * tdp_of_wall
    assert cpu + W_PER_GIB.low * gib_of_wall <= 1.0


def package_shares(servers: str, load_percent: int) -> list[float]:
    """Percentiles of the packages' power as a share of TDP."""
    row = next(
        row
        for row in rows_of("package_shares.csv")
        if row["servers"] == servers and int(row["load_percent"]) == load_percent
    )
    return [float(row[f"q{part}"]) for part in range(101)]


@pytest.mark.parametrize("load_percent", LOADS)
@pytest.mark.parametrize("servers", CURVES)
def test_nine_of_ten_packages_are_inside(servers: str, load_percent: int) -> None:
    """The stated rate, on the sets that the curves were made from, at every load."""
    ends = CURVES[servers].at(load_percent / 100)
    inside = [ends.low <= x <= ends.high for x in package_shares(servers, load_percent)]
    assert sum(inside) / len(inside) >= 0.9


@pytest.mark.parametrize("load_percent", LOADS)
@pytest.mark.parametrize("servers", CURVES)
def test_the_best_estimate_is_a_middle(servers: str, load_percent: int) -> None:
    """No load at which it is a quantile far from the middle: sums of many would be biased."""
    shares = package_shares(servers, load_percent)
    below = sum(x < CURVES[servers].at(load_percent / 100).best for x in shares)
    assert 40 <= below <= 70


# -- by rows: packages -------------------------------------------------------------------------


def rapl_curves() -> dict[str, list[tuple[float, float]]]:
    """Load and share of TDP of each machine and load generator, or of a single idle reading."""
    curves = defaultdict(list)
    packages = (row for row in published_rows("package_power.csv") if row["component"] == "package")
    for row in packages:
        name = f"{row['system']}, {row['machine']}"
        share = float(row["watts"]) / float(row["tdp_w"])
        curves[name].append((float(row["load_percent"]) / 100, share))
    return curves


OUTSIDE = {
    # boosted to half above its design power, and both of its sockets say so
    "Xeon Platinum 8252C, m5zn.metal": 2,
    # idle on a platform before production, 0.40 of its design power
    "EPYC 75F3, idle": 1,
}
"""Points of a curve that lie outside of the ends; of all other curves none does."""


@pytest.mark.parametrize("name", rapl_curves())
def test_the_curve_holds_what_a_package_was_read_to_draw(name: str) -> None:
    """Twelve of thirteen curves do at each of their points, and two of three idle figures."""
    missed = 0
    for load, share in rapl_curves()[name]:
        ends = SINCE_2010.at(load)
        missed += not ends.low <= share <= ends.high
    assert missed == OUTSIDE.get(name, 0)


# -- by rows: servers at idle and at full load ---------------------------------------------------


class Server(NamedTuple):
    """A server as the model sees it and as the wall meter saw it."""

    year: int
    cpu: CpuPower
    """Of one package."""
    chips: int
    gib: float
    """Modules are sold by powers of two: 16 GB of memory are 16 GiB."""
    full_w: float
    idle_w: float

    def model(self, load: float) -> Interval:
        """Modelled power."""
        return modelled(self.cpu.curve, load, self.cpu.tdp_w * self.chips, self.gib)


@cache
def servers() -> tuple[Server, ...]:
    """All whose processor the table knows."""
    found = []
    with (ROOT / "tests" / "support" / "specpower.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            package = cpu_power(CpuFacts(name=row["cpu"], threads=1, siblings=1))
            if package.known == "part":
                gib = float(row["memory_gb"])
                watts = float(row["full_w"]), float(row["idle_w"])
                found.append(Server(int(row["year"]), package, int(row["chips"]), gib, *watts))
    return tuple(found)


def row_of(first: int, last: int) -> tuple[object, ...]:
    """A row of the page: servers, and for full load and idle the median of wall over model, the
    share of servers whose wall power lies in the model's interval, and below its low end."""
    chosen = [server for server in servers() if first <= server.year <= last]
    cells: list[object] = [f"{first} to {last}", str(len(chosen))]
    for load, wall_w in ((1.0, [s.full_w for s in chosen]), (0.0, [s.idle_w for s in chosen])):
        pairs = [(watts, server.model(load)) for watts, server in zip(wall_w, chosen, strict=True)]
        inside = sum(model.low <= watts <= model.high for watts, model in pairs)
        above = sum(model.low > watts for watts, model in pairs)
        cells += [f"{median(watts / model.best for watts, model in pairs):.2f}"]
        cells += [f"{inside / len(pairs):.0%}", f"{above / len(pairs):.0%}"]
    return tuple(cells)


def page_rows(pattern: str) -> list[tuple[str, ...]]:
    """The cells of the page's table rows whose line matches."""
    text = PAGE.read_text(encoding="utf-8")
    return [
        tuple(cell.strip(" *") for cell in line.strip("| ").split("|"))
        for line in re.findall(pattern, text, re.MULTILINE)
    ]


@pytest.mark.parametrize("years", [*YEARS, (2007, 2021)])
def test_the_page_shows_what_the_data_say(years: tuple[int, int]) -> None:
    """Each row of the page's table by years is what the published data give today."""
    assert row_of(*years) in page_rows(r"^\| .* to \d{4}\** \|.*$")


def test_no_low_end_is_above_the_wall_of_any_server_by_year() -> None:
    """Of 694 servers since 2007, by their own processors' names."""
    assert len(servers()) > 650
    for server in servers():
        assert server.model(0.0).low <= server.idle_w
        assert server.model(1.0).low <= server.full_w


# -- the page's tables of eleven loads -----------------------------------------------------------


def test_the_page_has_the_tables_that_the_program_printed() -> None:
    """Every table of eleven loads on the page is one of the program's, row for row."""
    printed = RESULTS.read_text(encoding="utf-8").splitlines()
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.count("|") == len(LOADS) + 2]
    assert len(rows) > 20
    for row in rows:
        assert row in printed


def test_the_tables_were_printed_with_the_constants_of_today() -> None:
    """Who changes a constant has to run the program again: the file begins with them."""
    text = RESULTS.read_text(encoding="utf-8")
    for title, curve in (("Since 2010", SINCE_2010), ("Before 2010", BEFORE_2010)):
        assert f"{title}: {curve.best} ({curve.low} to {curve.high})" in text
    assert "W/GiB: {} ({} to {})".format(*W_PER_GIB) in text
