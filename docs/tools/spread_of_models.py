"""How far a processor's power lies from the load curve, and what part of that machines share.

    python docs/tools/spread_of_models.py SERVERS.csv PACKAGES.csv [QUANTILES.csv]

For maintainers; the figures of docs/explanation/adding-up-intervals.md come from here. SERVERS.csv
has results of SPECpower_ssj2008, wall power at eleven loads; PACKAGES.csv has readings of RAPL by
load. Neither is part of the project. QUANTILES.csv is written: those of the pooled set by load.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from carbontrack.meters.load_curve import SINCE_2010
from carbontrack.report.totals import COMMON

LOADS = np.linspace(0.0, 1.0, 11)
WALL = ["wall_idle_w", *(f"wall_{load}_w" for load in range(10, 101, 10))]
DRAWS = 40
"""How often each server's losses are drawn."""
FLEETS = 3_000
LEVELS = (0.0, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 1.0)
NEWEST = 3
"""Servers at the end of the table that are kept apart."""
LEAST = 0.01
"""A share of TDP below which a difference of wall and losses says nothing."""


def servers(path: str) -> pd.DataFrame:
    """Servers since 2014 whose power is known at every load."""
    table = pd.read_csv(path)
    table = table[table["year"] >= 2014].iloc[:-NEWEST]
    table = table[table[[*WALL, "tdp_w", "chips"]].notna().all(axis=1)].copy()
    table["memory_gb"] = table["memory_gb"].fillna(table["memory_gb"].median())
    return table.reset_index(drop=True)


