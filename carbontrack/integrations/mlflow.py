"""MLflow: energy and emissions as metrics of a run, and how they were measured as its tags.

`output=["emissions.csv", "mlflow:"]` reports to the run that is active when a block ends.
"""

from __future__ import annotations

import threading
from functools import partial

try:
    import mlflow
    from mlflow.entities import Metric, RunTag
    from mlflow.tracking import MlflowClient, fluent
except ImportError as error:
    raise ImportError('MLflow is not installed: pip install "carbontrack[mlflow]"') from error

from carbontrack.integrations.tracker_sink import Background, TrackerSink, sums_of_process
from carbontrack.system.clock import SystemClock


class MlflowSink(TrackerSink[str]):
    """Reports to an MLflow run, from a separate thread; it neither starts nor ends runs.

    Args:
        run_id: the run. The default is the run that is active when a block ends: in the thread that
            ends the block, else in the main thread, else the only active run.
    """

    hint = (
        "no MLflow run is active where a block ends, so nothing is logged: end the block inside "
        "`with mlflow.start_run():`, or name the run, MlflowSink(run_id=…)"
    )

    counts_steps = False  # the metric of the highest step is shown, and a run may be continued

    def __init__(self, run_id: str | None = None) -> None:
        super().__init__(sums_of_process())
        self._run_id = run_id or None
        self.takes_recovered = self._run_id is not None
        self.address = run_id or ""
        self._background = Background("MLflow")

    def find_run(self) -> tuple[str, str] | None:
        """The run's id, twice."""
        run_id = self._run_id or active_run_id()
        return None if run_id is None else (run_id, run_id)

    def report(self, run: str, numbers: dict[str, float], facts: dict[str, str], step: int) -> None:
        """Log metrics, with their own steps, and tags."""
        at_ms = int(SystemClock.now_utc().timestamp() * 1000)
        metrics = [Metric(name, number, at_ms, step) for name, number in numbers.items()]
        tags = [RunTag(f"carbontrack.{name}", fact) for name, fact in facts.items()]
        self._background.do(partial(_log, mlflow.get_tracking_uri(), run, metrics, tags))

    def finish(self) -> None:
        """Wait for MLflow, two seconds at most."""
        self._background.close()


def active_run_id() -> str | None:
    """The id of the active run, without a call of the tracking server; None where there is none.

    An active run belongs to a thread, and a record may be written by another one.
    """
    run = mlflow.active_run()
    if run is not None:
        return str(run.info.run_id)
    stacks = fluent._active_run_stack.get_all_thread_values()
    active = {thread: str(stack[-1].info.run_id) for thread, stack in stacks.items() if stack}
    of_main = active.get(threading.main_thread().ident or 0)
    return of_main or (next(iter(active.values())) if len({*active.values()}) == 1 else None)


def _log(uri: str, run_id: str, metrics: list[Metric], tags: list[RunTag]) -> None:
    MlflowClient(tracking_uri=uri).log_batch(run_id, metrics=metrics, tags=tags)
