"""Published measurements that the models are held against: servers at wall meters, and packages.

What lies between a server's wall and its packages is said, and drawn, here and nowhere else. The
servers' rows, of eleven loads, are read from a file that is given and are no part of this project;
the packages' readings are in tests/support/package_power.csv.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

LOADS = tuple(tenth / 10 for tenth in range(11))
PACKAGES = Path(__file__).resolve().parents[2] / "tests" / "support" / "package_power.csv"
ALPHA = 0.1
"""One in ten may lie outside."""
DRAWS = 50
"""Of the platform of each server."""
SEED = 1
_WALL_COLUMNS = ("wall_idle_w", *(f"wall_{tenth}0_w" for tenth in range(1, 11)))

Range = tuple[float, float]
Weighted = Sequence[tuple[float, float]]
"""Values with their weights, which add up to 1."""


class Server(NamedTuple):
    """A server that ran SPECpower_ssj2008 at a wall meter."""

    year: int
    family: str
    cpu: str
    chips: int
    tdp_w: float
    """Of all packages."""
    gib: float | None
    """Modules are sold by powers of two: 16 GB of memory are 16 GiB."""
    wall_w: tuple[float, ...]
    """At each of `LOADS`."""


class Curve(NamedTuple):
    """One machine's package power under a load generator, as a share of TDP."""

    system: str
    machine: str
    shares: tuple[float | None, ...]
    """At each of `LOADS`; None where it was not measured."""


def servers_of(path: Path) -> list[Server]:
    """All servers of a file of levels, in the file's order."""
    found = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            chips = int(row["chips"])
            gib = float(row["memory_gb"]) if row["memory_gb"] else None
            wall_w = tuple(float(row[column]) for column in _WALL_COLUMNS)
            family = row["architecture"].replace("kabylabe", "kabylake")
            names = family, row["cpu"]
            tdp_w = float(row["tdp_w"]) * chips
            found.append(Server(int(row["year"]), *names, chips, tdp_w, gib, wall_w))
    return found


def curves_of(path: Path) -> list[Curve]:
    """Every package of a file of measurements, in the file's order.

    A single reading is a curve with one point. A curve that begins above 10 % load counts with its
    first point there: none begins later than at 14 %.
    """
    points: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["component"] == "package":
                load, share = float(row["load_percent"]) / 100, float(row["watts"])
                points[row["system"], row["machine"]].append((load, share / float(row["tdp_w"])))
    return [
        Curve(*names, tuple(_share(sorted(measured), load) for load in LOADS))
        for names, measured in points.items()
    ]


def _share(points: Sequence[tuple[float, float]], load: float) -> float | None:
    if load == 0.0 or len(points) == 1:
        return dict(points).get(load)
    before = max((point for point in points if point[0] <= load), default=points[0])
    after = min((point for point in points if point[0] >= load), default=points[-1])
    if after[0] <= before[0]:
        return before[1]
    part = (load - before[0]) / (after[0] - before[0])
    return before[1] + part * (after[1] - before[1])


class Platform(NamedTuple):
    """What stands between the wall and the packages, each as a range to draw from evenly.

    No server says these. They are a judgement, from what supplies, fans, boards and modules of
    the time need; `benchmarks/results/wall_meters.md` has what other ends would give.
    """

    idle_efficiency: Range
    """Of the power supply at active idle; it rises up to half load, and is constant from there."""
    busy_efficiency: Range
    board_w: Range
    """Management controller, network, a disk."""
    socket_w: Range
    """Chipset and what else a socket brings with it."""
    fan_w: Range
    """Of a socket's fans, at idle."""
    fan_growth: Range
    """At full load, times that of idle; it grows with the square of the load."""
    gib_w: Range
    """Of memory at idle, for each GiB."""
    memory_growth: Range
    """At full load, times that of idle."""
    converter_efficiency: Range
    """Of the converters on the board, behind which a package's counter counts."""


