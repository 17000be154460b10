"""One run of a tracker, from start to stop: its tasks, and its rows while it runs."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Any

from carbontrack.compat.codecarbon.data import EmissionsData, TaskEmissionsData, data_of
from carbontrack.compat.codecarbon.log import LOGGER
from carbontrack.compat.codecarbon.outputs import BaseOutput
from carbontrack.record import Record, Status
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.forking import OwnThread
from carbontrack.system.interrupts import attempt
from carbontrack.tracking.noop import NoOpSpan
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracker import Tracker

NEVER = -1
DEFAULT_S, SHORTEST_S = 15.0, 0.001
LOAD_AGE_S = 0.02
"""How old a reading of the load may be: the kernel counts it in steps of 10 ms."""
_GIB = 2**30

Said = Callable[[Record], Mapping[str, Any]]
"""Columns of a row that its record does not have, or that were given."""


class Energy(float):
    """An energy in kWh, as code that reads `tracker._total_energy.kWh` expects it."""

    __slots__ = ()

    @property
    def kWh(self) -> float:  # noqa: N802 - CodeCarbon's name
        """The number."""
        return float(self)


class Utilization:
    """The mean utilisation of processor and memory from now on."""

    def __init__(self) -> None:
        self._before = LOAD.read()

    def columns(self) -> dict[str, float]:
        """The columns of a row: the mean of processor time, and of memory at both ends."""
        before, now = self._before, LOAD.read()
        total, idle, percent, used = (b - a for a, b in zip(before, now, strict=True))
        return {
            "cpu_utilization_percent": 100.0 * (1.0 - idle / total) if total > 0.0 else 0.0,
            "ram_utilization_percent": before[2] + percent / 2.0,
            "ram_used_gb": before[3] + used / 2.0,
        }


class LatestLoad:
    """The load at the last reading, shared by calls in quick succession.

    psutil takes a quarter of a millisecond for it, more than the rest of a short task.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._latest = (-math.inf, (0.0, 0.0, 0.0, 0.0))

    def read(self) -> tuple[float, float, float, float]:
        """Processor time, the idle part of it, and memory in use in percent and in GiB."""
        now_s = self._clock.monotonic_s()
        read_s, load = self._latest
        if not 0.0 <= now_s - read_s < LOAD_AGE_S:
            load = attempt(_psutil_load)[0] or (0.0, 0.0, 0.0, 0.0)
            self._latest = now_s, load
        return load


LOAD = LatestLoad()


def _psutil_load() -> tuple[float, float, float, float]:
    import psutil

    times, memory = psutil.cpu_times(), psutil.virtual_memory()
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user and nice
    idle = times.idle + getattr(times, "iowait", 0.0)
    return sum(times) - guests, idle, memory.percent, memory.used / _GIB


class MeasuredSpan:
    """A span and the further columns of its row.

    It is opened in a copy of the context, so that no block of the program becomes its child, and
    trackers may overlap in any order, as with CodeCarbon.
    """

    def __init__(self, span: Span, said: Said) -> None:
        self.span = span
        self._said = said
        self._use = Utilization()
        self._in_the_end: dict[str, float] | None = None
        _apart(span.open)

    @property
    def is_counted(self) -> bool:
        """Whether anything is measured; False if carbontrack is disabled."""
        return not isinstance(self.span, NoOpSpan)

    def data(self) -> EmissionsData:
        """The row since the start."""
        record = self.span.snapshot()
        use = self._in_the_end or self._use.columns()
        return data_of(record, **self._said(record), **use)

    def close(self, status: Status = "ok", error: str | None = None) -> None:
        """End it; a second call does nothing."""
        if self._in_the_end is None:
            _apart(self.span.close, status, error)
            self._in_the_end = self._use.columns()


