"""Keras 3: a callback for each fit, and each evaluate and predict outside of one; any backend."""

from __future__ import annotations

from math import nan
from typing import Any

from carbontrack.errors import MissingExtra
from carbontrack.integrations.episode import guarded
from carbontrack.integrations.training import BRIEF, EpisodeCallback

try:
    from keras.callbacks import Callback
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "keras":  # its backend
        raise
    raise MissingExtra("keras", "keras", "CarbontrackCallback") from error


class CarbontrackCallback(EpisodeCallback, Callback):  # type: ignore[misc, unused-ignore]
    """Measures a model's runs; takes the arguments of `track`, such as region="FR"."""

    _is_fit = False
    _names: tuple[str, ...] = ()  # what the history of this fit has, a list of one length for each

    @guarded
    def on_train_begin(self, logs: Any = None) -> None:
        self._begin("fit")

    @guarded
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._next("epoch")

    on_train_batch_begin = EpisodeCallback._check

    @guarded
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._next(None)
        found = self._episode.metrics()
        self._names = self._names or tuple(found)
        history = getattr(getattr(self.model, "history", None), "history", {})
        for name in self._names:
            if name in BRIEF and logs is not None:  # Keras prints whatever is in the logs
                logs[name] = found.get(name, nan)
            else:
                history.setdefault(name, []).append(found.get(name, nan))

    @guarded
    def on_train_end(self, logs: Any = None) -> None:
        self._episode.end()

    @guarded
    def on_test_begin(self, logs: Any = None) -> None:
        self._begin_inside("validation", "evaluate")

    @guarded
    def on_predict_begin(self, logs: Any = None) -> None:
        self._begin_inside("predict", "predict")

    @guarded
    def on_test_end(self, logs: Any = None) -> None:
        if self._is_fit:
            self._next(None)
        else:
            self._episode.end()

    on_predict_end = on_test_end

    def _begin_inside(self, child: str, name: str) -> None:
        # the hooks of a validation are those of `evaluate`; a fit that has failed may still be open
        if self._is_fit and self._episode.is_running:
            self._next(child)
        else:
            self._begin(name)

    def _begin(self, name: str) -> None:
        self._is_fit, self._names = name == "fit", ()
        self._episode.begin(name, {"model": self.model.name})
