"""Programs of processes that are generated: what a report adds up is what the machine used.

Real processes, which share one machine of constant power: a powercap tree whose counter follows the
clock. Each process writes down the count just before and after its block opens and closes; the
energy that counts is what was used while any block was open, as all trackers measure the machine.

Tolerances:
- 2 %: the counter moves every few milliseconds, rows are added up by the millisecond, and one that
  is counted with a share is taken as spread evenly over its time. The first block is open for half
  a second or more.
- 20 ms of the machine's power, for blocks that are open only shortly, and the counter's longest
  step: where the test itself did not get to run, the power was not even.
- A killed process has lost what it used since its last checkpoint, which is a second old at most,
  or a tick more: 1.5 s for each.

RANDOM_PROGRAMS is the number of programs of each kind; 4 by default.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from carbontrack.record import Record
from carbontrack.report.nesting import one_per_id, shares_of
from carbontrack.report.read import iter_records
from carbontrack.testing import Powercap, Zone, build_powercap
from carbontrack.units import JOULES_PER_KWH
from tests.integration.api import process_node

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists() or not hasattr(os, "fork"),
    reason="needs procfs and fork",
)

SEEDS = range(int(os.environ.get("RANDOM_PROGRAMS", "4")))
WATTS = 100.0
LOST_S = 1.5
"""What a killed process may have lost: a checkpoint's period, a tick, and starting late."""


# -- programs ----------------------------------------------------------------------------------


def a_program(seed: int, *, kills: bool) -> dict[str, Any]:
    """A process that starts others, which start others."""
    chance, names = random.Random(seed), iter(range(100))

    def node(depth: int) -> dict[str, Any]:
        ways = [*process_node.START, "exec"] if kills else list(process_node.START)
        actions: list[dict[str, Any]] = [{"work_s": chance.choice([0.1, 0.3, 0.6])}]
        for _ in range(chance.randrange(1, 3) if depth else 0):
            child = {"how": chance.choice(ways), "child": node(depth - 1)}
            actions.append(child | {"waits": chance.random() < 0.4})
            actions.append({"work_s": chance.choice([0.05, 0.2, 0.5])})
        ends = ["close", "close", "kill", "_exit"] if kills else ["close"]
        return {
            "name": f"node-{next(names)}",
            "block": chance.random() < 0.8,
            "actions": actions,
            "inner": chance.choice(["span", "call", None]),
            "waits": chance.random() < 0.5,
            "end": chance.choice(ends),
        }

    root = node(2)
    return root | {"block": True, "actions": [{"work_s": 0.6}, *root["actions"]]}


class Machine:
    """A machine of constant power, as far as the test gets to run."""

    def __init__(self, tree: Powercap) -> None:
        self.longest_step_j = 0.0
        self._tree, self._stop = tree, threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def _follow(self) -> None:
        begun, raw_uj, before_j = time.monotonic(), self._tree.raw_uj("package-0"), 0.0
        while not self._stop.wait(0.004):
            used_j = WATTS * (time.monotonic() - begun)
            self.longest_step_j = max(self.longest_step_j, used_j - before_j)
            before_j = used_j
            self._tree.set_raw_uj("package-0", raw_uj + used_j * 1e6)

    def __enter__(self) -> Machine:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


class Outcome(NamedTuple):
    """What a program left: its rows, and the bounds of what they should add up to."""

    records: list[Record]
    least_j: float
    most_j: float
    unclosed: int

    @property
    def total_j(self) -> float:
        """What a report adds up: each row with its share, of the energy that is simulated."""
        rows = one_per_id(self.records)
        return sum(
            share * row.cpu_kwh * JOULES_PER_KWH
            for row, share in zip(rows, shares_of(rows), strict=True)
            if share and row.cpu_kwh is not None
        )