SINCE_2010 = Platform(
    idle_efficiency=(0.80, 0.92),
    busy_efficiency=(0.90, 0.95),
    board_w=(3.0, 8.0),
    socket_w=(1.0, 7.0),
    fan_w=(0.5, 4.0),
    fan_growth=(1.0, 4.0),
    gib_w=(0.05, 0.20),
    memory_growth=(1.0, 1.8),
    converter_efficiency=(0.85, 0.95),
)
BEFORE_2010 = Platform(
    idle_efficiency=(0.65, 0.85),
    busy_efficiency=(0.75, 0.90),
    board_w=(4.0, 20.0),
    socket_w=(2.0, 12.0),
    fan_w=(1.0, 8.0),
    fan_growth=(1.0, 3.0),
    gib_w=(0.3, 1.5),
    memory_growth=(1.0, 1.8),
    converter_efficiency=(0.80, 0.95),
)
"""Supplies wasted more, memory was on hot modules of 1 to 4 GiB, and a chipset drew as much as a
processor at idle; how much of it a server had is known worse than later."""
FLOOR = 0.01
"""Of TDP: less than that is within the error of what was subtracted, and counts as that."""


def ends_of(platform: Platform) -> tuple[Platform, Platform]:
    """The platform that takes least of the wall's power, and the one that takes most."""
    least, most = [], []
    for name, (low, high) in zip(Platform._fields, platform, strict=True):
        taking = (low, high) if "efficiency" not in name else (high, low)
        least.append((taking[0], taking[0]))
        most.append((taking[1], taking[1]))
    return Platform(*least), Platform(*most)


def package_shares(server: Server, platform: Platform, rng: random.Random) -> tuple[float, ...]:
    """One draw of what of the wall's power reached the packages, as a share of TDP, at `LOADS`."""
    drawn = Platform(*((rng.uniform(*ends), 0.0) for ends in platform))
    idle, busy, board_w, socket_w, fan_w, fans, gib_w, memory, converter = (x for x, _ in drawn)
    fixed_w = board_w + socket_w * server.chips
    shares = []
    for load, wall_w in zip(LOADS, server.wall_w, strict=True):
        supplied_w = wall_w * (idle + (busy - idle) * min(1.0, load / 0.5))
        fans_w = fan_w * server.chips * (1.0 + (fans - 1.0) * load**2)
        memory_w = gib_w * (server.gib or 0.0) * (1.0 + (memory - 1.0) * load)
        package_w = (supplied_w - fixed_w - fans_w - memory_w) * converter
        shares.append(max(FLOOR, package_w / server.tdp_w))
    return tuple(shares)


def pooled(
    draws: Iterable[tuple[float, ...]], curves: Iterable[Curve], index: int
) -> list[tuple[float, float]]:
    """Shares of TDP at one load: servers and measured packages, each set with half the weight."""
    sets = [
        [shares[index] for shares in draws],
        [share for curve in curves if (share := curve.shares[index]) is not None],
    ]
    present = [values for values in sets if values]
    return [(value, 1.0 / len(present) / len(values)) for values in present for value in values]


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
    """The set with the platforms drawn; a server of which the memory is not known is left out."""
    rng = random.Random(SEED)
    known = [server for server in servers if server.gib is not None]
    draws = [[package_shares(server, platform, rng) for _ in range(DRAWS)] for server in known]
    return Packages(known, draws, curves)


def quantile(values: Weighted, part: float) -> float:
    """The smallest value that has at least this part of the weight at it and below."""
    reached = 0.0
    for value, weight in sorted(values):
        reached += weight
        if reached >= part - 1e-9:
            return value
    return max(value for value, _ in values)


def evenly(values: Iterable[float]) -> list[tuple[float, float]]:
    """Values of the same weight."""
    known = list(values)
    return [(value, 1.0 / len(known)) for value in known]


def by_family(servers: Iterable[Server]) -> Mapping[str, list[int]]:
    """The places of each family's servers."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, server in enumerate(servers):
        places[server.family].append(place)
    return places
