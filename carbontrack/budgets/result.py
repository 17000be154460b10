"""What is known of one test at its end; plain enough to travel from a worker to its controller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from carbontrack.budgets.metric import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """One test: its outcome, its figure, its budget and what was said of it.

    `verdict` is "within", "over", "inconclusive", or None where nothing was to be judged: there is
    no budget, or the test failed by itself. `change` is the ratio to the baseline, as text; `pins`
    is what two figures must share to be compared, `how` describes the metric.
    """

    __test__ = False  # pytest takes classes of such a name for tests

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

    @classmethod
    def of(cls, nodeid: str, outcome: str, measured: Measurement) -> TestResult:
        """The figures of a test that nobody has judged yet."""
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
        """Plain types only."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> TestResult:
        """Back from plain types."""
        return cls(**row)

    @property
    def properties(self) -> list[tuple[str, object]]:
        """What junit's XML says of the test; unknown is left out."""
        pairs = [
            ("carbon_energy_joules", self.energy_joules),
            ("carbon_emissions_g", self.emissions_g),
            ("carbon_metric", self.metric),
            ("carbon_budget", self.budget),
        ]
        return [(name, value) for name, value in pairs if value is not None]