def run_program(
    folder: Path, program: dict[str, Any], scope: str, *, spans: str = "roots"
) -> Outcome:
    """Run a program, wait for the last of its processes, and recover what is left."""
    tree = build_powercap(folder / "sys", [Zone("package-0", "intel-rapl:0")])
    environ = {n: text for n, text in os.environ.items() if not n.startswith("CARBONTRACK_")}
    environ |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path])),
        "CARBONTRACK_SYSFS_PATH": str(tree.sysfs),
        "CARBONTRACK_STATE_DIR": str(folder / "state"),
        "CARBONTRACK_OUTPUT": str(folder / "rows.csv"),
        "CARBONTRACK_REGION": "FR",
        "CARBONTRACK_SCOPE": scope,
        "CARBONTRACK_SPANS": spans,
        "CARBONTRACK_INTERVAL_S": "0.2",
        "CARBONTRACK_CHECKPOINT_S": "1",
        "CARBONTRACK_GPU_IDS": "none",
        "PROGRAM": str(folder),
    }
    python = [sys.executable, "-W", "ignore::DeprecationWarning"]
    with Machine(tree) as machine, (folder / "stderr").open("wb") as stderr:
        subprocess.run(
            [*python, process_node.__file__, json.dumps(program)],
            cwd=folder, env=environ, stderr=stderr, check=False, timeout=60,
        )  # fmt: skip
        wait_for_all(folder)
    recover = [*python, "-m", "carbontrack", "recover"]
    subprocess.run(recover, cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)
    said = (folder / "stderr").read_text()
    assert "Traceback" not in said, said
    slack_j = 0.02 * WATTS + machine.longest_step_j
    least_j = 0.98 * union_j(open_between(folder, "opened", "closing")) - slack_j
    most_j = 1.02 * union_j(open_between(folder, "opening", "closed")) + slack_j
    records = list(iter_records(folder / "rows.csv"))
    assert_ids(records)
    return Outcome(records, least_j, most_j, unclosed(folder))


def wait_for_all(folder: Path) -> None:
    """Until no process of the program lives, wherever it hangs in the tree."""
    mark, end = f"PROGRAM={folder}\0".encode(), time.monotonic() + 60
    while any(mark in environ for environ in environments()):
        assert time.monotonic() < end, "processes of the program do not end"
        time.sleep(0.05)


def environments() -> Iterator[bytes]:
    """The environment of each process of this user."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            yield path.read_bytes()
        except OSError:
            continue


# -- what is expected --------------------------------------------------------------------------


def open_between(folder: Path, first: str, last: str) -> list[tuple[float, float]]:
    """The machine's counts between which each block was open, from one event to another."""
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}
    for line in (folder / "log").read_text().splitlines():
        name, event, count_j = line.split()
        if event == first:
            begun[name] = float(count_j)
        elif event == last or (event == "closing" and name not in ended):
            ended[name] = float(count_j)  # one that was killed has never closed
    return [(begun[name], ended[name]) for name in begun if name in ended]


def union_j(counts: Sequence[tuple[float, float]]) -> float:
    """What was used while at least one was open."""
    whole_j, until_j = 0.0, float("-inf")
    for begun_j, ended_j in sorted(counts):
        whole_j += max(0.0, ended_j - max(begun_j, until_j))
        until_j = max(until_j, ended_j)
    return whole_j


def assert_ids(records: Sequence[Record]) -> None:
    """No id is there twice, and each parent that holds a row is there."""
    ids = [record.record_id for record in records]
    assert len(set(ids)) == len(ids)
    assert {r.parent_id for r in records if r.parent_holds} <= set(ids)


def unclosed(folder: Path) -> int:
    """How many blocks were opened and never closed, as their processes were killed."""
    events = [line.split()[:2] for line in (folder / "log").read_text().splitlines()]
    names = [{name for name, one in events if one == event} for event in ("opened", "closed")]
    return len(names[0] - names[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_programs_in_which_every_block_is_closed(tmp_path: Path, seed: int) -> None:
    """However they are started and whoever outlives whom, the sum is the machine's energy."""
    spans = "all" if seed % 2 else "roots"
    found = run_program(tmp_path, a_program(seed, kills=False), "machine", spans=spans)
    assert found.unclosed == 0
    assert found.least_j <= found.total_j <= found.most_j


@pytest.mark.parametrize("seed", SEEDS)
def test_programs_whose_processes_are_killed(tmp_path: Path, seed: int) -> None:
    """Never more than the machine used; less only by what came after the last checkpoints."""
    found = run_program(tmp_path, a_program(seed, kills=True), "machine")
    lost_j = WATTS * LOST_S * found.unclosed
    assert found.least_j - lost_j <= found.total_j <= found.most_j


@pytest.mark.parametrize("seed", SEEDS)
def test_programs_that_count_only_their_own_share(tmp_path: Path, seed: int) -> None:
    """In scope process the processes together use no more than the machine."""
    found = run_program(tmp_path, a_program(seed, kills=seed % 2 == 1), "process")
    assert 0.0 < found.total_j <= found.most_j
