"""Telling people and other programs what was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbontrack.config.environment import step_summary
from carbontrack.errors import CarbontrackError
from carbontrack.integrations.pytest_plugin import baseline, outputs, table
from carbontrack.integrations.pytest_plugin import baseline as gate
from carbontrack.integrations.pytest_plugin.options import Options
from carbontrack.integrations.pytest_plugin.results import TestResult
from carbontrack.integrations.pytest_plugin.session_total import SessionTotal

_RED, _YELLOW = {"red": True}, {"yellow": True}


class Telling:
    """Collects results, and writes them to the terminal and to files at the end."""

    def __init__(self, options: Options, origin: outputs.Origin, root: Path) -> None:
        self._options = options
        self._root = root
        self._origin = origin
        self._found: dict[str, TestResult] = {}
        self._total: SessionTotal | None = None
        self._troubles: list[str] = []

    @property
    def results(self) -> list[TestResult]:
        """One for each test, in the order of the tests' ids."""
        return [self._found[nodeid] for nodeid in sorted(self._found)]

    def add(self, result: TestResult) -> None:
        """Keep a result; of a test that is rerun, the last one counts."""
        self._found[result.nodeid] = result

    def status(self, report: Any, row: dict[str, Any]) -> Any:
        """Category, letter and word with colour; None leaves it to pytest."""
        found = self._status(report, row)
        if found is not None and pytest.version_tuple < (8, 3):
            # its summary of failures prints a word with colour as it prints any tuple
            return *found[:2], found[2][0]
        return found

    def _status(self, report: Any, row: dict[str, Any]) -> Any:
        if report.failed and row["verdict"] == "over":
            return "failed", "C", ("CARBON BUDGET", _RED)
        if row["verdict"] == "inconclusive":
            if report.failed:
                return "failed", "C", ("CARBON BUDGET NOT SURE", _RED)
            if self._options.inconclusive == "warn":
                return "passed", "c", ("PASSED, CARBON BUDGET NOT SURE", _YELLOW)
        return None

    def finish(self, machine: str) -> bool:
        """Judge the whole run and write every file; True if the session's budget is exceeded."""
        results, options = self.results, self._options
        # where nothing was measured there is nothing to judge, and nothing to be unsure of
        budget = options.session_budget if results else None
        total = self._total = SessionTotal.of(results, budget)
        if options.json is not None:
            self._try(outputs.write_json, options.json, outputs.report(results, total, machine))
        if options.benchmark is not None:
            self._try(outputs.write_json, options.benchmark, outputs.benchmark_list(results))
        if not results:
            return False
        if options.csv is not None:
            self._try(outputs.append_csv, options.csv, results, self._origin)
        if options.save is not None:
            self._try(baseline.save, options.save, results, machine)
        if options.add is not None:
            self._try(baseline.add, options.add, results, machine)
        page = step_summary()
        if page is not None:
            self._try(_append, page, self._markdown(total))
        if total.verdict is None:
            return False
        sure = total.verdict.outcome == "inconclusive" and options.inconclusive == "fail"
        return total.verdict.outcome == "over" or sure

    def _try(self, write: Callable[..., None], path: Path, *what: Any) -> None:
        try:
            write(path, *what)
        except (OSError, ValueError, CarbontrackError) as error:
            # the tests have run; a full disk must not hide what they found
            self._troubles.append(f"{path} was not written: {error}")

    def _markdown(self, total: SessionTotal) -> str:
        shown = table.costliest(self.results, self._options.top)
        notes = [f"{total.text}.", *self._pins()]
        if total.verdict is not None:
            notes.append(f"The session is {total.verdict.text}.")
        new = gate.unjudged(self.results, self._options)
        said = [*gate.missing(self.results, self._options, self._root), *([new] if new else [])]
        notes += [f"**{line}**" for line in said]
        return table.markdown(shown, title="Emissions of the tests", notes=notes)

    def _pins(self) -> list[str]:
        return sorted({result.how for result in self.results if result.how})

    def summary(self, terminal: Any) -> None:
        """The table in the terminal; less of it with -q."""
        total, results = self._total, self.results
        if total is None or not (results or self._options.measures_all):
            return
        quiet = terminal.config.get_verbosity() < 0
        bad = total.over or (total.verdict is not None and total.verdict.outcome == "over")
        lost = gate.missing(results, self._options, self._root)
        speaks = bad or lost or self._troubles
        if quiet and terminal.config.get_verbosity() < -1 and not speaks:
            return
        if not quiet:
            terminal.section("carbontrack", bold=True)
            for pins in self._pins():
                terminal.write_line(pins)
        self._table(terminal, [] if quiet else table.costliest(results, self._options.top))
        unsure = total.inconclusive and self._options.inconclusive != "pass"
        terminal.write_line(total.text, **(_RED if bad else _YELLOW if unsure else {}))
        if total.verdict is not None:
            markup = {"over": _RED, "inconclusive": _YELLOW}.get(total.verdict.outcome, {})
            terminal.write_line(f"the session is {total.verdict.text}", **markup)
        new = gate.unjudged(results, self._options)
        if new is not None:
            terminal.write_line(new)
        for line in lost:
            terminal.write_line(line, **_YELLOW)
        for trouble in self._troubles:
            terminal.write_line(trouble, **_RED)

    def _table(self, terminal: Any, shown: list[TestResult]) -> None:
        if not shown:
            return
        header, *rows = table.lines(shown, width=terminal._tw.fullwidth)
        terminal.write_line(header, bold=True)
        for result, row in zip(shown, rows, strict=True):
            markup = {"over": _RED, "inconclusive": _YELLOW}.get(result.verdict or "", {})
            terminal.write_line(row, **markup)
            note = result.reason if result.verdict == "inconclusive" else result.note
            if note:
                terminal.write_line(f"    {note}")


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text + "\n")


# moved beside for now; the next step joins them
from carbontrack.integrations.pytest_plugin.outputs import (
    SCHEMA,
    Origin,
    _kwh,
    _now,
    _record,
    append_csv,
    benchmark_list,
    report,
    write_json,
)
from carbontrack.integrations.pytest_plugin.table import (
    _INDENT,
    _LEAST_NAME,
    _MARKDOWN_ROWS,
    _NARROW,
    _VERDICTS,
    UNKNOWN,
    _stacked,
    cells,
    costliest,
    lines,
    markdown,
    shortened,
)
