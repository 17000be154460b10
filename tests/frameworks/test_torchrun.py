"""Ranks that torchrun starts: one job, each rank once, and a restart after a rank was killed.

What a page shows of it is tried by docs/how-to/torchrun.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbontrack.record import Record
from carbontrack.report.read import iter_records

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("serial")]
pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
TRAIN = """
import carbontrack
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

with carbontrack.track("train", region="FR", output="runs.csv") as run:
    dist.init_process_group("gloo")
    model = DistributedDataParallel(torch.nn.Linear(256, 256))
    for _ in range(50):
        model(torch.randn(64, 256)).sum().backward()
    dist.destroy_process_group()
"""
FAILS_ONCE = """
import os, signal, time
import carbontrack

with carbontrack.track("train", region="FR", output="runs.csv"):
    end_s = time.process_time() + 0.5
    while time.process_time() < end_s:
        pass
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60.0)  # until torchrun ends it
"""
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a module of Python to its end; what it prints."""

    def go(*arguments: str) -> str:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "CARBONTRACK_STATE_DIR": str(tmp_path / "state"),
            "CARBONTRACK_CHECKPOINT_S": "0.2",
            "CARBONTRACK_INTERVAL_S": "0.2",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", *arguments],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return go


def torchrun(*options: str) -> list[str]:
    """The launcher, with two ranks on this machine."""
    return ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]


def the_job(run: Run) -> dict[str, Any]:
    """The only job of the rows, as the report shows it."""
    (job,) = json.loads(run("carbontrack", "report", "--by", "job", "--json", "runs.csv"))["groups"]
    found: dict[str, Any] = job
    return found


def rows(folder: Path) -> list[Record]:
    """The rows of the ranks."""
    return list(iter_records(folder / "runs.csv"))


def test_the_ranks_of_a_training_are_one_job(run: Run, tmp_path: Path) -> None:
    """Each has a row, and the job's energy is their sum."""
    (tmp_path / "train.py").write_text(TRAIN)
    run(*torchrun("train.py"))

    found = rows(tmp_path)
    job = the_job(run)
    assert {record.job_id for record in found} == {job["key"]} != {None}
    assert sorted((r.rank, r.world_size, r.local_rank, r.attempt) for r in found) == [
        (0, 2, 0, 0),
        (1, 2, 1, 0),
    ]
    assert (job["ranks"], job["expected_ranks"], job["hosts"], job["attempts"]) == (2, 2, 1, 1)
    energy_kwh = sum(record.energy_kwh or 0.0 for record in found)
    assert job["energy_kwh"] == pytest.approx(energy_kwh, rel=1e-12)
    assert job["useful_energy_kwh"] == pytest.approx(energy_kwh, rel=1e-12)


def test_a_restart_uses_energy_and_its_last_attempt_is_useful(run: Run, tmp_path: Path) -> None:
    """A rank is killed, torchrun ends the other, and both begin again; nothing is lost."""
    (tmp_path / "train.py").write_text(FAILS_ONCE)
    run(*torchrun("--max-restarts", "1", "--monitor-interval", "0.1", "train.py"))
    run("carbontrack", "recover")

    found = rows(tmp_path)
    pairs = sorted((record.attempt, record.rank) for record in found)
    assert pairs == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {record.status for record in found if record.attempt == 1} == {"ok"}
    assert "ok" not in {record.status for record in found if record.attempt == 0}
    job = the_job(run)
    assert (job["ranks"], job["expected_ranks"], job["attempts"]) == (4, 4, 2)
    second_kwh = sum(record.energy_kwh or 0.0 for record in found if record.attempt == 1)
    assert job["useful_energy_kwh"] == pytest.approx(second_kwh)
    assert job["useful_energy_kwh"] < 0.9 * job["energy_kwh"]
