"""Hugging Face: a callback that measures each run of a `Trainer`, with a child for each epoch."""

from __future__ import annotations

from typing import Any

from carbontrack.errors import MissingExtra
from carbontrack.integrations.episode import guarded
from carbontrack.integrations.training import BRIEF, RECORD_ID, TrainingCallback

try:
    from transformers.trainer_callback import TrainerCallback
except ImportError as error:
    raise MissingExtra("transformers", "transformers", "CarbontrackCallback") from error


class CarbontrackCallback(TrainingCallback, TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Measures each `train()`, and each `evaluate()` and `predict()` outside a training.

    Args:
        settings: the arguments of `track`, such as region; and `synchronize` of `Training`.
    """

    _is_first = False

    def first(self, trainer: Any) -> CarbontrackCallback:
        """Put this callback before all others of the trainer, so that reporters get all values."""
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [self, *(one for one in callbacks if one is not self)]
        self._is_first = True
        return self

    @guarded
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a record; one that an exception has left open is closed first."""
        labels = {"model": type(kwargs.get("model")).__name__, "max_steps": state.max_steps}
        labels |= {"epochs": state.num_train_epochs, "trial": state.trial_name}
        labels |= {"trial_params": state.trial_params}
        self._training.begin(labels, state.global_step, state.max_steps, state.log_history)

    @guarded
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add the values so far to the history, and to all logs if this callback is first."""
        found = self._training.log(state.global_step)
        for entry in state.log_history[-1:]:
            if found and entry.get("step") == state.global_step:
                entry.update(found, **{RECORD_ID: self._training.record_id})
        logs.update({name: found[name] for name in found if self._is_first or name in BRIEF})

    @guarded
    def on_train_end(self, *_args: Any, **_given: Any) -> None:
        """End the record."""
        self._training.end()

    @guarded
    def on_epoch_begin(self, *_args: Any, **_given: Any) -> None:
        """Begin a child."""
        self._training.begin_epoch()

    @guarded
    def on_epoch_end(self, *_args: Any, **_given: Any) -> None:
        """End the child."""
        self._training.end_epoch()

    @guarded
    def on_step_end(self, *_args: Any, **_given: Any) -> None:
        """Stop the training if a budget demands it."""
        self._training.check()

    @guarded
    def on_prediction_step(self, *_args: Any, eval_dataloader: Any = None, **_given: Any) -> None:
        """Begin an evaluation at its first batch, since no hook comes before it."""
        self._training.take_batch(eval_dataloader, "evaluate", "predict")

    @guarded
    def on_evaluate(self, *_args: Any, **_given: Any) -> None:
        """End the evaluation."""
        self._training.end_evaluation()

    on_predict = on_evaluate
