"""What part of the models' error machines share, and how often the interval of a sum holds it.

    python benchmarks/accuracy/sums.py LEVELS.csv

LEVELS is as for wall_meters.py, and so are the packages and what is drawn between a server's wall
and its packages. Writes benchmarks/results/sums.md, of which the tables are shown in
docs/explanation/adding-up-intervals.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import published  # noqa: E402 - after the path is set
from published import LOADS, PACKAGES, Packages, drawn  # noqa: E402
from summary import markdown  # noqa: E402

from carbontrack.meters.load_curve import SINCE_2010  # noqa: E402
from carbontrack.report import totals  # noqa: E402
from tests.support.simulated_sums import FLEETS, IN_COMMON, Fleet, kept  # noqa: E402

SHOWN = (0, 1, 2, 5, 8, 10)
"""Of `LOADS`, by their places."""
BOOTSTRAPS = 3_000
"""Fleets of each size that are drawn from the sets themselves."""
SHARES = (0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
"""What the machines of a fleet may have in common."""


def sets_at(packages: Packages, index: int) -> tuple[Any, Any]:
    """The two sets at one load: draws of servers, a row for each server, and packages."""
    read = [share for curve in packages.curves if (share := curve.shares[index]) is not None]
    return np.array(packages.draws)[:, :, index], np.array(read)


def shared(packages: Packages) -> tuple[list[list[str]], list[float]]:
    """By load, moments of ln(truth / model) in both sets, and what part is between them; the means
    over the loads of the latter."""
    rows, parts = [], []
    for index in SHOWN:
        tuned, read = (
            np.log(x / SINCE_2010.at(LOADS[index]).best) for x in sets_at(packages, index)
        )
        within = (tuned.var() + read.var()) / 2.0
        squared = (tuned.mean() - read.mean()) ** 2
        parts.append([squared / k / (squared / k + within) for k in (4.0, 2.0)])
        figures = [tuned.mean(), read.mean(), tuned.var(), read.var(), *parts[-1]]
        rows.append([f"{LOADS[index]:g}", *(f"{x:.2f}".replace("-", "−") for x in figures)])
    return rows, [float(mean) for mean in np.mean(parts, axis=0)]


def of_one_kind(packages: Packages, index: int, kinds: Sequence[str]) -> list[str]:
    """Variances of ln(truth / model) between kinds of servers and within a kind (ANOVA)."""
    tuned, _ = sets_at(packages, index)
    logs = np.log(tuned.mean(axis=1) / SINCE_2010.at(LOADS[index]).best)
    frame = pd.DataFrame({"ln": logs, "kind": kinds})
    by_kind = frame.groupby("kind")["ln"]
    sizes, means = by_kind.size(), by_kind.mean()
    count, groups = len(frame), len(sizes)
    within = ((frame["ln"] - by_kind.transform("mean")) ** 2).sum() / (count - groups)
    between = (sizes * (means - frame["ln"].mean()) ** 2).sum() / (groups - 1)
    mean_size = (count - (sizes**2).sum() / count) / (groups - 1)
    return [f"{max(0.0, (between - within) / mean_size):.2f}", f"{within:.2f}"]


def kinds_table(packages: Packages) -> str:
    """How much machines of one processor, and of one family, have in common."""
    rows = []
    for index in SHOWN:
        cells = [f"{LOADS[index]:g}"]
        for field in ("cpu", "family"):
            kinds = [getattr(server, field) for server in packages.servers]
            cells += of_one_kind(packages, index, kinds)
        rows.append(cells)
    head = ["load", "between processors", "within one", "between families", "within one family"]
    return markdown(head, rows)


def simulated() -> str:
    """Fleets that share what the rule takes, by what they are; and added up by other rules."""
    rows = []
    for alike, common in IN_COMMON.items():
        rates = [kept(Fleet(alike, common), machines) for machines in FLEETS]
        rows.append([f"{alike}, {common:g} in common", *map(pair, rates)])
    for title, rule in (("added linearly", 1.0), ("added as if independent", 0.0)):
        with mock.patch.object(totals, "COMMON", rule):
            rates = [kept(Fleet("processors", 0.5), machines) for machines in FLEETS]
        rows.append([f"processors, 0.5 in common, {title}", *map(pair, rates)])
    return markdown(["machines", *map(str, FLEETS)], rows)


def other_shares() -> str:
    """Fleets of different processors that share something else than the rule takes."""
    rates = {share: [kept(Fleet("processors", share), n) for n in FLEETS] for share in SHARES}
    rows = [
        [f"{machines}", *(pair(rates[share][place]) for share in SHARES)]
        for place, machines in enumerate(FLEETS)
    ]
    return markdown(["machines; true common share", *(f"{share:g}" for share in SHARES)], rows)


def other_fleets() -> str:
    """Fleets at other loads, and with more memory."""
    fleets = {
        "0 to 10 % load": Fleet("processors", 0.5, loads=(0.0, 0.1)),
        "50 to 100 % load": Fleet("processors", 0.5, loads=(0.5, 1.0)),
        "full load": Fleet("processors", 0.5, loads=(1.0, 1.0)),
        "up to 10 GiB per watt": Fleet("processors", 0.5, gib_per_w=(0.3, 10.0)),
    }
    rows = [
        [title, *(pair(kept(fleet, machines)) for machines in FLEETS)]
        for title, fleet in fleets.items()
    ]
    return markdown(["machines", *map(str, FLEETS)], rows)


def pair(rates: tuple[float, float]) -> str:
    """Rates of energy and of grams, in whole percent."""
    return ", ".join(f"{100 * rate:.0f}" for rate in rates)


def sums_inside(sums: Any, count: int, load: float) -> float:
    """The share of sums, each of `count` processors, that lie inside the interval of the sum."""
    best, low, high = SINCE_2010.at(load)
    factor = np.sqrt(totals.COMMON * count**2 + (1.0 - totals.COMMON) * count)
    ends = max(0.0, best * count - (best - low) * factor), best * count + (high - best) * factor
    return float(np.mean((sums >= ends[0]) & (sums <= ends[1])))


def bootstrapped(packages: Packages, index: int) -> list[str]:
    """Sums inside, in %, over fleets drawn from the sets, by what the fleets are made of."""
    rng = np.random.default_rng(5)
    draws, read = sets_at(packages, index)
    flat = draws.ravel()
    family = np.array([server.family for server in packages.servers])
    found: dict[str, list[str]] = {}
    for count in FLEETS:
        size = (BOOTSTRAPS, count)
        tuned, hosts = rng.choice(flat, size), rng.choice(read, size)
        mixed = np.where(rng.random(size) < rng.random((BOOTSTRAPS, 1)), tuned, hosts)
        alike = np.empty(BOOTSTRAPS)
        for place in range(BOOTSTRAPS):
            own = draws[family == family[rng.integers(len(family))]]
            alike[place] = rng.choice(own[:, rng.integers(own.shape[1])], count).sum()
        for name, sums in (
            ("tuned", tuned.sum(axis=1)),
            ("hosts", hosts.sum(axis=1)),
            ("mixed", mixed.sum(axis=1)),
            ("alike", alike),
        ):
            rate = sums_inside(sums, count, LOADS[index])
            found.setdefault(name, []).append(f"{100 * rate:.0f}")
    return [f"{LOADS[index]:g}", *(", ".join(rates) for rates in found.values())]


def main() -> None:
    """Reads the servers, writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("levels", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    chosen = parser.parse_args()

    servers = [s for s in published.servers_of(chosen.levels) if s.year >= 2014]
    packages = drawn(servers, published.curves_of(PACKAGES), published.SINCE_2010)
    rows, means = shared(packages)
    head = ["load", "mean, servers", "mean, hosts", "variance among servers", "among hosts"]
    head += ["share between the two sets: if they are all there is", "if they are two of many"]
    names = len({server.cpu for server in packages.servers})
    counted = f"{len(packages.servers)} servers with {names} processors, mean over the loads: "
    fleets = ["tuned servers", "cloud hosts", "both, in any proportion"]
    pieces = {
        "ln(truth / model): two sets": markdown(head, rows)
        + f"\n\n{counted}{means[0]:.2f} and {means[1]:.2f}.",
        "ln(truth / model): kinds of servers": kinds_table(packages),
        "Simulated fleets: energy, grams inside, %": simulated(),
        "Simulated fleets, 0.5 in common, other loads and memory": other_fleets(),
        "Simulated fleets that have other shares in common": other_shares(),
        "Fleets of the machines themselves, 1, 3, 10 and 100: energy inside, %": markdown(
            ["load", *fleets, "tuned servers of one family"],
            [bootstrapped(packages, index) for index in (0, 1, 5, 10)],
        ),
    }
    text = f"# Sums over machines\n\nThe rule's common share: {totals.COMMON:g}\n"
    text += "".join(f"\n## {title}\n\n{piece}\n" for title, piece in pieces.items())
    (chosen.results / "sums.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
