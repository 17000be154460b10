"""Programs of processes that are generated: what a report adds up is what the machine used.

Real processes, which share one machine of constant power: a powercap tree whose counter follows the
clock. Each process writes down when its block was open, before and after each end; the energy that
counts is that of the time in which any block was open, since all trackers measure the machine.

Tolerances:
- 2 %: the counter moves every few milliseconds, rows keep milliseconds, and a row that is counted
  with its share is taken as spread evenly over its time. The blocks are open for a second or more.
- 20 ms: two steps of the counter, for whatever is open only shortly.
- A killed process has lost what it used since its last checkpoint, which is a second old at most, or
  a tick more: 1.5 s for each.

CARBONTRACK_TEST_PROGRAMS is the number of programs of each kind; 4 by default.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from carbontrack.record import Record
from carbontrack.report.nesting import one_per_id, shares_of
from carbontrack.report.read import iter_records
from carbontrack.testing import Powercap, Zone, build_powercap
from tests.support import process_node

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists() or not hasattr(os, "fork"),
    reason="needs procfs and fork",
)

SEEDS = range(int(os.environ.get("CARBONTRACK_TEST_PROGRAMS", "4")))
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
            "waits": chance.random() < 0.5,
            "end": chance.choice(ends),
        }

    root = node(2)
    return root | {"block": True, "actions": [{"work_s": 0.6}, *root["actions"]]}


@contextmanager
def a_machine(tree: Powercap) -> Iterator[None]:
    """A machine of constant power."""
    stop, begun = threading.Event(), time.monotonic()
    raw_uj = tree.raw_uj("package-0")

    def follow() -> None:
        while not stop.wait(0.004):
            tree.set_raw_uj("package-0", raw_uj + WATTS * (time.monotonic() - begun) * 1e6)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def run_program(folder: Path, program: dict[str, Any], scope: str) -> list[Record]:
    """The rows of a program, after the last of its processes has ended and `recover`."""
    tree = build_powercap(folder / "sys", [Zone("package-0", "intel-rapl:0")])
    environ = {n: text for n, text in os.environ.items() if not n.startswith("CARBONTRACK_")}
    environ |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path])),
        "CARBONTRACK_SYSFS_PATH": str(tree.sysfs),
        "CARBONTRACK_STATE_DIR": str(folder / "state"),
        "CARBONTRACK_OUTPUT": str(folder / "rows.csv"),
        "CARBONTRACK_REGION": "FR",
        "CARBONTRACK_SCOPE": scope,
        "CARBONTRACK_INTERVAL_S": "0.2",
        "CARBONTRACK_CHECKPOINT_S": "1",
        "CARBONTRACK_GPU_IDS": "none",
        "PROGRAM": str(folder),
    }
    python = [sys.executable, "-W", "ignore::DeprecationWarning"]
    with a_machine(tree), (folder / "stderr").open("wb") as stderr:
        subprocess.run(
            [*python, process_node.__file__, json.dumps(program)],
            cwd=folder, env=environ, stderr=stderr, check=False, timeout=60,
        )  # fmt: skip
        wait_for_all(folder)
    recover = [*python, "-m", "carbontrack", "recover"]
    subprocess.run(recover, cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)
    said = (folder / "stderr").read_text()
    assert "Traceback" not in said, said
    return list(iter_records(folder / "rows.csv"))


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


def open_times(folder: Path, first: str, last: str) -> list[tuple[float, float]]:
    """When each block was open, from one event to another."""
    begun: dict[str, float] = {}
    ended: dict[str, float] = {}
    for line in (folder / "log").read_text().splitlines():
        name, event, at_s = line.split()
        if event == first:
            begun[name] = float(at_s)
        elif event == last or (event == "closing" and name not in ended):
            ended[name] = float(at_s)  # one that was killed has never closed
    return [(begun[name], ended[name]) for name in begun if name in ended]


def union_s(times: Sequence[tuple[float, float]]) -> float:
    """How long at least one was open."""
    whole_s, until_s = 0.0, float("-inf")
    for begun_s, ended_s in sorted(times):
        whole_s += max(0.0, ended_s - max(begun_s, until_s))
        until_s = max(until_s, ended_s)
    return whole_s


def cpu_joules(records: Sequence[Record]) -> float:
    """What a report adds up: each row with its share, of the energy that is simulated."""
    shares = shares_of(one_per_id(records))
    total = 0.0
    for record, share in zip(records, shares, strict=True):
        if share and record.cpu_kwh is not None:
            total += share * record.cpu_kwh * 3.6e6
    return total


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
    records = run_program(tmp_path, a_program(seed, kills=False), "machine")
    assert_ids(records)
    least_j = WATTS * union_s(open_times(tmp_path, "opened", "closing"))
    most_j = WATTS * union_s(open_times(tmp_path, "opening", "closed"))
    assert 0.98 * least_j - 0.02 * WATTS <= cpu_joules(records) <= 1.02 * most_j + 0.02 * WATTS
    assert unclosed(tmp_path) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_programs_whose_processes_are_killed(tmp_path: Path, seed: int) -> None:
    """Never more than the machine used; less only by what came after the last checkpoints."""
    records = run_program(tmp_path, a_program(seed, kills=True), "machine")
    assert_ids(records)
    least_j = WATTS * union_s(open_times(tmp_path, "opened", "closing"))
    most_j = WATTS * union_s(open_times(tmp_path, "opening", "closed"))
    lost_j = WATTS * LOST_S * unclosed(tmp_path)
    assert cpu_joules(records) <= 1.02 * most_j + 0.02 * WATTS
    assert cpu_joules(records) >= 0.98 * least_j - 0.02 * WATTS - lost_j


@pytest.mark.parametrize("seed", SEEDS)
def test_programs_that_count_only_their_own_share(tmp_path: Path, seed: int) -> None:
    """In scope process the processes together use no more than the machine."""
    records = run_program(tmp_path, a_program(seed, kills=seed % 2 == 1), "process")
    assert_ids(records)
    most_j = WATTS * union_s(open_times(tmp_path, "opening", "closed"))
    assert cpu_joules(records) <= 1.02 * most_j + 0.02 * WATTS
