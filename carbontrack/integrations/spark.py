"""Spark: each partition that a wrapped function processes is a row, with its task and attempt.

The Python workers of Spark are forked by a daemon, which kills them when the session stops. A row
is written when its partition is done, so no row is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from carbontrack.api.job import RunningTask, in_task, join_job
from carbontrack.api.track import track
from carbontrack.errors import ConfigError
from carbontrack.integrations.workers import DEFAULTS

try:
    from pyspark import SparkContext, TaskContext
except ImportError as error:
    raise ImportError('Spark is missing or too old: pip install "carbontrack[spark]"') from error


def tracked(
    function: Callable[..., Any], name: str | None = None, **settings: Any
) -> Callable[..., Iterator[Any]]:
    """Measure what `mapPartitions`, `mapInPandas` and the like call: `mapPartitions(tracked(f))`.

    Each partition has a row, including those of failed attempts. All rows have the same `job_id`:
    that of the driver's process, which gets a new one if it has none.

    Args:
        function: takes an iterator, and returns or yields items; or nothing, for
            `foreachPartition`.
        name: the name in the records; by default the function's qualified name.
        settings: those of `carbontrack.track`, such as region and output, and `labels`. The
            defaults differ: `spans="all"`, so that blocks and functions inside have rows, and
            `checkpoint_s=1`.

    Raises:
        ConfigError: a setting cannot be used.
    """
    if "tracker" in settings:
        raise ConfigError("a tracker cannot be sent to workers; give its settings instead")
    name = name or getattr(function, "__qualname__", type(function).__name__)
    given = {**DEFAULTS, **settings}
    track(name, **given)  # raises now, and not in a worker
    job_id, context = join_job(), SparkContext._active_spark_context
    app = None if context is None else context.applicationId
    if context is not None:  # so that decorated functions elsewhere have it too, from now on
        context.environment.setdefault("CARBONTRACK_JOB_ID", job_id)

    @wraps(function)
    def partition(*args: Any, **kwargs: Any) -> Iterator[Any]:
        join_job(job_id)
        with in_task(_task(app, job_id)), track(name, **given):
            yield from function(*args, **kwargs) or ()

    return partition


def _task(app: str | None, job_id: str) -> RunningTask | None:
    here = TaskContext.get()  # None in the driver
    if here is None:
        return None
    place = (app, str(here.stageId()), str(here.partitionId()))
    labels = {"spark_task": here.taskAttemptId()}
    return RunningTask("/".join(filter(None, place)), here.attemptNumber(), job_id, labels)
