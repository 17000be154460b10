"""Results: what is known of a test at its end, the verdict of a budget, and the session's total.

A result consists of plain types, so that pytest-xdist can send it from a worker to the controller.
A verdict is a pure function of limits and a measurement.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import pytest

from carbontrack.integrations.pytest_plugin.metrics import Measurement
from carbontrack.record import Basis
from carbontrack.text import visible
from carbontrack.tracking.budget import Outcome, Verdict
from carbontrack.units import Quantity, format_grams, format_interval, format_joules, kwh_from

PROPERTIES = ("carbon_energy_joules", "carbon_emissions_g", "carbon_metric", "carbon_budget")
"""The names of a test's properties in JUnit XML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """One test: its outcome, figure, budget and verdict.

    `verdict` is "within", "over", "inconclusive", or None where none is due: there is no
    budget, or the test failed by itself. `change` is the ratio to the baseline, as text; `pins` is
    what two figures must share to be compared; `how` describes the metric. Of several rounds,
    `started_at` and `ended_at` are those of the first.
    """

    __test__ = False  # or pytest would collect it, because of its name

    nodeid: str
    outcome: str
    metric: str
    basis: str | None
    energy_joules: float | None
    energy_low_joules: float | None
    energy_high_joules: float | None
    emissions_g: float | None
    emissions_low_g: float | None
    emissions_high_g: float | None
    duration_s: float
    rounds_joules: list[float]
    budget: str | None = None
    verdict: str | None = None
    reason: str | None = None
    change: str | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    note: str | None = None
    pins: str = ""
    how: str = ""
    started_at: str | None = None
    ended_at: str | None = None
    pid: int | None = None

    @classmethod
    def of(cls, nodeid: str, outcome: str, measured: Measurement) -> TestResult:
        """The figures of a test, without a verdict yet."""
        return cls(
            nodeid=nodeid,
            outcome=outcome,
            metric=measured.metric,
            basis=measured.basis,
            energy_joules=measured.energy_joules,
            energy_low_joules=measured.energy_low_joules,
            energy_high_joules=measured.energy_high_joules,
            emissions_g=measured.emissions_g,
            emissions_low_g=measured.emissions_low_g,
            emissions_high_g=measured.emissions_high_g,
            duration_s=measured.duration_s,
            rounds_joules=list(measured.rounds_joules),
        )

    def to_row(self) -> dict[str, Any]:
        """The result in plain types."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> TestResult:
        """The result from plain types."""
        return cls(**row)

    @property
    def properties(self) -> list[tuple[str, object]]:
        """The test's properties in JUnit XML; unknown figures are left out."""
        budget = None if self.budget is None else visible(self.budget)
        values = (self.energy_joules, self.emissions_g, visible(self.metric), budget)
        pairs = zip(PROPERTIES, values, strict=True)
        return [(name, value) for name, value in pairs if value is not None]


def execution_columns(reports: Sequence[pytest.TestReport]) -> dict[str, Any]:
    """When and in which process a test ran, as columns of its row."""
    return {
        "started_at": utc_text(_moment(min(report.start for report in reports))),
        "ended_at": utc_text(_moment(max(report.stop for report in reports))),
        "pid": os.getpid(),
    }


def _moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, timezone.utc)


def utc_text(moment: datetime) -> str:
    """A moment in UTC as in results and records (ISO 8601)."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def kwh_or_none(joules: float | None) -> float | None:
    """Joules in kWh; None where they are unknown."""
    return None if joules is None else kwh_from(joules)


@dataclass(frozen=True, slots=True)
class CombinedVerdict:
    """The verdict on all limits of a test, with a sentence for each limit that is not kept."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()


def verdict_on(limit: Quantity, measured: Measurement) -> Verdict:
    """The verdict on one limit.

    Over: even the lower bound is over the limit. Within: the best estimate is not over it, and not
    both estimate and limit are below the resolution. All else is inconclusive: a test does not pass
    because the meters could not see what it used.
    """
    if limit.kind == "emissions":
        used, low, high = measured.emissions_g, measured.emissions_low_g, measured.emissions_high_g
        resolution = measured.resolution_g
    else:
        used, low, high = (
            measured.energy_joules,
            measured.energy_low_joules,
            measured.energy_high_joules,
        )
        resolution = measured.resolution_joules
    return Verdict(_outcome(limit.amount, used, low, resolution), limit, used, low, high)


def _outcome(limit: float, used: float | None, low: float | None, resolution: float) -> Outcome:
    if used is None:
        return "inconclusive"
    if (used if low is None else low) > limit:
        return "over"
    unseen = used < resolution and limit < resolution
    return "inconclusive" if used > limit or unseen else "within"


