"""Processes that go on after the block that started them: each joule is in one row that counts.

Real processes: what is open, who lives and who an ancestor is are found out, not assumed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path

import pytest

from carbontrack.record import Record
from carbontrack.report.read import iter_records

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists() or not hasattr(os, "fork"), reason="needs procfs and fork"
)

CHILD = """
import os, sys, time
import carbontrack

def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)

if __name__ == "__main__":
    with carbontrack.track("child", output="rows.csv", region="FR"):
        work(float(sys.argv[1]))
        while "stop" in sys.argv and not os.path.exists("stop"):
            time.sleep(0.01)
"""
PROGRAM = """
import multiprocessing, os, signal, subprocess, sys, time
import carbontrack
from child import work

def start(seconds, *before, until=""):
    return subprocess.Popen([*before, sys.executable, "child.py", str(seconds), until])

def outer():
    return carbontrack.track("outer", output="rows.csv", region="FR")

def wait_until_open():
    while not any(b'"name":"child"' in p.read_bytes() for p in Path("state/journal").iterdir()):
        time.sleep(0.01)

from pathlib import Path
"""


def rows_of(folder: Path, program: str, *, code: int = 0) -> list[Record]:
    """The rows of a program, after all its processes have ended."""
    (folder / "child.py").write_text(CHILD)
    (folder / "program.py").write_text(PROGRAM + program)
    environ = {n: text for n, text in os.environ.items() if not n.startswith("CARBONTRACK_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "program.py"],
        cwd=folder,
        env={
            **environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "CARBONTRACK_STATE_DIR": str(folder / "state"),
            "CARBONTRACK_INTERVAL_S": "0.2",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    rows = sorted(iter_records(folder / "rows.csv"), key=lambda row: row.started_at)
    assert len({row.record_id for row in rows}) == len(rows)
    return rows


def named(rows: list[Record], name: str) -> list[Record]:
    """The rows of that name, in the order of their beginnings."""
    return [row for row in rows if row.name == name]


def when(text: str) -> float:
    """An instant of a record, in seconds."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_a_launcher_whose_child_starts_after_its_block(tmp_path: Path) -> None:
    """It names the block, which has ended, as its parent; the block does not hold it."""
    rows = rows_of(tmp_path, "with outer():\n    child = start(0.4)\nchild.wait()\n")
    (outer,), (child,) = named(rows, "outer"), named(rows, "child")
    assert (child.parent_id, child.parent_holds) == (outer.record_id, False)


def test_a_child_that_ends_inside_the_block_is_held(tmp_path: Path) -> None:
    """Its energy is in the block's row, and in no other that counts."""
    rows = rows_of(tmp_path, "with outer():\n    start(0.4).wait()\n")
    (outer,), (child,) = named(rows, "outer"), named(rows, "child")
    assert (child.parent_id, child.parent_holds) == (outer.record_id, True)


@pytest.mark.parametrize("how", ["subprocess", "fork", "grandchild"])
def test_a_child_that_outlives_the_block_has_a_row_for_each_part(tmp_path: Path, how: str) -> None:
    """The first is held, the second not; they meet where the block ends."""
    starts = {
        "subprocess": "wait = start(0, until='stop').wait",
        "grandchild": "wait = start(0, 'sh', '-c', '\"$@\"; true', 'sh', until='stop').wait",
        "fork": (
            "pid = os.fork()\n"
            "    if not pid:\n"
            "        with carbontrack.track('child', output='rows.csv', region='FR'):\n"
            "            while not Path('stop').exists(): work(0.01)\n"
            "        os._exit(0)\n"
            "    wait = lambda: os.waitpid(pid, 0)"
        ),
    }
    program = f"with outer():\n    {starts[how]}\n    wait_until_open()\n    work(0.5)\n"
    program += "work(0.5)\nPath('stop').touch()\nwait()\n"
    rows = rows_of(tmp_path, program)
    (outer,), (first, second) = named(rows, "outer"), named(rows, "child")
    assert (first.parent_id, first.parent_holds) == (outer.record_id, True)
    assert (second.parent_id, second.parent_holds) == (outer.record_id, False)
    assert first.ended_at == second.started_at
    assert when(first.ended_at) == pytest.approx(when(outer.ended_at), abs=0.1)
    assert (first.energy_kwh or 0.0) > 0.0
    assert (second.energy_kwh or 0.0) > 0.0


def test_short_calls_of_workers_that_outlive_the_block(tmp_path: Path) -> None:
    """A pool that is used inside the block and after it: the rows of its calls are divided."""
    rows = rows_of(
        tmp_path,
        """
import pooled
if __name__ == "__main__":
    with outer():
        pool = multiprocessing.get_context("fork").Pool(1)
        pool.map(pooled.call, range(100))
        work(0.5)
    pool.map(pooled.call, range(100))
    work(0.5)
    pool.close()
    pool.join()
"""
        if (tmp_path / "pooled.py").write_text(
            "import time, carbontrack\n"
            "@carbontrack.track('call', output='rows.csv', region='FR', window_s=60)\n"
            "def call(n):\n"
            "    time.sleep(0.002)\n"
        )
        else "",
    )
    (outer,), calls = named(rows, "outer"), named(rows, "call")
    assert sum(row.calls or 0 for row in calls) == 200
    assert {row.parent_id for row in calls} == {outer.record_id}
    assert sum(row.calls or 0 for row in calls if row.parent_holds) == pytest.approx(100, abs=40)


