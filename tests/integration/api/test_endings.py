"""Programs that end in every way, measured by the public door: their records are there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from carbontrack.record import Record
from carbontrack.report.read import iter_records
from carbontrack.testing.receiver import Fault, Receiver
from tests.support.recovered import counted_once
from tests.support.said import said

ROOT = Path(__file__).parents[3]

PROGRAM = """
import os, signal, sys, threading, time, warnings
import carbontrack

warnings.simplefilter("ignore")
OUTPUT = sys.argv[1]

def work(kind):
    for number in range(20):
        with carbontrack.track(f"{kind} {number}", region="FR", output=OUTPUT):
            pass
    carbontrack.track(f"{kind} open", region="FR", output=OUTPUT).__enter__()

work("parent")
print("worked", flush=True)
"""
ENDINGS = {
    "normal": ("pass", "interrupted"),
    "sys.exit": ("sys.exit(3)", "interrupted"),
    "exception": ("1 / 0", "interrupted"),
    "SIGINT": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", "interrupted"),
    "thread": ("threading.Thread(target=work, args=('thread',)).start()", "interrupted"),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", "recovered"),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", "recovered"),
    "os._exit": ("os._exit(0)", "recovered"),
    "abort": ("os.abort()", "recovered"),
    "exec": ("os.execv('/bin/true', ['true'])", "recovered"),
    "forked child": (
        "import multiprocessing as m; p = m.get_context('fork').Process(target=work,"
        " args=('child',)); p.start(); p.join()",
        "interrupted",
    ),
    "pool worker": (
        "import concurrent.futures as c, multiprocessing as m\n"
        "with c.ProcessPoolExecutor(1, mp_context=m.get_context('fork')) as pool:\n"
        "    pool.submit(work, 'child').result()",
        "interrupted",
    ),
}


def run(
    program: str, tmp_path: Path, *args: object, check: bool = False, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "CARBONTRACK_STATE_DIR": str(tmp_path / "state")}
        | environ,
        capture_output=True,
        text=True,
        check=check,
        timeout=60,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("ending", ENDINGS)
def test_twelve_endings(tmp_path: Path, ending: str) -> None:
    """All that was finished is there once, and what was open is interrupted or recovered."""
    end, status_of_open = ENDINGS[ending]
    output = tmp_path / "runs.csv"
    ended = run(PROGRAM + end, tmp_path, output)
    run("from carbontrack.cli import main; main(['recover'])", tmp_path, check=True)
    kinds = ["parent", *(["child"] if ending in ("forked child", "pool worker") else [])]
    kinds += ["thread"] if ending == "thread" else []
    rows = {record.name: record for record in iter_records(output)}

    assert ended.stdout.startswith("worked")
    for kind in kinds:
        finished = [rows.get(f"{kind} {number}") for number in range(20)]
        assert [record.status if record else "lost" for record in finished] == ["ok"] * 20
        assert rows[f"{kind} open"].status in (status_of_open, "recovered")
    assert rows["parent open"].status == status_of_open
    assert len(list(iter_records(output))) == len(rows) == 21 * len(kinds)


EXIT = """
import atexit, sys, time, requests, carbontrack
with carbontrack.track("x", region="FR", output=sys.argv[1] or None): pass
atexit.register(time.sleep, float(sys.argv[2]))
begun_s = time.monotonic()
class Last:
    def __del__(self, now_s=time.monotonic): print(now_s() - begun_s)
