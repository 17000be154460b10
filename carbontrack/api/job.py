"""Jobs and tasks, for the integrations of clusters: one job's id in the rows of all its processes.

The program that starts a job calls `join_job()` before its first row, and sends the id to the
workers, which call `join_job(job_id)`. Root spans that are opened in `with in_task(…)` belong to
that task.
"""

from __future__ import annotations

import os

from carbontrack.api.assembly import current_environment
from carbontrack.config.environment import set_job_id
from carbontrack.tracking.task import RunningTask, in_task

__all__ = ["RunningTask", "in_task", "join_job"]


def join_job(job_id: str | None = None) -> str:
    """Put this process, and those that it starts, into a job; return the job's id.

    Existing trackers keep the job that they started with.

    Args:
        job_id: the id. None: that of the job which this process is in, by `CARBONTRACK_JOB_ID`, a
            launcher or a batch system; where there is none, a new one is made.
    """
    found = job_id or current_environment().launch.job_id or os.urandom(16).hex()
    set_job_id(found)
    return found
