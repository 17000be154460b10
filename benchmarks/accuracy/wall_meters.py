"""The models beside published wall meters and packages: coverage, interval score, mean error.

    python benchmarks/accuracy/wall_meters.py LEVELS.csv

LEVELS has servers under SPECpower_ssj2008 (columns year, cpu, architecture, tdp_w of a package,
chips, memory_gb, wall_idle_w, wall_10_w ... wall_100_w); the packages read by RAPL are those of
tests/support/package_power.csv. Writes the tables to benchmarks/results/wall_meters.md, and to
tests/data/ what the tests need of the servers: quantiles of what was drawn, by load, and the
greatest sums of design power and memory beside the wall; no server's row.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import published  # noqa: E402 - after the path is set
from published import (  # noqa: E402
    ALPHA,
    LOADS,
    PACKAGES,
    Curve,
    Packages,
    Server,
    drawn,
    evenly,
    quantile,
)
from summary import markdown  # noqa: E402

from carbontrack.interval import Interval, total  # noqa: E402
from carbontrack.meters.load_curve import BEFORE_2010, SINCE_2010, LoadCurve  # noqa: E402
from carbontrack.meters.ram_model import W_PER_GIB  # noqa: E402

STEPS = tuple(part / 100 for part in range(101))
"""For the packages' shares: so fine that a test can tell how many lie between two ends."""
GIB_WEIGHTS = (0.3, 0.5, 0.7, 1.0, 2.0)
"""W per GiB in the sums of design power and memory whose greatest share of the wall is kept: from
these a test proves that no low end is above the wall, whatever the constants. A quantile would
leave some servers out of the proof; the greatest share of a sum tells neither the wall's power, nor
the design power, nor the memory of the server that has it."""
CLIENTS = ("coffeelake", "kabylake", "rocketlake")
ATTRIBUTION = """\
# By load in percent, made by benchmarks/accuracy/wall_meters.py; no server's row.
# Derived from results of SPECpower_ssj2008, https://www.spec.org, as collected in
# green-coding-solutions/cloud-energy (6a25a2bd, MIT).
"""
WITH_PACKAGES = """\
# Quantiles of the power of packages as a share of design power: the servers' wall less a supply,
# fans, board and memory that are drawn from ranges. Since 2014 half the weight have the packages in
# tests/support/package_power.csv.
"""
OF_SUMS = """\
# The greatest (TDP + k x GiB) / wall of all servers.
"""

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


def greatest_sums(servers: Sequence[Server], years: str) -> list[list[str]]:
    """By load, what a test needs of the servers to compute with the constants of the day."""
    rows = []
    for index, load in enumerate(LOADS):
        for weight in GIB_WEIGHTS:
            sums = [
                (server.tdp_w + weight * server.gib) / server.wall_w[index]
                for server in servers
                if server.gib is not None
            ]
            rows.append([years, f"{100 * load:.0f}", f"{weight:g}", f"{max(sums):.4g}"])
    return rows


def package_quantiles(packages: Packages, years: str) -> list[list[str]]:
    """By load, of the packages' shares of TDP."""
    return [
        [years, f"{100 * load:.0f}", *(f"{quantile(packages.at(i), part):.3f}" for part in STEPS)]
        for i, load in enumerate(LOADS)
    ]


