"""A budget judges a record, and accuses nobody before it is sure."""

from __future__ import annotations

from typing import Any

import pytest

from carbontrack.errors import QuantityError
from carbontrack.record import Record
from carbontrack.tracking.budget import Budget
from carbontrack.units import parse_quantity


def record(**columns: Any) -> Record:
    return Record(
        record_id="r-1", run_id="r", name="n", duration_s=1.0,
        started_at="2026-01-01T00:00:00.000000Z", ended_at="2026-01-01T00:00:01.000000Z",
        **columns,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low_g", "used_g", "outcome"),
    [
        (3.0, 4.0, "within"),
        (4.0, 5.0, "within"),
        (4.0, 5.1, "inconclusive"),
        (5.0, 9.0, "inconclusive"),
        (5.000001, 9.0, "over"),
    ],
)
def test_only_the_lower_bound_convicts(low_g: float, used_g: float, outcome: str) -> None:
    """Over is what is over in every case that the interval allows."""
    found = record(emissions_g=used_g, emissions_low_g=low_g, emissions_high_g=20.0)

    assert Budget.of("5 g").check(found).outcome == outcome


def test_a_budget_of_energy_judges_energy() -> None:
    """1 kWh is 3.6 MJ, and emissions do not matter then."""
    found = record(energy_kwh=1.0, energy_low_kwh=0.9, energy_high_kwh=1.1, emissions_g=1e9)

    verdict = Budget.of("3 MJ").check(found)

    assert verdict.outcome == "over"
    assert (verdict.used, verdict.low, verdict.high) == pytest.approx((3.6e6, 3.24e6, 3.96e6))
    assert Budget(parse_quantity("1 kWh")).check(found).outcome == "within"


def test_without_an_interval_the_figure_itself_judges() -> None:
    """A figure given without bounds is taken at its word."""
    assert Budget.of("5 g").check(record(emissions_g=5.1)).outcome == "over"


def test_unknown_is_never_within() -> None:
    """What is not known cannot pass as zero."""
    verdict = Budget.of("5 g").check(record())

    assert verdict.outcome == "inconclusive"
    assert verdict.text == "possibly over budget: unknown use of 5.00 g CO2e"


def test_a_verdict_reads_as_a_sentence() -> None:
    """Used and limit stand side by side in readable units."""
    verdict = Budget.of("5 mg").check(record(emissions_g=0.0061, emissions_low_g=0.0055))

    assert verdict.text == "over budget: 6.10 mg CO2e of 5.00 mg CO2e"


def test_a_limit_that_is_no_quantity_is_refused() -> None:
    """Before anything starts."""
    with pytest.raises(QuantityError):
        Budget.of("five grams")
