"""Fleets of machines whose truth is drawn, and how often it lies inside the interval of their sum.

True shares of design power have the quantiles of `tests/data/package_shares.csv`. What is drawn is
the rank of each processor among all of them; the machines of a fleet share a part of its variance,
which is given: the simulation says what follows from that part, and nothing about how large it is.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from carbontrack import interval
from carbontrack.interval import Interval
from carbontrack.meters.load_curve import SINCE_2010
from carbontrack.meters.ram_model import W_PER_GIB
from carbontrack.record import COMPONENTS
from carbontrack.report.frame import NUMBERS, TEXTS
from carbontrack.report.totals import totals

FLEETS = {1: 3_000, 3: 1_500, 10: 800, 100: 400}
"""How many fleets of each size are drawn."""
IN_COMMON = {"processors": 0.5, "hosts of one processor": 0.95, "runs of one host": 1.0}
"""The share of the variance of a rank, or of a logarithm, that the machines of a fleet share."""
GRID = Interval(330.0, 280.0, 390.0)
SHARES = Path(__file__).parents[1] / "data" / "package_shares.csv"
NORMAL_90 = NormalDist().inv_cdf(0.95)


def drawn(rng: np.random.Generator, fleets: int, machines: int, common: float) -> Any:
    """Standard normal numbers, a row for each fleet, of which a share of the variance is shared."""
    fleet = rng.standard_normal((fleets, 1))
    return np.sqrt(common) * fleet + np.sqrt(1.0 - common) * rng.standard_normal((fleets, machines))


def true_shares(ranks: Any, loads: Any) -> Any:
    """The share of design power of processors of these ranks, standard normal, at these loads."""
    rows = quantiles()
    levels = np.linspace(0.0, 1.0, len(rows[0]))
    at_ranks = [np.interp(_cdf(ranks), levels, row) for row in rows]
    steps = len(rows) - 1
    below = np.minimum((loads * steps).astype(int), steps - 1)
    part = loads * steps - below
    lower, upper = (np.choose(below + more, at_ranks) for more in (0, 1))
    return lower + (upper - lower) * part


def quantiles() -> list[list[float]]:
    """At each load, in even steps from idle to full, the percentiles from 0 to 100."""
    with SHARES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [
        [float(row[f"q{part}"]) for part in range(101)]
        for row in rows
        if row["servers"] == "since 2014"
    ]


def _cdf(normal: Any) -> Any:
    grid = np.linspace(-6.0, 6.0, 2_001)
    return np.interp(normal, grid, [NormalDist().cdf(x) for x in grid])


def lognormal(around: Interval, normal: Any) -> Any:
    """The lognormal distribution whose 5th and 95th percentile are the ends of an interval."""
    middle, half = np.log(around.low * around.high) / 2, np.log(around.high / around.low) / 2
    return np.exp(middle + half / NORMAL_90 * normal)


class Fleet(NamedTuple):
    """What the machines of a fleet are, and what they do.

    Attributes:
        alike: what they have in common, of `IN_COMMON`.
        common: the share of variance that this means for the truth.
        loads, gib_per_w: the ranges of load, and of memory per watt of design power.
    """

    alike: str
    common: float
    loads: tuple[float, float] = (0.05, 1.0)
    gib_per_w: tuple[float, float] = (0.3, 1.5)


def a_frame(fleet: Fleet, fleets: int, machines: int, seed: int) -> tuple[pd.DataFrame, Any, Any]:
    """The records of fleets, one run on each machine, and each fleet's true kWh and grams."""
    rng = np.random.default_rng(seed)
    size = (fleets, machines)
    one = size if fleet.alike == "processors" else (fleets, 1)
    loads, hours = rng.uniform(*fleet.loads, size), rng.lognormal(0.0, 0.5, size)
    tdp_w = np.broadcast_to(rng.uniform(65.0, 280.0, one), size)
    gib = np.broadcast_to(tdp_w * rng.uniform(*fleet.gib_per_w, one), size)
    kwh_per_share, kwh_per_w = tdp_w * hours / 1000.0, gib * hours / 1000.0
    cpu_kwh = true_shares(drawn(rng, *size, fleet.common), loads) * kwh_per_share
    ram_kwh = lognormal(W_PER_GIB, drawn(rng, *size, fleet.common)) * kwh_per_w
    true_kwh = (cpu_kwh + ram_kwh).sum(axis=1)
    true_g = true_kwh * lognormal(GRID, rng.standard_normal(fleets))
    drawn_rows = zip(loads.ravel(), kwh_per_share.ravel(), kwh_per_w.ravel(), strict=True)
    rows = [a_row(SINCE_2010.at(load), *kwh_per) for load, *kwh_per in drawn_rows]
    machine = np.tile(np.arange(machines), fleets)
    codes = {
        "name": np.repeat(np.arange(fleets), machines),
        "host_id": machine * (fleet.alike != "runs of one host"),
        "cpu_model": machine * (fleet.alike == "processors"),
    }
    return framed(rows, codes), true_kwh, true_g


def a_row(share: Interval, kwh_per_share: float, kwh_per_w: float) -> dict[str, float]:
    """The figures of a record, its intervals made by the rule for a single record."""
    cpu = Interval(*(kwh_per_share * end for end in share))
    ram = Interval(*(kwh_per_w * end for end in W_PER_GIB))
    energy = interval.total([cpu, ram])
    grams = interval.product(energy, GRID)
    names = ("", "_low", "_high")
    return {
        "cpu_kwh": cpu.best,
        "ram_kwh": ram.best,
        **{f"energy{name}_kwh": end for name, end in zip(names, energy, strict=True)},
        **{f"emissions{name}_g": end for name, end in zip(names, grams, strict=True)},
        **{f"intensity{name}_g_per_kwh": end for name, end in zip(names, GRID, strict=True)},
    }


def framed(rows: list[dict[str, float]], codes: Mapping[str, Any]) -> pd.DataFrame:
    """The frame that a report makes of such records."""
    figures = pd.DataFrame(rows).reindex(columns=NUMBERS)
    none = np.full(len(rows), -1)
    for name in TEXTS:
        own = codes.get(name, none)
        known = [f"{name} {code}" for code in range(int(own.max()) + 1)]
        if name in ("basis", *(f"{component}_basis" for component in COMPONENTS)):
            known, own = ["modelled"], none if name == "gpu_basis" else none + 1
        figures[name] = pd.Categorical.from_codes(own, categories=pd.Index(known, dtype=object))
    return figures


def kept(fleet: Fleet, machines: int, seed: int = 16) -> tuple[float, float]:
    """How often the true energy and the true grams of a fleet are inside the sum's interval."""
    frame, true_kwh, true_g = a_frame(fleet, FLEETS[machines], machines, seed)
    found = {int(str(total.key).removeprefix("name ")): total for total in totals(frame, "name")}
    sums = [found[number] for number in range(len(true_kwh))]
    low_kwh, high_kwh, low_g, high_g = (
        np.array([getattr(total, name) for total in sums])
        for name in ("energy_low_kwh", "energy_high_kwh", "emissions_low_g", "emissions_high_g")
    )
    return (
        float(np.mean((low_kwh <= true_kwh) & (true_kwh <= high_kwh))),
        float(np.mean((low_g <= true_g) & (true_g <= high_g))),
    )
