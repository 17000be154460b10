"""Running a test several times, each with fixtures of its own, and telling pytest of one run."""

from __future__ import annotations

from typing import Any, Protocol

import pytest
from _pytest.runner import runtestprotocol


class AfterRound(Protocol):
    """Hears how a round went, and says whether to go on."""

    def __call__(self, *, passed: bool) -> bool:
        """True to go on."""
        ...


def can_repeat(item: pytest.Item) -> bool:
    """Whether a test can be run again: not when a plugin reruns it, or it cannot begin anew."""
    reruns = item.config.getoption("reruns", None) or item.get_closest_marker("flaky")
    return hasattr(item, "_initrequest") and not reruns


def run(
    item: pytest.Item,
    nextitem: pytest.Item | None,
    repeat: int,
    *,
    after_round: AfterRound,
) -> list[pytest.TestReport]:
    """The reports of the first round, after up to `repeat` rounds.

    The first round is the test's own: its outcome, output and failures are what pytest tells. Later
    rounds only measure, and end early where one fails, since not every test can be run twice.
    Fixtures of wider scope than the test stay as they are between rounds.

    Args:
        item: the test.
        nextitem: the test that comes next.
        repeat: how many rounds, 1 or more.
        after_round: called with whether the round passed; says whether to go on.
    """
    stays: Any = item.parent if repeat > 1 else nextitem  # only its listchain() is asked for
    reports = runtestprotocol(item, nextitem=stays, log=False)
    goes_on = after_round(passed=_passed(reports)) and repeat > 1
    for number in range(2, repeat + 1):
        if not goes_on or item.session.shouldstop:
            break
        goes_on = after_round(passed=_passed(runtestprotocol(item, nextitem=stays, log=False)))
        goes_on = goes_on and number < repeat
    if repeat > 1:
        # what the rounds left standing; pytest's own hooks for a test's end have run by now
        state = item.session._setupstate
        end = pytest.CallInfo.from_call(lambda: state.teardown_exact(nextitem), when="teardown")
        if end.excinfo is not None:
            reports.append(pytest.TestReport.from_item_and_call(item, end))
    return reports


def _passed(reports: list[pytest.TestReport]) -> bool:
    return all(report.passed and not hasattr(report, "wasxfail") for report in reports)
