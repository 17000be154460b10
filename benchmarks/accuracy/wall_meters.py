"""The models beside published wall meters and packages: coverage, interval score, mean error.

    python benchmarks/accuracy/wall_meters.py LEVELS.csv MEASUREMENTS.csv

LEVELS has servers under SPECpower_ssj2008 (columns year, architecture, tdp_w of a package, chips,
memory_gb, wall_idle_w, wall_10_w ... wall_100_w), MEASUREMENTS has packages read by RAPL (system,
machine, component, load_percent, watts, tdp_w). Writes the tables to
benchmarks/results/wall_meters.md, and to tests/data/ what the tests need: quantiles by load, no
server's row, and the packages that may be passed on.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import published  # noqa: E402 - after the path is set
from published import LOADS, Curve, Platform, Server, evenly, pooled, quantile  # noqa: E402
from summary import markdown  # noqa: E402

from carbontrack.interval import Interval, total  # noqa: E402
from carbontrack.meters.load_curve import BEFORE_2010, SINCE_2010, LoadCurve  # noqa: E402
from carbontrack.meters.ram_model import W_PER_GIB  # noqa: E402

ALPHA = 0.1
"""One in ten may lie outside."""
DRAWS = 50
"""Of the platform of each server."""
SEED = 1
STEPS = tuple(part / 100 for part in range(101))
"""For the packages' shares: so fine that a test can tell how many lie between two ends."""
PARTS = (0.0, 0.01, 0.05, 0.25, 0.50, 0.75, 0.95, 0.99, 1.0)
GIB_WEIGHTS = (0.3, 0.5, 0.7, 1.0, 2.0)
"""W per GiB in the sums of design power and memory whose greatest share of the wall is kept: from
these a test proves that no low end is above the wall, whatever the constants."""
CLIENTS = ("coffeelake", "kabylake", "rocketlake")
ATTRIBUTION = """\
# Quantiles by load in percent, made by benchmarks/accuracy/wall_meters.py; no server's row.
# Derived from results of SPECpower_ssj2008, https://www.spec.org, as collected in
# green-coding-solutions/cloud-energy (6a25a2bd, MIT).
"""
WITH_PACKAGES = """\
# Half the weight since 2014 have the packages in rapl_curves.csv, and at idle three readings
# published by AnandTech (article 16529).
"""
RAPL_ATTRIBUTION = """\
# Package power read by RAPL under a load generator. c5n.metal and the like: Teads EC2 dataset, from
# cloud-carbon-footprint/cloud-carbon-coefficients (dda7621f), copyright Thoughtworks, Inc.,
# Apache-2.0. all_cores and some_cores: mlco2/codecarbon (b05965e4), cpu_load_profiling,
# copyright (c) 2019 Mila, BCG Gamma, Comet ML, Haverford College, MIT; 30 s means.
# Changed: other columns and components left out, and what no processor can draw.
"""
SHIPPED_LICENCES = ("Apache-2.0", "MIT")

Cpu = Callable[[float], Interval]
"""A processor's power as a share of TDP, by load."""


def former_cpu(load: float) -> Interval:
    """The model that this one replaced: one published mean curve, 40 % to both sides."""
    curve = ((0.0, 0.12), (0.1, 0.32), (0.5, 0.75), (1.0, 1.02))
    pieces = (piece for piece in pairwise(curve) if load <= piece[1][0])
    (low, at_low), (high, at_high) = next(pieces)
    share = at_low + (at_high - at_low) * (load - low) / (high - low)
    return Interval(share, 0.6 * share, 1.4 * share)


FORMER_W_PER_GIB = Interval(0.375, 0.1875, 0.5625)


class Model(NamedTuple):
    """A model of processor and memory."""

    cpu: Cpu
    w_per_gib: Interval

    def of_tdp(self, load: float, gib_per_w: float) -> Interval:
        """Processor and memory as a share of TDP, with so many GiB for each watt of TDP."""
        memory = Interval(*(watts * gib_per_w for watts in self.w_per_gib))
        return total([self.cpu(load), memory])


FORMER = Model(former_cpu, FORMER_W_PER_GIB)
NEW = Model(SINCE_2010.at, W_PER_GIB)
OLD_PARTS = Model(BEFORE_2010.at, W_PER_GIB)


def score(interval: Interval, value: float) -> float:
    """The interval score (Gneiting and Raftery 2007, eq. 43): width, and misses times 2 / alpha."""
    missed = max(0.0, interval.low - value) + max(0.0, value - interval.high)
    return interval.high - interval.low + 2.0 / ALPHA * missed


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f}"


def mean(values: Iterable[float]) -> float:
    """The mean of one value or more."""
    known = list(values)
    return sum(known) / len(known)


