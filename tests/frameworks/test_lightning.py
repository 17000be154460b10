"""Lightning as its users run it: order, failures, signals, checkpoints and ranks."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning")

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("lightning")]
ROOT = Path(__file__).parents[2]
JOULES_PER_KWH = 3.6e6
EPOCH = [
    *(["epoch", "ok", 200, 2.0], ["validation", "ok", 4000, 40.0]),
    *(["epoch", "ok", 200, 2.0], ["validation", "ok", 4000, 40.0]),
]
"""Two steps, a validation, two steps and a validation: name, status, joules, seconds."""


def run(package: str, folder: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Run the program; its exit status, and what it has printed."""
    program = Path(__file__).with_name("lightning_program.py")
    done = subprocess.run(
        [sys.executable, program, package, folder, *more],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("{"), done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout.splitlines()[0]) | {"stderr": done.stderr}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program works."""
    return tmp_path_factory.mktemp("lightning")


@pytest.fixture(scope="module")
def ended(folder: Path) -> tuple[int, dict[str, Any]]:
    """The program, run once for all tests."""
    return run("lightning", folder)


@pytest.fixture(scope="module")
def found(ended: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    """What the program has printed."""
    return ended[1]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_our_hooks_are_lightnings(found: dict[str, Any]) -> None:
    """A hook that Lightning renames would never be called, and nothing would be measured."""
    assert found["hooks"] == [], "Lightning's Callback has no hooks of these names any more"


def test_a_fit_is_a_record_with_its_parts_as_children(found: dict[str, Any]) -> None:
    """From setup to teardown, sanity check included, to the joule; each second is in one child."""
    order = found["order"]
    assert order["fit"] == [
        ["sanity check", "ok", 2000, 20.0],
        *EPOCH,
        *EPOCH,
        ["fit", "ok", 18_800, 188.0],
    ]
    assert order["labels"] == {"model": "Model"}
    assert order["grams"] == pytest.approx(18_800 / JOULES_PER_KWH * 50.0)


def test_runs_without_a_training_are_records_of_their_own(found: dict[str, Any]) -> None:
    """Test, validate and predict alone, each by its name, without a child."""
    for name in ("test", "validate", "predict"):
        assert found["order"][name] == [[name, "ok", 4000, 40.0]]
    assert found["order"]["ids"] == found["order"]["ids_after_test"]


def test_loggers_get_the_figures_so_far_and_the_last_ones(found: dict[str, Any]) -> None:
    """After each epoch by Lightning's own way, at the end exactly; a test has names of its own."""
    logged = found["order"]["logged"]
    joules = [
        (float(row["carbontrack/energy_kwh"]) * JOULES_PER_KWH, row["step"])
        for row in logged
        if "carbontrack/energy_kwh" in row
    ]
    # Lightning keeps what is logged in an epoch with seven digits
    assert joules == [
        (pytest.approx(10_400, rel=1e-6), "3"),
        (pytest.approx(18_800, rel=1e-6), "7"),
        (pytest.approx(18_800, rel=1e-12), "8"),
    ]
    tested = [row for row in logged if "carbontrack/test/energy_kwh" in row]
    assert [float(row["carbontrack/test/emissions_g"]) for row in tested] == [
        pytest.approx(4000 / JOULES_PER_KWH * 50.0)
    ]
    assert not any("carbontrack/energy_kwh" in row for row in tested)
    unknown = {name for row in logged for name in row if "ram" in name or "gpu" in name}
    assert unknown == set()


def test_what_raises_ends_the_record_once_and_the_next_fit_begins_anew(
    found: dict[str, Any],
) -> None:
    """In a step, or before the first hook of a training; the exception itself is unchanged."""
    failures = found["failures"]
    assert failures["step"] == [
        "ValueError('no\\nsuch  thing')",
        "ValueError: no such thing",
        [["epoch", "error", 0, 0.0], ["fit", "error", 0, 0.0]],
    ]
    assert failures["optimizer"][1:] == [
        "LookupError: no optimizer",
        [["fit", "error", 0, 0.0]],
    ]
    for name in ("after step", "after optimizer"):
        assert failures[name] == [["epoch", "ok", 400, 4.0], ["fit", "ok", 400, 4.0]]


def test_a_checkpoint_carries_names_of_records_and_no_joules(found: dict[str, Any]) -> None:
    """Each part counts itself, names the one before, and knows the whole chain."""
    parts = found["resumed"]["parts"]
    ids = [part[0] for part in parts]
    assert [part[1].get("resumes") for part in parts] == [None, ids[0], ids[1]]
    assert [part[2] for part in parts] == [ids[:1], ids[:2], ids]
    assert [part[3][-1] for part in parts] == [["fit", "ok", 400, 4.0]] * 3
    assert found["resumed"]["in_file"] == {"record_ids": ids}
    assert found["resumed"]["labels_of_test"] == {"model": "Model"}, "a test resumes nothing"


