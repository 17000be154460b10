"""The interval of a sum keeps its rate on simulated fleets of machines, and the page's figures.

docs/explanation/adding-up-intervals.md says what this shows and what it does not.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.simulated_sums import FLEETS, IN_COMMON, Fleet, kept

STATED, WITHIN = 0.90, 0.05
ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "explanation" / "adding-up-intervals.md"
RESULTS = ROOT / "benchmarks" / "results" / "sums.md"


@pytest.mark.parametrize("alike", sorted(IN_COMMON))
@pytest.mark.parametrize("machines", sorted(FLEETS))
def test_the_stated_rate_is_kept(machines: int, alike: str) -> None:
    """Nine in ten, within five points, in kWh and in grams, whatever the number of machines."""
    for rate in kept(Fleet(alike, IN_COMMON[alike]), machines):
        assert abs(rate - STATED) <= WITHIN