class RunTask:
    """One task: its name, whether it is open, and its row once it is closed."""

    def __init__(self, task_name: str, measured: MeasuredSpan) -> None:
        self.task_name = task_name
        self.is_active = True
        self.emissions_data: EmissionsData | None = None
        self._measured = measured

    def close(self) -> EmissionsData:
        """End the task, and return its row."""
        self._measured.close()
        data = self.emissions_data = self.emissions_data or self._measured.data()
        self.is_active = False
        return data

    def out(self) -> TaskEmissionsData | None:
        """Its row; None while it is open."""
        data = self.emissions_data
        return None if data is None else TaskEmissionsData.of(self.task_name, data)


class Run(MeasuredSpan):
    """A root span with tasks as children.

    Args:
        tracker: the tracker that measures.
        name: the name of the span.
        labels: labels of its record.
        said: columns of the rows that the record does not have.
    """

    untold: list[BaseOutput] | None = None
    """Once it has ended: the outputs that have not received its row yet."""

    def __init__(self, tracker: Tracker, name: str, labels: Mapping[str, Any], said: Said) -> None:
        super().__init__(tracker.span(name, labels=labels), said)
        self._previous: EmissionsData | None = None
        self.tasks: dict[str, RunTask] = {}

    def data_and_added(self) -> tuple[EmissionsData, EmissionsData]:
        """The rows since the start, and since the last call."""
        total = self.data()
        added = total.since(self._previous)
        self._previous = total
        return total, added

    def begin_task(self, name: str) -> None:
        """Open a task."""
        self.tasks[name] = RunTask(name, MeasuredSpan(self.span.span(name), self._said))

    def task_rows(self) -> list[TaskEmissionsData]:
        """The rows of the finished tasks."""
        return [row for row in (task.out() for task in self.tasks.values()) if row is not None]

    def close(self, status: Status = "ok", error: str | None = None) -> None:
        """End the run, and its open tasks."""
        for task in self.tasks.values():
            if task.is_active:
                task.close()
        super().close(status, error)


class LiveRows:
    """Calls `live_out` each so many measures: one at the start, one at the end, and in between.

    CodeCarbon measures at these moments. Here they only time the rows, because energy comes from
    counters. A thread exists only if an output overrides `live_out`.

    Args:
        run: the run of the rows.
        outputs: the outputs that receive them.
        seconds: the time between two measures.
        each: every how many measures there is a row; -1 for never.
    """

    def __init__(self, run: Run, outputs: Sequence[object], seconds: float, each: int) -> None:
        self._run, self._outputs = run, outputs
        self._seconds = max(seconds, SHORTEST_S) if seconds >= 0.0 else DEFAULT_S
        self._each = 0 if each == NEVER else max(each, 1)
        self._counted = itertools.count(1)
        self._done = threading.Event()

    def start(self) -> None:
        """The first measure, and a thread for the others."""
        self.measure()
        if self._each and self._run.is_counted and any(map(_takes_live_rows, self._outputs)):
            OwnThread(self._go_on, "codecarbon-live").start()

    def stop(self) -> None:
        """The last measure; a row that is being sent is not waited for."""
        if not self._done.is_set():
            self._done.set()
            self.measure()

    def measure(self) -> None:
        """A measure, and a row if it is time for one."""
        if not self._each or next(self._counted) % self._each or not self._run.is_counted:
            return
        takers = [output for output in self._outputs if _takes_live_rows(output)]
        if takers:
            rows = self._run.data_and_added()
            for output in takers:
                tell(output, "live_out", *rows)

    def _go_on(self) -> None:
        while not self._done.wait(self._seconds):
            self.measure()


def tell(output: object, method: str, *rows: object) -> None:
    """Send an output its rows; its errors are logged."""
    _, error = attempt(lambda: getattr(output, method)(*rows))
    if error is not None:
        LOGGER.error("%s of %s failed: %s", method, type(output).__name__, error, exc_info=error)


def _takes_live_rows(output: object) -> bool:
    own = getattr(output, "live_out", None)
    return callable(own) and getattr(own, "__func__", own) is not BaseOutput.live_out


def _apart(do: Callable[..., object], *given: object) -> None:
    copy_context().run(do, *given)
