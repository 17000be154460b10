"""Ray: each worker is a row that includes its idle time; tasks and actor calls are nested in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

from carbontrack.api.job import RunningTask
from carbontrack.errors import ConfigError
from carbontrack.integrations.workers import WorkerRow, in_block
from carbontrack.system.interrupts import attempt

try:
    from ray import get_runtime_context
except ImportError as error:
    raise ImportError('Ray is missing or too old: pip install "carbontrack[ray]"') from error

_HOOK = "worker_process_setup_hook"
_Function = TypeVar("_Function", bound=Callable[..., Any])
_rows: list[WorkerRow] = []
"""The row of this process, if it is a worker of a measured job."""


def setup(runtime_env: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """Return the `runtime_env` of a measured job: `ray.init(runtime_env=setup(region="FR"))`.

    Each worker process has a row, "ray worker". All rows have the same `job_id`: that of the
    driver's process, which gets a new one if it has none.

    Args:
        runtime_env: other entries of the `runtime_env`.
        settings: those of `carbontrack.auto`, and `labels`. The defaults differ: `spans="all"`, so
            that tasks have rows, and `checkpoint_s=1`, because Ray kills its workers.

    Raises:
        ConfigError: a setting cannot be used, or `runtime_env` has a hook for workers already.
    """
    given = dict(runtime_env or {})
    if _HOOK in given:
        raise ConfigError(f"runtime_env has a {_HOOK}; Ray allows only one, used by carbontrack")
    row = WorkerRow("ray worker", **settings)

    def begin() -> None:  # sent to the workers with what it refers to
        _begin(row)

    variables = {"CARBONTRACK_JOB_ID": row.job_id, **given.get("env_vars", {})}
    return {**given, "env_vars": variables, _HOOK: begin}


def _begin(row: WorkerRow) -> None:
    row.begin(here=True)
    _rows.append(row)


def tracked(function: _Function) -> _Function:
    """Give each call of a remote function, or of an actor's method, a row; put it below `remote`.

    The row has Ray's id of the task, its attempt, and labels for its node and actor. It is nested
    in the row of the worker; if the worker has none, as without `setup`, nothing is measured.
    """
    return in_block(function, partial(_call, getattr(function, "__qualname__", "task")))


def _call(name: str) -> AbstractContextManager[Any]:
    return _rows[-1].task(_task, name) if _rows else nullcontext()


def _attempt(here: Any) -> int:  # Ray has no public name for it
    return int(here.worker.core_worker.get_current_task_attempt_number())


def _task(name: str) -> tuple[str, RunningTask]:
    here = get_runtime_context()
    number, _ = attempt(_attempt, here)
    found = {"ray_node": here.get_node_id(), "ray_actor": here.get_actor_id()}
    labels = {label: text for label, text in found.items() if text}
    return name, RunningTask(here.get_task_id() or name, number, labels=labels)
