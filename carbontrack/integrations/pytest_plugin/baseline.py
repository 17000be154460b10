"""Baselines: saving what tests used, comparing with it, and the check of `--carbon-fail-on`.

A baseline keeps the rounds of each test, process by process, per metric and machine. A comparison
is the ratio of two figures with its interval.

A test's figure differs from one process to the next though its code has not changed: the addresses
of code and data decide which of them compete for a cache line or a branch predictor's entry
(Mytkowicz et al., "Producing Wrong Data Without Doing Anything Obviously Wrong!", ASPLOS 2009).
Rounds in one process share that, so their spread does not show it. Intervals are therefore computed
from the spread among processes, and where there is only one process, from the recorded spread.
The derivation is in docs/explanation/comparing.md.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any

from carbontrack.api.forecast import student_t
from carbontrack.errors import ConfigError
from carbontrack.integrations.pytest_plugin.metrics import Metric, Statistic
from carbontrack.integrations.pytest_plugin.options import Options
from carbontrack.integrations.pytest_plugin.reference import RELATIVE_UNCERTAINTY
from carbontrack.integrations.pytest_plugin.results import TestResult

RESAMPLES = 1000
FEWEST_ROUNDS = 3
"""With fewer rounds on either side there is no interval, so no test is over the limit."""
NEW, TOO_SMALL, ZERO = "new", "too small to compare", "the baseline is zero"
"""Notes that the regression check looks at: only some of them can hide a change."""
OTHER_METRIC = "the baseline is by "
OTHER_PINS, OTHER_MACHINE = "the baseline has other pins", "the baseline is another machine's"
NOTHING = "nothing measured"
_SHORT = {
    TOO_SMALL: "too small",
    ZERO: "baseline is 0",
    OTHER_PINS: "other pins",
    OTHER_MACHINE: "other machine",
    NOTHING: "no reading",
}
"""The notes in the table, which has little room."""
_AS_FACTOR = 2.0
"""A ratio above this is shown as a factor: "+44400 %" is hard to read."""
PRIOR_DEGREES = 5.7
"""The degrees of freedom of the recorded spread among processes, as a prior."""

Rounds = Sequence[float]
Processes = Sequence[Rounds]
"""The rounds of a test, process by process."""


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """A test's figure compared with its baseline.

    Attributes:
        ratio: new figure over old figure; 1.2 is 20 % more. None where there is none.
        low, high: 95 % interval of the ratio; None with fewer than three rounds on a side.
        note: why there is no ratio, or no interval.
    """

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    note: str | None = None

    @property
    def text(self) -> str:
        """The ratio as a change: "+21.3 % (+18.9 to +24.0)", "x445 (x389 to x511)"."""
        if self.ratio is None:
            return self.note or "not compared"
        change = change_text(self.ratio, self.low, self.high)
        return f"{change} ({self.note})" if self.low is None and self.note else change


def change_text(ratio: float, low: float | None = None, high: float | None = None) -> str:
    """A ratio with its interval: up to +100 % as a percentage, above it as a factor."""
    is_factor = round(ratio, 3) > _AS_FACTOR
    form = _factor if is_factor else _percentage
    change = form(ratio) if is_factor else f"{form(ratio)} %"
    return change if low is None or high is None else f"{change} ({form(low)} to {form(high)})"


def _factor(ratio: float) -> str:
    """With three digits, or all of those before the decimal point: "x2.10", "x37.1", "x1,234"."""
    decimals = 2 if ratio < 9.995 else 1 if ratio < 99.95 else 0
    return f"x{ratio:,.{decimals}f}"


def _percentage(ratio: float) -> str:
    return f"{(ratio - 1.0) * 100.0:+.1f}"


def change_in_short(result: TestResult) -> str:
    """A test's change as the table has room for it; "" where it was not compared."""
    if result.ratio is not None:
        return change_text(result.ratio, result.ratio_low, result.ratio_high)
    change = result.change or ""
    return "other metric" if change.startswith(OTHER_METRIC) else _SHORT.get(change, change)