Row = tuple[str, list[str]]


def at_loads(name: str, figure: Callable[[int], str]) -> Row:
    """A row with a figure for each load, made from its index."""
    return name, [figure(index) for index in range(len(LOADS))]


def beside_the_wall(name: str, model: Model, servers: Sequence[Server]) -> list[Row]:
    """How processor and memory by the model compare with the whole wall power of servers."""
    known = [(server, server.gib / server.tdp_w) for server in servers if server.gib is not None]

    def pairs(index: int) -> list[tuple[Interval, float]]:
        return [
            (model.of_tdp(LOADS[index], gib_per_w), server.wall_w[index] / server.tdp_w)
            for server, gib_per_w in known
        ]

    def share(holds: Callable[[Interval, float], bool]) -> Callable[[int], str]:
        return lambda index: percent(mean(holds(found, wall) for found, wall in pairs(index)))

    def middle(index: int) -> str:
        return f"{quantile(evenly(wall / i.best for i, wall in pairs(index)), 0.5):.2f}"

    def scores(index: int) -> str:
        return f"{mean(score(found, wall) for found, wall in pairs(index)):.2f}"

    def errors(index: int) -> str:
        return f"{mean(abs(wall - found.best) for found, wall in pairs(index)):.2f}"

    return [
        at_loads(f"{name}: more than the wall, %", share(lambda i, wall: i.best > wall)),
        at_loads(f"{name}: its low end is, %", share(lambda i, wall: i.low > wall)),
        at_loads(f"{name}: wall inside, %", share(lambda i, wall: i.low <= wall <= i.high)),
        at_loads(f"{name}: wall / model, median", middle),
        at_loads(f"{name}: interval score, TDP", scores),
        at_loads(f"{name}: mean error, TDP", errors),
    ]


class Packages(NamedTuple):
    """Servers less their platforms, drawn several times each, and measured packages."""

    servers: Sequence[Server]
    draws: Sequence[Sequence[tuple[float, ...]]]
    """For each server."""
    curves: Sequence[Curve]

    def at(
        self, index: int, without: Sequence[int] = (), leaving: Sequence[Curve] = ()
    ) -> list[tuple[float, float]]:
        """The pooled set at one load, without some servers and curves."""
        left = set(without)
        draws = [one for place, of in enumerate(self.draws) if place not in left for one in of]
        return pooled(draws, [curve for curve in self.curves if curve not in leaving], index)

    def fitted(
        self, index: int, without: Sequence[int] = (), leaving: Sequence[Curve] = ()
    ) -> tuple[float, float]:
        """The 5th and the 95th percentile at one load."""
        values = self.at(index, without, leaving)
        return quantile(values, ALPHA / 2), quantile(values, 1.0 - ALPHA / 2)


def drawn(servers: Sequence[Server], curves: Sequence[Curve], platform: Platform) -> Packages:
    """The set with the platforms drawn."""
    rng = random.Random(SEED)
    known = [server for server in servers if server.gib is not None]
    draws = [
        [published.package_shares(server, platform, rng) for _ in range(DRAWS)] for server in known
    ]
    return Packages(known, draws, curves)


def beside_packages(name: str, cpu: Cpu, packages: Packages) -> list[Row]:
    """The pooled set inside a curve's ends."""

    def weighted(value: Callable[[Interval, float], float], index: int) -> float:
        found = cpu(LOADS[index])
        return sum(value(found, share) * weight for share, weight in packages.at(index))

    return [
        coverage(f"{name}: inside, %", cpu, packages),
        at_loads(f"{name}: interval score, TDP", lambda i: f"{weighted(score, i):.2f}"),
        at_loads(
            f"{name}: mean error, TDP",
            lambda i: f"{weighted(lambda found, x: abs(x - found.best), i):.2f}",
        ),
    ]


def coverage(name: str, cpu: Cpu, packages: Packages) -> Row:
    """How much of the pooled set lies inside."""

    def inside(index: int) -> str:
        ends = cpu(LOADS[index])
        held = sum(w for share, w in packages.at(index) if ends.low <= share <= ends.high)
        return percent(held)

    return at_loads(name, inside)


def spread(packages: Packages) -> list[Row]:
    """5th percentile, median and 95th by set."""
    sets = {"servers, wall less platform": packages._replace(curves=())}
    if packages.curves:
        sets["packages, RAPL"] = packages._replace(draws=())
        sets["both, half the weight each"] = packages
    rows = []
    for which, some in sets.items():
        for part in (0.05, 0.5, 0.95):
            title = f"{which}: {100 * part:.0f} %"
            rows.append(at_loads(title, lambda i, s=some, p=part: f"{quantile(s.at(i), p):.2f}"))
    means = at_loads("all: mean", lambda i: f"{sum(x * w for x, w in packages.at(i)):.2f}")
    return [*rows, means]


