"""One measured test: its windows and rounds, its verdict, and the value of the fixture `carbon`."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from carbontrack.integrations.pytest_plugin import results
from carbontrack.integrations.pytest_plugin.baseline import Baseline, with_regression_verdict
from carbontrack.integrations.pytest_plugin.metrics import (
    Measurement,
    MeasurementWindow,
    Metric,
    Round,
    sum_up,
)
from carbontrack.integrations.pytest_plugin.options import BudgetMarker, Options
from carbontrack.integrations.pytest_plugin.results import TestResult, kwh_or_none, utc_text
from carbontrack.record import Basis, Record
from carbontrack.system.clock import SystemClock


class MeasuredTest:
    """One test: its marker, its rounds, and the windows that are open now."""

    def __init__(self, marker: BudgetMarker, *, repeat: int, gets_verdict: bool) -> None:
        self.marker = marker
        self.repeat = repeat
        self.gets_verdict = gets_verdict
        self.rounds: list[Round] = []
        self.window: MeasurementWindow | None = None
        """The window of the phase that runs now, if the phase is measured."""
        self.early: MeasurementWindow | None = None
        """The window that the fixture opened before the test was called."""
        self.last: Round | None = None
        self.note: str | None = None
        self.is_ours = False
        """Whether it is being run by `hooks.run`, not by pytest or another plugin."""
        self.phases_unknown = 0
        """Phases of this round that have begun and were not measured: its figure is unknown."""
        self._parts: list[Round] = []
        self._open: list[MeasurementWindow] = []
        """All open windows, the innermost last."""

    @property
    def bills_fixtures(self) -> bool:
        """Whether the figure includes set-up and teardown."""
        return self.marker.scope == "all"

    @property
    def is_run_by_us(self) -> bool:
        """Whether its reports must wait until all of it has been measured."""
        return self.repeat > 1 or self.bills_fixtures

    def note_what_is_left_out(self) -> None:
        """Note what is not done for a test that another plugin runs."""
        left = ["not repeated"] if self.repeat > 1 else []
        left += ["fixtures not included"] if self.bills_fixtures else []
        if left:
            self.note = f"{', '.join(left)}: another plugin runs or reruns it"

    def begin(self, metric: Metric, name: str) -> MeasurementWindow:
        """Open a window inside the innermost open one.

        Two windows beside each other would share what is used while both are open.
        """
        window = self._open[-1].child(name) if self._open else metric.open(name)
        self._open.append(window)
        return window

    def end(self, window: MeasurementWindow) -> Round:
        """Close a window, in whatever order windows are closed."""
        self._open = [other for other in self._open if other is not window]
        return window.close()

    def begin_phase(self, metric: Metric, name: str) -> None:
        """Open the window of a phase."""
        self.phases_unknown += 1
        self.end_early()
        self.window = self.begin(metric, name)

    def begin_call(self, metric: Metric, name: str) -> float | None:
        """The same for the call; returns the machine's speed if a verdict needs it."""
        self.phases_unknown += 1
        if self.repeat > 1 and metric.spread > 0.0 and gc.isenabled():
            # Otherwise the collection of earlier garbage would fall into one round of several. A
            # metric without spread counts the same with and without it.
            gc.collect()
        # measured before and after: the faster of the two is closer to the speed during the test
        speed = metric.speed_now() if self.gets_verdict else None
        self.phases_unknown -= 1
        self.begin_phase(metric, name)
        return speed

    def end_phase(self, metric: Metric, speed: float | None) -> None:
        """Close the window of a phase, if it could be opened."""
        window, self.window = self.window, None
        if window is None:
            return
        found = self.end(window)
        if speed is not None:
            found = replace(found, speed=max(speed, metric.speed_now()))
        self.add_part(found)
        self.phases_unknown -= 1

    def end_early(self) -> None:
        """Close the window that the fixture opened before the call."""
        if self.early is not None:
            self.end(self.early)
            self.early = None

    def end_all(self) -> None:
        """Close what is still open at the test's end; it would share what later tests use."""
        self.early = None
        for window in reversed(self._open):
            self.end(window)

    def add_part(self, found: Round) -> None:
        """Add what one phase used."""
        self.last = found
        self._parts.append(found)

    def end_round(self, *, passed: bool) -> bool:
        """Make a round of the phases; True if another round may follow."""
        parts, self._parts = self._parts, []
        if self.phases_unknown:
            parts, self.phases_unknown = [Round(joules=None)], 0
        if not passed and self.rounds:
            count = len(self.rounds)
            self.note = (
                f"round {count + 1} failed, so the result is from {count} round{'s' * (count != 1)}"
            )
        elif parts:
            self.rounds.append(_added(parts))
        return passed


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Gives each test its verdict, by its own budget and by the baseline."""

    options: Options
    metric: Metric
    baseline: Baseline | None
    earlier: Baseline
    """Measurements of the same code in earlier processes."""
    machine: str

    def result_of(
        self, nodeid: str, test: MeasuredTest, *, outcome: str, plain: bool
    ) -> TestResult:
        """The result of a test; one that did not plainly pass keeps its outcome."""
        measured = sum_up(self.metric, test.rounds)
        result = replace(
            TestResult.of(nodeid, outcome, measured),
            budget=test.marker.text,
            note=test.note,
            pins=pins(self.metric),
            how=self.metric.describe(),
        )
        if not plain:
            return result
        if test.marker.limits:
            verdict = results.combined_verdict(test.marker.limits, measured)
            reason = "; ".join(verdict.reasons) or None
            result = replace(result, verdict=verdict.outcome, reason=reason)
        result = self._compared(result, measured.resolution_joules)
        fails = result.verdict == "over" or (
            result.verdict == "inconclusive" and self.options.inconclusive == "fail"
        )
        return replace(result, outcome="failed") if fails else result

    def _compared(self, result: TestResult, resolution_joules: float) -> TestResult:
        if self.baseline is None:
            return result
        found = self.baseline.compare(
            result,
            self.metric,
            machine=self.machine,
            earlier=self.earlier.processes(result, self.machine),
            resolution_joules=resolution_joules,
        )
        result = replace(
            result, change=found.text, ratio=found.ratio, ratio_low=found.low, ratio_high=found.high
        )
        limit = self.options.fail_on
        return result if limit is None else with_regression_verdict(result, found, limit)


def pins(metric: Metric) -> str:
    """What two figures must have in common to be compared."""
    watts, grid = getattr(metric, "watts", None), getattr(metric, "g_per_kwh", None)
    return metric.name if watts is None else f"{watts:g} W, {grid:g} g/kWh"


def _added(parts: Sequence[Round]) -> Round:
    """One round: the sum of set-up, call and teardown."""
    if len(parts) == 1:
        return parts[0]
    known = [part.joules for part in parts if part.joules is not None]
    longest = max(parts, key=lambda part: (part.g_per_joule is not None, part.duration_s))
    return replace(
        longest,
        joules=sum(known) if known else None,
        fixed_joules=sum(part.fixed_joules for part in parts),
        speed=max(part.speed for part in parts),
        resolution_joules=sum(part.resolution_joules for part in parts),
        duration_s=sum(part.duration_s for part in parts),
    )


class Phase:
    """A part of a test: its figures so far while it is open, its final figures after its end."""

    def __init__(
        self,
        name: str,
        metric: Metric,
        window: MeasurementWindow | None,
        close: Callable[[MeasurementWindow], Round] | None = None,
    ) -> None:
        self.name = name
        self._metric = metric
        self._window = window
        self._close = close
        self._round: Round | None = None
        self._started_at = utc_text(SystemClock.now_utc())
        self._ended_at: str | None = None

    def _measured(self) -> Measurement:
        if self._window is None:
            return Measurement(metric="none")
        found = self._round if self._round is not None else self._window.so_far()
        return sum_up(self._metric, [found])

    def end(self) -> None:
        """End the phase."""
        self._ended_at = utc_text(SystemClock.now_utc())
        if self._round is None and self._window is not None:
            window = self._window
            self._round = self._close(window) if self._close is not None else window.close()

    @property
    def energy_joules(self) -> float | None:
        """Joules; None where nothing answered."""
        return self._measured().energy_joules

    @property
    def emissions_g(self) -> float | None:
        """Grams of CO2e; None where nothing answered or the intensity is unknown."""
        return self._measured().emissions_g

    @property
    def basis(self) -> Basis | None:
        """How the figures are known: measured, modelled or assumed."""
        return self._measured().basis

    @property
    def record(self) -> Record:
        """The figures as a record."""
        found = self._measured()
        return Record(
            record_id=f"pytest-{os.getpid()}-{id(self):x}",
            run_id=f"pytest-{os.getpid()}",
            name=self.name,
            labels={"metric": found.metric},
            status="disabled" if self._window is None else "ok",
            started_at=self._started_at,
            ended_at=self._ended_at or utc_text(SystemClock.now_utc()),
            duration_s=found.duration_s,
            energy_kwh=kwh_or_none(found.energy_joules),
            energy_low_kwh=kwh_or_none(found.energy_low_joules),
            energy_high_kwh=kwh_or_none(found.energy_high_joules),
            emissions_g=found.emissions_g,
            emissions_low_g=found.emissions_low_g,
            emissions_high_g=found.emissions_high_g,
            basis=found.basis,
        )


class CarbonFigures(Phase):
    """The figures of the running test, and of phases within it."""

    @contextmanager
    def measure(self, name: str) -> Iterator[Phase]:
        """Measure a part of the test: `with carbon.measure("warm-up") as span: …`."""
        phase = self._phase(name)
        try:
            yield phase
        finally:
            phase.end()

    def _phase(self, name: str) -> Phase:
        return Phase(name, self._metric, None)


class FiguresOfTest(CarbonFigures):
    """Figures since the start of the test's call; in set-up, since the fixture was requested."""

    def __init__(self, name: str, metric: Metric, test: MeasuredTest) -> None:
        if test.window is None:
            test.early = test.begin(metric, name)
        super().__init__(name, metric, test.window or test.early)
        self._test = test

    def _phase(self, name: str) -> Phase:
        test = self._test
        return Phase(name, self._metric, test.begin(self._metric, name), test.end)

    def _measured(self) -> Measurement:
        test = self._test
        open_now = test.window or test.early
        if open_now is not None:
            self._window = open_now
        elif test.last is not None:
            return sum_up(self._metric, [test.last])
        return super()._measured()
