"""Hugging Face's Trainer: each training is one record, whatever happens in it.

The trainings are in transformers_program.py, in one process, since most of the time is its import.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carbontrack.record import Record
from carbontrack.report.read import iter_records

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("transformers")]
for needed in ("torch", "transformers", "accelerate", "tensorboard", "optuna"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parents[2]
GONE = "ended without its last hook"
RANKS = """
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from carbontrack.integrations.transformers import CarbontrackCallback

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x, labels):
        logits = self.linear(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

data = [{"x": torch.ones(4) * n, "labels": n % 2} for n in range(16)]
arguments = TrainingArguments(
    "out", max_steps=4, logging_steps=2, use_cpu=True, ddp_backend="gloo", disable_tqdm=True,
    report_to="tensorboard", save_strategy="no", eval_strategy="steps", eval_steps=2,
)
callback = CarbontrackCallback(region="FR", output="ranks.csv")
trainer = Trainer(Net(), arguments, train_dataset=data, eval_dataset=data, callbacks=[callback])
callback.first(trainer)
trainer.train()
assert callback.model_card() is None  # it is one rank's
"""


def run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a Python program in the folder."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "CARBONTRACK_STATE_DIR": str(folder / "state"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)],
        cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], int]:
    """The folder of the program, what it found, and how it ended."""
    folder = tmp_path_factory.mktemp("trainings")
    done = run(folder, Path(__file__).with_name("transformers_program.py"))
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-3000:]
    return folder, json.loads(lines[0].removeprefix("FOUND ")), done.returncode


@pytest.fixture(scope="module")
def found(ran: tuple[Path, dict[str, Any], int]) -> dict[str, Any]:
    """What the program found, by scenario."""
    return ran[1]


def told(rows: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    """Name, status and joules of rows."""
    return [(row["name"], row["status"], row["joules"]) for row in rows]


def test_the_trainer_has_the_hooks_that_we_use(found: dict[str, Any]) -> None:
    """A hook that is renamed would never be called, and nothing would say so."""
    assert found["names"]["unknown"] == []
    assert len(found["names"]["ours"]) == 9


def test_a_training_is_one_record_with_all_its_joules(found: dict[str, Any]) -> None:
    """Eight steps of 10 J and two evaluations of 2 J, written once."""
    order = found["order"]
    assert told(order["rows"]) == [("train", "ok", 84.0)]
    assert order["row"] == order["rows"][0]
    assert order["row"]["labels"] == {"model": "Net", "max_steps": 8, "epochs": 2}


def test_the_history_has_what_was_used_at_each_log(found: dict[str, Any]) -> None:
    """Beside the loss, and in the metrics of the result; the record's id tells of which run."""
    order = found["order"]
    trained = [(step, joules) for step, joules, evaluated in order["history"] if not evaluated]
    assert trained == [(2, 20.0), (4, 40.0), (6, 62.0), (8, 82.0), (8, 84.0)]
    assert order["metrics"] == 84.0
    assert order["ids"] == [order["row"]["id"]]
    grams = [g for g in order["emissions_g"] if g is not None]
    assert grams == pytest.approx([joules / 3.6e6 * 100.0 for _, joules in trained])


def test_reporters_have_the_same_figures(found: dict[str, Any]) -> None:
    """After `first`, TensorBoard's file has each of them at the step of its log."""
    order = found["order"]
    assert (order["first"], order["copies"]) == ("CarbontrackCallback", 1)
    assert order["events"] == [
        [step, joules] for step, joules, evaluated in order["history"] if not evaluated
    ]
    for name in ("emissions_g", "energy_low_kwh", "power_w", "forecast_emissions_g"):
        assert f"train/carbontrack/{name}" in order["tags"]


def test_behind_the_reporters_a_log_has_two_figures_more(found: dict[str, Any]) -> None:
    """What is printed stays short; the history has all, the reporters before have nothing."""
    behind = found["without_first"]
    assert behind["seen"] == [["carbontrack/emissions_g", "carbontrack/energy_kwh"]] * 3
    assert behind["reported"] == []
    assert behind["history"] == [20.0, 40.0, 40.0]


def test_the_total_is_forecast_from_the_steps_that_are_left(found: dict[str, Any]) -> None:
    """10 J a step at first, and 10.5 J once an evaluation is among them; none at the end."""
    order = found["order"]
    assert order["forecasts_logged"] == [80.0, 80.0, None, 83.0, None, None, None]
    assert order["forecasts"][:4] == [80.0, 80.0, 80.0, 83.0]


def test_metrics_of_evaluations_are_as_they_were(found: dict[str, Any]) -> None:
    """A search adds them up, and a model card lists them: a figure of ours would be among them."""
    order = found["order"]
    assert [joules for _, joules, evaluated in order["history"] if evaluated] == [None, None]
    assert [name for name in order["evaluated"] + order["predicted"] if "carbontrack" in name] == []
    assert order["card_of_theirs"] == ["Loss"]


def test_evaluations_outside_of_a_training_have_records(found: dict[str, Any]) -> None:
    """By the name of the method; the first batch is over before the first hook."""
    assert told(found["order"]["after"]) == [("evaluate", "ok", 1.0), ("predict", "ok", 1.0)]


def test_the_model_card_is_that_of_the_training(found: dict[str, Any]) -> None:
    """Also after evaluations, and as the Hub's own class writes it."""
    card = found["order"]["card"]
    assert card["emissions"] == pytest.approx(84.0 / 3.6e6 * 100.0)
    assert card["source"].startswith("carbontrack ")
    assert "co2_eq_emissions:\n  emissions: 0.00233" in found["order"]["card_as_yaml"]
    assert found["interrupted"]["card"]
    assert found["resume"]["card_before"]
    assert found["resume"]["card_after"] is None


def test_epochs_and_evaluations_are_children(found: dict[str, Any]) -> None:
    """One after the other; an evaluation divides its epoch. No CUDA context is made for it."""
    children = found["children"]
    first, second = ["epoch", "evaluate", "epoch"], ["epoch", "evaluate", "epoch"]
    assert children["names"] == [*first, *second, "evaluate", "epoch", "train"]
    assert children["parents"] == [children["id"]]
    assert children["cuda"] is False


def test_each_trial_of_a_search_is_a_record(found: dict[str, Any]) -> None:
    """The pruned one too; the objective is the accuracy alone."""
    rows = found["search"]["rows"]
    assert told(rows) == [("train", "ok", 22.0)] * 3
    assert [row["labels"]["trial"] for row in rows] == ["trial 0", "trial 1", "trial 2"]
    rates = [row["labels"]["trial_params"]["learning_rate"] for row in rows]
    assert len({*rates}) == 3
    assert all(0.1 <= rate <= 0.2 for rate in rates)
    assert found["search"]["objective"] == 1.0


def test_a_resumed_training_counts_its_own_steps_and_names_the_record_before(
    found: dict[str, Any],
) -> None:
    """The checkpoint has an id and figures, which are read and never added."""
    resume = found["resume"]
    assert resume["saved"] == [20.0]
    assert (resume["before"]["joules"], resume["after"]["joules"]) == (40.0, 20.0)
    assert resume["after"]["labels"]["resumed_at_step"] == 2
    assert resume["after"]["labels"]["resumes"] == resume["before"]["id"]


def test_an_exception_ends_its_training_and_no_other(found: dict[str, Any]) -> None:
    """It passes unchanged. What comes next closes the record, or else two ticks do."""
    fails = found["fails"]
    assert fails["raised"] == ["theirs"] * 3
    # the first batch of the evaluation came before its first hook, and is in the row before
    assert told(fails["at_once"]) == [
        ("train", "error", 30.0),
        ("train", "error", 31.0),
        ("evaluate", "ok", 1.0),
    ]
    assert (fails["evaluated"], fails["was_open"], fails["is_open"]) == (True, True, False)
    assert told(fails["rows"][3:4]) == [("train", "ok", 40.0)]
    last = fails["rows"][4]
    assert (last["status"], last["error"]) == ("error", GONE)
    assert 30.0 < last["joules"] < 60.0
    assert fails["record"] == last


def test_an_evaluation_that_fails_is_not_part_of_the_next(found: dict[str, Any]) -> None:
    """Half a second passes in between, which is in the first row."""
    rows = told(found["fails_in_evaluations"])
    assert rows == [("evaluate", "error", 7.0), ("evaluate", "ok", 1.0)]


def test_a_training_that_begins_again_with_a_smaller_batch_is_another_record(
    found: dict[str, Any],
) -> None:
    """What the batch that was too large has used is an error's."""
    rows = told(found["runs_out_of_memory"])
    assert rows == [("train", "error", 10.0), ("train", "ok", 40.0)]


def test_ctrl_c_passes_and_leaves_a_record(
    ran: tuple[Path, dict[str, Any], int],
) -> None:
    """Where the program goes on, two ticks close it; where the program ends, its end does."""
    folder, found, code = ran
    assert found["interrupted"]["caught"] is True
    (row,) = found["interrupted"]["rows"]
    assert (row["status"], row["error"]) == ("error", GONE)
    assert code == -2
    (last,) = iter_records(folder / "last.csv")
    assert (last.name, last.status) == ("train", "interrupted")


def test_a_budget_ends_the_training_only_where_it_asks_for_it(found: dict[str, Any]) -> None:
    """25 J are exceeded with the third step of 10 J; with "warn" there is a fourth."""
    raising, warning = found["budget"]["raise"], found["budget"]["warn"]
    assert (raising["raised"], raising["steps"]) == ("train is over budget: 30.0 J of 25.0 J", 3)
    assert told(raising["rows"]) == [("train", "budget", 30.0)]
    assert (warning["raised"], warning["steps"]) == (None, 4)
    assert told(warning["rows"]) == [("train", "budget", 40.0)]


def test_a_block_around_it_has_what_comes_before_the_first_hook(found: dict[str, Any]) -> None:
    """The training is its child, and is in its row."""
    inside = found["inside"]
    assert told(inside["rows"]) == [("job", "ok", 90.0)]
    assert told([inside["child"]]) == [("train", "ok", 40.0)]
    assert inside["parent_of_child"] == inside["parent"]


def test_switched_off_it_logs_nothing(found: dict[str, Any]) -> None:
    """No figure, no card, and the training is as it was."""
    assert found["switched_off"] == {"logged": [], "status": "disabled", "card": None}


def test_without_the_framework_it_says_what_to_install(tmp_path: Path) -> None:
    """An ImportError, as any other, with the line."""
    program = "import sys; sys.modules['transformers'] = None\n"
    program += "import carbontrack.integrations.transformers"
    done = run(tmp_path, "-c", program)
    assert done.stderr.splitlines()[-1].endswith('pip install "carbontrack[transformers]"')
    assert "MissingExtra" in done.stderr.splitlines()[-1]


def test_copies_have_the_settings_and_nothing_else(found: dict[str, Any]) -> None:
    """As Ray and notebooks' launchers make them; the user's labels go before ours."""
    labels = {"model": "Net", "max_steps": 4, "epochs": 1, "team": "nlp"}
    assert found["copies"] == [labels, labels]


def test_each_rank_has_its_row_and_one_reports(tmp_path: Path) -> None:
    """Two processes under torchrun with gloo: one job, their ranks, and one TensorBoard file."""
    (tmp_path / "ranks.py").write_text(RANKS)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(tmp_path, *launch, "ranks.py")
    assert done.returncode == 0, done.stderr[-3000:]
    rows: list[Record] = sorted(iter_records(tmp_path / "ranks.csv"), key=lambda row: row.rank or 0)
    assert [(row.name, row.status, row.rank, row.world_size) for row in rows] == [
        ("train", "ok", 0, 2),
        ("train", "ok", 1, 2),
    ]
    assert len({row.job_id for row in rows} - {None}) == 1
    assert all(row.energy_kwh and row.energy_kwh > 0.0 for row in rows)
    shares = [row.cpu_share for row in rows]
    assert sum(share for share in shares if share is not None) <= 1.05
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 1