Ends = Callable[[int], tuple[float, float]]


def held(packages: Packages, places: Iterable[int], index: int, ends: tuple[float, float]) -> float:
    """How many of the draws of some servers lie between two ends."""
    low, high = ends
    return mean(low <= one[index] <= high for place in places for one in packages.draws[place])


def left_out(packages: Packages) -> list[Row]:
    """What lies inside ends that were fitted without it."""
    families = published.by_family(packages.servers)
    count = len(packages.servers)
    refitted = {
        (family, index): held(packages, places, index, packages.fitted(index, without=places))
        for family, places in families.items()
        for index in range(len(LOADS))
    }

    def families_inside(index: int) -> str:
        return percent(sum(refitted[f, index] * len(p) for f, p in families.items()) / count)

    def clients_inside(index: int) -> str:
        return percent(
            sum(refitted[f, index] * len(families[f]) for f in CLIENTS)
            / sum(len(families[f]) for f in CLIENTS)
        )

    def curves_inside(index: int, leaving: Callable[[Curve], Sequence[Curve]]) -> str:
        inside = []
        for curve in packages.curves:
            share = curve.shares[index]
            if share is not None:
                low, high = packages.fitted(index, leaving=leaving(curve))
                inside.append(low <= share <= high)
        return percent(mean(inside))

    def same(curve: Curve) -> list[Curve]:
        return [other for other in packages.curves if other.system == curve.system]

    def alone(curve: Curve) -> list[Curve]:
        return [curve]

    return [
        at_loads("servers, fitted without their family", families_inside),
        at_loads("of these the small client Xeons", clients_inside),
        at_loads("RAPL curves, fitted without the curve", lambda i: curves_inside(i, alone)),
        at_loads("RAPL curves, fitted without the machine", lambda i: curves_inside(i, same)),
    ]


def families_held(packages: Packages, cpu: Cpu) -> list[list[str]]:
    """Each family of servers by the shipped ends, and by ends fitted without it."""
    rows = []
    for family, places in published.by_family(packages.servers).items():
        cells = [family, str(len(places))]
        for index in (0, 1, 5, 10):
            ends = cpu(LOADS[index])
            shipped = held(packages, places, index, (ends.low, ends.high))
            fitted = held(packages, places, index, packages.fitted(index, without=places))
            cells.append(f"{percent(shipped)}, {percent(fitted)}")
        rows.append(cells)
    return sorted(rows)


def quantiles(servers: Sequence[Server], years: str) -> list[list[str]]:
    """By load, of the servers themselves: what tests need to compute with today's constants."""
    rows = []
    known = [server for server in servers if server.gib is not None]
    for index, load in enumerate(LOADS):
        walls = [(server, server.gib or 0.0, server.wall_w[index]) for server in known]
        found = {
            "wall / TDP": [wall / server.tdp_w for server, _, wall in walls],
            "GiB / wall": [gib / wall for _, gib, wall in walls],
        }
        for weight in GIB_WEIGHTS:
            title = f"(TDP + {weight:g} W/GiB) / wall"
            found[title] = [(s.tdp_w + weight * gib) / wall for s, gib, wall in walls]
        for title, values in found.items():
            cells = [f"{quantile(evenly(values), part):.4g}" for part in PARTS]
            rows.append([title, years, f"{100 * load:.0f}", *cells])
    return rows


def package_quantiles(packages: Packages, years: str) -> list[list[str]]:
    """By load, of the packages' shares of TDP."""
    return [
        [years, f"{100 * load:.0f}", *(f"{quantile(packages.at(i), part):.3f}" for part in STEPS)]
        for i, load in enumerate(LOADS)
    ]


def shipped_curves(path: Path) -> list[list[str]]:
    """The rows of measured packages whose licence lets them be passed on."""
    columns = ("system", "machine", "load_percent", "watts", "tdp_w", "licence")
    with path.open(encoding="utf-8", newline="") as file:
        return [
            [row[column] for column in columns]
            for row in csv.DictReader(file)
            if row["component"] == "package" and row["licence"] in SHIPPED_LICENCES
        ]


