"""One run of a tracker, from start to stop, and the tasks inside it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from typing import Any

from carbontrack.compat.codecarbon.data import EmissionsData, TaskEmissionsData, data_of
from carbontrack.tracking.span import Span
from carbontrack.tracking.tracker import Tracker


class Energy:
    """An energy, as code that reads `tracker._total_energy.kWh` expects it."""

    def __init__(self, kwh: float) -> None:
        self.kWh = kwh  # CodeCarbon's name

    def __repr__(self) -> str:
        return f"Energy(kWh={self.kWh!r})"


class Task:
    """One task: its name, whether it is open, and what it used once it is not."""

    def __init__(self, task_name: str, span: Span) -> None:
        self.task_name = task_name
        self.is_active = True
        self.emissions_data: EmissionsData | None = None
        self._span = span

    def close(self, said: Mapping[str, Any]) -> EmissionsData:
        """End the task, and return what it used."""
        _apart(self._span.close)
        self.is_active = False
        self.emissions_data = data_of(self._span.snapshot(), **said)
        return self.emissions_data

    def out(self) -> TaskEmissionsData | None:
        """Its row; None while it is open."""
        data = self.emissions_data
        return None if data is None else TaskEmissionsData.of(self.task_name, data)


class Run:
    """A root span with tasks as children.

    It is opened in a copy of the context, so that no block of the program is a child of it and
    trackers may overlap in any order, as CodeCarbon's may.

    Args:
        tracker: what measures.
        name: the name of the span.
        labels: labels of its record.
        said: columns of the rows that the record does not have.
    """

    def __init__(
        self, tracker: Tracker, name: str, labels: Mapping[str, Any], said: Mapping[str, Any]
    ) -> None:
        self._said = said
        self._span = tracker.span(name, labels=labels)
        self._previous: EmissionsData | None = None
        self.tasks: dict[str, Task] = {}
        _apart(self._span.open)

    def data(self) -> EmissionsData:
        """What has been used since the start."""
        return data_of(self._span.snapshot(), **self._said)

    def data_and_added(self) -> tuple[EmissionsData, EmissionsData]:
        """What has been used since the start, and since this was asked last."""
        total = self.data()
        added = total.since(self._previous)
        self._previous = total
        return total, added

    def begin_task(self, name: str) -> None:
        """Open a task."""
        span = self._span.span(name)
        _apart(span.open)
        self.tasks[name] = Task(name, span)

    def end_task(self, name: str) -> EmissionsData:
        """End a task."""
        return self.tasks[name].close(self._said)

    def task_rows(self) -> list[TaskEmissionsData]:
        """The rows of the tasks that have ended."""
        return [row for row in (task.out() for task in self.tasks.values()) if row is not None]

    def close(self) -> None:
        """End the run, and what is open in it."""
        for task in self.tasks.values():
            if task.is_active:
                task.close(self._said)
        _apart(self._span.close)


def _apart(do: Any) -> None:
    copy_context().run(do)