def compare(
    now: Processes,
    then: Processes,
    *,
    statistic: Statistic,
    seed: str,
    spread: float,
    machines_differ_by: float = 0.0,
) -> BaselineComparison:
    """The ratio of two figures and its 95 % interval.

    Each side's figure is the mean of its processes' figures. The interval has three parts, whose
    logarithms add in quadrature: the spread among processes; where a side has one process only, the
    spread of its rounds; and the difference between two machines.

    Args:
        now: rounds in joules, process by process; at least one.
        then: the same of the baseline.
        statistic: makes a figure of the rounds of a process.
        seed: of the random draws, so that a verdict can be reproduced.
        spread: relative standard deviation of a figure among processes, as recorded.
        machines_differ_by: relative half-width, 95 %, where the sides ran on two machines.
    """
    figures, base = [statistic(rounds) for rounds in now], [statistic(rounds) for rounds in then]
    if min(base) <= 0.0:
        return BaselineComparison(note=ZERO)
    ratio = fmean(figures) / fmean(base)
    if min(sum(map(len, now)), sum(map(len, then))) < FEWEST_ROUNDS:
        return BaselineComparison(ratio, note=f"no interval with fewer than {FEWEST_ROUNDS} rounds")
    low, high = _of_rounds(now, then, statistic, random.Random(seed))  # noqa: S311 - no secrets
    apart = math.hypot(_of_processes(figures, base, spread), machines_differ_by)
    return BaselineComparison(
        ratio, ratio * math.exp(-math.hypot(low, apart)), ratio * math.exp(math.hypot(high, apart))
    )


def _of_processes(figures: Rounds, base: Rounds, spread: float) -> float:
    """Half-width of the ratio's logarithm for the spread among processes.

    The observed spread, pooled over both sides, is moderated by the recorded one, which counts as
    `PRIOR_DEGREES` further degrees of freedom (Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004).
    """
    degrees = PRIOR_DEGREES + len(figures) + len(base) - 2
    squares = sum(_relative_squares(side) for side in (figures, base))
    variance = (PRIOR_DEGREES * spread**2 + squares) / degrees
    return student_t(degrees) * math.sqrt(variance * (1.0 / len(figures) + 1.0 / len(base)))


def _relative_squares(side: Rounds) -> float:
    mean = fmean(side)
    return sum((one / mean - 1.0) ** 2 for one in side) if mean > 0.0 else 0.0


def _of_rounds(
    now: Processes, then: Processes, statistic: Statistic, draw: random.Random
) -> tuple[float, float]:
    """How far below and above the ratio's logarithm may lie because of the rounds of one process.

    Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13):
    rounds are resampled with replacement 1,000 times; the ends are the 2.5th and 97.5th
    percentiles. With two or more processes their spread includes that of the rounds.
    """

    def again(side: Processes) -> float:
        if len(side) > 1:
            return 1.0
        return statistic(draw.choices(side[0], k=len(side[0]))) / statistic(side[0])

    if len(now) > 1 < len(then) or statistic(now[0]) <= 0.0:
        return 0.0, 0.0
    drawn = sorted(again(now) / again(then) for _ in range(RESAMPLES))
    low, high = drawn[round(0.025 * RESAMPLES)], drawn[round(0.975 * RESAMPLES) - 1]
    return max(0.0, -math.log(max(low, 1e-9))), max(0.0, math.log(high))


SCHEMA = 2
LEAST_RESOLUTIONS = 10.0
"""A figure below this many resolutions may change by 10 % because of the reading alone."""
MOST_PROCESSES = 50
"""How many processes are kept of a test; the latest ones."""
KIND = "carbontrack baseline"

