"""The interval of a sum keeps its rate on simulated fleets of machines, and the page's figures.

docs/explanation/adding-up-intervals.md says what this shows and what it does not.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from carbontrack.report.totals import COMMON
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


def test_the_page_has_the_tables_that_the_program_printed() -> None:
    """Each row of figures of the two sections that simulate is the program's."""
    printed = RESULTS.read_text(encoding="utf-8").splitlines()
    text = PAGE.read_text(encoding="utf-8")
    start, end = (text.index(f"## {x}") for x in ("Correlation between", "Which rows are added"))
    rows = [
        row
        for row in text[start:end].splitlines()
        if row.startswith("|") and any(map(str.isdigit, row))
    ]
    assert len(rows) >= 19
    assert [row for row in rows if row not in printed] == []


def test_the_tables_were_made_with_the_share_of_today() -> None:
    """Who changes the share has to run the program again."""
    assert f"The rule's common share: {COMMON:g}\n" in RESULTS.read_text(encoding="utf-8")
