"""Keras as its users run it, on torch: order, failures, Ctrl-C, budgets, and runs one by one."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if not all(map(find_spec, ("torch", "keras"))):  # an import would look for another backend
    pytest.skip("torch or keras is not installed", allow_module_level=True)

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("keras")]
ROOT = Path(__file__).parents[2]
JOULES_PER_KWH = 3.6e6
FAILED = [["epoch", "ok", 400, 4.0], ["fit", "error", 400, 4.0]]
"""A training that raises after its first epoch: name, status, joules, seconds."""
ONE_EPOCH = [["epoch", "ok", 400, 4.0], ["fit", "ok", 400, 4.0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program works."""
    return tmp_path_factory.mktemp("keras")


@pytest.fixture(scope="module")
def ended(folder: Path) -> subprocess.CompletedProcess[str]:
    """The program, run once for all tests."""
    return subprocess.run(
        [sys.executable, Path(__file__).with_name("keras_program.py"), folder],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def found(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What the program has printed."""
    assert ended.stdout.startswith("{"), ended.stderr[-3000:]
    printed: dict[str, Any] = json.loads(ended.stdout)
    return printed


def test_our_hooks_are_those_of_keras(found: dict[str, Any]) -> None:
    """A hook that Keras renames would never be called, and nothing would be measured."""
    assert found["hooks"] == [], "Keras' Callback has no hooks of these names any more"


def test_a_fit_is_a_record_with_epochs_and_validations_as_children(found: dict[str, Any]) -> None:
    """To the joule; each second is in one child."""
    order = found["order"]
    epoch = [["epoch", "ok", 400, 4.0], ["validation", "ok", 2000, 20.0]]
    assert order["fit"] == [*epoch, *epoch, ["fit", "ok", 4800, 48.0]]
    assert order["labels"] == {"model": "tiny"}
    assert order["grams"] == pytest.approx(4800 / JOULES_PER_KWH * 50.0)


def test_the_history_has_the_figures_so_far(found: dict[str, Any]) -> None:
    """One for each epoch, as of the loss; what is unknown is not there."""
    history = found["order"]["history"]
    joules = [kwh * JOULES_PER_KWH for kwh in history["carbontrack/energy_kwh"]]
    assert joules == [pytest.approx(2400), pytest.approx(4800)]
    assert history["carbontrack/emissions_high_g"][1] == pytest.approx(4800 / JOULES_PER_KWH * 50)
    assert {len(numbers) for numbers in history.values()} == {2}
    assert not [name for name in history if "gpu" in name or "ram" in name]


def test_later_callbacks_see_two_figures(found: dict[str, Any]) -> None:
    """Whatever is in the logs is printed after each epoch, so that is enough."""
    assert found["order"]["columns"] == [
        *("epoch", "carbontrack/emissions_g", "carbontrack/energy_kwh"),
        *("loss", "val_loss"),
    ]


def test_each_run_of_one_callback_is_a_record(found: dict[str, Any]) -> None:
    """A second fit, and evaluate and predict alone."""
    is_another, rows = found["order"]["again"]
    assert is_another
    assert rows == [*ONE_EPOCH[:1] * 2, ["fit", "ok", 800, 8.0]]
    assert found["order"]["evaluate"] == [["evaluate", "ok", 2000, 20.0]]
    assert found["order"]["predict"] == [["predict", "ok", 2000, 20.0]]


def test_a_fit_that_raises_is_an_error_and_holds_nothing_that_follows(
    found: dict[str, Any],
) -> None:
    """Keras calls no hook: the next run closes it, of this callback or another, or a tick does."""
    failures = found["failures"]
    assert failures["fit"] == FAILED + ONE_EPOCH
    assert failures["another"] == FAILED + ONE_EPOCH
    assert failures["evaluate"] == [*FAILED, ["evaluate", "ok", 2000, 20.0]]
    assert failures["nothing"] == FAILED
    assert failures["error"] == "ended without its last hook"
    assert failures["Ctrl-C"] == FAILED + ONE_EPOCH


def test_an_evaluation_in_the_middle_of_a_training_is_its_child(found: dict[str, Any]) -> None:
    """A callback of the user's evaluates, with the same object: the training goes on."""
    assert found["inside"] == [
        ["epoch", "ok", 400, 4.0],
        ["validation", "ok", 2000, 20.0],
        ["epoch", "ok", 400, 4.0],
        ["fit", "ok", 2800, 28.0],
    ]


def test_a_budget_ends_the_training_where_that_was_asked_for(found: dict[str, Any]) -> None:
    """At the edge of an epoch, with its status."""
    assert found["budget"]["raised"] == "fit is over budget: 400 J of 300 J"
    assert found["budget"]["rows"] == [ONE_EPOCH[0], ["fit", "budget", 400, 4.0]]


def test_a_missing_backend_is_not_taken_for_a_missing_keras(folder: Path) -> None:
    """Keras itself says which one it looks for; carbontrack names the extra where Keras is not."""
    said = {}
    for name, before in (("backend", ""), ("keras", "import sys; sys.modules['keras'] = None; ")):
        done = subprocess.run(
            [sys.executable, "-c", f"{before}import carbontrack.integrations.keras"],
            env={"HOME": str(folder), "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "none"},
            capture_output=True,
            text=True,
            check=False,
        )
        said[name] = done.stderr.strip().splitlines()[-1]
    assert said["backend"].startswith("ValueError: Unable to import backend")
    assert 'pip install "carbontrack[keras]"' in said["keras"]


def test_a_copy_has_the_settings_only(found: dict[str, Any]) -> None:
    """Copied or pickled after a training that failed, it measures the next one."""
    assert found["copies"] == [["ok", "FR"], ["ok", "FR"]]


def test_ctrl_c_ends_the_program_and_the_row_says_interrupted(
    found: dict[str, Any], ended: subprocess.CompletedProcess[str], folder: Path
) -> None:
    """Keras calls no hook, and nothing follows: the row is written at exit."""
    assert found
    assert ended.returncode != 0
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    with (folder / "interrupted.csv").open() as file:
        rows = [(row["name"], row["status"]) for row in csv.DictReader(file)]
    assert rows == [("fit", "interrupted")]
