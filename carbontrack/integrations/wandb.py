"""Weights & Biases: energy and emissions in the history and the summary of a run.

`output=["emissions.csv", "wandb:"]` reports to the run that is active when a block ends.
"""

from __future__ import annotations

from typing import Any

try:
    import wandb
except ImportError as error:
    raise ImportError('W&B is not installed: pip install "carbontrack[wandb]"') from error

from carbontrack.errors import ConfigError
from carbontrack.integrations.metrics import PREFIX
from carbontrack.integrations.tracker_sink import TrackerSink, sums_of_process


class WandbSink(TrackerSink[Any]):
    """Reports to a W&B run and leaves its step unchanged; it neither starts nor ends runs.

    Args:
        run: the run. The default is `wandb.run` at the end of each block.
    """

    hint = (
        "no W&B run is active where a block ends, so nothing is logged: end the block before "
        "wandb.finish(), or inside `with wandb.init():`"
    )

    def __init__(self, run: Any = None) -> None:
        super().__init__(sums_of_process())
        if run and not callable(getattr(run, "define_metric", None)):
            raise ConfigError(f"run must be what wandb.init() returns, not {run!r}")
        self._run = run or None
        self._defined = ""

    def find_run(self) -> tuple[str, Any] | None:
        """The run and its id."""
        run = self._run or wandb.run
        return None if run is None else (str(run.id), run)

    def report(self, run: Any, numbers: dict[str, float], facts: dict[str, str], *_: Any) -> None:
        """Log the numbers with the user's next step, and put all into the summary."""
        if self._defined != run.id:
            self._defined = run.id
            run.define_metric(f"{PREFIX}*", step_metric=f"{PREFIX}duration_s")
        run.log(numbers, commit=False)
        run.summary.update(numbers | {PREFIX + name: fact for name, fact in facts.items()})
