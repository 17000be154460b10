"""Trainings with Keras, one after another in one process; prints what came of them as JSON.

A batch of a training takes a second of a clock that only a callback moves, one of an evaluation or
a prediction ten, at 100 W and 50 g/kWh. Argument: a folder to work in.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

from carbontrack.errors import BudgetExceeded
from carbontrack.integrations.keras import CarbontrackCallback
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.tracker import Tracker

FOLDER = Path(sys.argv[1])
CLOCK, SINK = FakeClock(), MemorySink()
TRACKER = Tracker(
    meters=[FakeMeter(watts=100.0)], grid=50.0, sinks=[SINK], clock=CLOCK, interval_s=3600.0
)
TRACKER.session.spans = "all"  # as the setting does
X, Y = np.ones((8, 4), "float32"), np.ones((8, 2), "float32")


class Time(keras.callbacks.Callback):
    """Moves the clock, and does what is given in the second epoch."""

    def __init__(self, happen: Any = None) -> None:
        super().__init__()
        self.happen = happen

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1 and self.happen is not None:
            self.happen()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        CLOCK.advance(1.0)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        CLOCK.advance(10.0)

    on_predict_batch_end = on_test_batch_end


def model() -> Any:
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="tiny")
    made.compile("sgd", "mse")
    return made


def fit(callback: Any, happen: Any = None, after: Any = (), **given: Any) -> Any:
    given = {"epochs": 2, "batch_size": 2, "verbose": 0} | given
    return model().fit(X, Y, callbacks=[Time(happen), callback, *after], **given)


def evaluate(callback: Any) -> None:
    model().evaluate(X, Y, batch_size=4, callbacks=[Time(), callback], verbose=0)


def ours(**settings: Any) -> Any:
    return CarbontrackCallback(tracker=TRACKER, **settings)


def rows() -> list[Any]:
    """What was written since the last look: name, status, joules and seconds."""
    records, SINK.records[:] = list(SINK.records), []
    return [[r.name, r.status, round((r.energy_kwh or 0.0) * 3.6e6), r.duration_s] for r in records]


def fail() -> None:
    raise ValueError("no such thing")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def order() -> dict[str, Any]:
    """A fit with validation, and one more with the same object; evaluate and predict alone."""
    callback, path = ours(), FOLDER / "log.csv"
    logger = keras.callbacks.CSVLogger(path)
    history = fit(callback, None, [logger], validation_data=(X, Y), validation_batch_size=4)
    record = callback.record
    found = {"fit": rows(), "labels": dict(record.labels), "grams": record.emissions_g}
    found["history"] = {name: list(map(float, each)) for name, each in history.history.items()}
    with path.open() as file:
        found["columns"] = next(csv.reader(file))
    fit(callback)
    found["again"] = [callback.record.record_id != record.record_id, rows()]
    evaluate(callback)
    found["evaluate"] = rows()
    model().predict(X, batch_size=4, callbacks=[Time(), callback], verbose=0)
    found["predict"] = rows()
    return found


def failures() -> dict[str, Any]:
    """What is raised in another callback, and what is done with the same object then."""
    callback = ours()
    found: dict[str, Any] = {}

    def nothing() -> None:
        for _ in range(3):
            TRACKER.session.sampler.tick()

    then = {
        "fit": lambda: fit(callback, epochs=1),
        "another": lambda: fit(ours(), epochs=1),
        "evaluate": lambda: evaluate(callback),
        "nothing": nothing,
    }
    for name, go_on in then.items():
        try:
            fit(callback, fail)
        except ValueError:
            go_on()
        found[name] = rows()
    found["error"] = callback.record.error
    try:
        fit(callback, stop)
    except KeyboardInterrupt:
        fit(callback, epochs=1)
    found["Ctrl-C"] = rows()
    return found


def inside() -> list[Any]:
    """An evaluation that a callback makes in the middle of a training."""
    callback = ours()
    fit(callback, lambda: evaluate(callback))
    return rows()


def budget() -> dict[str, Any]:
    """Eight batches in two epochs are 800 J; the budget is 300 J."""
    callback = ours(budget="300 J", on_exceed="raise")
    found: dict[str, Any] = {}
    try:
        fit(callback)
    except BudgetExceeded as error:
        found["raised"] = str(error)
    found["rows"] = rows()
    return found


def copies() -> list[Any]:
    """A copy has the settings, and nothing that is open or has ended."""
    callback = CarbontrackCallback(region="FR", output=None)
    try:
        fit(callback, fail)
    except ValueError:
        made = [copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))]
    for one in made:
        fit(one)
    return [[one.record.status, one.record.region] for one in made]


def hooks() -> list[str]:
    """Our hooks that the base class does not have."""
    named = [name for name in vars(CarbontrackCallback) if not name.startswith("_")]
    return [name for name in named if not hasattr(keras.callbacks.Callback, name)]


def main() -> None:
    runs = (order, failures, inside, budget, copies, hooks)
    print(json.dumps({run.__name__: run() for run in runs}), flush=True)
    fit(CarbontrackCallback(region="FR", output=str(FOLDER / "interrupted.csv")), stop)


main()
