"""Sums of records of real programs: a launcher and what outlives it, ranks of one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import carbontrack

LAUNCHER = """
import subprocess, sys, carbontrack
with carbontrack.track("launcher", region="FR", output="all.csv"):
    child = subprocess.Popen([sys.executable, "train.py"])
sys.exit(child.wait())
"""
TRAIN = """
import time, carbontrack
with carbontrack.track("training", region="FR", output="all.csv"):
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end:
        sum(range(10_000))
"""
RANK = """
import sys, time, carbontrack
with carbontrack.track("rank", region="FR", scope="machine", output="all.csv"):
    time.sleep(1.0)
"""


def report(folder: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "carbontrack", "report", "all.csv", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_a_child_that_outlives_its_launcher_is_in_the_total(tmp_path: Path) -> None:
    """The training is nearly all of it, though its parent is a block of a few milliseconds."""
    (tmp_path / "train.py").write_text(TRAIN)
    subprocess.run([sys.executable, "-c", LAUNCHER], cwd=tmp_path, check=True)
    every = carbontrack.read_records(tmp_path / "all.csv")
    once = carbontrack.read_records(tmp_path / "all.csv", without_double_counting=True)
    assert set(every["name"]) == {"launcher", "training"}
    total = report(tmp_path)["total"]
    assert isinstance(total, dict)
    assert total["energy_kwh"] >= 0.9 * every["energy_kwh"].sum()
    assert total["energy_kwh"] == pytest.approx(once["energy_kwh"].sum())


@pytest.mark.xdist_group("serial")
def test_eight_ranks_of_scope_machine_are_at_most_the_machine(tmp_path: Path) -> None:
    """Eight processes that know nothing of each other, beside one that measures all that time."""
    tracker = carbontrack.auto(region="FR", scope="machine", output=None)
    alone = {k: text for k, text in os.environ.items() if not k.startswith("CARBONTRACK_PARENT")}
    with tracker, tracker.span("outside") as outside:
        ranks = [
            subprocess.Popen([sys.executable, "-c", RANK], cwd=tmp_path, env=alone)
            for _ in range(8)
        ]
        assert [rank.wait() for rank in ranks] == [0] * 8
    found = report(tmp_path)
    total, machine_kwh = found["total"], outside.record.energy_kwh
    assert isinstance(total, dict)
    assert machine_kwh is not None
    assert (total["runs"], found["overlapping"], found["overlapping_hosts"]) == (8, 8, 1)
    assert 0.0 < total["energy_kwh"] <= 1.02 * machine_kwh
    every = carbontrack.read_records(tmp_path / "all.csv")
    assert every["energy_kwh"].sum() > 2.0 * total["energy_kwh"]


def test_the_sum_of_one_run_is_that_run(tmp_path: Path) -> None:
    """Both intervals of a real record, as modelled or measured here, come out as they went in."""
    (tmp_path / "train.py").write_text(TRAIN)
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True)
    (row,) = carbontrack.read_records(tmp_path / "all.csv").to_dict("records")
    total = report(tmp_path)["total"]
    assert isinstance(total, dict)
    for name in ("energy_kwh", "emissions_g"):
        for end in ("", "_low", "_high"):
            column = name.replace("_", f"{end}_", 1)
            assert total[column] == pytest.approx(row[column], rel=1e-12), column
        assert row[name.replace("_", "_low_", 1)] < row[name] < row[name.replace("_", "_high_", 1)]
