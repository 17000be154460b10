"""MLflow: the energy and emissions of a run among its metrics, and how they are known in its tags.

`output=["emissions.csv", "mlflow:"]` reports to the run that is active where a block ends.
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

from carbontrack.integrations.tracker_sink import Background, TrackerSink
from carbontrack.system.clock import SystemClock


class MlflowSink(TrackerSink):
    """Reports to an MLflow run, from a thread of its own; starts no run and ends none.

    Args:
        run_id: the run; by default the one that is active where a record is written: in the thread
            that ends the block, else in the main thread, else the only one that is active.
    """

    def __init__(self, run_id: str | None = None) -> None:
        super().__init__()
        self.address = run_id or active_run_id() or ""
        self.takes_recovered = bool(self.address)
        self._run_id = run_id or None
        self._background = Background("MLflow")

    def report(self, numbers: dict[str, float], facts: dict[str, str], step: int) -> None:
        """Log metrics and tags, each metric with steps of its own."""
        run_id = self._run_id or active_run_id() or self.address
        if not run_id:
            self.warn_once(
                "no MLflow run is active where a block ends, so nothing is logged: open the block "
                "inside `with mlflow.start_run():`, or name the run, MlflowSink(run_id=…)"
            )
            return
        at_ms = int(SystemClock.now_utc().timestamp() * 1000)
        metrics = [Metric(name, number, at_ms, step) for name, number in numbers.items()]
        tags = [RunTag(f"carbontrack.{name}", fact) for name, fact in facts.items()]
        uri = mlflow.get_tracking_uri()
        self._background.do(partial(_log, uri, run_id, metrics, tags))

    def close(self) -> None:
        """Wait for MLflow, two seconds at most."""
        self._background.close()


def active_run_id() -> str | None:
    """The id of the active run, without a call of the tracking server; None where there is none.

    The runs of MLflow belong to threads, and a record may be written by another one.
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
