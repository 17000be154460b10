"""What tests/frameworks/test_transformers.py looks at: trainings, in one process, as JSON.

Time and power are known: 10 W, 1 s for each step of a training and 0.1 s for each batch of an
evaluation, so 10 J and 1 J.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from huggingface_hub import ModelCardData
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.modelcard import parse_log_history

import carbontrack
from carbontrack.integrations.transformers import CarbontrackCallback
from carbontrack.record import Record
from carbontrack.testing import FakeClock, FakeMeter, MemorySink

DATA = [{"x": torch.ones(4) * n, "labels": n % 2} for n in range(16)]
EVALUATED = DATA[:8]
FOUND: dict[str, Any] = {}


class World:
    """A tracker with 10 W and 100 g/kWh, on a clock that the model turns."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sink = MemorySink()
        self.tracker = carbontrack.Tracker(
            meters=[FakeMeter(watts=10.0)], sinks=[self.sink], grid=100.0, clock=self.clock
        )

    def callback(self, **settings: Any) -> CarbontrackCallback:
        return CarbontrackCallback(tracker=self.tracker, **settings)

    def rows(self) -> list[dict[str, Any]]:
        return [row(one) for one in self.sink.records]


def row(record: Record | None) -> dict[str, Any]:
    assert record is not None
    joules = (record.energy_kwh or 0.0) * 3.6e6
    return {
        "name": record.name,
        "status": record.status,
        "error": record.error,
        "joules": round(joules, 6),
        "labels": dict(record.labels),
        "id": record.record_id,
    }


class Net(torch.nn.Module):
    """Ten parameters, whose use takes the time that the clock says."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)
        self.clock = clock

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.clock is not None:
            self.clock.advance(1.0 if self.training else 0.1)
        logits = self.linear(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class Raises(TrainerCallback):
    """Another callback, which fails at a step."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise self.error


