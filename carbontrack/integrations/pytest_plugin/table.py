"""The table of tests: one line each in the terminal, one row each in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from carbontrack.integrations.pytest_plugin.baseline import change_in_short
from carbontrack.integrations.pytest_plugin.results import TestResult
from carbontrack.text import (
    cut_front,
    cut_to,
    markdown_code,
    padded,
    visible,
    visible_markdown,
    width_of,
)
from carbontrack.units import format_grams, format_joules

UNKNOWN = "-"
HEADER = ("energy", "CO2e", "budget", "result", "change")
_ENERGY, _EMISSIONS, _BUDGET, _RESULT, _CHANGE = range(5)
_LEAST_NAME = 30
"""With fewer columns than this for ids, tests look alike; then other columns are left out."""
_MARKDOWN_ROWS = 200
_MARK = "..."


def costliest(results: Sequence[TestResult], top: int) -> list[TestResult]:
    """The tests that used most, followed by all others that are over or inconclusive."""
    ordered = sorted(results, key=lambda result: -(result.energy_joules or 0.0))
    rest = [result for result in ordered[top:] if result.verdict in ("over", "inconclusive")]
    return ordered[:top] + rest


def lines(results: Sequence[TestResult], *, width: int) -> list[str]:
    """A header and one line for each test, none of them wider than `width`.

    Columns that are empty are left out. Where too little room would be left for the tests' names,
    so are those that another column or the message of a failure also has.
    """
    rows = [cells(result) for result in results]
    used = [n for n in range(5) if n < _BUDGET or any(row[n] for row in rows)]
    widths = [max(len(HEADER[n]), *(width_of(row[n]) for row in rows)) for n in range(5)]
    names = [visible(result.nodeid) for result in results]
    wanted = min(max(map(width_of, names)), _LEAST_NAME)
    for column in _dispensable(results):
        if width - sum(widths[n] + 2 for n in used) < wanted and column in used:
            used.remove(column)
    table = []
    for row, name in zip([HEADER, *rows], ["test", *names], strict=True):
        # numbers are aligned to the right, words to the left
        parts = [
            row[n].rjust(widths[n]) if n < _BUDGET else padded(row[n], widths[n]) for n in used
        ]
        start = "  ".join(parts) + "  "
        room = width - width_of(start)
        table.append(start + short_id(name, room) if room >= 8 else cut_to(start + name, width))
    return table


def _dispensable(results: Sequence[TestResult]) -> tuple[int, ...]:
    """Columns in the order in which they are left out; first the quantity without a budget."""
    in_grams = all("CO2e" in result.budget for result in results if result.budget)
    has_budget = any(result.budget for result in results)
    first = _ENERGY if has_budget and in_grams else _EMISSIONS
    return first, _BUDGET, _CHANGE, _EMISSIONS, _ENERGY


def short_id(nodeid: str, width: int) -> str:
    """A test's id in `width` columns: its name stays as long as there is room for it.

    The path loses its beginning; a name that is too long by itself loses its middle.
    """
    if width_of(nodeid) <= width:
        return nodeid
    name = nodeid.partition("[")[0].rpartition("::")[2] + "".join(nodeid.partition("[")[1:])
    if width_of(name) <= width - len(_MARK):
        return cut_front(nodeid, width, _MARK)
    tail = (width - len(_MARK)) // 2
    head = cut_to(name, width - len(_MARK) - tail, "")
    return head + _MARK + cut_front(name, tail, "")


def cells(result: TestResult) -> list[str]:
    """Energy, emissions, budget, result and change of a test as texts."""
    joules, grams = result.energy_joules, result.emissions_g
    return [
        UNKNOWN if joules is None else format_joules(joules),
        UNKNOWN if grams is None else format_grams(grams),
        visible(result.budget or ""),
        result.verdict or "",
        visible(change_in_short(result)),
    ]


def markdown(results: Sequence[TestResult], *, title: str, notes: Sequence[str]) -> str:
    """The table in Markdown, for pages such as the summary of a workflow's step.

    The notes are Markdown already.
    """
    text = [f"### {title}", ""]
    if results:
        text += [f"| test | {' | '.join(HEADER)} |", "|---|--:|--:|---|---|---|"]
    for result in results[:_MARKDOWN_ROWS]:
        figures = " | ".join(map(visible_markdown, cells(result)))
        text.append(f"| {markdown_code(result.nodeid)} | {figures} |")
    if len(results) > _MARKDOWN_ROWS:
        text.append(f"\n{len(results) - _MARKDOWN_ROWS} more tests are not shown.")
    return "\n".join([*text, "", *(f"{note}  " for note in notes), ""])