last = Last()  # what it prints at the very end is the time of the interpreter's exit
"""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(hang=True), "no answer"),
        (Fault(503), "HTTP 503"),
        (Fault(None), "no connection"),
    ],
    ids=["black hole", "503", "cut"],
)
@pytest.mark.xdist_group("serial")
def test_a_dead_server_does_not_hold_up_the_exit(tmp_path: Path, fault: Fault, reason: str) -> None:
    """The exit is at most two seconds later than without a server; `sync` then delivers all.

    One sentence says that records wait, and what sends them. The yardstick is a program without a
    server that waits two seconds at its exit, on the machine as busy as it is at the moment.
    """
    trouble = [fault]
    with Receiver(faults=lambda _: trouble[0] if trouble else None) as receiver:
        exits_s, yardsticks_s = [], []
        while len(exits_s) < 4 and not (exits_s and min(exits_s) <= min(yardsticks_s)):
            ended = run(EXIT, tmp_path, receiver.url, 0, check=True)
            exits_s.append(float(ended.stdout))
            yardsticks_s.append(float(run(EXIT, tmp_path, "", 2, check=True).stdout))
        trouble.clear()
        synced = run(
            "import sys; from carbontrack.cli import main; sys.exit(main(['sync', '--json']))",
            tmp_path,
        )

    assert min(exits_s) <= min(yardsticks_s)
    (sentence,) = said(ended.stderr)
    assert sentence.startswith(f"{receiver.url}: {reason}")
    assert sentence.endswith("or: carbontrack sync")
    assert json.loads(synced.stdout)["remaining"] == synced.returncode == 0
    assert [Record.from_row(row).name for row in receiver.records] == ["x"] * len(exits_s)


def test_the_next_run_recovers_a_killed_one(tmp_path: Path) -> None:
    """Nobody has to think of it: the next measured program writes what the killed one used."""
    output = tmp_path / "runs.csv"
    run(PROGRAM + "os.kill(os.getpid(), signal.SIGKILL)", tmp_path, output)
    before = len(list(iter_records(output)))
    other = tmp_path / "other.csv"
    run(
        "import sys, carbontrack\n"
        "with carbontrack.track('x', region='FR', output=sys.argv[1]): pass",
        tmp_path,
        other,
        check=True,
    )
    last = list(iter_records(output))[-1]

    assert before == 20
    assert (last.name, last.status) == ("parent open", "recovered")
    assert [record.name for record in iter_records(other)] == ["x"]


FORKS = """
import os, sys, threading, warnings
import carbontrack

warnings.simplefilter("ignore")
output, url, forks = sys.argv[1], sys.argv[2], int(sys.argv[3])
carbontrack.track  # loads the front; what a program itself imports during a fork is its own affair
stop = threading.Event()

def load():
    while not stop.is_set():
        with carbontrack.track("load", region="FR", output=[output, url]):
            pass
        stop.wait(0.001)

threads = [threading.Thread(target=load) for _ in range(3)]
for thread in threads:
    thread.start()
children = []
for number in range(forks):
    pid = os.fork()
    if pid == 0:
        with carbontrack.track(f"child {number}", region="FR", output=[output, url]):
            pass
        os._exit(0)
    children.append(pid)
    if len(children) == 10:
        print(sum(os.waitpid(pid, 0)[1] for pid in children), flush=True)
        children.clear()
stop.set()
for thread in threads:
    thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("forks", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_forks_under_load_neither_hang_nor_repeat(tmp_path: Path, forks: int) -> None:
    """With threads writing to a file and a server, every forked child ends and is recorded once.

    A child that a block of the parent's holds for a part of its time has a row for each part: the
    next begins where the one before ends.
    """
    output = tmp_path / "runs.csv"
    with Receiver() as receiver:
        ended = run(FORKS, tmp_path, output, receiver.url, forks, check=True)
        for _ in range(5):
            run("from carbontrack.cli import main; main(['sync'])", tmp_path)
    rows = counted_once(iter_records(output))  # one may be ended by `os._exit` as its row is noted
    children: dict[str, list[Record]] = {f"child {number}": [] for number in range(forks)}
    for record in rows:
        if record.name.startswith("child"):
            children[record.name].append(record)

    assert set(ended.stdout.split()) == {"0"}
    for name, own in children.items():
        own.sort(key=lambda one: one.ended_at)
        own.sort(key=lambda one: one.record_id.endswith("-1"))  # the last has the block's own id
        assert [one.record_id.rpartition("-")[2] for one in own][-1:] == ["1"], name
        assert len({one.pid for one in own}) == 1, name
        assert all(one.started_at <= one.ended_at for one in own), name
        for before, after in pairwise(own):
            assert before.ended_at == after.started_at, name
            # that is why there are two; one that held it for less than a moment is not named
            is_other = (before.parent_id, before.parent_holds) != (
                after.parent_id,
                after.parent_holds,
            )
            assert is_other or after.parent_id is None
    assert len({record.record_id for record in rows}) == len(rows)
    assert receiver.record_ids == {record.record_id for record in rows}


def test_signals_keep_their_meaning(tmp_path: Path) -> None:
    """A program that is terminated dies of that signal, at once, as without us."""
    program = PROGRAM + "time.sleep(3600)"
    running = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "runs.csv")],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "CARBONTRACK_STATE_DIR": str(tmp_path / "state")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    running.stdout.readline()
    running.terminate()
    running.communicate(timeout=120)  # of the hour that it would sleep

    assert running.returncode == -signal.SIGTERM
