"""All tests together: the sums, and the budget of the whole run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from carbontrack.integrations.pytest_plugin.metrics import Measurement
from carbontrack.integrations.pytest_plugin.results import TestResult
from carbontrack.integrations.pytest_plugin.verdict import judge
from carbontrack.record import Basis
from carbontrack.tracking.budget import Verdict
from carbontrack.units import Quantity, format_grams, format_joules

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
    """The sum of the tests' figures, and what the session's budget says of it."""

    tests: int
    over: int
    inconclusive: int
    measured: Measurement
    verdict: Verdict | None

    @classmethod
    def of(cls, results: Sequence[TestResult], budget: Quantity | None) -> SessionTotal:
        """Add up; bounds add linearly, since one pin or meter moves all tests together."""
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
            verdict=None if budget is None else judge(budget, measured),
        )

    @property
    def text(self) -> str:
        """The sums in a line: "12 tests used 30.2 J, 3.84 mg CO2e; 1 over budget"."""
        joules, grams = self.measured.energy_joules, self.measured.emissions_g
        parts = [
            "an unknown energy" if joules is None else format_joules(joules),
            "unknown emissions" if grams is None else f"{format_grams(grams)} CO2e",
        ]
        text = f"{self.tests} test{'' if self.tests == 1 else 's'} used {', '.join(parts)}"
        counts = ((self.over, "over budget"), (self.inconclusive, "not sure"))
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
