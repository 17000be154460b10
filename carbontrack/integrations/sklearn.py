"""scikit-learn 1.9: a callback that measures each fit, and each candidate of a search.

`GridSearchCV(…).set_callbacks(CarbontrackCallback(region="FR")).fit(x, y)`. The parts of a
search or a pipeline are children of its fit, or rows of the worker process that runs them.
"""

from __future__ import annotations

from typing import Any

from carbontrack.integrations.episode import guarded
from carbontrack.integrations.tasks import Tasks
from carbontrack.record import Record

try:
    from sklearn.callback import CallbackContext
except ImportError as error:
    raise ImportError('needs scikit-learn 1.9: pip install "carbontrack[sklearn]"') from error


class CarbontrackCallback:
    """Measures each fit of the estimators that it is set on with `set_callbacks`.

    One callback can be set on many estimators, even in several threads. In the worker processes of
    a search, its copies write the row of each candidate and split as soon as it has ended.

    Args:
        settings: the arguments of `track`, such as region and output. The default of `spans` is
            "all", and inside an open block that of the block.

    Raises:
        ConfigError: a setting cannot be used.
    """

    def __init__(self, **settings: Any) -> None:
        self._tasks = Tasks(**settings)
        self._name = settings.get("name")

    @property
    def record(self) -> Record | None:
        """The record of the last fit that ended in this process; None before."""
        return self._tasks.record

    @guarded
    def setup(self, estimator: Any, context: CallbackContext) -> None:
        """Begin a fit."""
        fitted = type(getattr(estimator, "estimator", estimator)).__name__
        labels = {"estimator": fitted, "fit": context.root_uuid.hex[:8]}
        name = self._name or f"{context.estimator_name}.fit"
        self._tasks.begin(("fit", context), name, labels)

    @guarded
    def on_fit_task_begin(self, estimator: Any, context: CallbackContext) -> None:
        """Begin a part of a fit; iterations are not measured separately."""
        is_composed = hasattr(estimator, "estimator") or hasattr(estimator, "steps")
        if not is_composed or context.max_subtasks or ("fit", context) in self._tasks:
            return
        labels: dict[str, Any] = {"fit": context.root_uuid.hex[:8]}
        if context.task_name == "candidate-split-evaluation":  # with its number in `cv_results_`
            before = sum(getattr(estimator, "n_candidates_", ())[:-1])  # in halving's iterations
            candidate, split = divmod(context.task_id, estimator.n_splits_)
            labels |= {"candidate": before + candidate, "split": split}
        around = context.parent
        while around is not None and ("fit", around) not in self._tasks:
            around = around.parent
        self._tasks.begin(context, context.task_name, labels, ("fit", around))

    def on_fit_task_end(self, estimator: Any, context: CallbackContext) -> None:  # noqa: ARG002
        """End a part; it may have failed."""
        self._tasks.end(context)

    def teardown(self, estimator: Any, context: CallbackContext) -> None:  # noqa: ARG002
        """End the fit, and all parts of it that scikit-learn has not ended."""
        self._tasks.end(("fit", context))
