"""The hooks that measure: a window around each phase of a test, rounds, and the verdict at its end.

A test that is repeated, or measured with its fixtures, is run here, each round with fixtures of its
own, and pytest gets the reports of one round. All other tests are measured where pytest runs them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from carbontrack.api.hardware import machine_fingerprint
from carbontrack.config import environment
from carbontrack.config.environment import Environment
from carbontrack.config.load import load_settings
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.integrations.pytest_plugin.baseline import Baseline
from carbontrack.integrations.pytest_plugin.choose import choose, pins_text
from carbontrack.integrations.pytest_plugin.fixture import (
    CarbonFigures,
    FiguresOfTest,
    MeasuredTest,
    Verdicts,
)
from carbontrack.integrations.pytest_plugin.guard import Guard, keep_real_files
from carbontrack.integrations.pytest_plugin.metrics import Measurement, Metric, NoMetric
from carbontrack.integrations.pytest_plugin.notes import Compared
from carbontrack.integrations.pytest_plugin.options import (
    BudgetMarker,
    Lookup,
    Options,
    marker_of_quantity,
    plain_id,
    read_markers,
    resolve,
)
from carbontrack.integrations.pytest_plugin.output import REPORT_KEY, Origin, SessionOutput
from carbontrack.integrations.pytest_plugin.results import (
    PROPERTIES,
    TestResult,
    execution_columns,
)
from carbontrack.text import visible


def can_repeat(item: pytest.Item) -> bool:
    """Whether pytest can run a test more than once."""
    return hasattr(item, "_initrequest")


def is_rerun(item: pytest.Item) -> bool:
    """Whether pytest-rerunfailures runs a test again when it fails; such a test is left to it.

    In its order of precedence: `--force-reruns`, the marker, `--reruns`, the ini.
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
    item: pytest.Item, nextitem: pytest.Item | None, test: MeasuredTest
) -> list[pytest.TestReport]:
    """Run a test for each of its rounds, and give the reports of the first one.

    The first round is the test's own: its outcome, output and failures are what pytest reports.
    Later rounds only measure, and end early where one fails, since not every test can be run twice.
    Fixtures of wider scope than the test stay set up between rounds.
    """
    repeat = test.repeat
    # The next item is in the same scopes, so wider fixtures stay up between rounds. Other plugins
    # expect a test there; it must not be the same object, or pytest would not tear this one down.
    same_scopes = copy.copy(item) if repeat > 1 else nextitem
    reports = runtestprotocol(item, nextitem=same_scopes, log=False)
    goes_on = test.end_round(passed=_passed(reports)) and repeat > 1
    properties = list(item.user_properties)
    for number in range(2, repeat + 1):
        if not goes_on or item.session.shouldstop:
            break
        later = runtestprotocol(item, nextitem=same_scopes, log=False)
        goes_on = test.end_round(passed=_passed(later)) and number < repeat
        item.user_properties[:] = properties  # those of the first round, each once
    if repeat > 1:
        # tear down what stayed up between rounds; the hooks for a teardown have run already
        state = item.session._setupstate
        end = pytest.CallInfo.from_call(lambda: state.teardown_exact(nextitem), when="teardown")
        if end.excinfo is not None:
            reports.append(pytest.TestReport.from_item_and_call(item, end))
    return reports


def _passed(reports: list[pytest.TestReport]) -> bool:
    return all(report.passed and not hasattr(report, "wasxfail") for report in reports)


_EXPECTED = {"skipped": "xfailed", "passed": "xpassed"}
"""pytest's outcomes for a test that is expected to fail, by those of its report."""