def combined_verdict(limits: Sequence[Quantity], measured: Measurement) -> CombinedVerdict:
    """The verdict on all limits: one that is over decides, then one that is inconclusive."""
    verdicts = [verdict_on(limit, measured) for limit in limits]
    for outcome in ("over", "inconclusive"):
        found = [verdict for verdict in verdicts if verdict.outcome == outcome]
        if found:
            return CombinedVerdict(outcome, tuple(sentence(verdict, measured) for verdict in found))
    return CombinedVerdict("within")


def sentence(verdict: Verdict, measured: Measurement) -> str:
    """The verdict as text: "used 7.10 J (6.39 to 7.81, reference, least of 5), over …"."""
    if verdict.used is None:
        return f"no meter gave a reading; unknown whether {verdict.limit.text} is exceeded"
    shown = format_grams if verdict.limit.kind == "emissions" else format_joules
    used, interval = Quantity(verdict.limit.kind, verdict.used).text, ""
    if verdict.low is not None and verdict.high is not None:
        ends = format_interval(verdict.low, verdict.high, shown, like=verdict.used, unit=False)
        used, interval = shown(verdict.used, like=max(verdict.used, verdict.high)), f"{ends}, "
        used += " CO2e" if verdict.limit.kind == "emissions" else ""
    link = {"over": "over", "within": "within", "inconclusive": "possibly over"}
    return (
        f"used {used} ({interval}{how(measured)}), {link[verdict.outcome]} "
        f"the budget of {verdict.limit.text}"
    )


def how(measured: Measurement) -> str:
    """The metric and the number of rounds that the figure is based on: "reference, least of 5"."""
    rounds = len(measured.rounds_joules)
    if rounds < 2:
        return measured.metric
    return (
        f"{measured.metric}, {'least' if measured.metric == 'reference' else 'median'} of {rounds}"
    )


_COLUMNS = (
    "energy_joules",
    "energy_low_joules",
    "energy_high_joules",
    "emissions_g",
    "emissions_low_g",
    "emissions_high_g",
)


@dataclass(frozen=True, slots=True)
class SessionTotal:
    """The sum of the tests' figures, and the verdict of the session's budget on it."""

    tests: int
    over: int
    inconclusive: int
    measured: Measurement
    verdict: Verdict | None

    @classmethod
    def of(cls, results: Sequence[TestResult], budget: Quantity | None) -> SessionTotal:
        """Add up; bounds add linearly, since an error of a pin or meter is common to all tests."""
        sums: dict[str, Any] = {}
        for column in _COLUMNS:
            known = [getattr(one, column) for one in results]
            known = [figure for figure in known if figure is not None]
            sums[column] = sum(known) if known else None
        bases = {result.basis for result in results}
        weakest: tuple[Basis, ...] = ("assumed", "modelled", "measured")
        basis = next((b for b in weakest if b in bases), None)
        metrics = sorted({result.metric for result in results})
        duration_s = sum(result.duration_s for result in results)
        measured = Measurement(
            metric=", ".join(metrics) or "none",
            basis=basis,
            duration_s=duration_s,
            **sums,
        )
        verdicts = [result.verdict for result in results]
        return cls(
            tests=len(results),
            over=verdicts.count("over"),
            inconclusive=verdicts.count("inconclusive"),
            measured=measured,
            verdict=None if budget is None else verdict_on(budget, measured),
        )

    @property
    def text(self) -> str:
        """The sums in one line: "12 tests used 30.2 J, 3.84 mg CO2e; 1 over the limit"."""
        joules, grams = self.measured.energy_joules, self.measured.emissions_g
        parts = [
            "an unknown energy" if joules is None else format_joules(joules),
            "unknown emissions" if grams is None else f"{format_grams(grams)} CO2e",
        ]
        text = f"{self.tests} test{'' if self.tests == 1 else 's'} used {', '.join(parts)}"
        counts = ((self.over, "over the limit"), (self.inconclusive, "inconclusive"))
        found = [f"{count} {what}" for count, what in counts if count]
        return "; ".join([text, *found])

    def to_row(self) -> dict[str, Any]:
        """The session in the JSON report."""
        row = {name: getattr(self.measured, name) for name in _COLUMNS}
        return row | {
            "tests": self.tests,
            "over": self.over,
            "inconclusive": self.inconclusive,
            "metric": self.measured.metric,
            "basis": self.measured.basis,
            "duration_s": self.measured.duration_s,
            "budget": None if self.verdict is None else self.verdict.limit.text,
            "verdict": None if self.verdict is None else self.verdict.outcome,
        }
