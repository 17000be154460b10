"""The task of a framework that a row belongs to: a stage's partition, a remote call, a key.

`SpanEdges` asks `task_here` when a root span opens, if something may know: an integration has set
it with `in_task`, or a framework is loaded that has it. No framework is imported for that. A
decorated call that lasts becomes a root in the sampler's thread, under its lock: it queries the
frameworks, which must answer at once there, and cannot see an `in_task` of another thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from carbontrack.record import checked_labels
from carbontrack.system.interrupts import attempt
from carbontrack.tracking.context import running_task
from carbontrack.values import NamedTuple


class RunningTask(NamedTuple):
    """A task of a framework, by the names of the record's columns.

    Attributes:
        task_id: the same text in all attempts of one task, and in no other task of the job.
        attempt: 0 for the first, 1 for the first retry; None: that of the launcher.
        job_id: the job that it belongs to; None: that of the launcher or batch system.
        labels: labels of its rows. A span's own labels of the same names take precedence.
    """

    task_id: str
    attempt: int | None = None
    job_id: str | None = None
    labels: Mapping[str, Any] = MappingProxyType({})

    def columns(self) -> dict[str, Any]:
        """Its columns, without those that it does not know."""
        known = {"task_id": self.task_id, "attempt": self.attempt, "job_id": self.job_id}
        return {name: value for name, value in known.items() if value is not None}

    def labels_of(self, own: Mapping[str, Any]) -> Mapping[str, Any]:
        """The labels of a span of the task that has these of its own."""
        return {**self.labels, **own} if self.labels else own


@contextmanager
def in_task(task: RunningTask | None) -> Iterator[None]:
    """Inside the block, root spans that this thread or coroutine opens belong to the task.

    Raises:
        ConfigError: its labels cannot be written.
    """
    if task is not None and task.labels:
        checked_labels(task.labels)
    token = running_task.set(task)
    try:
        yield
    finally:
        running_task.reset(token)


def task_here() -> RunningTask | None:
    """The task that runs here: that of an integration, else that of a loaded framework."""
    task: RunningTask | None = running_task.get()
    if task is not None:
        return task
    for module, find in FINDERS.items():
        if module in sys.modules:
            task, _ = attempt(find)  # not logged: the sampler's lock is held
            if task is not None:
                return task
    return None


def _spark_task() -> RunningTask | None:
    """The task of a Python worker of Spark; None in a driver, which runs none."""
    find = getattr(sys.modules["pyspark"], "TaskContext", None)  # None while it is being imported
    context = None if find is None else find.get()
    if context is None:
        return None
    return RunningTask(f"{context.stageId()}/{context.partitionId()}", context.attemptNumber())


FINDERS: Mapping[str, Callable[[], RunningTask | None]] = MappingProxyType({"pyspark": _spark_task})
"""By the module that must have been loaded: the function that finds its task."""
