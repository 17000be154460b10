"""Published runs and readings beside `carbontrack.estimate`, as the rows of the page's tables.

`python -m tests.support.published` prints the tables of docs/explanation/published-runs.md.
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

import carbontrack
from carbontrack.errors import ConfigError
from carbontrack.impact.hardware import find_cpu, find_gpu
from carbontrack.interval import Interval

FOLDER = Path(__file__).parent
MEASURED = ("measured", "other cards")
"""How the power of a run is known, where it is not the power of another one or a design power."""


class Run(NamedTuple):
    """A published run, what was published of it, and our estimate in the same unit."""

    row: dict[str, str]
    published: float
    unit: str
    estimate: Interval

    @property
    def ratio(self) -> float:
        """Estimate over published figure."""
        return self.estimate.best / self.published

    @property
    def inside(self) -> bool:
        """Whether the published figure lies in the interval of the estimate."""
        return self.estimate.low <= self.published <= self.estimate.high

    @property
    def tdp_share(self) -> float:
        """Published power of a card, with what is in its boundary, as a share of its TDP."""
        per_card = float(self.row["hours"]) * float(self.row["gpus"])
        watts = self.published * 1e3 / per_card / float(self.row["pue"] or 1)
        return watts / find_gpu(self.row["gpu"]).tdp_w


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of a file beside this one."""
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def runs() -> tuple[Run, ...]:
    """All published runs, in the file's order."""
    return tuple(_run(row) for row in rows_of("published_runs.csv"))


def _run(row: dict[str, str]) -> Run:
    intensity = row["intensity_g_per_kwh"]
    place = {"region": "US"} if not intensity and not row["published_kwh"] else {}
    found = carbontrack.estimate(
        gpu=row["gpu"],
        gpus=int(row["gpus"]),
        cpu=row["cpu"] or None,
        cpus=int(row["cpus"]) if row["cpus"] else None,
        ram_gib=float(row["ram_gib"]) if row["ram_gib"] else None,
        hours=float(row["hours"]),
        pue=float(row["pue"]) if row["pue"] else None,
        **(place or {"intensity_g_per_kwh": float(intensity or 0)}),
    )
    if row["published_kwh"]:
        kwh = Interval(found.energy_kwh, found.energy_low_kwh, found.energy_high_kwh)
        return Run(row, float(row["published_kwh"]), "kWh", kwh)
    grams = (found.emissions_g, found.emissions_low_g, found.emissions_high_g)
    return Run(row, float(row["published_g"]) / 1e3, "kg", Interval(*(g / 1e3 for g in grams)))


def run_cells(run: Run) -> tuple[str, ...]:
    """The cells of a run's line on the page."""
    row = run.row
    best, low, high = (_figure(end) for end in run.estimate)
    hours = f"{float(row['hours']):,.10g}"
    together = row["gpus"] == "1" and float(row["hours"]) > 1e4
    return (
        row["run"],
        f"{hours} h of {row['gpu']}" if together else f"{row['gpus']} x {row['gpu']}, {hours} h",
        f"{_figure(run.published)} {run.unit}",
        f"{row['known']}; {row['boundary']}",
        f"{best} ({low} to {high})",
        f"{run.ratio:.2f}",
        "yes" if run.inside else "**no**",
        row["source"],
    )


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 999.5 else f"{number:.3g}"


class Readings(NamedTuple):
    """One machine's readings of package or memory by RAPL, and our estimates at the same loads."""

    system: str
    machine: str
    component: str
    source: str
    points: tuple[tuple[float, float, Interval | None], ...]
    """Load in percent, watts, and the estimate; None where no table has the processor."""

    @property
    def inside(self) -> int:
        """How many readings lie in the interval."""
        return sum(e is not None and e.low <= watts <= e.high for _, watts, e in self.points)


@cache
def readings() -> tuple[Readings, ...]:
    """Every machine, package and memory apart, in the file's order."""
    grouped: dict[tuple[str, str, str, str], list[tuple[float, float, Interval | None]]] = {}
    for row in rows_of("package_power.csv"):
        key = (row["system"], row["machine"], row["component"], row["source"])
        point = (float(row["load_percent"]), float(row["watts"]), _reading_estimate(row))
        grouped.setdefault(key, []).append(point)
    return tuple(Readings(*key, tuple(points)) for key, points in grouped.items())


def _reading_estimate(row: dict[str, str]) -> Interval | None:
    given: dict[str, object] = {"ram_gib": float(row["memory_gb"])} if row["memory_gb"] else {}
    if row["component"] == "package":
        try:
            sockets = round(float(row["tdp_w"]) / find_cpu(row["system"]).tdp_w)
        except ConfigError:
            return None
        given = {"cpu": row["system"], "cpus": sockets}
    found = carbontrack.estimate(
        hours=1, utilisation=float(row["load_percent"]) / 100, intensity_g_per_kwh=0, **given
    )
    return Interval(found.power_w, found.power_low_w, found.power_high_w)


def reading_cells(found: Readings) -> tuple[str, ...]:
    """The cells of a machine's line on the page: ratios at the ends and the middle of its loads."""
    first, *_, last = found.points if len(found.points) > 1 else found.points * 2
    middle = min(found.points, key=lambda point: abs(point[0] - 50.0))
    known = [point for point in found.points if point[2] is not None]
    ratios = [
        f"{estimate.best / watts:.2f}" if estimate else "—"
        for _, watts, estimate in (first, middle, last)
    ]
    if len(found.points) == 1:
        ratios[1:] = ["—", "—"]
    where = "" if found.machine == "idle" else f", {found.machine.replace('_', ' ')}"
    counted = f"{found.inside} of {len(found.points)}" if known else "in no table, refused"
    return (f"{found.system}{where}", found.component, *ratios, counted, found.source)


def table(head: str, lines: list[tuple[str, ...]]) -> str:
    """Lines of cells as a Markdown table."""
    columns = head.strip("| ").count("|") + 1
    body = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([head, "|" + "---|" * columns, *body])


RUN_HEAD = "| run | on | published | known by; of | estimate | ratio | inside | source |"
READING_HEAD = (
    "| machine | of | ratio, least load | ratio, half load | ratio, full load | inside | source |"
)


def tables() -> list[str]:
    """The page's three tables: measured runs, computed ones, and readings by RAPL."""
    measured = [run_cells(run) for run in runs() if run.row["known"] in MEASURED]
    computed = [run_cells(run) for run in runs() if run.row["known"] not in MEASURED]
    machines = [reading_cells(found) for found in readings()]
    return [
        table(RUN_HEAD, measured),
        table(RUN_HEAD, computed),
        table(READING_HEAD, machines),
    ]


if __name__ == "__main__":
    print("\n\n".join(tables()))
