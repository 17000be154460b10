"""Frameworks' own ways to CodeCarbon, unmodified, on carbontrack.

The trainings are in codecarbon_program.py, in one process, since most of the time is its imports.
It is started by `carbontrack run --as-codecarbon`, and has no word of carbontrack in it.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carbontrack.report.read import iter_records

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("transformers")]
for needed in ("torch", "transformers", "accelerate", "lightning"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The folder of the program, what it found, and its stderr."""
    folder = tmp_path_factory.mktemp("codecarbon")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "CARBONTRACK_STATE_DIR": str(folder / "state"),
        "CARBONTRACK_REGION": "FR",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    program = Path(__file__).with_name("codecarbon_program.py")
    done = subprocess.run(
        [sys.executable, "-m", "carbontrack", "run", "--quiet", "--as-codecarbon", "--",
         sys.executable, "-W", "ignore", str(program)],
        cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-3000:]
    assert done.returncode == 0
    return folder, json.loads(lines[0].removeprefix("FOUND ")), done.stderr


@pytest.fixture(scope="module")
def folder(ran: tuple[Path, dict[str, Any], str]) -> Path:
    """The folder of the program."""
    return ran[0]


@pytest.fixture(scope="module")
def found(ran: tuple[Path, dict[str, Any], str]) -> dict[str, Any]:
    """What the program found."""
    return ran[1]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_transformers_finds_it(found: dict[str, Any]) -> None:
    """`report_to="codecarbon"` asks for the package by its name, and gets ours."""
    assert found["available"] is True
    assert found["home"] == "carbontrack.compat.codecarbon.tracker"


def test_each_training_of_one_trainer_is_a_run(folder: Path, found: dict[str, Any]) -> None:
    """The second begins anew, with an id and figures of its own."""
    rows = rows_of(folder / "hf" / "emissions.csv")
    assert [float(row["emissions"]) for row in rows] == found["transformers"]
    assert len({row["run_id"] for row in rows}) == len(rows)
    assert all(float(row["emissions"]) > 0 and float(row["duration"]) > 0 for row in rows)


def test_a_training_that_fails_is_in_the_row_of_the_next(
    ran: tuple[Path, dict[str, Any], str],
) -> None:
    """Nothing ends it, as with CodeCarbon: the exception passes, and no joule is lost."""
    folder, found, errors = ran
    assert found["raised"] == "theirs"
    assert len(rows_of(folder / "hf" / "emissions.csv")) == 3
    assert "lready started" in errors


def test_lightning_has_a_run_and_a_task_for_each_epoch(folder: Path, found: dict[str, Any]) -> None:
    """The run holds its tasks; the figure of an epoch can be logged by the module."""
    (run,) = rows_of(folder / "light" / "emissions.csv")
    (path,) = (folder / "light").glob("emissions_base_*.csv")
    tasks = rows_of(path)
    assert [row["task_name"] for row in tasks] == ["epoch 0", "epoch 1"]
    assert float(run["emissions"]) == found["lightning"]
    assert sum(float(row["energy_consumed"]) for row in tasks) <= float(run["energy_consumed"])
    # a metric of Lightning's has 32 bits
    assert found["logged"] == pytest.approx(float(tasks[1]["emissions"]), rel=1e-6)


def test_loops_of_pytorch_alone_have_their_rows(folder: Path, found: dict[str, Any]) -> None:
    """A decorator, a block, and a run whose row is updated after each epoch."""
    rows = rows_of(folder / "plain.csv")
    assert [row["project_name"] for row in rows] == ["decorated", "block", "epochs"]
    assert (rows[0]["country_iso_code"], rows[0]["region"]) == ("USA", "california")
    assert float(rows[1]["emissions"]) == found["block"]
    assert float(rows[2]["emissions"]) == found["stopped"]
    assert found["flushed"] == sorted(found["flushed"])
    assert 0.0 < found["flushed"][0] < found["flushed"][-1] <= found["stopped"]


def test_reports_read_all_of_it(folder: Path) -> None:
    """Each run once, in the grid that was named."""
    records = [
        one for name in ("plain.csv", "hf/emissions.csv") for one in iter_records(folder / name)
    ]
    assert [one.region for one in records] == ["US-CA", *["FR"] * 5]
    assert all(one.energy_kwh and one.basis is None for one in records)
