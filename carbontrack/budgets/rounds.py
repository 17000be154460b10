"""Running a test several times, each with fixtures of its own, and telling pytest of one run."""

from __future__ import annotations

import copy
from typing import Protocol

import pytest
from _pytest.runner import runtestprotocol


class AfterRound(Protocol):
    """Hears how a round went, and says whether to go on."""

    def __call__(self, *, passed: bool) -> bool:
        """True to go on."""
        ...


def can_repeat(item: pytest.Item) -> bool:
    """Whether a test can begin anew."""
    return hasattr(item, "_initrequest")


def is_rerun(item: pytest.Item) -> bool:
    """Whether pytest-rerunfailures runs a test again when it fails; then the test is that plugin's.

    Its order: the option that forces, the marker, the other option, the ini.
    """
    forced = item.config.getoption("force_reruns", None)
    if forced is not None:
        return bool(forced)
    if item.get_closest_marker("flaky") is not None:
        return True
    reruns = item.config.getoption("reruns", None)
    return bool(_ini_reruns(item.config) if reruns is None else reruns)


def _ini_reruns(config: pytest.Config) -> int:
    try:
        return int(config.getini("reruns"))
    except (TypeError, ValueError):  # no such plugin, or none asked for
        return 0


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
    # between rounds all that is wider than the test stays; other plugins want a test here, and that
    # pytest tears this one down it must be another object
    stays = copy.copy(item) if repeat > 1 else nextitem
    reports = runtestprotocol(item, nextitem=stays, log=False)
    goes_on = after_round(passed=_passed(reports)) and repeat > 1
    told = list(item.user_properties)
    for number in range(2, repeat + 1):
        if not goes_on or item.session.shouldstop:
            break
        goes_on = after_round(passed=_passed(runtestprotocol(item, nextitem=stays, log=False)))
        item.user_properties[:] = told  # the first round's, each once
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
