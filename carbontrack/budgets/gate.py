"""The gate of `--carbon-fail-on`: what a comparison means for a test, and what the run is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from carbontrack.budgets.comparison import NEW, TOO_SMALL, ZERO, Comparison
from carbontrack.budgets.options import Options
from carbontrack.budgets.result import TestResult


def ruled(result: TestResult, found: Comparison, limit: float) -> TestResult:
    """The result with what the gate says of it.

    Over: even the lower end of the change is over the limit. Inconclusive: the change is over and
    its lower end is not, or it cannot be known, which would hide a change. All else stays as it is.
    """
    allowed = f"{limit * 100.0:+.3g} %"
    if found.low is not None and found.low > 1.0 + limit:
        reason = f"{found.text} against the baseline, where {allowed} is allowed"
        return replace(result, verdict="over", reason=_both(result, reason))
    if result.verdict == "over" or not _may_hide(found, limit, result):
        return result
    reason = f"not judged by the baseline at {allowed}: {found.note}"
    if found.low is not None:
        reason = f"{found.text} against the baseline, not surely within or over {allowed}"
    return replace(result, verdict="inconclusive", reason=_both(result, reason))


def _may_hide(found: Comparison, limit: float, result: TestResult) -> bool:
    """Whether a change above the limit could stand behind what was found."""
    if found.ratio is not None:
        return found.low is None or found.ratio > 1.0 + limit
    if found.note == ZERO:
        return bool(result.energy_joules)
    return found.note not in (NEW, TOO_SMALL)


def _both(result: TestResult, reason: str) -> str:
    return reason if result.reason is None else f"{result.reason}; {reason}"


def missing(results: Sequence[TestResult], options: Options, root: Path) -> list[str]:
    """What to say loudly where the baseline knows none of the tests: most likely it is not theirs.

    Args:
        results: of the tests.
        options: what was asked for.
        root: pytest's root directory, where ids begin.
    """
    known, new = _known_and_new(results)
    if known or not new:
        return []
    return [
        f"nothing was compared: of {_tests(new)} none is in {options.compare}",
        f"tests are known by their ids, which begin at pytest's root directory, here {root}",
        "where that has moved, write --carbon-compare=PATH with '=': see the reference page",
    ]


def unjudged(results: Sequence[TestResult], options: Options) -> str | None:
    """How many tests the gate let through because they are new."""
    known, new = _known_and_new(results)
    if options.fail_on is None or not known or not new:
        return None
    return f"{_tests(new)} not in the baseline, and not judged by it"


def _known_and_new(results: Sequence[TestResult]) -> tuple[int, int]:
    changes = [result.change for result in results if result.change is not None]
    new = changes.count(NEW)
    return len(changes) - new, new


def _tests(count: int) -> str:
    return f"{count} test{'' if count == 1 else 's'}"