Key = tuple[str, str, str]
"""Test id, metric and machine."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One test in a baseline; `rounds_joules` has a tuple for each process."""

    pins: str
    rounds_joules: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Entries by test id, metric and machine.

    `saved_at` is when the file was last written (UTC, ISO 8601) and `commit` what was checked out
    in the project then; None in files that do not tell.
    """

    entries: Mapping[Key, Entry]
    saved_at: str | None = None
    commit: str | None = None

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read a baseline, of this schema or an older one.

        Raises:
            ConfigError: there is no such file, or it is not a baseline.
        """
        try:
            content = json.loads(path.read_bytes())
            entries = _entries(content)
            known = (content.get(key) for key in ("saved_at", "commit"))
            found = cls(entries, *(one and str(one) for one in known))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is not a baseline of carbontrack: {error!r}") from error
        return found

    @classmethod
    def load_if_there(cls, path: Path | None) -> Baseline:
        """Read a baseline; one without entries where there is no file yet.

        Raises:
            ConfigError: it is not a baseline.
        """
        return cls.load(path) if path is not None and path.exists() else cls({})

    def processes(self, result: TestResult, machine: str) -> Processes:
        """A test's rounds in other processes on the machine, by the same metric and pins."""
        entry = self.entries.get((result.nodeid, result.metric, machine))
        return entry.rounds_joules if entry is not None and entry.pins == result.pins else ()

    def compare(
        self,
        result: TestResult,
        metric: Metric,
        *,
        machine: str,
        earlier: Processes = (),
        resolution_joules: float = 0.0,
    ) -> BaselineComparison:
        """Compare a test with its entry; the note says why where that is not possible.

        Args:
            result: of the test in this process.
            metric: by which it was measured.
            machine: the fingerprint of this machine.
            earlier: rounds of the same code in other processes, counted with this one's.
            resolution_joules: the least that can be told from zero.
        """
        entry, its_machine = self.entry(result.nodeid, metric.name, machine)
        elsewhere = its_machine != machine
        if entry is None:
            others = {name for nodeid, name, _ in self.entries if nodeid == result.nodeid}
            found = f"{OTHER_METRIC}{', '.join(sorted(others))}" if others else NEW
            return BaselineComparison(note=found)
        if not result.rounds_joules:
            return BaselineComparison(note=NOTHING)
        if entry.pins != result.pins:
            return BaselineComparison(note=OTHER_PINS)
        now, then = (*earlier, result.rounds_joules), entry.rounds_joules
        if max(map(metric.statistic, (*now, *then))) < LEAST_RESOLUTIONS * resolution_joules:
            return BaselineComparison(note=TOO_SMALL)
        if elsewhere and not metric.same_everywhere:
            return BaselineComparison(note=OTHER_MACHINE)
        return compare(
            now,
            then,
            statistic=metric.statistic,
            seed=result.nodeid,
            spread=metric.spread,
            machines_differ_by=RELATIVE_UNCERTAINTY * sqrt(2.0) if elsewhere else 0.0,
        )

    def entry(self, nodeid: str, metric: str, machine: str) -> tuple[Entry | None, str]:
        """A test's entry and the machine of it: this one, if the baseline has an entry of it."""
        own = self.entries.get((nodeid, metric, machine))
        if own is not None:
            return own, machine
        of_others = (
            (e, of) for (n, m, of), e in self.entries.items() if (n, m) == (nodeid, metric)
        )
        return next(of_others, (None, machine))


def _entries(content: Mapping[str, Any]) -> dict[Key, Entry]:
    schema = content["schema"]
    if schema not in (1, SCHEMA) or content["kind"] != KIND:
        raise ValueError(f"schema {schema} is not {SCHEMA}")
    return {
        (str(row["nodeid"]), str(row["metric"]), str(row["machine"])): _entry(row, schema)
        for row in content["tests"]
    }


def _entry(row: Mapping[str, Any], schema: int) -> Entry:
    processes = [row["rounds_joules"]] if schema == 1 else row["rounds_joules"]
    if not processes or not all(isinstance(rounds, list) and rounds for rounds in processes):
        raise ValueError(f"{row['nodeid']} has no rounds")
    return Entry(str(row["pins"]), tuple(tuple(map(float, rounds)) for rounds in processes))


@dataclass(frozen=True, slots=True)
class Occasion:
    """On which machine, when (UTC, ISO 8601) and at which commit figures are saved."""

    machine: str
    saved_at: str | None = None
    commit: str | None = None


