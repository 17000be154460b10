"""What is known of one test at its end; plain enough to travel from a worker to its controller."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import pytest

from carbontrack.integrations.pytest_plugin.metrics import Measurement

PROPERTIES = ("carbon_energy_joules", "carbon_emissions_g", "carbon_metric", "carbon_budget")
"""The names of what junit's XML says of a test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """One test: its outcome, its figure, its budget and what was said of it.

    `verdict` is "within", "over", "inconclusive", or None where nothing was to be judged: there is
    no budget, or the test failed by itself. `change` is the ratio to the baseline, as text; `pins`
    is what two figures must share to be compared, `how` describes the metric. Of several rounds,
    `started_at` and `ended_at` are the first one's.
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
    started_at: str | None = None
    ended_at: str | None = None
    pid: int | None = None

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
        values = (self.energy_joules, self.emissions_g, self.metric, self.budget)
        pairs = zip(PROPERTIES, values, strict=True)
        return [(name, value) for name, value in pairs if value is not None]


def circumstances(reports: Sequence[pytest.TestReport]) -> dict[str, Any]:
    """When and in which process a test ran, as columns of its row."""
    return {
        "started_at": _utc(min(report.start for report in reports)),
        "ended_at": _utc(max(report.stop for report in reports)),
        "pid": os.getpid(),
    }


def _utc(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# moved beside for now; the next step joins them
from carbontrack.integrations.pytest_plugin.session_total import _COLUMNS, SessionTotal
from carbontrack.integrations.pytest_plugin.verdict import (
    Ruling,
    _outcome,
    how,
    judge,
    rule,
    sentence,
)
