"""The table of tests as lines of text for a width, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from carbontrack.integrations.pytest_plugin.results import TestResult
from carbontrack.units import format_grams, format_joules

UNKNOWN = "-"
_VERDICTS = {"within": "kept", "over": "OVER", "inconclusive": "not sure", None: ""}
_NARROW = 60
_LEAST_NAME = 24
"""With less room than this, tests could not be told apart; their ids get lines of their own."""
_INDENT = "    "
_MARKDOWN_ROWS = 200


def costliest(results: Sequence[TestResult], top: int) -> list[TestResult]:
    """Those that used most, first; and after them those over or not sure, however little."""
    ordered = sorted(results, key=lambda result: -(result.energy_joules or 0.0))
    rest = [result for result in ordered[top:] if result.verdict in ("over", "inconclusive")]
    return ordered[:top] + rest


def lines(results: Sequence[TestResult], *, width: int) -> list[str]:
    """A header and a text for each test, no line wider than `width`.

    The test's id is cut in front; where it would be cut to nothing it stands on a line of its own.
    """
    rows = [cells(result) for result in results]
    header = ["energy", "CO2e", "budget", "verdict", "change"]
    used = [n for n in range(5) if n < 2 or any(row[n] for row in rows)]
    if width < _NARROW:
        used = [n for n in used if n in (1, 3)]
    widths = {n: max(len(header[n]), *(len(row[n]) for row in rows)) for n in used}
    longest = max((len(result.nodeid) for result in results), default=0)
    beside = width - sum(widths.values()) - 2 * len(used) >= min(longest, _LEAST_NAME)
    table = []
    for row, name in zip([header, *rows], ["test", *(r.nodeid for r in results)], strict=True):
        # figures to the right, words to the left
        parts = [row[n].rjust(widths[n]) if n < 2 else row[n].ljust(widths[n]) for n in used]
        if beside:
            start = "  ".join(parts) + "  "
            table.append(start + shortened(name, width - len(start)))
        else:
            table.append("\n".join(_stacked(parts, name, width)))
    return table


def _stacked(parts: Sequence[str], name: str, width: int) -> list[str]:
    """The figures, on as many lines as they need, and the name below them."""
    found = [parts[0]]
    for part in parts[1:]:
        if len(f"{found[-1]}  {part}".rstrip()) <= width:
            found[-1] += f"  {part}"
        elif part.strip():
            found.append(_INDENT + part)
    lines = [shortened(line.rstrip(), width) for line in found]
    return [*lines, _INDENT + shortened(name, max(8, width - len(_INDENT)))]


def cells(result: TestResult) -> list[str]:
    """Energy, emissions, budget, verdict and change of a test as texts."""
    joules, grams = result.energy_joules, result.emissions_g
    return [
        UNKNOWN if joules is None else format_joules(joules),
        UNKNOWN if grams is None else format_grams(grams),
        result.budget or "",
        _VERDICTS[result.verdict],
        result.change or "",
    ]


def shortened(name: str, width: int) -> str:
    """The name's end, after an ellipsis, where all of it is too wide."""
    return name if len(name) <= width else "..." + name[len(name) - width + 3 :]


def markdown(results: Sequence[TestResult], *, title: str, notes: Sequence[str]) -> str:
    """The table for a page that renders Markdown, such as the summary of a workflow's step."""
    text = [f"### {title}", ""]
    if results:
        text += [
            "| test | energy | CO2e | budget | verdict | change |",
            "|---|--:|--:|---|---|---|",
        ]
    for result in results[:_MARKDOWN_ROWS]:
        name = result.nodeid.replace("|", "\\|").replace("`", "'").replace("\n", " ")
        text.append(f"| `{name}` | " + " | ".join(cells(result)) + " |")
    if len(results) > _MARKDOWN_ROWS:
        text.append(f"\n{len(results) - _MARKDOWN_ROWS} more tests are not shown.")
    return "\n".join([*text, "", *(f"{note}  " for note in notes), ""])