def chips(table: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """A draw of each server's processors' power by load, as a share of TDP.

    The wall's power less what its supply loses, and less memory, board and fans. Ranges: supply
    0.88 to 0.93 from half of the server's power on, 0.75 to 0.88 at a tenth; memory 0.05 to 0.16
    W/GB and up to 0.07 more at full load; board 3 to 8 W and 4 to 9 W per socket; fans 4 to 12 % of
    the wall at full load, 60 % of that share when idle.
    """
    size = (len(table), 1)
    wall = table[WALL].to_numpy(float)
    sockets, gb = (table[name].to_numpy(float)[:, None] for name in ("chips", "memory_gb"))
    full, light = rng.uniform(0.88, 0.93, size), rng.uniform(0.75, 0.88, size)
    loading = np.clip((wall / wall[:, -1:] - 0.1) / 0.4, 0.0, 1.0)
    behind_supply = wall * (light + (full - light) * loading)
    memory = gb * (rng.uniform(0.05, 0.16, size) + rng.uniform(0.0, 0.07, size) * LOADS)
    board = rng.uniform(3.0, 8.0, size) + rng.uniform(4.0, 9.0, size) * sockets
    fans = rng.uniform(0.04, 0.12, size) * wall * (0.6 + 0.4 * LOADS)
    tdp = table["tdp_w"].to_numpy(float)[:, None] * sockets
    return np.maximum(LEAST, (behind_supply - memory - board - fans) / tdp)


def readings(path: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each load the shares of TDP read by RAPL, and the weight of each; a machine weighs 1."""
    table = pd.read_csv(path)
    table = table[table["component"] == "package"]
    curves, machines = [], []
    table = table.sort_values("load_percent")
    for (system, _), rows in table.groupby(["system", "machine"]):
        loads = rows["load_percent"].to_numpy() / 100.0
        curve = np.interp(LOADS, loads, rows["share_of_tdp"].to_numpy())
        outside = (loads[0] - 0.05 > LOADS) | (loads[-1] + 0.05 < LOADS)
        curves.append(np.where(outside, np.nan, curve))
        machines.append(system)
    found = []
    for column in np.array(curves).T:
        known = ~np.isnan(column)
        names = np.array(machines)[known]
        weights = np.array([1.0 / np.sum(names == name) for name in names])
        found.append((column[known], weights / weights.sum()))
    return found


def shared(tuned: np.ndarray, read: np.ndarray, weights: np.ndarray, best: float) -> list[float]:
    """Variances of ln(truth / model) between the two sets, and in them; the shares they have."""
    tuned, read = np.log(tuned / best), np.log(read / best)
    mean = weights @ read
    within = (tuned.var() + weights @ (read - mean) ** 2) / 2.0
    squared = (tuned.mean() - mean) ** 2
    return [
        *(tuned.mean(), mean, tuned.var(), weights @ (read - mean) ** 2),
        *(squared / 4.0 / (squared / 4.0 + within), squared / 2.0 / (squared / 2.0 + within)),
    ]


def of_one_kind(shares: np.ndarray, kind: np.ndarray, best: float) -> tuple[float, float]:
    """Variances of ln(truth / model) between kinds of servers and within a kind (ANOVA)."""
    frame = pd.DataFrame({"ln": np.log(shares / best), "kind": kind})
    by_kind = frame.groupby("kind")["ln"]
    sizes, means = by_kind.size(), by_kind.mean()
    count, kinds = len(frame), len(sizes)
    within = ((frame["ln"] - by_kind.transform("mean")) ** 2).sum() / (count - kinds)
    between = (sizes * (means - frame["ln"].mean()) ** 2).sum() / (kinds - 1)
    mean_size = (count - (sizes**2).sum() / count) / (kinds - 1)
    return max(0.0, (between - within) / mean_size), within


def quantiles(tuned: np.ndarray, read: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Those of both sets, each weighing half."""
    every = np.r_[tuned, read]
    weight = np.r_[np.full(len(tuned), 0.5 / len(tuned)), 0.5 * weights]
    order = np.argsort(every)
    at = np.cumsum(weight[order]) - 0.5 * weight[order]
    return np.interp(LEVELS, at, every[order])


def kept(sums: np.ndarray, count: int, load: float) -> float:
    """The share of sums, each of `count` processors, that lie inside the interval of the sum."""
    best, low, high = SINCE_2010.at(load)
    factor = np.sqrt(COMMON * count**2 + (1.0 - COMMON) * count)
    ends = max(0.0, best * count - (best - low) * factor), best * count + (high - best) * factor
    return float(np.mean((sums >= ends[0]) & (sums <= ends[1])))


def fleets(
    table: pd.DataFrame, draws: list[np.ndarray], read: tuple[np.ndarray, np.ndarray], index: int
) -> dict[str, list[float]]:
    """How often sums over 1, 3, 10 and 100 machines are kept, by what the fleets are made of."""
    rng = np.random.default_rng(5)
    family = table["architecture"].fillna("?").to_numpy()
    found: dict[str, list[float]] = {}
    for count in (1, 3, 10, 100):
        size = (FLEETS, count)
        column = np.stack([draw[:, index] for draw in draws])
        tuned = column[rng.integers(DRAWS, size=size), rng.integers(len(table), size=size)]
        clouds = rng.choice(read[0], size, p=read[1])
        alike = np.empty(FLEETS)
        for place in range(FLEETS):
            own = np.flatnonzero(family == family[rng.integers(len(family))])
            alike[place] = column[rng.integers(DRAWS), rng.choice(own, count)].sum()
        mixed = np.where(rng.random(size) < rng.random((FLEETS, 1)), tuned, clouds)
        for name, sums in (
            ("tuned servers", tuned.sum(1)),
            ("cloud hosts", clouds.sum(1)),
            ("both, in any proportion", mixed.sum(1)),
            ("tuned servers of one family", alike),
        ):
            found.setdefault(name, []).append(kept(sums, count, LOADS[index]))
    return found


def main(servers_csv: str, packages_csv: str, quantiles_csv: str | None = None) -> None:
    """Print the variances and the coverage, and write the quantiles."""
    rng = np.random.default_rng(1)
    table, read = servers(servers_csv), readings(packages_csv)
    draws = [chips(table, rng) for _ in range(DRAWS)]
    mean = np.mean(draws, axis=0)
    print(f"{len(table)} servers, {table['cpu'].nunique()} processors")
    rows = []
    for index, load in enumerate(LOADS):
        tuned, best = np.concatenate([draw[:, index] for draw in draws]), SINCE_2010.at(load).best
        if index in (0, 1, 2, 5, 8, 10):
            figures = shared(tuned, *read[index], best)
            kinds = [
                of_one_kind(mean[:, index], table[name].fillna("?").to_numpy(), best)
                for name in ("architecture", "cpu")
            ]
            print(f"load {load:.1f}:", *(f"{x:.3f}" for x in figures), *np.round(kinds, 3).tolist())
            for name, rates in fleets(table, draws, read[index], index).items():
                print(f"    {name}:", *(f"{rate:.0%}" for rate in rates))
        rows.append([f"{load:.1f}", *np.round(quantiles(tuned, *read[index]), 3).tolist()])
    if quantiles_csv is not None:
        with Path(quantiles_csv).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["load", *LEVELS], *rows])


if __name__ == "__main__":
    main(*sys.argv[1:])
