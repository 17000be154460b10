"""The lines around the table: by what was measured, compared with what, and why not."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from carbontrack.integrations.pytest_plugin import baseline
from carbontrack.integrations.pytest_plugin.baseline import Baseline
from carbontrack.integrations.pytest_plugin.results import TestResult
from carbontrack.integrations.pytest_plugin.table import short_id
from carbontrack.text import visible

REFERENCE = "Estimated from CPU time with fixed factors, to compare code across machines."
"""What the reference metric is, in one short line."""
_SPEED = re.compile(r"speed (\d+\.\d+)")
_EXPLAINED = {
    baseline.TOO_SMALL: "too small: less energy than a comparison can tell apart",
    baseline.ZERO: "baseline is 0: there is no ratio to zero",
    baseline.OTHER_PINS: "other pins: the baseline is for other watts or g CO2e/kWh",
    baseline.OTHER_MACHINE: "other machine: measured energy is compared on one machine only",
    baseline.NOTHING: "no reading: no meter gave a reading",
}


@dataclass(frozen=True, slots=True)
class Compared:
    """What a run is compared with.

    Attributes:
        path: of the baseline, as it was asked for; None where nothing is compared.
        then: the baseline, as it was before this run.
        earlier: measurements of the same code in earlier processes.
        machine: the fingerprint of this machine.
    """

    path: str | None = None
    then: Baseline = field(default_factory=lambda: Baseline({}))
    earlier: Baseline = field(default_factory=lambda: Baseline({}))
    machine: str = ""

    def lines(self, results: Sequence[TestResult]) -> list[str]:
        """The file with its date and commit, the numbers of processes, and the machines."""
        found = [self.then.entry(one.nodeid, one.metric, self.machine) for one in results]
        entries = [(entry, machine) for entry, machine in found if entry is not None]
        if self.path is None or not entries:
            return []
        then = _range([len(entry.rounds_joules) for entry, _ in entries])
        now = _range([1 + len(self.earlier.processes(one, self.machine)) for one in results])
        workers = len({one.pid for one in results if one.pid is not None})
        workers_text = f" ({workers} xdist workers)" if workers > 1 else ""
        machines = sorted({machine for _, machine in entries})
        if machines == [self.machine]:
            machine = [f"machine: {self.machine}, as in the baseline"]
        else:
            machine = [f"machine: {self.machine}", f"baseline's machine: {'; '.join(machines)}"]
        return [
            f"compared with {self.path}{self._occasion()}",
            f"processes per test: {then} in the baseline, {now} now{workers_text}",
            *machine,
        ]

    def _occasion(self) -> str:
        at, commit = self.then.saved_at, self.then.commit
        date = f", saved {at[:16].replace('T', ' ')} UTC" if at else ""
        return f"{date}, commit {commit[:10]}" if commit else date


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def metrics_lines(results: Sequence[TestResult]) -> list[str]:
    """By what was measured; workers of one machine share a line, whatever speeds they saw."""
    speeds: dict[tuple[str, ...], list[str]] = {}
    for how in sorted({result.how for result in results if result.how}):
        before, *found = _SPEED.split(how, maxsplit=1)
        speeds.setdefault((before, *found[1:]), []).extend(found[:1])
    lines = [f"speed {_ends(seen)}".join(around) for around, seen in speeds.items()]
    is_estimate = any(result.how.startswith("reference metric") for result in results)
    return [*lines, REFERENCE] if is_estimate else lines


def _ends(numbers: Sequence[str]) -> str:
    if not numbers:
        return ""
    low, high = min(numbers, key=float), max(numbers, key=float)
    return low if low == high else f"{low} to {high}"


def footnotes(results: Sequence[TestResult]) -> list[tuple[str, str]]:
    """What the table has no room for, each with its test, or with the number of its tests."""
    told: dict[str, list[str]] = {}
    for result in results:
        reason = result.reason if result.verdict == "inconclusive" else None
        for text in filter(None, (reason, result.note, None if reason else _why(result))):
            told.setdefault(text, []).append(result.nodeid)
    return [(ids[0] if len(ids) == 1 else f"{len(ids)} tests", text) for text, ids in told.items()]


def _why(result: TestResult) -> str | None:
    """Why a test has no change, or a change without an interval."""
    if result.ratio is not None and result.ratio_low is None:
        fewest = baseline.FEWEST_ROUNDS
        return f"no interval: it takes {fewest} rounds in both runs (--carbon-repeat {fewest})"
    change = result.change or ""
    if change.startswith(baseline.OTHER_METRIC):
        return f"other metric: {change}"
    return _EXPLAINED.get(change)


def wrapped(line: str, width: int) -> list[str]:
    """A line in lines of `width` columns; those after the first are indented."""
    return textwrap.wrap(visible(line), width, subsequent_indent="  ", break_on_hyphens=False)


def footnote_lines(results: Sequence[TestResult], width: int) -> list[str]:
    """The footnotes for a terminal."""
    lines: list[str] = []
    for whose, text in footnotes(results):
        name = short_id(visible(whose), max(width - 2, 8))
        lines += wrapped(f"{name}: {text}", width)
    return lines
