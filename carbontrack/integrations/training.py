"""A training: an episode with epochs and evaluations, a forecast of its total and a model card."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any

from carbontrack.api.forecast import Forecast, LoopCourse
from carbontrack.integrations.episode import Episode, guarded
from carbontrack.integrations.metrics import PREFIX, metrics_of
from carbontrack.integrations.stack_watch import stays_on_stack, watched_loop
from carbontrack.record import Record
from carbontrack.system.log import LOGGER

RECORD_ID = f"{PREFIX}record_id"
"""The key for the record's id in a framework's history, which its checkpoints keep."""
RESUMED = "resumed_at_step"
"""The label of a training that is resumed from a checkpoint."""
OFTEN, FORECAST_PART = 100, 0.01
"""The first OFTEN logs each make a forecast, later ones after this share of the time so far: a
forecast from many steps takes 300 us."""
_NO_PLACES = ("WORLD", "custom")
"""Regions of records without a known place: an unknown region, and that of a given intensity."""
BRIEF = (f"{PREFIX}energy_kwh", f"{PREFIX}emissions_g")
"""A short selection, for frameworks that print each log."""


def finish_kernels() -> None:
    """Wait until the GPU has finished all kernels, if this process has a CUDA context."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Training:
    """The trainings of one callback, and the evaluations inside and outside of them.

    Args:
        synchronize: wait for the GPU at the boundaries of epochs and evaluations, so that each has
            the energy of its own kernels. It does nothing if this process does not use CUDA.
        finish: how to wait for it.
        settings: what `Episode` takes.

    Raises:
        ConfigError: a setting cannot be used.
    """

    def __init__(
        self,
        *,
        synchronize: bool = False,
        finish: Callable[[], object] = finish_kernels,
        **settings: Any,
    ) -> None:
        self._again = functools.partial(
            type(self), synchronize=synchronize, finish=finish, **settings
        )
        self._episode = Episode(**settings)
        self._finish = finish if synchronize else None
        self._loop: CodeType | None = None
        self._is_alone = self._is_in_epoch = False
        self._evaluated: int | None = None
        self._trained: Record | None = None
        self._course = LoopCourse(None)
        self._step = self._last_step = 0
        self._forecasts, self._forecast_s = 0, 0.0
        self.record_id = ""
        """The id of the record that `log` reported last."""

    def __reduce__(self) -> tuple[Any, ...]:
        return self._again, ()

    @property
    def record(self) -> Record | None:
        """The record of the last training, or evaluation outside a training, that ended."""
        return self._episode.record

    @property
    def forecast(self) -> Forecast | None:
        """The forecast of the training's total; None before the first call of `log`."""
        return self._course.forecast

    def begin(
        self,
        labels: Mapping[str, Any],
        step: int = 0,
        steps: int | None = None,
        history: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Begin a training; what is still open is closed as an error.

        Args:
            labels: labels of the record; those that are None or infinite are left out.
            step: the steps that were done earlier and are in another record.
            steps: the total number of steps at the end, including the earlier ones.
            history: the logs of the earlier steps, with the ids of their records.
        """
        self._loop = watched_loop()
        self._is_alone = self._is_in_epoch = False
        self._evaluated = None
        earlier = [entry[RECORD_ID] for entry in history if RECORD_ID in entry]
        resumed = {RESUMED: step or None, "resumes": earlier[-1] if earlier else None}
        unknown = (None, sys.maxsize)  # the latter for what has no end
        known = {name: one for name, one in {**labels, **resumed}.items() if one not in unknown}
        self._episode.begin("train", known, loop=self._loop)
        self._course = LoopCourse(None if steps is None else steps - step)
        self._step, self._last_step = step, steps or 0
        self._forecasts, self._forecast_s = 0, 0.0

    def begin_epoch(self) -> None:
        """Begin a child for an epoch."""
        self._is_in_epoch = True
        self._next("epoch")

    def end_epoch(self) -> None:
        """End the child."""
        self._is_in_epoch = False
        self._next(None)

    def end(self) -> None:
        """End the training."""
        self._episode.end()

    def check(self) -> None:
        """Raise BudgetExceeded if the budget is exceeded and demands it."""
        self._episode.check()

    def take_batch(self, data: object, *methods: str) -> None:
        """Note a batch of an evaluation; the first begins a child, or a record outside a training.

        Args:
            data: the data being evaluated: another object means another evaluation.
            methods: names of the framework's methods that evaluate. The nearest one on the stack
                names the evaluation and lasts as long as it does.
        """
        before, self._evaluated = self._evaluated, id(data)
        if before == self._evaluated and self._episode.is_open:
            self._episode.check()
            return
        method = _caller(methods)
        name = methods[0] if method is None else method.co_name
        if self._is_in_training():
            self._next(name)
        else:
            was_alone, self._is_alone = self._is_alone, True
            self._episode.begin(name, loop=method)
            if not was_alone:
                self._trained = self._episode.record

    def end_evaluation(self) -> None:
        """End the evaluation; the rest of the enclosing epoch becomes a separate child."""
        self._evaluated = None
        if self._is_alone:
            self._episode.end()
        else:
            self._next("epoch" if self._is_in_epoch else None)

    def log(self, step: int) -> dict[str, float]:
        """Energy and emissions of the training after this step, and the forecast of its total.

        Empty in an evaluation, whose metrics are compared and optimised.
        """
        record = None if self._evaluated is not None else self._episode.snapshot()
        if record is None:
            return {}
        self.record_id = record.record_id
        if step > self._step and self._is_forecast_due(record.duration_s or 0.0):
            self._course.take(record, step - self._step)
            self._step = step
        found = metrics_of(record)
        for name in ("energy_kwh", "emissions_g"):
            amount = getattr(self.forecast, name, None)
            if amount is not None and step < self._last_step:
                found[f"{PREFIX}forecast_{name}"] = amount
        return found

    def model_card(self) -> dict[str, Any] | None:
        """The `co2_eq_emissions` of a model card: the last training, if it is in one record.

        None if the emissions are unknown, for one of several ranks, and for a resumed training:
        each of these is only a part, and reports add up the parts.
        """
        record = self._trained if self._is_alone else self.record
        if record is None or record.emissions_g is None:
            return None
        if (record.world_size or 1) > 1 or RESUMED in record.labels:
            LOGGER.warning(
                "this record covers only a part of the training, so a model card must not be made "
                "from it; `carbontrack report … --format modelcard` adds up the rows of all parts"
            )
            return None
        return _card(record)

    def _is_forecast_due(self, now_s: float) -> bool:
        is_due = self._forecasts < OFTEN or now_s - self._forecast_s >= now_s * FORECAST_PART
        if is_due:
            self._forecasts, self._forecast_s = self._forecasts + 1, now_s
        return is_due

    def _is_in_training(self) -> bool:
        if self._is_alone or not self._episode.is_open:
            return False
        return self._loop is None or stays_on_stack(self._loop)

    def _next(self, child: str | None) -> None:
        if self._finish is not None:
            self._finish()
        if child is None:
            self._episode.end_child()
        else:
            self._episode.child(child)


class EpisodeCallback:
    """The common part of callbacks: an episode, to which they map the hooks, and its record.

    Args:
        synchronize: wait for the GPU at the boundaries of children, so that each has the energy of
            its own kernels.
        settings: those of `Episode`.
    """

    def __init__(self, *, synchronize: bool = False, **settings: Any) -> None:
        super().__init__()
        self._episode = Episode(**settings)
        self._synchronize = synchronize

    @property
    def record(self) -> Record | None:
        """The record of the last finished run in this process; None before the first."""
        return self._episode.record

    @guarded
    def _check(self, *_args: Any, **_given: Any) -> None:
        """A hook that ends the run if a budget demands it."""
        self._episode.check()

    def _next(self, child: str | None) -> None:
        """End the open child, and begin this one, if any."""
        if self._synchronize:
            finish_kernels()
        if child is None:
            self._episode.end_child()
        else:
            self._episode.child(child)


class TrainingCallback:
    """The common part of the callbacks for trainings: settings and results.

    Args:
        settings: those of `Training`.
    """

    def __init__(self, **settings: Any) -> None:
        self._training = Training(**settings)

    @property
    def record(self) -> Record | None:
        """The record of the last training, or evaluation outside a training, that ended."""
        return self._training.record

    @property
    def forecast(self) -> Forecast | None:
        """The forecast of the training's total; None before its first log."""
        return self._training.forecast

    def model_card(self) -> dict[str, Any] | None:
        """The `co2_eq_emissions` of a model card; see `Training.model_card`."""
        return self._training.model_card()


def _caller(names: tuple[str, ...]) -> CodeType | None:
    """The code of the nearest function on the stack that has one of these names."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in names:
        frame = frame.f_back
    return None if frame is None else frame.f_code


def _card(record: Record) -> dict[str, Any]:
    boards = Counter(filter(None, (record.gpu_models or "").split(";")))
    hardware = [record.cpu_model, *(f"{count} x {name}" for name, count in boards.items())]
    is_place = record.region not in _NO_PLACES
    card = {
        "emissions": record.emissions_g,
        "source": f"carbontrack {record.carbontrack or ''}".strip(),
        "geographical_location": record.region if is_place else None,
        "hardware_used": ", ".join(filter(None, hardware)) or None,
    }
    return {name: fact for name, fact in card.items() if fact is not None}