def write_csv(path: Path, attribution: str, head: Sequence[str], rows: Sequence[list[str]]) -> None:
    """A file of the tests, with what its use asks for on top."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(attribution)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def model_name(curve: LoadCurve) -> str:
    """The constants of a model."""
    return f"{curve.best} ({curve.low} to {curve.high})"


HEAD = ["load, %", *(f"{100 * load:.0f}" for load in LOADS)]


def table(rows: Iterable[Row]) -> str:
    """Rows with a figure for each load."""
    return markdown(HEAD, [[name, *cells] for name, cells in rows])


class Ages(NamedTuple):
    """The servers by the years in which they were published."""

    recent: Sequence[Server]
    """Since 2014, whose memory is known."""
    newest: Sequence[Server]
    """Since 2014, whose memory is not: these are kept apart."""
    middle: Sequence[Server]
    """2010 to 2013."""
    early: Sequence[Server]
    """Before 2010."""

    @classmethod
    def of(cls, servers: Sequence[Server]) -> Ages:
        """Servers by their years."""
        since = [server for server in servers if server.year >= 2014]
        return cls(
            recent=[server for server in since if server.gib is not None],
            newest=[server for server in since if server.gib is None],
            middle=[server for server in servers if 2010 <= server.year < 2014],
            early=[server for server in servers if server.year < 2010],
        )


def wall_tables(ages: Ages) -> dict[str, str]:
    """The tables of whole servers, by title."""

    def beside(servers: Sequence[Server], **models: Model) -> str:
        return table(
            row
            for name, model in models.items()
            for row in beside_the_wall(name.replace("_", " "), model, servers)
        )

    return {
        f"Processor and memory beside the wall of {len(ages.recent)} servers since 2014": beside(
            ages.recent, former=FORMER, new=NEW
        ),
        f"The same of {len(ages.middle)} servers of 2010 to 2013": beside(
            ages.middle, former=FORMER, new=NEW
        ),
        f"The same of {len(ages.early)} servers before 2010": beside(
            ages.early, former=FORMER, parts_before_2010=OLD_PARTS
        ),
        f"{len(ages.newest)} servers of 2022 to 2025, wall / TDP": newest_table(ages.newest),
    }


def newest_table(servers: Sequence[Server]) -> str:
    """The ends of what a few servers draw; at three loads, since every load would be a row."""
    rows = []
    for index in (0, 5, 10):
        shares = [server.wall_w[index] / server.tdp_w for server in servers]
        rows.append([f"{100 * LOADS[index]:.0f}", f"{min(shares):.2f}", f"{max(shares):.2f}"])
    return markdown(["load, %", "least", "greatest"], rows)


def package_tables(ages: Ages, packages: Packages) -> dict[str, str]:
    """The tables of packages since 2010, by title."""
    families = "Families of servers, inside the shipped ends, and ends fitted without the family, %"
    least, most = published.ends_of(published.SINCE_2010)
    return {
        "Packages, since 2010: the sets": table(spread(packages)),
        "Packages, since 2010: inside": table(
            [
                *beside_packages("former", former_cpu, packages),
                *beside_packages("new", SINCE_2010.at, packages),
            ]
        ),
        "Packages: inside ends fitted without what is tested, %": table(left_out(packages)),
        families: markdown(
            ["family", "servers", "0 %", "10 %", "50 %", "100 % load"],
            families_held(packages, SINCE_2010.at),
        ),
        "Packages, since 2010: inside, with other platforms subtracted, %": table(
            coverage(name, SINCE_2010.at, drawn(ages.recent, packages.curves, platform))
            for name, platform in (("least subtracted", least), ("most subtracted", most))
        ),
    }


def former_tables(ages: Ages, old: Packages) -> dict[str, str]:
    """The tables of packages of other years, by title."""
    middle = drawn(ages.middle, [], published.SINCE_2010)
    return {
        f"Packages of {len(ages.middle)} servers of 2010 to 2013": table(
            [
                *spread(middle),
                coverage("former: inside, %", former_cpu, middle),
                coverage("new: inside, %", SINCE_2010.at, middle),
            ]
        ),
        f"Packages of {len(ages.early)} servers before 2010": table(
            [
                *spread(old),
                coverage("former: inside, %", former_cpu, old),
                coverage("parts before 2010: inside, %", BEFORE_2010.at, old),
            ]
        ),
    }


def constants() -> list[str]:
    """What the tables were computed with; a test holds that these are still the model's."""
    return [
        f"Since 2010: {model_name(SINCE_2010)}",
        f"Before 2010: {model_name(BEFORE_2010)}",
        "W/GiB: {} ({} to {})".format(*W_PER_GIB),
    ]


def main() -> None:
    """Reads the servers, writes tables and what the tests need."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("levels", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--data", type=Path, default=ROOT / "tests" / "data")
    chosen = parser.parse_args()

    ages = Ages.of(published.servers_of(chosen.levels))
    packages = drawn(ages.recent, published.curves_of(PACKAGES), published.SINCE_2010)
    old = drawn(ages.early, [], published.BEFORE_2010)

    tables = {**wall_tables(ages), **package_tables(ages, packages), **former_tables(ages, old)}
    pieces = [*constants(), *(f"## {title}\n\n{text}" for title, text in tables.items())]
    text = "# The models beside published wall meters and packages\n\n" + "\n\n".join(pieces) + "\n"
    (chosen.results / "wall_meters.md").write_text(text, encoding="utf-8")
    print(text)

    head = ["servers", "load_percent", "k_w_per_gib", "greatest"]
    rows = [*greatest_sums(ages.recent, "since 2014"), *greatest_sums(ages.early, "before 2010")]
    write_csv(chosen.data / "wall_meters.csv", ATTRIBUTION + OF_SUMS, head, rows)
    head = ["servers", "load_percent", *(f"q{100 * part:.0f}" for part in STEPS)]
    rows = [*package_quantiles(packages, "since 2014"), *package_quantiles(old, "before 2010")]
    write_csv(chosen.data / "package_shares.csv", ATTRIBUTION + WITH_PACKAGES, head, rows)


if __name__ == "__main__":
    main()
