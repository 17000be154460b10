"""Ranks of one host that each measure it: boards by who uses them, and the machine once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from carbontrack.record import Record
from carbontrack.report.read import iter_records
from carbontrack.testing import Zone, build_powercap
from carbontrack.units import JOULES_PER_KWH
from tests.support.nvml import UUIDS, FakeGpu, State

pytestmark = pytest.mark.xdist_group("serial")  # many processes, and time passes

ROOT = Path(__file__).parents[3]
RANK = """
import os, sys, time
import carbontrack
from pathlib import Path
with carbontrack.track("rank", output="runs.csv"):
    Path(f"began-{os.environ['RANK']}").touch()
    while not Path("stop").exists():
        time.sleep(0.02)
"""
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a rank of a job on this host."""
    begun: list[subprocess.Popen[bytes]] = []

    def go(rank: int, size: int, **variables: str) -> subprocess.Popen[bytes]:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank),
            "TORCHELASTIC_RUN_ID": "5e1c",
            "CARBONTRACK_REGION": "FR",
            "CARBONTRACK_STATE_DIR": str(tmp_path / "state"),
            "CARBONTRACK_HOST_ID": "host",
            "CARBONTRACK_INTERVAL_S": "0.2",
            "CARBONTRACK_CHECKPOINT_S": "0.2",
        }
        command = [sys.executable, "-c", RANK]
        begun.append(subprocess.Popen(command, cwd=tmp_path, env={**environ, **variables}))
        return begun[-1]

    yield go
    for each in begun:
        each.kill()
        each.wait(60.0)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    end_s = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def rows(folder: Path) -> list[Record]:
    """The rows of the ranks, in their order."""
    return sorted(iter_records(folder / "runs.csv"), key=lambda record: record.rank or 0)


def seconds_of(text: str) -> float:
    """A time of a row, in seconds since 1970."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def report(folder: Path, *options: str) -> dict[str, object]:
    """What `carbontrack report` says of them."""
    command = [sys.executable, "-m", "carbontrack", "report", "--json", *options, "runs.csv"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "not told"])
def test_a_rank_counts_the_board_that_it_uses(
    library: Path, tmp_path: Path, start: Start, *, is_told: bool
) -> None:
    """Two ranks see two boards, and each has a context on its own: of 300 W and of 100 W.

    Where nothing tells whose contexts these are, as in a container, each has half of both.
    """
    fail = {} if is_told else {"nvmlDeviceGetComputeRunningProcesses": 3}
    state = State(tmp_path / "gpus.txt")
    boards = [FakeGpu(uuid=uuid, energy_mj=0) for uuid in UUIDS[:2]]
    state.show(*boards, fail=fail)
    variables = {
        "LD_LIBRARY_PATH": str(library),
        "FAKE_NVML_STATE": str(state.path),
        "LOCAL_WORLD_SIZE": "2",
    }
    ranks = [start(rank, 2, **variables) for rank in range(2)]
    for board, rank in zip(boards, ranks, strict=True):
        board.pid, board.utilisation = rank.pid, 50
    state.show(*boards, fail=fail)
    wait_for(lambda: len(list(tmp_path.glob("began-*"))) == 2)
    began_s = last_s = time.monotonic()
    while last_s < began_s + 2.5:
        time.sleep(0.05)
        now_s = time.monotonic()
        for board, power_w in zip(boards, (300.0, 100.0), strict=True):
            board.energy_mj += int(power_w * (now_s - last_s) * 1000.0)
        last_s = now_s
        state.show(*boards, fail=fail)
    (tmp_path / "stop").touch()
    for rank in ranks:
        assert rank.wait(60.0) == 0

    first, second = rows(tmp_path)
    assert first.gpu_count == second.gpu_count == 2
    first_j, second_j = ((one.gpu_kwh or 0.0) * JOULES_PER_KWH for one in (first, second))
    used_j = [board.energy_mj / 1000.0 for board in boards]
    expected_j = used_j if is_told else [sum(used_j) / 2.0] * 2
    assert [first_j, second_j] == pytest.approx(expected_j, rel=0.1)
    assert ("gpu_share_ranks" in str(first.faults)) == (not is_told)
    assert first.job_id == second.job_id == "5e1c"


class Machine:
    """A processor whose counter says that it draws 100 W."""

    def __init__(self, folder: Path) -> None:
        self.tree = build_powercap(folder, [Zone("package-0", "intel-rapl:0", 5_000_000)])
        self._last_s = time.monotonic()

    def run(self, seconds: float = 0.0, until: Callable[[], object] = lambda: False) -> None:
        """Let it run for as long, or until something holds."""
        end_s = time.monotonic() + (seconds or 60.0)
        while time.monotonic() < end_s and not until():
            time.sleep(0.01)
            now_s = time.monotonic()
            self.tree.add_joules("package-0", 100.0 * (now_s - self._last_s))
            self._last_s = now_s


@pytest.mark.parametrize("is_killed", [False, True], ids=["all end", "the first is killed"])
def test_ranks_that_measure_the_machine_are_one_machine(
    tmp_path: Path, start: Start, *, is_killed: bool
) -> None:
    """Eight of them add up to what it used from the first beginning to the last end."""
    machine = Machine(tmp_path / "sys")
    variables = {
        "CARBONTRACK_SCOPE": "machine",
        "CARBONTRACK_SYSFS_PATH": str(tmp_path / "sys"),
    }
    first = start(0, 8, **variables)
    machine.run(until=(tmp_path / "began-0").exists)
    others = [start(rank, 8, **variables) for rank in range(1, 8)]
    machine.run(until=lambda: len(list(tmp_path.glob("began-*"))) == 8)
    machine.run(1.5)
    if is_killed:
        first.send_signal(signal.SIGKILL)
        first.wait(60.0)
        machine.run(1.5)
    (tmp_path / "stop").touch()
    machine.run(until=lambda: all(rank.poll() is not None for rank in (first, *others)))

    if is_killed:
        assert len(rows(tmp_path)) == 7
        (job,) = report(tmp_path, "--by", "job")["groups"]
        assert (job["ranks"], job["expected_ranks"]) == (7, 8)
        command = [sys.executable, "-m", "carbontrack", "recover"]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        environ["CARBONTRACK_STATE_DIR"] = str(tmp_path / "state")
        subprocess.run(command, cwd=tmp_path, env=environ, check=True, capture_output=True)
    found = rows(tmp_path)
    assert [record.rank for record in found] == list(range(8))
    assert {record.scope for record in found} == {"machine"}
    ends = ["recovered" if is_killed else "ok", *["ok"] * 7]
    assert [record.status for record in found] == ends
    began, ended = min(r.started_at for r in found), max(r.ended_at for r in found)
    used_j = 100.0 * (seconds_of(ended) - seconds_of(began))
    assert sum(record.cpu_kwh or 0.0 for record in found) * JOULES_PER_KWH > 2.0 * used_j
    (job,) = report(tmp_path, "--by", "job")["groups"]
    assert (job["ranks"], job["expected_ranks"], job["hosts"]) == (8, 8, 1)
    # an edge reads the counter, then the clock, and a busy machine may stop it in between
    edges_j = 100.0 * 0.1
    assert 0.9 * used_j <= job["cpu_kwh"] * JOULES_PER_KWH <= 1.02 * used_j + edges_j
    length_s = max(record.duration_s or 0.0 for record in found)
    assert min(record.coverage or 0.0 for record in found) >= 1.0 - 2.0 * 0.2 / length_s