def trainer(
    callbacks: list[TrainerCallback], clock: FakeClock | None = None, **arguments: Any
) -> Trainer:
    """A Trainer of 4 steps an epoch that saves, reports and evaluates nothing unless told to."""
    made: dict[str, Any] = {
        "output_dir": "out",
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 4,
        "logging_steps": 2,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return Trainer(
        None if "model_init" in arguments else Net(clock),
        model_init=arguments.pop("model_init", None),
        args=TrainingArguments(**{**made, **arguments}),
        train_dataset=DATA,
        eval_dataset=EVALUATED,
        callbacks=callbacks,
    )


def scenario(run: Callable[[], Any]) -> Callable[[], Any]:
    """Run it in a folder of its own, and keep what it returns."""
    folder = Path(run.__name__).absolute()
    folder.mkdir()
    os.chdir(folder)
    try:
        FOUND[run.__name__] = run()
    finally:
        os.chdir(folder.parent)
    return run


def joules_of(entry: dict[str, Any], name: str = "energy_kwh") -> float | None:
    kwh = entry.get(f"carbontrack/{name}")
    return None if kwh is None else round(kwh * 3.6e6, 6)


@scenario
def order() -> Any:
    """Two epochs with evaluations, seen by TensorBoard."""
    world = World()
    callback = world.callback()
    one = trainer(
        [callback], world.clock, max_steps=8, report_to="tensorboard", eval_strategy="epoch"
    )
    assert callback.first(one) is callback
    assert callback.first(one) is callback
    forecasts = []

    class Watches(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            forecast = callback.forecast
            forecasts.append(None if forecast is None else round(forecast.energy_kwh * 3.6e6, 6))

    one.add_callback(Watches())
    result = one.train()
    history = list(one.state.log_history)
    (events,) = {path.parent for path in Path().rglob("events.out.tfevents.*")}
    read = EventAccumulator(str(events)).Reload()
    return {
        "first": type(one.callback_handler.callbacks[0]).__name__,
        "copies": sum(each is callback for each in one.callback_handler.callbacks),
        "row": row(callback.record),
        "rows": world.rows(),
        "history": [[entry["step"], joules_of(entry), "eval_loss" in entry] for entry in history],
        "forecasts_logged": [joules_of(entry, "forecast_energy_kwh") for entry in history],
        "forecasts": forecasts,
        "emissions_g": [entry.get("carbontrack/emissions_g") for entry in history],
        "ids": sorted({entry["carbontrack/record_id"] for entry in history if joules_of(entry)}),
        "metrics": joules_of(result.metrics),
        "events": [
            [event.step, round(event.value * 3.6e6, 3)]
            for event in read.Scalars("train/carbontrack/energy_kwh")
        ],
        "tags": sorted(tag for tag in read.Tags()["scalars"] if "carbontrack" in tag),
        "card_of_theirs": sorted(parse_log_history(history)[2]),
        "evaluated": sorted(one.evaluate()),
        "predicted": sorted(one.predict(EVALUATED).metrics),
        "after": world.rows()[1:],
        "card": callback.model_card(),
        "card_as_yaml": ModelCardData(co2_eq_emissions=callback.model_card()).to_yaml(),
    }


@scenario
def without_first() -> Any:
    """The callback in its usual place, behind the reporters."""
    world = World()
    seen = []

    class Later(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
            seen.append(sorted(name for name in logs if name.startswith("carbontrack/")))

    one = trainer([world.callback(), Later()], world.clock, report_to="tensorboard")
    one.train()
    (events,) = {path.parent for path in Path().rglob("events.out.tfevents.*")}
    tags = EventAccumulator(str(events)).Reload().Tags()["scalars"]
    return {
        "seen": seen,
        "reported": [tag for tag in tags if "carbontrack" in tag],
        "history": [joules_of(entry) for entry in one.state.log_history],
    }


@scenario
def children() -> Any:
    """Rows of children, with an evaluation inside of an epoch."""
    callback = CarbontrackCallback(output="rows.csv", region="FR", spans="all", synchronize=True)
    one = trainer([callback], num_train_epochs=2, max_steps=-1, eval_strategy="steps", eval_steps=3)
    one.train()
    frame = carbontrack.read_records("rows.csv")
    return {
        "names": list(frame["name"]),
        "parents": sorted(set(frame["parent_id"].dropna())),
        "id": callback.record.record_id,
        "cuda": torch.cuda.is_initialized(),
    }


@scenario
def search() -> Any:
    """Three trials, of which one is pruned; the objective is what it would be without us."""
    world = World()

    class PrunesTheSecond(optuna.pruners.BasePruner):
        def prune(self, study: Any, trial: Any) -> bool:
            return trial.number == 1

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    one = trainer(
        [world.callback()],
        model_init=lambda trial=None: Net(world.clock),
        max_steps=2,
        logging_steps=1,
        eval_strategy="epoch",
    )
    one.compute_metrics = lambda predictions: {"accuracy": 1.0}
    one.callback_handler.callbacks[-2].first(one)
    best = one.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 0.1, 0.2)},
        hp_name=lambda trial: f"trial {trial.number}",
        n_trials=3,
        direction="maximize",
        backend="optuna",
        pruner=PrunesTheSecond(),
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    return {"objective": best.objective, "rows": world.rows()}


@scenario
def resume() -> Any:
    """A training that goes on from a checkpoint, with another callback."""
    world = World()
    before = world.callback()
    trainer([before], world.clock, save_strategy="steps", save_steps=2).train()
    saved = json.loads(Path("out/checkpoint-2/trainer_state.json").read_text())
    after = world.callback()
    trainer([after], world.clock).train(resume_from_checkpoint="out/checkpoint-2")
    return {
        "saved": [joules_of(entry) for entry in saved["log_history"]],
        "before": row(before.record),
        "after": row(after.record),
        "card_before": before.model_card() is not None,
        "card_after": after.model_card(),
    }


@scenario
def fails() -> Any:
    """Another callback raises; the same objects are used again."""
    world = World()
    callback = world.callback()
    one = trainer([callback, Raises(3, ValueError("theirs"))], world.clock)
    raised = []
    for _ in range(2):
        try:
            one.train()
        except ValueError as error:
            raised.append(str(error))
    one.remove_callback(Raises)
    again = one.evaluate()  # at once: nobody has looked yet
    seen_at_once = world.rows()
    one.train()
    one.add_callback(Raises(3, ValueError("theirs")))
    try:
        one.train()
    except ValueError as error:
        raised.append(str(error))
    was_open = carbontrack.current_span() is not None
    world.clock.advance(3.0)
    return {
        "raised": raised,
        "evaluated": "eval_loss" in again,
        "at_once": seen_at_once,
        "was_open": was_open,
        "is_open": carbontrack.current_span() is not None,
        "rows": world.rows(),
        "record": row(callback.record),
    }


@scenario
def fails_in_evaluations() -> Any:
    """An evaluation raises, and the next one begins anew."""
    world = World()
    callback = world.callback()
    one = trainer([callback], world.clock)

    def broken(*_: Any) -> Any:
        raise ValueError("theirs")

    for metrics in (broken, None):
        one.compute_metrics = metrics
        try:
            one.evaluate()
        except ValueError:
            world.clock.advance(0.5)
    return world.rows()


@scenario
def runs_out_of_memory() -> Any:
    """`auto_find_batch_size` begins again with a smaller batch, without a last hook."""
    world = World()
    one = trainer([world.callback()], world.clock, auto_find_batch_size=True)
    one.add_callback(Raises(1, RuntimeError("CUDA out of memory.")))

    class Once(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if world.sink.records:
                one.remove_callback(Raises)

    one.add_callback(Once())
    one.train()
    return world.rows()


@scenario
def interrupted() -> Any:
    """Ctrl-C, which the program takes for the end of the training."""
    world = World()

    class Presses(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    callback = world.callback()
    caught = False
    try:
        trainer([callback, Presses()], world.clock).train()
    except KeyboardInterrupt:
        caught = True
    world.clock.advance(3.0)
    return {"caught": caught, "rows": world.rows(), "card": callback.model_card() is not None}


@scenario
def budget() -> Any:
    """A budget that ends the training where it asks for it, and only there."""
    found = {}
    for on_exceed in ("raise", "warn"):
        world = World()
        callback = world.callback(budget="25 J", on_exceed=on_exceed)
        one = trainer([callback], world.clock)
        try:
            one.train()
            raised = None
        except carbontrack.BudgetExceeded as error:
            raised = str(error)
        found[on_exceed] = {"raised": raised, "steps": one.state.global_step, "rows": world.rows()}
    return found


@scenario
def inside() -> Any:
    """A block around it: what comes before the first hook is in there, and so is the training."""
    world = World()
    with world.tracker.span("job") as job:
        world.clock.advance(5.0)
        callback = CarbontrackCallback()
        trainer([callback], world.clock).train()
    return {"rows": world.rows(), "child": row(callback.record), "parent": job.record.record_id,
            "parent_of_child": callback.record.parent_id}  # fmt: skip


@scenario
def switched_off() -> Any:
    """Nothing is measured, and nothing is missed."""
    callback = CarbontrackCallback(disable=True)
    one = trainer([callback])
    callback.first(one)
    one.train()
    names = {name for entry in one.state.log_history for name in entry}
    return {
        "logged": sorted(name for name in names if "carbontrack" in name),
        "status": None if callback.record is None else callback.record.status,
        "card": callback.model_card(),
    }


@scenario
def copies() -> Any:
    """A callback travels before it is used, and afterwards as if it had not been."""
    callback = CarbontrackCallback(output=None, region="FR", labels={"team": "nlp"})
    trainer([callback]).train()
    found = []
    for copied in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert copied.record is None
        trainer([copied]).train()
        found.append(dict(copied.record.labels))
    return found


@scenario
def names() -> Any:
    """Our hooks that the framework does not know."""
    ours = [name for name in vars(CarbontrackCallback) if name.startswith("on_")]
    return {"ours": ours, "unknown": [name for name in ours if not hasattr(TrainerCallback, name)]}


if __name__ == "__main__":
    print("FOUND", json.dumps(FOUND), flush=True)
    # and the last one is left alone with Ctrl-C
    # without a tick in between, however long the machine takes for what Python says of it
    last = CarbontrackCallback(output="last.csv", region="FR", interval_s=600.0)

    class Presses(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    trainer([last, Presses()]).train()
    sys.exit("not reached")
