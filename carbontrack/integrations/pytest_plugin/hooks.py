"""Where pytest meets the budgets: measure, judge, tell.

Running a test several times, each with fixtures of its own, and telling pytest of one run.
"""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from _pytest.runner import runtestprotocol

from carbontrack.config import environment
from carbontrack.config.environment import Environment
from carbontrack.config.load import load_settings
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.integrations.pytest_plugin import options as limits
from carbontrack.integrations.pytest_plugin import options as marks
from carbontrack.integrations.pytest_plugin.baseline import Baseline, fingerprint
from carbontrack.integrations.pytest_plugin.choose import choose, pins_text
from carbontrack.integrations.pytest_plugin.fixture import (
    CarbonFigures,
    Court,
    FiguresOfTest,
    Watch,
)
from carbontrack.integrations.pytest_plugin.metrics import Metric
from carbontrack.integrations.pytest_plugin.options import Limits, Lookup, Options, resolve
from carbontrack.integrations.pytest_plugin.output import Origin, Telling
from carbontrack.integrations.pytest_plugin.results import PROPERTIES, TestResult, circumstances


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


_EXPECTED = {"skipped": "xfailed", "passed": "xpassed"}
"""pytest's words for a report of a test that is expected to fail."""
REPORT_KEY = "carbon"
"""The attribute by which a report carries the result; pytest-xdist sends attributes along."""


