"""The charts of the page as specifications; how they look is tried in a browser."""

from __future__ import annotations

from typing import Any

import pytest

from carbontrack.report.charts import energy_over_time, intervals

ROWS: list[dict[str, Any]] = [
    {"key": "France", "g": 2_000.0, "low_g": 1_000.0, "high_g": 3_000.0, "runs": 1},
    {"key": "World", "g": 20_000.0, "low_g": None, "high_g": None, "runs": 1},
]
DAY_MS = 86_400_000


def test_a_reference_is_a_line_at_its_row() -> None:
    """In the unit of the chart; without one, or with one that no row has, there is no line."""
    lines = [
        [layer["encoding"]["x"]["datum"] for layer in spec["layer"] if "datum" in _x_of(layer)]
        for spec in (
            intervals(ROWS, title="grid", reference="World"),
            intervals(ROWS, title="grid", reference="Mars"),
            intervals(ROWS, title="grid"),
        )
    ]
    assert lines == [[20.0], [], []]


def _x_of(layer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = layer["encoding"]["x"]
    return found


def test_rows_without_an_interval_have_no_error_bar() -> None:
    """They are filtered out of each layer of the error bars, and a chart of only such has none."""
    spec = intervals(ROWS, title="grid")
    bars, *errors = spec["layer"]
    assert "transform" not in bars
    assert len(errors) == 3
    assert all(layer["transform"] == [{"filter": "datum.low_g !== null"}] for layer in errors)
    assert len(intervals(ROWS[1:], title="grid")["layer"]) == 1


@pytest.mark.parametrize(
    ("days", "names"), [((0, 7), ["Jan 1", "Jan 8"]), ((0, 728), ["Jan 1 1970", "Dec 30 1971"])]
)
def test_weeks_have_names_that_differ(days: tuple[int, ...], names: list[str]) -> None:
    """A bar is named after its first day, with the year where the weeks are of several."""
    rows = [{"at": day * DAY_MS, "part": "cpu", "kwh": 1.0} for day in days]
    values = energy_over_time(rows, "week")["data"]["values"]
    assert [value["when"] for value in values] == names
