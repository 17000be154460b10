"""RQ: each job is a block with the name of its function.

The process that RQ forks for a job ends with `os._exit`, without `atexit`; rows are written before.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from carbontrack.api.track import auto
from carbontrack.errors import BudgetExceeded
from carbontrack.integrations.episode import Episode, guarded
from carbontrack.system.forking import end_worker
from carbontrack.system.interrupts import attempt

try:
    from rq.worker import SimpleWorker, SpawnWorker, Worker
except ImportError as error:
    raise ImportError('RQ is missing or too old: pip install "carbontrack[rq]"') from error


class MeasuredJobs:
    """Measures the jobs of a worker; put it before the worker: `class W(MeasuredJobs, Worker)`.

    The class attribute `carbontrack` has the arguments of `track`; wrong: `ConfigError`.
    """

    carbontrack: ClassVar[dict[str, Any]] = {}

    def __init__(self, *args: Any, **named: Any) -> None:
        self._episode = Episode(**self.carbontrack)
        attempt(auto)  # loads what each work horse needs, before it is forked
        self._raised: BaseException | None = None
        super().__init__(*args, **named)

    def perform_job(self, job: Any, *rest: Any, **named: Any) -> Any:
        """Run a job in its own block, and write the last rows of its process."""
        self._begin(job)
        try:
            return super().perform_job(job, *rest, **named)  # type: ignore[misc]
        finally:
            self._end()

    def handle_exception(self, job: Any, *exc_info: Any) -> Any:
        """Note the exception of the job, which `perform_job` does not raise."""
        self._raised = exc_info[1]
        return super().handle_exception(job, *exc_info)  # type: ignore[misc]

    @guarded
    def _begin(self, job: Any) -> None:  # its name unpickles it
        self._episode.begin(str(attempt(lambda: job.func_name)[0] or "unreadable job"))

    @guarded
    def _end(self) -> None:
        raised, self._raised = self._raised or sys.exc_info()[1], None
        status: Any = "budget" if isinstance(raised, BudgetExceeded) else "error"
        kind = "" if status == "budget" else f"{type(raised).__name__}: "
        text, _ = attempt(lambda: f"{kind}{raised}")
        try:
            self._episode.end(*("ok", None) if raised is None else (status, text))
        except BudgetExceeded:
            return  # the job is over; nothing is left to be stopped
        finally:
            if self.is_horse:  # type: ignore[attr-defined]
                end_worker()


class CarbontrackWorker(MeasuredJobs, Worker):
    """`rq.Worker`, measured: `rq worker -w carbontrack.integrations.rq.CarbontrackWorker`."""


class CarbontrackSimpleWorker(MeasuredJobs, SimpleWorker):
    """`rq.SimpleWorker`, measured."""


if "bootstrap" in vars(SpawnWorker):  # before RQ 3, its horses are workers of no other class

    class CarbontrackSpawnWorker(MeasuredJobs, SpawnWorker):
        """`rq.SpawnWorker`, measured."""