def test_a_daemon_leaves_the_tree_of_its_parent(tmp_path: Path) -> None:
    """Its session is its own and its parent has ended, so that nobody counts it with the block."""
    rows = rows_of(
        tmp_path,
        """
with outer():
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        while os.getppid() == os.getpgid(0):
            time.sleep(0.01)
        os.execv(sys.executable, [sys.executable, "child.py", "0.3"])
    os.wait()
    while not Path("rows.csv").exists() or ",child," not in Path("rows.csv").read_text():
        time.sleep(0.02)
""",
    )
    (outer,), (child,) = named(rows, "outer"), named(rows, "child")
    assert (child.parent_id, child.parent_holds) == (outer.record_id, False)


def test_a_program_that_executes_another_in_its_block(tmp_path: Path) -> None:
    """The block is recovered, and the other program has a row of its own, in the same process."""
    rows = rows_of(
        tmp_path,
        "outer().open()\nwork(0.2)\n"
        "os.execv(sys.executable, [sys.executable, 'child.py', '0.3'])\n",
    )
    (outer,), (child,) = named(rows, "outer"), named(rows, "child")
    assert (outer.status, outer.parent_id) == ("recovered", None)
    assert (child.status, child.parent_id, child.parent_holds) == ("ok", outer.record_id, False)
    assert child.pid == outer.pid


def test_a_child_of_a_killed_program(tmp_path: Path) -> None:
    """What it uses after its parent's death is its own."""
    rows = rows_of(
        tmp_path,
        """
if os.fork() == 0:
    outer().open()
    Path("pid").write_text(str(start(1.5).pid))
    wait_until_open()
    work(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
while Path("/proc", Path("pid").read_text()).exists():
    time.sleep(0.05)
subprocess.run([sys.executable, "-m", "carbontrack", "recover"], stdout=subprocess.DEVNULL)
""",
    )
    (outer,), (*before, after) = named(rows, "outer"), named(rows, "child")
    assert outer.status == "recovered"
    assert (after.parent_id, after.parent_holds) == (outer.record_id, False)
    for held in before:  # none if it did not get to look at its parent once more
        assert (held.parent_id, held.parent_holds) == (outer.record_id, True)
        assert held.ended_at == after.started_at


def test_a_child_of_a_killed_child_names_its_record(tmp_path: Path) -> None:
    """Every parent id is the id of a record that is written, or recovered."""
    rows = rows_of(
        tmp_path,
        """
@carbontrack.track("call", output="rows.csv", region="FR")
def call():
    start(0.1).wait()

@carbontrack.track("long", output="rows.csv", region="FR")
def long():
    work(1.1)
    start(0.1).wait()

call()
long()
with outer() as run, run.span("step"):
    start(0.1).wait()
""",
    )
    ids = {row.record_id: row.name for row in rows}
    children = named(rows, "child")
    assert [ids[row.parent_id or ""] for row in children] == ["call", "long", "outer"]
    assert [row.parent_holds for row in children] == [True, True, True]


INSIDE = {
    "the next block of the same program": """
with outer():
    child = start(0, until="stop")
    wait_until_open()
with outer():
    work(0.5)
    Path("stop").touch()
    child.wait()
""",
    "an older block that stays open": """
a = outer().open()
b = carbontrack.track("b", output="rows.csv", region="FR").open()
child = start(0, until="stop")
wait_until_open()
b.close()
work(0.5)
Path("stop").touch()
child.wait()
a.close()
""",
    "a run around the launcher": """
with outer():
    code = "import program_inner"
    subprocess.run([sys.executable, "-c", code], check=True)
""",
    "a block of another thread": """
import threading
def serve():
    with outer():
        start(0.3).wait()
thread = threading.Thread(target=serve)
thread.start()
thread.join()
""",
}
LAUNCHER = """
from program import *
with carbontrack.track("inner", output="rows.csv", region="FR"):
    child = start(0, until="stop")
    wait_until_open()
work(0.5)
Path("stop").touch()
child.wait()
"""


def added_up(rows: list[Record]) -> list[str]:
    """The names of the rows that a report adds up, in order."""
    return sorted(row.name for row in rows if not row.parent_holds)