class CarbonPlugin:
    """The plugin while it measures; in workers of pytest-xdist and in their controller."""

    def __init__(self, config: pytest.Config, options: Options, loaded: Settings) -> None:
        self.options = options
        self._settings = loaded
        self.telling = Telling(options, Origin.here(loaded.host_id), config.rootpath)
        self._config = config
        self._pid = os.getpid()
        self._is_worker = hasattr(config, "workerinput")
        self._hands_out = bool(config.getoption("tx", None)) and not self._is_worker
        self._disabled = environment.is_disabled()
        self._default = limits.of_quantity(options.budget)
        self._baseline = Baseline.load(options.compare) if options.compare else None
        self._earlier = Baseline.load_if_there(options.add)
        Baseline.load_if_there(options.save)  # what is no baseline is told now, not at the end
        needs_machine = options.compares or options.json is not None
        self._machine = fingerprint() if needs_machine else ""
        self._metric: Metric | None = None
        self._watched: dict[str, Watch] = {}

    @classmethod
    def of(cls, config: pytest.Config, names: Sequence[str], ini: Lookup) -> CarbonPlugin:
        """The plugin for a run's options.

        Args:
            config: the run's.
            names: the options by their ini names.
            ini: the ini's values.

        Raises:
            pytest.UsageError: one of them cannot be used.
        """
        cwd = Path(config.invocation_params.dir)
        try:
            # once and now: what a test does to the environment or the folder decides nothing
            here = Environment.take(working_folder=str(cwd))
            loaded = load_settings({"output": None}, here, writes=False)
            if environment.is_disabled():  # works even where the rest is broken
                return cls(config, Options(), loaded)
            options = resolve(
                names,
                option=lambda name: config.getoption(name, None),
                ini=ini,
                environ=environment.pytest_twins(),
                rootdir=config.rootpath,
                cwd=cwd,
            )
            return cls(config, options, loaded)
        except ConfigError as error:
            raise pytest.UsageError(f"carbontrack: {error}") from None

    # -- what is measured, and by what ---------------------------------------------------------

    @property
    def metric(self) -> Metric:
        """The metric, built when it is first needed."""
        if self._metric is None:
            own: Metric | None = self._config.hook.pytest_carbon_metric(config=self._config)
            try:
                self._metric = own or choose(
                    self.options, self._settings, alone=not self._is_worker
                )
            except ConfigError as error:
                raise pytest.UsageError(f"carbontrack: {error}") from None
        return self._metric

    def plan(
        self, items: Sequence[pytest.Item], has_fixture: Callable[[pytest.Item], bool]
    ) -> None:
        """Read the limits of every test, and choose those to measure.

        Args:
            items: the tests.
            has_fixture: whether a test uses our fixture.

        Raises:
            pytest.UsageError: a marker cannot be used.
        """
        if self._disabled:
            return
        for item, limit in zip(items, marks.read(items, self._default), strict=True):
            # a marker that only says how to measure is a wish to measure
            if not limit.says_nothing or self.options.measures_all or has_fixture(item):
                self._watch(item, limit)

    def _watch(self, item: pytest.Item, limit: Limits) -> None:
        repeat = limit.repeat or self.options.repeat
        judged = bool(limit.quantities) or self.options.compares
        watch = Watch(limit, repeat=repeat, judged=judged)
        if repeat > 1 and not can_repeat(item):
            watch.repeat, watch.note = 1, "not repeated: it cannot begin anew"
        self._watched[item.nodeid] = watch

    def figures(self, item: pytest.Item) -> CarbonFigures:
        """What the fixture gives to a test."""
        if self._disabled:
            return CarbonFigures(item.nodeid, self.metric, None)
        if item.nodeid not in self._watched:
            self._watched[item.nodeid] = Watch(self._default, repeat=1, judged=False)
        return FiguresOfTest(item.nodeid, self.metric, self._watched[item.nodeid])

    # -- running -----------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        """Run tests that are repeated, or billed with their fixtures, to their end, then judge."""
        watch = self._watched.get(item.nodeid)
        if watch is None or not watch.is_run_by_us or is_rerun(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        watch.is_ours = True
        try:
            reports = run(item, nextitem, watch.repeat, after_round=watch.end_round)
        finally:
            watch.is_ours = False
        for report in reports:
            if report.when == "call":
                self._judge(item, report, watch, reports)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Any:
        """Measure the fixtures where they are billed."""
        return (yield from self._measured(item, is_call=False))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        """Measure the test."""
        return (yield from self._measured(item, is_call=True))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Any:
        """Measure the fixtures' end where it is billed."""
        try:
            return (yield from self._measured(item, is_call=False))
        finally:
            if item.nodeid in self._watched:
                self._watched[item.nodeid].end_all()

    def _measured(self, item: pytest.Item, *, is_call: bool) -> Any:
        watch = self._watched.get(item.nodeid)
        if watch is None or not (is_call or (watch.bills_fixtures and watch.is_ours)):
            return (yield)
        calibrates = watch.judged and is_call
        if watch.repeat > 1 and is_call and self.metric.spread > 0.0 and gc.isenabled():
            # Else a collection of all that was made before would fall into one round of many. To
            # a metric that is the same in every process it makes no difference.
            gc.collect()
        # of two moments, before and after, the faster one is nearer to what the test itself met
        speed = self.metric.speed_now() if calibrates else None
        watch.end_early()
        watch.window = watch.begin(self.metric, item.nodeid)
        try:
            return (yield)
        finally:
            found = watch.end(watch.window)
            watch.window = None
            if speed is not None:
                found = replace(found, speed=max(speed, self.metric.speed_now()))
            watch.add_part(found)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Judge tests that we do not run; all that others say of the report is said by then."""
        report = yield
        watch = self._watched.get(item.nodeid)
        if watch is None or watch.window is not None:
            return report  # a subtest of a test that is still being measured
        if call.when == "call" and not watch.is_ours:
            watch.note_what_is_left_out()
            watch.rounds.clear()
            watch.end_round(passed=True)
            self._judge(item, report, watch, [report])
        return report

    def _judge(
        self,
        item: pytest.Item,
        report: pytest.TestReport,
        watch: Watch,
        reports: Sequence[pytest.TestReport],
    ) -> None:
        court = Court(self.options, self.metric, self._baseline, self._earlier, self._machine)
        expected = hasattr(report, "wasxfail")
        plain = not expected and all(one.passed for one in reports)
        outcome = _EXPECTED.get(report.outcome, report.outcome) if expected else report.outcome
        result = court.judge(item.nodeid, watch, outcome=outcome, plain=plain)
        if plain and result.outcome == "failed":
            report.outcome = "failed"
            report.longrepr = f"carbon budget: {result.reason}"
        of_figure = reports if watch.bills_fixtures else [report]
        vars(report)[REPORT_KEY] = result.to_row() | circumstances(of_figure)
        theirs = [pair for pair in item.user_properties if pair[0] not in PROPERTIES]
        item.user_properties[:] = [*theirs, *result.properties]
        for one in reports:
            one.user_properties = list(item.user_properties)

    # -- telling -----------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what was found; under pytest-xdist this is where the controller learns of it."""
        row = getattr(report, "carbon", None)
        if row is not None:
            self.telling.add(TestResult.from_row(row))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> Any:
        """A letter, a word and a colour of its own for what the budget decided."""
        row = getattr(report, "carbon", None)
        return None if row is None else self.telling.status(report, row)

    def pytest_report_header(self) -> str | None:
        """The metric with its pins, where the run was asked to measure."""
        if self._disabled or not self.options.measures_all:
            return None
        pins = pins_text(self.options) if self._hands_out else self.metric.describe()
        return f"carbontrack: {pins}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Judge the session and write the files, unless nothing was to run."""
        nothing_runs = (
            session.config.option.collectonly or session.exitstatus == pytest.ExitCode.USAGE_ERROR
        )
        # a child that a test has forked, and that left by sys.exit, comes by here as well
        is_forked = os.getpid() != self._pid
        if self._is_worker or self._disabled or nothing_runs or is_forked:
            return
        if self.telling.finish(self._machine) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table."""
        self.telling.summary(terminalreporter)

    def pytest_unconfigure(self) -> None:
        """Let the meters go."""
        if self._metric is not None:
            self._metric.close()
