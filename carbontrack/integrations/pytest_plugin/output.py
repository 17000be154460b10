"""The output of a run: the terminal, Markdown for CI, JSON, a benchmark list, CSV."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from carbontrack.config.environment import parent_id, step_summary
from carbontrack.integrations.pytest_plugin import baseline, table
from carbontrack.integrations.pytest_plugin.baseline import Occasion
from carbontrack.integrations.pytest_plugin.commit import head_commit
from carbontrack.integrations.pytest_plugin.guard import Guard
from carbontrack.integrations.pytest_plugin.notes import (
    Compared,
    footnote_lines,
    metrics_lines,
    wrapped,
)
from carbontrack.integrations.pytest_plugin.options import Options
from carbontrack.integrations.pytest_plugin.results import (
    SessionTotal,
    TestResult,
    kwh_or_none,
    utc_text,
)
from carbontrack.record import Record, Status
from carbontrack.system.clock import SystemClock
from carbontrack.system.host import host_id
from carbontrack.system.interrupts import pass_on
from carbontrack.system.version import VERSION
from carbontrack.text import visible, visible_json, visible_markdown

SCHEMA = 1


def report(results: Sequence[TestResult], total: SessionTotal, machine: str) -> dict[str, Any]:
    """The whole run: `{"schema": 1, "session": {…}, "tests": [{…}, …]}`."""
    session = total.to_row() | {
        "pins": "; ".join(sorted({result.pins for result in results})),
        "machine": machine,
        "carbontrack": VERSION,
        "finished_at": utc_text(SystemClock.now_utc()),
    }
    return {"schema": SCHEMA, "session": session, "tests": [one.to_row() for one in results]}


def benchmark_list(results: Sequence[TestResult]) -> list[dict[str, Any]]:
    """The list that github-action-benchmark reads as `customSmallerIsBetter`."""
    entries: list[dict[str, Any]] = []
    for result in results:
        if result.outcome != "passed" and result.verdict is None:
            continue
        columns = (
            ("CO2e", "mg", 1e3, "emissions_g", "emissions_low_g", "emissions_high_g"),
            ("energy", "J", 1.0, "energy_joules", "energy_low_joules", "energy_high_joules"),
        )
        for what, unit, factor, column, low_column, high_column in columns:
            figure, low = getattr(result, column), getattr(result, low_column)
            high = getattr(result, high_column)
            if figure is None:
                continue
            entry = {
                "name": f"{result.nodeid} ({what})",
                "unit": unit,
                "value": figure * factor,
                "extra": f"{result.metric}, {result.pins}",
            }
            if low is not None and high is not None:
                entry["range"] = f"± {(high - low) / 2.0 * factor:.3g}"
            entries.append(entry)
    return entries


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically: the file appears when it is complete.

    A device or a pipe is written to directly; of a symbolic link, the target is replaced.
    """
    import json

    encoded = visible_json(json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    special = path.exists() and not path.is_file()
    path = path if special else Path(os.path.realpath(path))
    if special or not os.access(path.parent, os.W_OK):
        path.write_bytes(encoded)
        return
    from carbontrack.system.files import replace_file

    replace_file(path, encoded)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run's records come from.

    Attributes:
        parent: what the environment says of the run that pytest was started in, such as
            `carbontrack run`. It includes the tests, so reports do not add up both.
        state_dir: the folder with that run's journal.
        host_id: the machine's name in records.
    """

    parent: str | None
    state_dir: Path
    host_id: str | None

    @classmethod
    def here(cls, host: str | None, state_dir: Path) -> Origin:
        """The origin now, before a test changes the environment; `host` is the setting, if any."""
        return cls(parent_id(), state_dir, host or host_id())

    def columns(self) -> dict[str, Any]:
        """The columns that it fills in every record."""
        if self.parent is None:
            return {"host_id": self.host_id}
        from carbontrack.api.assembly import parents_of

        parents = parents_of(self.parent, self.state_dir, "process")
        parents.look()
        columns = {"parent_id": parents.parent_id, "parent_holds": parents.holds}
        return {"host_id": self.host_id, **columns}


def append_csv(path: Path, results: Sequence[TestResult], origin: Origin) -> None:
    """Append a record for each test, for `carbontrack report`."""
    from carbontrack.sinks.csv_file import CsvSink

    run_id, now = os.urandom(16).hex(), utc_text(SystemClock.now_utc())
    sink, columns = CsvSink(path), origin.columns()
    try:
        for number, result in enumerate(results, 1):
            record = _record(result, run_id, number, now)
            sink.write(replace(record, **columns))
    finally:
        sink.close()


def _record(result: TestResult, run_id: str, number: int, now: str) -> Record:
    status: Status = "error" if result.outcome == "failed" else "ok"
    labels = {"outcome": result.outcome, "metric": result.metric, "pins": result.pins}
    facts = {"budget": result.budget, "verdict": result.verdict, "change": result.change}
    return Record(
        record_id=f"{run_id}-{number}",
        run_id=run_id,
        name=result.nodeid,
        labels=labels | {name: fact for name, fact in facts.items() if fact is not None},
        status="budget" if result.verdict == "over" else status,
        error=result.reason if result.verdict == "over" else None,
        started_at=result.started_at or now,
        ended_at=result.ended_at or now,
        duration_s=result.duration_s,
        calls=max(1, len(result.rounds_joules)),
        energy_kwh=kwh_or_none(result.energy_joules),
        energy_low_kwh=kwh_or_none(result.energy_low_joules),
        energy_high_kwh=kwh_or_none(result.energy_high_joules),
        emissions_g=result.emissions_g,
        emissions_low_g=result.emissions_low_g,
        emissions_high_g=result.emissions_high_g,
        basis=result.basis,  # type: ignore[arg-type]
        pid=result.pid,
        carbontrack=VERSION,
    )


REPORT_KEY = "carbon"
"""The attribute by which a report carries the result; pytest-xdist sends attributes along."""
_RED, _YELLOW = {"red": True}, {"yellow": True}


class SessionOutput:
    """Collects the results of a session, and writes them to the terminal and to files at its end.

    A plugin of pytest; under pytest-xdist it runs in the controller alone.
    """

    def __init__(
        self, options: Options, origin: Origin, root: Path, compared: Compared, guard: Guard
    ) -> None:
        self._options = options
        self._guard = guard
        self._root = root
        self._origin = origin
        self._compared = compared
        self._pid = os.getpid()
        self._is_first = options.compare is not None and not options.compare.exists()
        self._found: dict[str, TestResult] = {}
        self._total: SessionTotal | None = None
        self._write_errors: list[str] = []

    @property
    def results(self) -> list[TestResult]:
        """One for each test, in the order of the tests' ids."""
        return [self._found[nodeid] for nodeid in sorted(self._found)]

    # -- hooks of pytest -------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the result that a report carries; of a test that is rerun, the last one counts."""
        row = getattr(report, REPORT_KEY, None)
        if row is not None:
            result = self._guard.run(TestResult.from_row, row)
            if result is not None:
                self._found[result.nodeid] = result

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """A letter, a word and a colour for what the budget decided; None leaves it to pytest."""
        row = getattr(report, REPORT_KEY, None)
        found = None if row is None else self._guard.run(self._status, report, row)
        if found is not None and pytest.version_tuple < (8, 3):
            # its summary of failures would print the word with its colour as a tuple
            return *found[:2], found[2][0]
        return found

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Check the session's budget and write the files, unless nothing was to run."""
        nothing_runs = (
            session.config.option.collectonly or session.exitstatus == pytest.ExitCode.USAGE_ERROR
        )
        # a child that a test has forked also gets here when it leaves by sys.exit
        if nothing_runs or os.getpid() != self._pid:
            return
        if self._guard.run(self._finish) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table; less of it with -q."""
        self._guard.run(self._summarise, terminalreporter)

    # -- what they do ----------------------------------------------------------------------------

    def _summarise(self, terminal: Any) -> None:
        total, results = self._total, self.results
        if total is None or not (results or self._options.measures_all):
            return
        verbosity, width = terminal.config.get_verbosity(), terminal._tw.fullwidth
        bad = total.over or (total.verdict is not None and total.verdict.outcome == "over")
        warnings = self._no_match_warning()
        is_needed = bad or warnings or self._write_errors
        if verbosity < -1 and not is_needed:
            return
        if verbosity < 0:
            self._table(terminal, [result for result in results if _failed_its_budget(result)])
        else:
            terminal.write_sep("=", "carbontrack", bold=True)  # ends the line of the tests first
            for line in (*metrics_lines(results), *self._compared.lines(results)):
                for part in wrapped(line, width):
                    terminal.write_line(part)
            shown = table.costliest(results, self._options.top)
            self._table(terminal, shown)
            for line in footnote_lines(shown, width):
                terminal.write_line(line)
        self._tell(terminal, total, warnings, is_over=bool(bad))

    def _tell(
        self, terminal: Any, total: SessionTotal, warnings: list[str], *, is_over: bool
    ) -> None:
        """The sum in one line, and what was not compared or not written."""
        unsure = total.inconclusive and self._options.inconclusive != "pass"
        terminal.write_line(total.text, **(_RED if is_over else _YELLOW if unsure else {}))
        if total.verdict is not None:
            markup = {"over": _RED, "inconclusive": _YELLOW}.get(total.verdict.outcome, {})
            terminal.write_line(f"the session is {total.verdict.text}", **markup)
        new = baseline.new_tests_note(self.results, self._options)
        if new is not None:
            terminal.write_line(new)
        for line in warnings:
            terminal.write_line(visible(line), **_YELLOW)
        for error in self._write_errors:
            terminal.write_line(visible(error), **_RED)

    def _status(self, report: Any, row: dict[str, Any]) -> Any:
        if report.failed and row["verdict"] == "over":
            return "failed", "C", ("CARBON BUDGET", _RED)
        if row["verdict"] == "inconclusive":
            if report.failed:
                return "failed", "C", ("CARBON BUDGET INCONCLUSIVE", _RED)
            if self._options.inconclusive == "warn":
                return "passed", "c", ("PASSED, CARBON BUDGET INCONCLUSIVE", _YELLOW)
        return None

    def _finish(self) -> bool:
        """Check the session's budget and write every file; True if it is exceeded."""
        results, options = self.results, self._options
        # where nothing was measured there is no verdict, and nothing to be unsure of
        budget = options.session_budget if results else None
        total = self._total = SessionTotal.of(results, budget)
        if options.json is not None:
            self._try(write_json, options.json, report(results, total, self._compared.machine))
        if options.benchmark is not None:
            self._try(write_json, options.benchmark, benchmark_list(results))
        if not results:
            return False
        if options.csv is not None:
            self._try(append_csv, options.csv, results, self._origin)
        self._save(results)
        page = step_summary()
        if page is not None:
            self._try(_append, page, self._markdown(total))
        if total.verdict is None:
            return False
        unsure = total.verdict.outcome == "inconclusive" and options.inconclusive == "fail"
        return total.verdict.outcome == "over" or unsure

    def _save(self, results: list[TestResult]) -> None:
        save, add = self._options.save, self._options.add
        if save is None and add is None:
            return
        now = utc_text(SystemClock.now_utc())
        occasion = Occasion(self._compared.machine, now, head_commit(self._root))
        if save is not None:
            self._try(baseline.save, save, results, occasion)
        if add is not None:
            self._try(baseline.add, add, results, occasion)

    def _try(self, write: Callable[..., None], path: Path, *what: Any) -> None:
        try:
            write(path, *what)
        except Exception as error:
            pass_on(error)
            # the tests have run: a full disk must not hide their results
            self._write_errors.append(f"{path} was not written: {error}")

    def _markdown(self, total: SessionTotal) -> str:
        results = self.results
        shown = table.costliest(results, self._options.top)
        notes = [f"{total.text}."]
        if total.verdict is not None:
            notes.append(f"The session is {total.verdict.text}.")
        notes += [*self._compared.lines(results), *metrics_lines(results)]
        warnings = self._no_match_warning()
        new = baseline.new_tests_note(results, self._options)
        notes = list(map(visible_markdown, notes))
        bold = (line for line in (*warnings, new) if line is not None)
        notes += [f"**{visible_markdown(line)}**" for line in bold]
        return table.markdown(shown, title="Emissions of the tests", notes=notes)

    def _no_match_warning(self) -> list[str]:
        return baseline.no_match_warning(
            self.results, self._options, self._root, is_first=self._is_first
        )

    def _table(self, terminal: Any, shown: list[TestResult]) -> None:
        if not shown:
            return
        header, *rows = table.lines(shown, width=terminal._tw.fullwidth)
        terminal.write_line(header, bold=True)
        for result, row in zip(shown, rows, strict=True):
            markup = {"over": _RED, "inconclusive": _YELLOW}.get(result.verdict or "", {})
            terminal.write_line(row, **markup)


def _failed_its_budget(result: TestResult) -> bool:
    return result.verdict == "over" or (
        result.verdict == "inconclusive" and result.outcome == "failed"
    )


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text + "\n")
