"""The facts of the records that papers, model cards and reports for others need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from carbontrack.grid import names
from carbontrack.report import page_data
from carbontrack.report.frame import HOW
from carbontrack.report.tables import LONGEST, Summary
from carbontrack.text import cut_to, visible

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *HOW,
    *("cpu_threads", "gpu_count", "ram_gib", "os", "python", "cloud_provider", "labels"),
)
"""Columns of records that are needed beyond those of a table."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user adds to the records.

    Attributes:
        units: how many functional units the work delivered; None: the calls that were counted.
        unit: what a unit is called.
        about: facts that no record holds, such as BoAmps' "task", by their names in the format.
        embodied_g: embodied emissions attributed to these runs, in grams of CO2e, for records that
            hold none; None is unknown.
    """

    units: float | None = None
    unit: str = "inference"
    about: Mapping[str, Any] = field(default_factory=dict)
    embodied_g: float | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of machine that the runs were made on; None is unknown."""

    cpu: str | None
    threads: int | None
    gpus: tuple[tuple[str, int], ...]
    ram_gib: float | None

    @property
    def text(self) -> str:
        """As part of a sentence: "an EPYC 7763 (128 threads), 2 x A100 and 512 GiB of memory"."""
        cpu = self.cpu or "an unknown processor"
        parts = [cpu if self.threads is None else f"{cpu} ({self.threads} threads)"]
        parts += [f"{count} x {name}" for name, count in self.gpus]
        if self.ram_gib is not None:
            parts.append(f"{self.ram_gib:.3g} GiB of memory")
        return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


@dataclass(frozen=True, slots=True)
class Facts:
    """The sums, and the machines, regions and methods of the records, most energy first."""

    summary: Summary
    machines: tuple[Machine, ...]
    grids: tuple[dict[str, Any], ...]
    pues: tuple[float, ...]
    scopes: tuple[str, ...]
    meters: tuple[str, ...]
    versions: tuple[str, ...]
    systems: tuple[str, ...]
    pythons: tuple[str, ...]
    clouds: tuple[str, ...]
    started: Any
    all_embodied: bool
    all_abiotic: bool

    @property
    def computers_kwh(self) -> float | None:
        """Energy of the computers, before PUE."""
        total = self.summary.total
        parts = (total.cpu_kwh, total.gpu_kwh, total.ram_kwh, total.other_kwh)
        known = [kwh for kwh in parts if kwh is not None]
        return sum(known) if known else None

    @property
    def places(self) -> tuple[str, ...]:
        """The names of the regions: "France (FR)"."""
        return tuple(dict.fromkeys(place(row["region"]) for row in self.grids if row["region"]))


def facts_of(summary: Summary, frame: pd.DataFrame) -> Facts:
    """The facts of records that were loaded with `COLUMNS`."""
    started = frame["started_at"].dropna()
    return Facts(
        summary=summary,
        machines=_machines(frame),
        grids=tuple(page_data.grids(frame)),
        pues=tuple(sorted(float(pue) for pue in frame["pue"].dropna().unique())),
        scopes=_ranked(frame, "scope"),
        meters=tuple(dict.fromkeys(i for ids in _ranked(frame, "meters") for i in ids.split(";"))),
        versions=_ranked(frame, "carbontrack"),
        systems=_ranked(frame, "os"),
        pythons=_ranked(frame, "python"),
        clouds=_ranked(frame, "cloud_provider"),
        started=None if started.empty else (started.min(), started.max()),
        all_embodied=bool(frame["embodied_g"].notna().all()),
        all_abiotic=bool(frame["abiotic_kg_sb"].notna().all()),
    )


def with_short_texts(facts: Facts) -> Facts:
    """The facts with all texts of files and hosts visible, and none longer than `LONGEST`."""
    return replace(
        facts,
        machines=tuple(
            replace(
                machine,
                cpu=None if machine.cpu is None else _short(machine.cpu),
                gpus=tuple((_short(name), count) for name, count in machine.gpus),
            )
            for machine in facts.machines
        ),
        grids=tuple(
            {name: _short(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
            for row in facts.grids
        ),
        scopes=tuple(map(_short, facts.scopes)),
        meters=tuple(map(_short, facts.meters)),
        versions=tuple(map(_short, facts.versions)),
    )


def _short(text: str) -> str:
    return cut_to(visible(text), LONGEST)


def place(region: str) -> str:
    """A region's name with its code; the code alone where it has no name."""
    try:
        name = names.name_of(region)
    except (KeyError, ValueError):
        return region
    return region if name == region else f"{name} ({region})"


def _ranked(frame: pd.DataFrame, column: str) -> tuple[str, ...]:
    """The texts of a column, those with the most energy first."""
    kwh = frame["energy_kwh"].fillna(0.0).groupby(frame[column], observed=True).sum()
    return tuple(str(text) for text in kwh.sort_values(ascending=False).index)


def _machines(frame: pd.DataFrame) -> tuple[Machine, ...]:
    keys = ["cpu_model", "cpu_threads", "gpu_models", "ram_gib"]
    kinds = frame[keys].copy()
    kinds["kwh"] = frame["energy_kwh"].fillna(0.0)
    sums = (
        kinds.groupby(keys, observed=True, dropna=False)["kwh"].sum().sort_values(ascending=False)
    )
    found = []
    for cpu, threads, gpus, gib in sums.index:
        cards = Counter(str(gpus).split(";")) if isinstance(gpus, str) else Counter()
        found.append(
            Machine(
                cpu=cpu if isinstance(cpu, str) else None,
                threads=int(threads) if threads == threads else None,  # noqa: PLR0124 - NaN
                gpus=tuple(cards.items()),
                ram_gib=float(gib) if gib == gib else None,  # noqa: PLR0124 - NaN
            )
        )
    return tuple(found)
