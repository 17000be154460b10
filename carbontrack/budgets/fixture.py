"""What a test sees of its own figures, through the fixture `carbon`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from carbontrack.budgets.metric import Measurement, Metric, Round, Window, sum_up
from carbontrack.budgets.watch import Watch
from carbontrack.clock import SystemClock
from carbontrack.records import Basis, Record
from carbontrack.units import kwh_from


class Phase:
    """A part of a test: its figures so far while it is open, and of the whole once it has ended."""

    def __init__(
        self,
        name: str,
        metric: Metric,
        window: Window | None,
        close: Callable[[Window], Round] | None = None,
    ) -> None:
        self.name = name
        self._metric = metric
        self._window = window
        self._close = close
        self._round: Round | None = None
        self._started_at = _now()
        self._ended_at: str | None = None

    def _measured(self) -> Measurement:
        if self._window is None:
            return Measurement(metric="none")
        found = self._round if self._round is not None else self._window.so_far()
        return sum_up(self._metric, [found])

    def end(self) -> None:
        """Stop counting."""
        self._ended_at = _now()
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
        """The figures as a record, for whoever wants to keep them."""
        found = self._measured()
        return Record(
            record_id=f"pytest-{os.getpid()}-{id(self):x}",
            run_id=f"pytest-{os.getpid()}",
            name=self.name,
            labels={"metric": found.metric},
            status="disabled" if self._window is None else "ok",
            started_at=self._started_at,
            ended_at=self._ended_at or _now(),
            duration_s=found.duration_s,
            energy_kwh=_kwh(found.energy_joules),
            energy_low_kwh=_kwh(found.energy_low_joules),
            energy_high_kwh=_kwh(found.energy_high_joules),
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
    """Figures from the begin of the test's call; in a fixture's set-up, from the fixture on."""

    def __init__(self, name: str, metric: Metric, watch: Watch) -> None:
        if watch.window is None:
            watch.early = watch.begin(metric, name)
        super().__init__(name, metric, watch.window or watch.early)
        self._watch = watch

    def _phase(self, name: str) -> Phase:
        watch = self._watch
        return Phase(name, self._metric, watch.begin(self._metric, name), watch.end)

    def _measured(self) -> Measurement:
        watch = self._watch
        open_now = watch.window or watch.early
        if open_now is not None:
            self._window = open_now
        elif watch.last is not None:
            return sum_up(self._metric, [watch.last])
        return super()._measured()


def _kwh(joules: float | None) -> float | None:
    return None if joules is None else kwh_from(joules)


def _now() -> str:
    return SystemClock.now_utc().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
