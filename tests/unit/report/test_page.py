"""The page as text; in a browser it is tried by tests/integration/report/test_page.py."""

from __future__ import annotations

from dataclasses import fields

import pytest

from carbontrack.report.nesting import NotAdded
from carbontrack.report.page import _bundled
from carbontrack.report.page_html import PageContext, bars_table, cards, headline, range_text
from carbontrack.report.tables import Summary, left_out
from carbontrack.report.totals import Total
from carbontrack.server.page import _total_row


def test_the_library_of_the_charts_is_made_once() -> None:
    """Making it takes a second of CPU time, and the second page of a process needs no other."""
    made = []

    def bundle(snippet: str) -> str:
        made.append(snippet)
        return "<script>library</script>"

    assert _bundled(bundle) is _bundled(bundle)
    assert _bundled(bundle) == "<script>library<\\/script>"
    assert len(made) == 1


def wide_total(**changes: object) -> Total:
    """A sum whose interval ends in a larger unit than its figure has."""
    known = {
        "runs": 2,
        "unknown_runs": 0,
        "energy_kwh": 0.0009,
        "energy_low_kwh": 0.0005,
        "energy_high_kwh": 0.0022,
        "emissions_g": 0.9,
        "emissions_low_g": 0.05,
        "emissions_high_g": 2.2,
        "embodied_g": 0.5,
        "embodied_low_g": 0.1,
        "embodied_high_g": 1.5,
    }
    names = [field.name for field in fields(Total)]
    return Total(**{name: (known | changes).get(name) for name in names})  # type: ignore[arg-type]


def test_a_figure_that_stands_apart_has_the_unit_of_its_interval() -> None:
    """Nobody has to compare 900 mg with 2.20 g."""
    total = wide_total()
    assert headline(total) == "2 runs emitted 0.90 g CO2e"
    assert range_text(total) == "between 0.05 g and 2.20 g"
    shown = "".join(cards(total, PageContext()))
    for figure, ends in (
        ("0.90 Wh", "0.50 to 2.20 Wh"),
        ("0.90 g", "0.05 to 2.20 g"),
        ("0.50 g", "0.10 to 1.50 g"),
    ):
        assert f'{figure}</dd><dd class="more">{ends}' in shown
    row = {"key": "a", "g": 0.9, "low_g": 0.05, "high_g": 2.2}
    assert bars_table([row], "name")[1] == ["a", "0.90 g", "0.05 g", "2.20 g"]


def test_a_figure_without_an_interval_has_a_unit_of_its_own() -> None:
    """Where an end is unknown, there is nothing to compare with."""
    total = wide_total(emissions_low_g=None)
    assert headline(total) == "2 runs emitted 900 mg CO2e"
    assert range_text(total) == ""
    row = {"key": "a", "g": 0.9, "low_g": None, "high_g": None}
    assert bars_table([row], "name")[1] == ["a", "900 mg", "", ""]


def test_the_server_s_total_has_the_unit_of_its_interval() -> None:
    """The row of the sum names the interval next to the figure."""
    row = _total_row(wide_total())
    assert '<td class="num">0.90 g</td><td class="span wide">0.05 to 2.20 g</td>' in row


@pytest.mark.parametrize(("runs", "says"), [(1, "1 run has no "), (2, "2 runs have no ")])
def test_runs_without_energy_are_counted_in_grammar(runs: int, says: str) -> None:
    """A page of one run says this of one."""
    total = wide_total(unknown_runs=runs)
    (said,) = left_out(Summary(by=None, total=total, groups=[], sources=[], skipped_lines=0,
                               repeated=0, not_added=NotAdded()))  # fmt: skip
    assert said.startswith(says)