class CarbonPlugin:
    """The plugin while it measures; in workers of pytest-xdist and in their controller.

    Attributes:
        output: what collects the results, a plugin of its own; None in workers, which send theirs
            to the controller, and where carbontrack is disabled.
    """

    def __init__(self, config: pytest.Config, options: Options, loaded: Settings) -> None:
        self.options = options
        self._settings = loaded
        self._config = config
        self._guard = Guard(config)
        self._is_worker = hasattr(config, "workerinput")
        self._is_controller = bool(config.getoption("tx", None)) and not self._is_worker
        self._disabled = environment.is_disabled()
        self._default = marker_of_quantity(options.budget)
        self._baseline = Baseline.load_if_there(options.compare) if options.compare else None
        self._earlier = Baseline.load_if_there(None if options.adds_to_compared else options.add)
        Baseline.load_if_there(options.save)  # an unusable file is an error now, not at the end
        needs_machine = options.compares or options.json is not None
        self._machine = machine_fingerprint() if needs_machine else ""
        self._metric: Metric | None = None
        self._tests: dict[str, MeasuredTest] = {}
        self.output: SessionOutput | None = None
        if not (self._is_worker or self._disabled):
            state_dir = Environment.take().state_path(loaded.state_dir)
            origin = Origin.here(loaded.host_id, state_dir)
            self.output = SessionOutput(
                options, origin, config.rootpath, self._compared(), self._guard
            )

    def _compared(self) -> Compared:
        path, cwd = self.options.compare, Path(self._config.invocation_params.dir)
        if path is not None and path.is_relative_to(cwd):
            path = path.relative_to(cwd)
        shown = None if path is None else str(path)
        return Compared(shown, self._baseline or Baseline({}), self._earlier, self._machine)

    @classmethod
    def of(cls, config: pytest.Config, ini: Lookup) -> CarbonPlugin:
        """The plugin for a run's options.

        Args:
            config: of the run.
            ini: looks up a value of the ini.

        Raises:
            pytest.UsageError: an option or a setting cannot be used.
        """
        cwd = Path(config.invocation_params.dir)
        try:
            # read once, now: tests may change the environment and the working directory
            here = Environment.take(working_folder=str(cwd))
            loaded = load_settings({"output": None}, here, writes=False)
            if environment.is_disabled():  # even where an option cannot be used
                return cls(config, Options(), loaded)
            options = resolve(
                option=lambda name: config.getoption(name, None),
                ini=ini,
                environ=environment.pytest_variables(),
                rootdir=config.rootpath,
                cwd=cwd,
            )
            return cls(config, options, loaded)
        except ConfigError as error:
            raise pytest.UsageError(visible(f"carbontrack: {error}")) from None

    # -- what is measured, and by what ---------------------------------------------------------

    @property
    def metric(self) -> Metric:
        """The metric, made before the first test that is measured."""
        if self._metric is None:
            self._metric = self._guard.run(self._make_metric) or NoMetric()
        return self._metric

    def _make_metric(self) -> Metric:
        own: Metric | None = self._config.hook.pytest_carbon_metric(config=self._config)
        if own is not None:
            return own
        try:
            made = choose(self.options, self._settings, alone=not self._is_worker)
        except ConfigError as error:
            raise pytest.UsageError(visible(f"carbontrack: {error}")) from None
        made.open("the first window").close()  # imports and reads what later ones need
        keep_real_files()
        return made

    def plan(
        self, items: Sequence[pytest.Item], name: str, has_fixture: Callable[[pytest.Item], bool]
    ) -> None:
        """Read the markers of every test, and choose the tests to measure.

        Args:
            items: the tests.
            name: of the marker.
            has_fixture: whether a test uses the fixture `carbon`.

        Raises:
            pytest.UsageError: a marker cannot be used.
        """
        if self._disabled:
            return
        for item, marker in zip(items, read_markers(items, name, self._default), strict=True):
            # a marker without a limit, such as repeat=3, asks for a measurement as well
            if not marker.is_empty or self.options.measures_all or has_fixture(item):
                self._add_test(item, marker)
        if self._tests and not self._config.option.collectonly:
            # Before any test runs: it may replace the clocks, the files and modules of the process.
            assert self.metric is not None

    def _add_test(self, item: pytest.Item, marker: BudgetMarker) -> None:
        repeat = marker.repeat or self.options.repeat
        gets_verdict = bool(marker.limits) or self.options.compares
        test = MeasuredTest(marker, repeat=repeat, gets_verdict=gets_verdict)
        if repeat > 1 and not can_repeat(item):
            test.repeat, test.note = 1, "not repeated: this kind of test cannot run twice"
        self._tests[item.nodeid] = test

    def figures(self, item: pytest.Item) -> CarbonFigures:
        """The value of the fixture for a test."""
        if self._disabled:
            return CarbonFigures(plain_id(item), self.metric, None)
        if item.nodeid not in self._tests:
            self._tests[item.nodeid] = MeasuredTest(self._default, repeat=1, gets_verdict=False)
        of_test = (plain_id(item), self.metric, self._tests[item.nodeid])
        found = self._guard.run(FiguresOfTest, *of_test, nodeid=item.nodeid)
        return found or CarbonFigures(plain_id(item), self.metric, None)

    def pytest_report_header(self) -> str | None:
        """The metric with its pins, where the run measures every test; or that all is off."""
        if self._disabled:
            return "carbontrack: off, CARBONTRACK_DISABLE is set; no budget is checked"
        if not self.options.measures_all:
            return None
        pins = self._guard.run(
            lambda: pins_text(self.options) if self._is_controller else self.metric.describe()
        )
        return visible(f"carbontrack: {pins}")

    # -- running -----------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        """Run a test that is repeated, or measured with its fixtures, and decide at its end."""
        test = self._tests.get(item.nodeid)
        if test is None or not test.is_run_by_us or is_rerun(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        test.is_ours = True
        try:
            reports = run(item, nextitem, test)
        finally:
            test.is_ours = False
        for report in reports:
            if report.when == "call":
                self._attach(item, report, test, reports)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Any:
        """Measure the set-up of fixtures that count for their tests."""
        return (yield from self._measured(item, is_call=False))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        """Measure the test."""
        return (yield from self._measured(item, is_call=True))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Any:
        """Measure the teardown of fixtures that count for their tests."""
        try:
            return (yield from self._measured(item, is_call=False))
        finally:
            if item.nodeid in self._tests:
                self._guard.run(self._tests[item.nodeid].end_all, nodeid=item.nodeid)

    def _measured(self, item: pytest.Item, *, is_call: bool) -> Any:
        test = self._tests.get(item.nodeid)
        if test is None or not (is_call or (test.bills_fixtures and test.is_ours)):
            return (yield)
        phase = (test.begin_call if is_call else test.begin_phase, self.metric, plain_id(item))
        speed = self._guard.run(*phase, nodeid=item.nodeid)
        try:
            return (yield)
        finally:
            self._guard.run(test.end_phase, self.metric, speed, nodeid=item.nodeid)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Decide on a test that is not run here, after all other changes to its report."""
        report = yield
        test = self._tests.get(item.nodeid)
        if test is None or test.window is not None:
            return report  # of a subtest, while the test is still being measured
        if call.when == "call" and not test.is_ours:
            test.note_what_is_left_out()
            test.rounds.clear()
            test.end_round(passed=True)
            self._attach(item, report, test, [report])
        return report

    def _attach(
        self,
        item: pytest.Item,
        report: pytest.TestReport,
        test: MeasuredTest,
        reports: Sequence[pytest.TestReport],
    ) -> None:
        self._guard.run(self._attach_result, item, report, test, reports, nodeid=item.nodeid)
        if test.gets_verdict and not hasattr(report, REPORT_KEY):
            unknown = TestResult.of(plain_id(item), report.outcome, Measurement(metric="none"))
            verdict = replace(unknown, budget=test.marker.text, verdict="inconclusive")
            put_result(item, report, verdict, reports, [report])

    def _attach_result(
        self,
        item: pytest.Item,
        report: pytest.TestReport,
        test: MeasuredTest,
        reports: Sequence[pytest.TestReport],
    ) -> None:
        verdicts = Verdicts(self.options, self.metric, self._baseline, self._earlier, self._machine)
        expected = hasattr(report, "wasxfail")
        plain = not expected and all(one.passed for one in reports)
        outcome = _EXPECTED.get(report.outcome, report.outcome) if expected else report.outcome
        result = verdicts.result_of(plain_id(item), test, outcome=outcome, plain=plain)
        if plain and result.outcome == "failed":
            report.outcome = "failed"
            report.longrepr = visible(f"carbon budget: {result.reason}")
        of_figure = reports if test.bills_fixtures else [report]
        put_result(item, report, result, reports, of_figure)

    def pytest_unconfigure(self) -> None:
        """Close the meters."""
        if self._metric is not None:
            self._guard.run(self._metric.close)


def put_result(
    item: pytest.Item,
    report: pytest.TestReport,
    result: TestResult,
    reports: Sequence[pytest.TestReport],
    of_figure: Sequence[pytest.TestReport],
) -> None:
    """Have the report carry the result, and the test's properties."""
    vars(report)[REPORT_KEY] = result.to_row() | execution_columns(of_figure)
    theirs = [pair for pair in item.user_properties if pair[0] not in PROPERTIES]
    item.user_properties[:] = [*theirs, *result.properties]
    for one in reports:
        one.user_properties = list(item.user_properties)
