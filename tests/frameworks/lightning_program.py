"""Trainings with Lightning, one after another in one process; prints what came of them as JSON.

A step of training takes a second of a clock that only the model moves, a step of validation or test
ten, at 100 W and 50 g/kWh. Arguments: the package, `lightning` or `pytorch_lightning`, and a folder
to work in; `ddp` as a third one runs that alone.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

PACKAGE, FOLDER = sys.argv[1], Path(sys.argv[2])
pl = importlib.import_module("lightning.pytorch" if PACKAGE == "lightning" else PACKAGE)
CSVLogger = importlib.import_module(f"{pl.__name__}.loggers").CSVLogger

from carbontrack.errors import BudgetExceeded  # noqa: E402
from carbontrack.integrations.lightning import CarbontrackCallback  # noqa: E402
from carbontrack.testing import FakeClock, FakeMeter, MemorySink  # noqa: E402
from carbontrack.tracking.tracker import Tracker  # noqa: E402

CLOCK, SINK = FakeClock(), MemorySink()
TRACKER = Tracker(
    meters=[FakeMeter(watts=100.0)], grid=50.0, sinks=[SINK], clock=CLOCK, interval_s=3600.0
)
TRACKER.session.spans = "all"  # as the setting does


class Model(pl.LightningModule):
    """Ten parameters; what is to happen in a step of training is given."""

    def __init__(self, happen: Any = None) -> None:
        super().__init__()
        self.layer, self.happen, self.lr = torch.nn.Linear(4, 2), happen, 0.1

    def training_step(self, batch: Any, index: int) -> Any:
        if self.happen is not None:
            self.happen()
        CLOCK.advance(1.0)
        return self.layer(batch[0]).pow(2).mean()

    def validation_step(self, batch: Any, index: int) -> None:
        CLOCK.advance(10.0)
        self.log("loss", self.layer(batch[0]).pow(2).mean())

    test_step = validation_step

    def predict_step(self, batch: Any, index: int) -> None:
        CLOCK.advance(10.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr)


class Unconfigured(Model):
    """A model that cannot be trained."""

    def configure_optimizers(self) -> Any:
        raise LookupError("no optimizer")


def loader() -> Any:
    data = torch.utils.data.TensorDataset(torch.ones(8, 4))
    return torch.utils.data.DataLoader(data, batch_size=2)


def trainer(callback: Any, **given: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    given = {"max_epochs": 2, "logger": False, "enable_checkpointing": False} | quiet | given
    return pl.Trainer(callbacks=[callback], default_root_dir=FOLDER, **given)


def ours(**settings: Any) -> Any:
    return CarbontrackCallback(tracker=TRACKER, **settings)


def rows() -> list[Any]:
    """What was written since the last look: name, status, joules and seconds."""
    records, SINK.records[:] = list(SINK.records), []
    return [[r.name, r.status, round((r.energy_kwh or 0.0) * 3.6e6), r.duration_s] for r in records]


def order() -> dict[str, Any]:
    """A fit with a validation in the middle of each epoch and at its end; then a test."""
    callback = ours()
    logger = CSVLogger(FOLDER / "logs")
    fit = trainer(callback, logger=logger, val_check_interval=2, log_every_n_steps=1)
    fit.fit(Model(), loader(), loader())
    record = callback.record
    found = {"fit": rows(), "labels": dict(record.labels), "ids": callback.record_ids}
    found["record_id"], found["grams"] = record.record_id, record.emissions_g
    fit.test(Model(), loader(), verbose=False)
    found |= {"test": rows(), "ids_after_test": callback.record_ids}
    with Path(logger.log_dir, "metrics.csv").open() as file:
        found["logged"] = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    for run in ("validate", "predict"):
        getattr(fit, run)(Model(), loader(), **({"verbose": False} if run == "validate" else {}))
        found[run] = rows()
    return found


def failures() -> dict[str, Any]:
    """A step that raises, a model that cannot be trained, and a second fit after each."""
    callback = ours()
    found: dict[str, Any] = {}

    def fail() -> None:
        raise ValueError("no\nsuch  thing")

    for name, model in (("step", Model(fail)), ("optimizer", Unconfigured())):
        try:
            trainer(callback).fit(model, loader())
        except (ValueError, LookupError) as error:
            found[name] = [repr(error), callback.record.error, rows()]
        trainer(callback, max_epochs=1).fit(Model(), loader())
        found[f"after {name}"] = rows()
    return found


def resumed() -> dict[str, Any]:
    """A training that goes on from a checkpoint, twice, and a test of the checkpoint."""
    found: dict[str, Any] = {"parts": []}
    path = None
    for epochs in (1, 2, 3):
        callback = ours()
        part = trainer(callback, max_epochs=epochs)
        part.fit(Model(), loader(), ckpt_path=path)
        path = FOLDER / f"{epochs}.ckpt"
        part.save_checkpoint(path)
        record = callback.record
        found["parts"].append(
            [record.record_id, dict(record.labels), list(callback.record_ids), rows()]
        )
    part.test(Model(), loader(), ckpt_path=path, verbose=False)
    found["labels_of_test"] = dict(callback.record.labels)
    found["in_file"] = torch.load(path, weights_only=True)["callbacks"]["CarbontrackCallback"]
    return found


def tuned() -> dict[str, Any]:
    """A search for a learning rate, which goes back to a checkpoint of its own, then a training."""
    callback, model = ours(), Model()
    fit = trainer(callback, max_epochs=1)
    importlib.import_module(f"{pl.__name__}.tuner").Tuner(fit).lr_find(
        model, loader(), num_training=4
    )
    found = {"search": [rows(), dict(callback.record.labels), len(callback.record_ids)]}
    fit.fit(model, loader())
    found["fit"] = [rows(), dict(callback.record.labels), len(callback.record_ids)]
    return found


def budget() -> dict[str, Any]:
    """Twelve steps are 1200 J; the budget is 500 J, which the sixth exceeds."""
    callback = ours(budget="500 J", on_exceed="raise")
    fit = trainer(callback, max_epochs=3)
    try:
        fit.fit(Model(), loader())
    except BudgetExceeded as error:
        return {"raised": str(error), "epoch": fit.current_epoch, "rows": rows()}
    return {"rows": rows()}


def terminated() -> dict[str, Any]:
    """SIGTERM, as a batch system sends it, which Lightning handles itself."""
    callback = ours()
    try:
        trainer(callback).fit(Model(lambda: os.kill(os.getpid(), signal.SIGTERM)), loader())
    except SystemExit as error:
        return {"raised": repr(error), "error": callback.record.error, "rows": rows()}
    return {"rows": rows()}


def hooks() -> list[str]:
    """Our hooks that the base class does not have."""
    named = [name for name in vars(CarbontrackCallback) if not name.startswith("_")]
    return [name for name in named if name != "record_ids" and not hasattr(pl.Callback, name)]


def spawned() -> None:
    """Two processes, which measure themselves."""
    callback = CarbontrackCallback(region="FR", output=str(FOLDER / "spawned.csv"), spans="all")
    fit = trainer(
        callback,
        strategy="ddp_spawn",
        devices=2,
        logger=CSVLogger(FOLDER / "spawned"),
        log_every_n_steps=1,
    )
    fit.fit(Model(), loader(), loader())


class Late(pl.Callback):
    """Lets rank 0, which has started the other one, begin a moment after it."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        time.sleep(0.5 if trainer.is_global_zero else 0.0)


