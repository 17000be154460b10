"""A grade from A+ to D: where an energy per unit lies among the models published for a task."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

from carbontrack.errors import ConfigError
from carbontrack.report.totals import Total
from carbontrack.units import JOULES_PER_KWH

TABLE = Path(__file__).parent.parent / "data" / "inference.csv"
PER = 1000
"""Grades go by the energy of so many units, as the published tables do."""
GRADES = ("A+", "A", "B", "C", "D")
ALL_MEASURED = 0.99
"""A grade is provisional below this measured share; a record's own basis counts 1 % likewise."""
RULE = (
    "Fifths of a log-normal distribution with the published mean and standard deviation: A+ is the "
    "fifth that uses least. Energy of the computers, before PUE."
)


@dataclass(frozen=True, slots=True)
class Task:
    """What was published of a task: kWh for 1,000 inferences, mean and standard deviation."""

    name: str
    mean_kwh: float
    sd_kwh: float
    year: int
    source: str

    def thresholds_kwh(self) -> tuple[float, ...]:
        """The upper ends of A+, A, B and C, in kWh for 1,000 units."""
        from statistics import NormalDist  # 10 ms that only a label needs

        variance = log(1.0 + (self.sd_kwh / self.mean_kwh) ** 2)
        middle, width = log(self.mean_kwh) - variance / 2.0, sqrt(variance)
        fifths = (n / len(GRADES) for n in range(1, len(GRADES)))
        return tuple(exp(NormalDist(middle, width).inv_cdf(share)) for share in fifths)

    def grade(self, kwh: float) -> str:
        """The grade of so many kWh for 1,000 units."""
        return GRADES[sum(kwh > threshold for threshold in self.thresholds_kwh())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a label says.

    Attributes:
        model: what was measured, in its owner's words.
        task: of which task.
        grade: "A+", "A", "B", "C" or "D"; low and high are those of the interval's ends.
        provisional: less than 99 % of the energy was measured.
        units: how many units the energy was spent on.
        kwh_per_1000: energy of the computers for 1,000 units, before PUE, with low and high.
        thresholds_kwh: the upper ends of A+, A, B and C.
        rule, source, year: how the thresholds were made, and of what.
    """

    model: str
    task: str
    grade: str
    grade_low: str | None
    grade_high: str | None
    provisional: bool
    measured_share: float | None
    units: float
    unit: str
    kwh_per_1000: float
    kwh_per_1000_low: float | None
    kwh_per_1000_high: float | None
    thresholds_kwh: tuple[float, ...]
    rule: str
    source: str
    year: int

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self) | {"thresholds_kwh": list(self.thresholds_kwh)}

    @property
    def joules(self) -> tuple[float, float | None, float | None]:
        """The energy of 1,000 units in joules: best, low, high."""
        ends = (self.kwh_per_1000_low, self.kwh_per_1000_high)
        low, high = (None if kwh is None else kwh * JOULES_PER_KWH for kwh in ends)
        return self.kwh_per_1000 * JOULES_PER_KWH, low, high


def label_of(
    total: Total, task: str, *, model: str, units: float | None = None, unit: str = "inference"
) -> Label:
    """The label of the records that a total sums.

    Args:
        total: the sum; its components are the energy of the computers.
        task: a task of the table.
        model: whose label it is.
        units: on how many units the energy was spent; None: the calls that were counted.
        unit: what a unit is called.

    Raises:
        ConfigError: the table has no such task, no energy is known, or there are no units.
    """
    published = find_task(task)
    parts = (total.cpu_kwh, total.gpu_kwh, total.ram_kwh, total.other_kwh)
    known = [kwh for kwh in parts if kwh is not None]
    count = total.calls if units is None else units
    if not known or not sum(known) > 0.0:
        raise ConfigError("a label needs records with a known energy, and these have none")
    if total.unknown_runs:
        raise ConfigError(f"{total.unknown_runs} of {total.runs} runs have no known energy")
    if count is None or not 0.0 < count < float("inf"):
        raise ConfigError(f"a label needs a number of units above 0, not {count!r}; give --units N")
    per = PER / count
    best = sum(known) * per
    before_pue = sum(known) / total.energy_kwh if total.energy_kwh else 1.0
    ends = (total.energy_low_kwh, total.energy_high_kwh)
    low, high = (None if kwh is None else kwh * before_pue * per for kwh in ends)
    return Label(
        model=model,
        task=published.name,
        grade=published.grade(best),
        grade_low=None if low is None else published.grade(low),
        grade_high=None if high is None else published.grade(high),
        provisional=(total.measured_share or 0.0) < ALL_MEASURED,
        measured_share=total.measured_share,
        units=count,
        unit=unit,
        kwh_per_1000=best,
        kwh_per_1000_low=low,
        kwh_per_1000_high=high,
        thresholds_kwh=published.thresholds_kwh(),
        rule=RULE,
        source=published.source,
        year=published.year,
    )


def find_task(name: str) -> Task:
    """The row of a task: "text-classification", "text classification".

    Raises:
        ConfigError: the table has no such task; the message names those that it has.
    """
    found = tasks().get("-".join(name.lower().replace("_", " ").replace("-", " ").split()))
    if found is None:
        raise ConfigError(
            f"no distribution was published for {name!r}; known: {', '.join(tasks())}"
        )
    return found


@cache
def tasks() -> dict[str, Task]:
    """Every task of the table by its name."""
    found = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]:
        name, mean, sd, year, _grade, source = line.split(",", 5)
        found[name] = Task(name, float(mean), float(sd), int(year), source.strip('"'))
    return found
