"""What tests/frameworks/test_codecarbon.py looks at: a program that knows of CodeCarbon only.

Trainings with transformers' and Lightning's own means, and a loop of PyTorch alone, as
CodeCarbon's documentation shows them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning
import torch
from codecarbon import EmissionsTracker, OfflineEmissionsTracker, track_emissions
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import CodeCarbonCallback, is_codecarbon_available

DATA = [{"x": torch.ones(4) * n, "labels": n % 2} for n in range(8)]
FOUND: dict[str, Any] = {"available": is_codecarbon_available()}


class Net(torch.nn.Module):
    """Ten parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x: Any, labels: Any) -> Any:
        logits = self.linear(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class Fails(TrainerCallback):
    """Raises at a step, once it is asked to."""

    asked = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.asked:
            raise ValueError("theirs")


def with_transformers() -> None:
    """Two trainings with one Trainer, one that fails, and another after it."""
    arguments = TrainingArguments(
        "hf", max_steps=2, report_to="codecarbon", use_cpu=True, save_strategy="no",
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    fails = Fails()
    trainer = Trainer(Net(), arguments, train_dataset=DATA, callbacks=[fails])
    callback = next(
        one for one in trainer.callback_handler.callbacks if isinstance(one, CodeCarbonCallback)
    )
    emissions = []
    for asked in (False, False, True, False):
        fails.asked = asked
        try:
            trainer.train()
        except ValueError as error:
            FOUND["raised"] = str(error)
        else:
            emissions.append(callback.tracker.final_emissions)
    FOUND["transformers"] = emissions
    FOUND["home"] = type(callback.tracker).__module__


class Emissions(lightning.Callback):
    """A run for the training, and a task for each epoch."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        Path("light").mkdir(exist_ok=True)
        self.tracker = EmissionsTracker(project_name="light", output_dir="light", log_level="error")
        self.tracker.start()

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.tracker.start_task(f"epoch {trainer.current_epoch}")

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        data = self.tracker.stop_task()
        module.log("emissions_kg", data.emissions)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        FOUND["lightning"] = self.tracker.stop()


class Linear(lightning.LightningModule):
    """A model for Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def training_step(self, batch: Any, index: int) -> Any:
        return self.net(batch["x"], batch["labels"])["loss"]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def with_lightning() -> None:
    """Two epochs."""
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[Emissions()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Linear(), torch.utils.data.DataLoader(DATA, batch_size=4))
    FOUND["logged"] = float(trainer.callback_metrics["emissions_kg"])


def epoch(net: Net) -> float:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for one in DATA:
        optimizer.zero_grad()
        loss = net(one["x"][None], torch.tensor([one["labels"]]))["loss"]
        loss.backward()
        optimizer.step()
    return float(loss)


@track_emissions(
    project_name="decorated", offline=True, country_iso_code="USA", region="california",
    output_file="plain.csv", log_level="error",
)  # fmt: skip
def decorated(net: Net) -> float:
    return epoch(net)


def with_pytorch_alone() -> None:
    """A decorator, a `with` block, and rows after each epoch."""
    net = Net()
    FOUND["loss"] = decorated(net)
    with OfflineEmissionsTracker(
        project_name="block", country_iso_code="FRA", output_file="plain.csv", log_level="error"
    ) as tracker:
        epoch(net)
    FOUND["block"] = tracker.final_emissions
    tracker = EmissionsTracker(
        project_name="epochs", output_file="plain.csv", on_csv_write="update", log_level="error"
    )
    tracker.start()
    FOUND["flushed"] = [epoch(net) and tracker.flush() for _ in range(3)]
    FOUND["stopped"] = tracker.stop()


if __name__ == "__main__":
    with_transformers()
    with_lightning()
    with_pytorch_alone()
    print("FOUND " + json.dumps(FOUND))
