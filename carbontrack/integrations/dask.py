"""Dask: each worker is a row that includes its idle time; each task is a row nested in it.

A task runs in a coroutine, whose context its thread gets, so its calls are nested in its row.
"""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

from carbontrack.api.job import RunningTask
from carbontrack.integrations.episode import guarded
from carbontrack.integrations.workers import WorkerRow

try:
    from dask.utils import key_split
    from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin
except ImportError as error:
    raise ImportError('Dask is missing or too old: pip install "carbontrack[dask]"') from error

_ATTEMPT = "carbontrack_attempt"


class CountAttempts(SchedulerPlugin):
    """In the scheduler: tells workers how often a task was tried; `CarbontrackPlugin` adds it."""

    async def start(self, scheduler: Any) -> None:
        self._tasks = scheduler.tasks

    @guarded
    def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
        """A task that has been tried may be tried again."""
        task, was_tried = self._tasks.get(key), start in ("processing", "memory", "erred")
        if task is not None and was_tried and finish in ("released", "waiting"):
            noted = task.annotations or {}  # shared by the tasks of one collection
            task.annotations = {**noted, _ATTEMPT: noted.get(_ATTEMPT, 0) + 1}


class CarbontrackPlugin(WorkerPlugin):
    """Measures the workers of a cluster: `client.register_plugin(CarbontrackPlugin(region="FR"))`.

    `settings` are those of `carbontrack.auto`, and `labels`; a wrong one raises `ConfigError`. The
    defaults differ: `spans="all"`, so that tasks have rows, and `checkpoint_s=1`.
    """

    name = "carbontrack"

    def __init__(self, **settings: Any) -> None:
        self._row = WorkerRow("dask worker", **settings)
        self._first_attempt: int | None = None

    async def setup(self, worker: Any) -> None:
        """Begin the row of a worker."""
        self._begin(worker)
        counter = {"plugin": pickle.dumps(CountAttempts()), "name": CountAttempts.__name__}
        given = worker.scheduler.register_scheduler_plugin(**counter, idempotent=True)
        errors: Any = await asyncio.gather(given, return_exceptions=True)
        self._first_attempt = 0 if errors == [None] else None  # it may have no carbontrack

    @guarded
    def _begin(self, worker: Any) -> None:
        self._row.begin(here=False)
        self._execute, self._tasks = worker.execute, worker.state.tasks
        worker.execute = self._measured

    @guarded
    def teardown(self, worker: Any) -> None:
        worker.execute = self._execute
        self._row.end()

    async def _measured(self, key: Any, *, stimulus_id: str) -> Any:
        with self._row.task(self._name_of, key) as ending:
            event = await self._execute(key, stimulus_id=stimulus_id)
            ending.error = getattr(event, "exception_text", None)
        return event

    def _name_of(self, key: Any) -> tuple[str, RunningTask]:
        attempt = (self._tasks[key].annotations or {}).get(_ATTEMPT, self._first_attempt)
        return key_split(key), RunningTask(str(key), attempt)