def test_a_search_for_a_learning_rate_is_a_run_that_resumes_nothing(found: dict[str, Any]) -> None:
    """It loads a checkpoint that it has made itself, with its own id."""
    for name in ("search", "fit"):
        rows, labels, ids = found["tuned"][name]
        assert (rows[-1], labels, ids) == (["fit", "ok", 400, 4.0], {"model": "Model"}, 1)


def test_a_budget_ends_the_training_where_that_was_asked_for(found: dict[str, Any]) -> None:
    """With the batch that exceeds it; `BudgetExceeded` reaches whoever called `fit`."""
    budget = found["budget"]
    assert "over budget" in budget["raised"]
    assert budget["epoch"] == 1
    assert budget["rows"][-1] == ["fit", "budget", 600, 6.0]


def test_sigterm_is_an_interruption(found: dict[str, Any]) -> None:
    """Lightning stops after the step; the row says why."""
    terminated = found["terminated"]
    assert terminated["raised"] == "SIGTERMException()"
    assert terminated["rows"][-1] == ["fit", "interrupted", 100, 1.0]
    assert terminated["error"].startswith("SIGTERMException")


def test_ctrl_c_ends_the_program_and_the_row_says_interrupted(
    ended: tuple[int, dict[str, Any]], folder: Path
) -> None:
    """Lightning makes an exit of it, with status 1; one row, and no second one at exit."""
    assert ended[0] == 1
    rows = rows_of(folder / "interrupted.csv")
    assert [(row["name"], row["status"]) for row in rows] == [("fit", "interrupted")]
    assert rows[0]["error"].startswith("KeyboardInterrupt")


def test_two_ranks_measure_themselves_and_one_reports(found: dict[str, Any], folder: Path) -> None:
    """With `ddp_spawn` each process has its row, and both are no more than the machine used."""
    rows = [row for row in rows_of(folder / "spawned.csv") if row["name"] == "fit"]
    labels = [json.loads(row["labels"]) for row in rows]
    assert sorted((one["rank"], one["world_size"]) for one in labels) == [(0, 2), (1, 2)]
    assert sorted(row["local_rank"] for row in rows) == ["0", "1"]
    assert len({row["pid"] for row in rows}) == 2
    assert not any(row["parent_id"] for row in rows)
    kwh = [float(row["energy_kwh"]) for row in rows]
    assert sum(kwh) <= max(float(row["machine_kwh"]) for row in rows) * 1.05  # they began apart
    (logged,) = folder.glob("spawned/**/metrics.csv")
    last = [row for row in rows_of(logged) if row["carbontrack/energy_kwh"]][-1]
    rank_0 = rows[[one["rank"] for one in labels].index(0)]
    assert float(last["carbontrack/energy_kwh"]) == pytest.approx(float(rank_0["energy_kwh"]))
    assert "carbontrack/" not in found["stderr"], "Lightning warns of what we log"


def test_a_rank_that_another_one_has_started_is_counted_once(tmp_path: Path) -> None:
    """With `ddp` rank 0 counts the rank that it has started, as soon as it measures itself."""
    status, _ = run("lightning", tmp_path, "ddp")
    assert status == 0
    rows = rows_of(tmp_path / "launched.csv")
    by_rank = {
        rank: [row for row in rows if json.loads(row["labels"])["rank"] == rank] for rank in (0, 1)
    }
    (first,), others = by_rank[0], by_rank[1]
    alone, inside = (
        [row for row in others if (row["parent_holds"] == "true") is held] for held in (False, True)
    )
    # rank 1 began before rank 0, which holds it from its own beginning on
    assert [row["parent_id"] for row in inside] == [first["record_id"]]
    assert len(alone) == 1
    assert alone[0]["started_at"] < first["started_at"] < inside[0]["ended_at"]
    assert float(inside[0]["energy_kwh"]) < float(first["energy_kwh"])


def test_where_lightning_is_missing_the_extra_is_named() -> None:
    """Neither package is installed."""
    program = """
import sys
sys.modules.update(lightning=None, pytorch_lightning=None)
import carbontrack.integrations.lightning
"""
    environ = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False
    )
    assert 'pip install "carbontrack[lightning]"' in done.stderr.splitlines()[-1]


def test_the_other_package_has_its_own_base_class(tmp_path: Path) -> None:
    """`pytorch_lightning` alone; where both are loaded the callback is one of each."""
    pytest.importorskip("pytorch_lightning")
    status, found = run("pytorch_lightning", tmp_path)
    assert status == 0
    assert found["order"]["fit"][-1] == ["fit", "ok", 18_800, 188.0]
    assert found["bases"] == [
        "carbontrack.integrations.lightning",
        "carbontrack.integrations.training",
        "lightning.pytorch.callbacks.callback",
        "pytorch_lightning.callbacks.callback",
        "builtins",
    ]