def write_csv(path: Path, attribution: str, head: Sequence[str], rows: Sequence[list[str]]) -> None:
    """A file of the tests, with what its use asks for on top."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(attribution)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def model_name(curve: LoadCurve) -> str:
    """The constants of a model, for a reader and for the test that they are still these."""
    return f"{curve.best} ({curve.low} to {curve.high})"


def tables(servers: Sequence[Server], packages: Packages, old: Packages) -> dict[str, str]:
    """Every table, by its title."""
    recent = [server for server in servers if server.year >= 2014]
    middle = [server for server in servers if 2010 <= server.year < 2014]
    early = [server for server in servers if server.year < 2010]
    least, most = published.ends_of(published.SINCE_2010)
    head = ["load, %", *(f"{100 * load:.0f}" for load in LOADS)]

    def table(rows: Iterable[Row]) -> str:
        return markdown(head, [[name, *cells] for name, cells in rows])

    known = sum(server.gib is not None for server in recent)
    newest = [server for server in recent if server.gib is None]
    return {
        f"Processor and memory beside the wall of {known} servers since 2014": table(
            [*beside_the_wall("former", FORMER, recent), *beside_the_wall("new", NEW, recent)]
        ),
        f"The same of {len(middle)} servers of 2010 to 2013": table(
            [*beside_the_wall("former", FORMER, middle), *beside_the_wall("new", NEW, middle)]
        ),
        f"The same of {len(early)} servers before 2010": table(
            [
                *beside_the_wall("former", FORMER, early),
                *beside_the_wall("parts before 2010", OLD_PARTS, early),
            ]
        ),
        f"{len(newest)} servers of 2022 to 2025, wall / TDP": table(
            at_loads(f"{s.family}, {s.year}", lambda i, s=s: f"{s.wall_w[i] / s.tdp_w:.2f}")
            for s in newest
        ),
        "Packages, since 2010: the sets": table(spread(packages)),
        "Packages, since 2010: inside": table(
            [
                *beside_packages("former", former_cpu, packages),
                *beside_packages("new", SINCE_2010.at, packages),
            ]
        ),
        "Packages: inside ends fitted without what is tested, %": table(left_out(packages)),
        "Families of servers, inside the shipped ends, and ends fitted without the family, %": (
            markdown(
                ["family", "servers", "0 %", "10 %", "50 %", "100 % load"],
                families_held(packages, SINCE_2010.at),
            )
        ),
        "Packages, since 2010: inside, with other platforms subtracted, %": table(
            coverage(name, SINCE_2010.at, drawn(recent, packages.curves, platform))
            for name, platform in (("least subtracted", least), ("most subtracted", most))
        ),
        f"Packages of {len(middle)} servers of 2010 to 2013": table(
            [
                *spread(drawn(middle, [], published.SINCE_2010)),
                coverage("former: inside, %", former_cpu, drawn(middle, [], published.SINCE_2010)),
                coverage("new: inside, %", SINCE_2010.at, drawn(middle, [], published.SINCE_2010)),
            ]
        ),
        f"Packages of {len(early)} servers before 2010": table(
            [
                *spread(old),
                coverage("former: inside, %", former_cpu, old),
                coverage("parts before 2010: inside, %", BEFORE_2010.at, old),
            ]
        ),
    }


def main() -> None:
    """Reads both files, writes tables and quantiles."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("levels", type=Path)
    parser.add_argument("measurements", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--quantiles", type=Path, default=ROOT / "tests" / "data")
    chosen = parser.parse_args()

    servers = published.servers_of(chosen.levels)
    recent = [server for server in servers if server.year >= 2014]
    early = [server for server in servers if server.year < 2010]
    packages = drawn(recent, published.curves_of(chosen.measurements), published.SINCE_2010)
    old = drawn(early, [], published.BEFORE_2010)

    pieces = [f"Since 2010: {model_name(SINCE_2010)}", f"Before 2010: {model_name(BEFORE_2010)}"]
    pieces.append("W/GiB: {} ({} to {})".format(*W_PER_GIB))
    pieces += [f"## {title}\n\n{text}" for title, text in tables(servers, packages, old).items()]
    text = "# The models beside published wall meters and packages\n\n" + "\n\n".join(pieces) + "\n"
    (chosen.results / "wall_meters.md").write_text(text, encoding="utf-8")
    print(text)

    head = ["quantity", "servers", "load_percent", *(f"q{100 * part:g}" for part in PARTS)]
    rows = [*quantiles(recent, "since 2014"), *quantiles(early, "before 2010")]
    write_csv(chosen.quantiles / "wall_meters.csv", ATTRIBUTION, head, rows)
    head = ["servers", "load_percent", *(f"q{100 * part:.0f}" for part in STEPS)]
    rows = [*package_quantiles(packages, "since 2014"), *package_quantiles(old, "before 2010")]
    notice = ATTRIBUTION + WITH_PACKAGES
    write_csv(chosen.quantiles / "package_shares.csv", notice, head, rows)
    head = ["system", "machine", "load_percent", "watts", "tdp_w", "licence"]
    rows = shipped_curves(chosen.measurements)
    write_csv(chosen.quantiles / "rapl_curves.csv", RAPL_ATTRIBUTION, head, rows)


if __name__ == "__main__":
    main()