def launched() -> None:
    """Two processes, of which rank 0 starts the other one by running this program again."""
    callback = CarbontrackCallback(
        region="FR", output=str(FOLDER / "launched.csv"), interval_s=0.1, name="launched"
    )
    fit = trainer(Late(), strategy="ddp", devices=2, max_epochs=1)
    fit.callbacks.insert(1, callback)
    fit.fit(Model(lambda: time.sleep(0.3)), loader())
    print(json.dumps({"rank": fit.global_rank}), flush=True)


def main() -> None:
    warnings.filterwarnings("ignore", message="(?!.*carbontrack)")
    if sys.argv[3:] == ["ddp"]:
        launched()
        return
    if PACKAGE != "lightning":
        print(json.dumps({"order": order(), "bases": [b.__module__ for b in bases()]}))
        return
    runs = (order, failures, resumed, tuned, budget, terminated, hooks)
    print(json.dumps({run.__name__: run() for run in runs}), flush=True)
    spawned()
    interrupted = CarbontrackCallback(region="FR", output=str(FOLDER / "interrupted.csv"))
    trainer(interrupted).fit(Model(lambda: os.kill(os.getpid(), signal.SIGINT)), loader())


def bases() -> tuple[type, ...]:
    """The base classes, in a module that is loaded where both packages are."""
    importlib.import_module("lightning.pytorch")
    module = importlib.reload(importlib.import_module(CarbontrackCallback.__module__))
    return module.CarbontrackCallback.__mro__


if __name__ == "__main__":
    main()