def save(path: Path, results: Iterable[TestResult], occasion: Occasion) -> None:
    """Write the figures of tests that passed; the file keeps those of other tests."""
    _write(path, results, occasion, adds=False)


def add(path: Path, results: Iterable[TestResult], occasion: Occasion) -> None:
    """Add the figures of tests that passed to those of earlier processes."""
    _write(path, results, occasion, adds=True)


def _write(path: Path, results: Iterable[TestResult], occasion: Occasion, *, adds: bool) -> None:
    machine = occasion.machine
    before = Baseline.load_if_there(path)
    entries = dict(before.entries)
    for result in results:
        if result.outcome == "passed" and result.rounds_joules:
            kept = before.processes(result, machine) if adds else ()
            processes = (*map(tuple, kept), tuple(result.rounds_joules))[-MOST_PROCESSES:]
            entries[result.nodeid, result.metric, machine] = Entry(result.pins, processes)
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "saved_at": occasion.saved_at,
        "commit": occasion.commit,
        "tests": [_row(key, entries[key]) for key in sorted(entries)],
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _row(key: Key, entry: Entry) -> dict[str, object]:
    nodeid, metric, machine = key
    return {
        "nodeid": nodeid,
        "metric": metric,
        "pins": entry.pins,
        "machine": machine,
        "rounds_joules": [list(rounds) for rounds in entry.rounds_joules],
    }


def with_regression_verdict(
    result: TestResult, found: BaselineComparison, limit: float
) -> TestResult:
    """The result with the verdict of the regression check.

    Over: even the lower end of the change is over the limit. Inconclusive: the change is over and
    its lower end is not, or it is unknown in a way that could hide a change. Otherwise the result
    stays as it is.
    """
    allowed = f"{limit * 100.0:+.3g} %"
    if found.low is not None and found.low > 1.0 + limit:
        reason = f"{found.text} compared with the baseline; {allowed} is allowed"
        return replace(result, verdict="over", reason=_both(result, reason))
    if result.verdict == "over" or not _may_hide(found, limit, result):
        return result
    reason = f"not checked against {allowed}: {found.note}"
    if found.low is not None:
        reason = f"{found.text} compared with the baseline, possibly over {allowed}"
    return replace(result, verdict="inconclusive", reason=_both(result, reason))


def _may_hide(found: BaselineComparison, limit: float, result: TestResult) -> bool:
    """Whether a change above the limit is possible."""
    if found.ratio is not None:
        return found.low is None or found.ratio > 1.0 + limit
    if found.note == ZERO:
        return bool(result.energy_joules)
    return found.note not in (NEW, TOO_SMALL)


def _both(result: TestResult, reason: str) -> str:
    return reason if result.reason is None else f"{result.reason}; {reason}"


def no_match_warning(
    results: Sequence[TestResult], options: Options, root: Path, *, is_first: bool
) -> list[str]:
    """Lines of warning where the baseline has none of the tests: it is most likely the wrong file.

    Args:
        results: of the tests.
        options: of the run.
        root: pytest's root directory, where ids begin.
        is_first: there was no baseline before this run.
    """
    known, new = _known_and_new(results)
    if known or not new:
        return []
    if is_first:
        return [f"nothing was compared: {options.compare} did not exist; this run creates it"]
    return [
        f"nothing was compared: {options.compare} has none of the {_tests(new)} of this run",
        f"Tests are matched by their ids, which begin at pytest's root directory: {root}.",
        "If that directory has changed, write --carbon-compare=PATH with '='.",
    ]


def new_tests_note(results: Sequence[TestResult], options: Options) -> str | None:
    """How many tests the regression check leaves out because they are new."""
    known, new = _known_and_new(results)
    if options.fail_on is None or not known or not new:
        return None
    are = "is" if new == 1 else "are"
    return f"{_tests(new)} {are} not in the baseline, so the change is not checked"


def _known_and_new(results: Sequence[TestResult]) -> tuple[int, int]:
    changes = [result.change for result in results if result.change is not None]
    new = changes.count(NEW)
    return len(changes) - new, new


def _tests(count: int) -> str:
    return f"{count} test{'' if count == 1 else 's'}"