@pytest.mark.parametrize("where", INSIDE)
def test_a_child_is_in_whatever_its_ancestors_have_open(tmp_path: Path, where: str) -> None:
    """Also if that is not the block that started it: what goes on around it holds it."""
    program = INSIDE[where]
    if where == "a run around the launcher":
        (tmp_path / "program_inner.py").write_text(LAUNCHER)
        program = f"if __name__ == '__main__':\n{textwrap.indent(program, '    ')}"
    rows = rows_of(tmp_path, program)
    children = named(rows, "child")
    # a moment between two blocks is in neither
    beside = [row for row in children if not row.parent_holds]
    assert sum(row.duration_s or 0.0 for row in beside) < 0.25
    assert {row.name for row in rows if not row.parent_holds} <= {"outer", "child", "b"}
    holders = {row.record_id for row in rows if row.name != "child"}
    assert {row.parent_id for row in children if row.parent_holds} <= holders
    assert any(row.parent_holds for row in children)


def test_workers_that_were_started_before_the_block(tmp_path: Path) -> None:
    """A pool that is made first and used inside a block: nobody told its workers of the block."""
    (tmp_path / "pooled.py").write_text(
        "import time, carbontrack\n"
        "def job(n):\n"
        "    with carbontrack.track('child', output='rows.csv', region='FR'):\n"
        "        time.sleep(0.2)\n"
    )
    rows = rows_of(
        tmp_path,
        """
import pooled
if __name__ == "__main__":
    pool = multiprocessing.get_context("spawn").Pool(1)
    pool.map(pooled.job, [0])
    with outer():
        pool.map(pooled.job, [1])
    pool.map(pooled.job, [2])
    pool.close()
    pool.join()
""",
    )
    (outer,), children = named(rows, "outer"), named(rows, "child")
    assert [row.parent_holds for row in children] == [None, True, None]
    assert [row.parent_id for row in children] == [None, outer.record_id, None]


def test_a_call_that_was_not_the_first_holds_its_children(tmp_path: Path) -> None:
    """Short calls before it, and no child of theirs; then one that starts a process."""
    rows = rows_of(
        tmp_path,
        """
@carbontrack.track("call", output="rows.csv", region="FR")
def call(seconds):
    if seconds:
        work(1.3)
        start(seconds).wait()

for seconds in (0, 0, 0.6):
    call(seconds)
""",
    )
    calls, (child,) = named(rows, "call"), named(rows, "child")
    long = max(calls, key=lambda row: row.duration_s or 0.0)
    assert (child.parent_id, child.parent_holds) == (long.record_id, True)


def test_another_state_directory_leaves_the_answer_open(tmp_path: Path) -> None:
    """Whether the block is open cannot be found out there; the report goes by time and host."""
    rows = rows_of(
        tmp_path,
        "with outer():\n"
        "    os.environ['CARBONTRACK_STATE_DIR'] = os.path.abspath('other')\n"
        "    start(0.3).wait()\n",
    )
    (outer,), (child,) = named(rows, "outer"), named(rows, "child")
    assert (child.parent_id, child.parent_holds) == (outer.record_id, None)


def test_a_machine_is_not_inside_a_process(tmp_path: Path) -> None:
    """A child that counts the whole machine uses more than its parent counts."""
    rows = rows_of(
        tmp_path,
        "with outer():\n    os.environ['CARBONTRACK_SCOPE'] = 'machine'\n    start(0.3).wait()\n",
    )
    (child,) = named(rows, "child")
    assert child.parent_holds is False


def test_the_end_of_a_block_is_said_in_one_short_file(tmp_path: Path) -> None:
    """However many blocks end while a child lives."""
    rows_of(
        tmp_path,
        "child = start(0, until='stop')\n"
        "for _ in range(200):\n"
        "    with outer(): pass\n"
        "(said,) = Path('state/ended').iterdir()\n"
        "Path('said').write_text(said.read_text())\n"
        "Path('stop').touch()\n"
        "child.wait()\n",
    )
    said = (tmp_path / "said").read_text()
    assert len(said) < 1 << 16
    assert len(said.splitlines()) == 200
    assert list((tmp_path / "state" / "ended").iterdir()) == [], "nobody is left to read it"


def test_rows_inside_a_killed_run_name_rows_that_are_recovered(tmp_path: Path) -> None:
    """With rows for all spans, those of the killed run's inner spans have a parent in the file."""
    rows = rows_of(
        tmp_path,
        """
if os.fork() == 0:
    os.environ["CARBONTRACK_SPANS"] = "all"
    with outer() as run, run.span("middle") as middle:
        with middle.span("inner"):
            work(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
os.wait()
subprocess.run([sys.executable, "-m", "carbontrack", "recover"], stdout=subprocess.DEVNULL)
""",
    )
    found = {row.name: row for row in rows}
    assert set(found) == {"outer", "middle", "inner"}
    assert [found[n].status for n in ("outer", "middle", "inner")] == ["recovered"] * 2 + ["ok"]
    assert found["inner"].parent_id == found["middle"].record_id
    assert found["middle"].parent_id == found["outer"].record_id
    assert added_up(rows) == ["outer"]
