"""The process tree: whole by either way of finding it, and at no more than it costs itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from carbontrack.attribution.process_tree import ALL_AGAIN_S, Walk, descendants

ROOT = Path(__file__).parents[3]
needs_lists = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(),
    reason="this kernel has no lists of children (CONFIG_PROC_CHILDREN)",
)


def put(procfs: Path, pid: int, parent: int, *, ticks: int = 1, started: int = 5) -> None:
    """A process as proc_pid_stat(5) writes it."""
    (procfs / str(pid)).mkdir(exist_ok=True)
    rest = ["S", parent, *[0] * 9, ticks, 0, 0, 0, *[0] * 4, started, 0, 3, *[0] * 28]
    (procfs / str(pid) / "stat").write_text(f"{pid} (x) {' '.join(map(str, rest))}\n")


def list_children(procfs: Path, pid: int, *threads: Sequence[int]) -> None:
    """The lists of the children of each of its threads, as proc_pid(5) writes them."""
    for number, children in enumerate(threads):
        task = procfs / str(pid) / "task" / str(pid + number)
        task.mkdir(parents=True, exist_ok=True)
        (task / "children").write_text("".join(f"{child} " for child in children))


def pids(walk: Walk, now_s: float = 0.0) -> list[int]:
    return sorted(found.pid for found in walk.look(now_s))


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """10 with the children 11 and 12, of another thread, and 13 below 12; 20 is somebody else's."""
    for pid, parent in ((10, 1), (11, 10), (12, 10), (13, 12), (20, 1)):
        put(tmp_path, pid, parent)
    list_children(tmp_path, 10, [11], [12])
    list_children(tmp_path, 11, [])
    list_children(tmp_path, 12, [13])
    list_children(tmp_path, 13, [])
    return tmp_path


def test_the_lists_of_all_threads_lead_to_the_whole_tree(listed: Path) -> None:
    """Children belong to the thread that has started them."""
    assert pids(Walk(listed, 10)) == [11, 12, 13]


def test_a_child_that_a_list_has_missed_stays(listed: Path) -> None:
    """While another child is waited for, the kernel may leave one out, with all below it."""
    walk = Walk(listed, 10)
    assert pids(walk) == [11, 12, 13]
    list_children(listed, 10, [11], [])
    assert pids(walk) == [11, 12, 13]


def test_who_has_another_parent_leaves_with_all_below(listed: Path) -> None:
    """An orphan is the child of process 1 from now on, and a number may be another process's."""
    walk = Walk(listed, 10)
    assert pids(walk) == [11, 12, 13]
    list_children(listed, 10, [11], [])
    put(listed, 12, 1)
    assert pids(walk) == [11]
    list_children(listed, 10, [], [])
    put(listed, 11, 10, started=99)
    assert pids(walk) == []


def test_a_process_of_many_threads_is_not_asked_for_each_of_them(listed: Path) -> None:
    """All processes are read then, which costs less; the tree is the same."""
    list_children(listed, 10, [11], [12], *[[]] * 300)
    (listed / "10" / "task" / "12" / "children").unlink()
    assert pids(Walk(listed, 10)) == [11, 12, 13]


@pytest.fixture
def unlisted(listed: Path) -> Path:
    """The same on a kernel without lists."""
    for path in listed.glob("*/task/*/children"):
        path.unlink()
    return listed


def test_without_lists_the_parents_lead_to_the_whole_tree(unlisted: Path) -> None:
    """Newcomers are found at the next look, and who has gone is not there."""
    walk = Walk(unlisted, 10)
    assert pids(walk) == [11, 12, 13]
    put(unlisted, 30, 13)
    (unlisted / "11" / "stat").unlink()
    assert pids(walk, 1.0) == [12, 13, 30]


def test_without_lists_a_number_that_is_given_again_is_found_in_time(unlisted: Path) -> None:
    """What was no descendant is not read again, but for a moment."""
    walk = Walk(unlisted, 10)
    assert pids(walk, 0.0) == [11, 12, 13]
    put(unlisted, 20, 10, started=99)
    assert pids(walk, ALL_AGAIN_S / 2) == [11, 12, 13]
    assert pids(walk, ALL_AGAIN_S) == [11, 12, 13, 20]


def wait_for_it_when_read(procfs: Path, child: int, parent: int) -> threading.Thread:
    """The child is waited for as soon as it has been read: its time is its parent's from then on.

    Its stat is a pipe, which its reader opens and then waits for.
    """
    put(procfs, child, parent, ticks=100)
    pipe = procfs / str(child) / "stat"
    text = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)

    def answer() -> None:
        with pipe.open("wb") as file:
            pipe.unlink()
            path = procfs / str(parent) / "stat"
            whole = path.with_name("new")
            whole.write_text(path.read_text().replace(" 0 0 0 1 0 ", " 0 0 0 1 100 "))
            whole.replace(path)
            file.write(text)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("first", [100, 300], ids=["parents first", "numbers given again"])
def test_without_lists_a_child_that_is_waited_for_meanwhile_counts_once(
    tmp_path: Path, first: int
) -> None:
    """It is in its parent's time, or missing for once, whoever has been read first."""
    put(tmp_path, 10, 1)
    threads = []
    for parent, child in zip(range(first, first + 12), range(200, 212), strict=True):
        put(tmp_path, parent, 10)
        threads.append(wait_for_it_when_read(tmp_path, child, parent))
    found = Walk(tmp_path, 10).look(0.0)
    for thread in threads:
        thread.join(20.0)
    assert {facts.pid for facts in found} >= set(range(first, first + 12))
    assert sum(facts.cpu_ticks for facts in found) <= 12 * 101


def test_without_lists_whoever_is_below_one_that_is_read_again_is_read_again(
    tmp_path: Path,
) -> None:
    """13 is read after its child 11, which is read once more; so its own child is as well."""
    put(tmp_path, 10, 1)
    put(tmp_path, 13, 10)
    put(tmp_path, 11, 13)
    thread = wait_for_it_when_read(tmp_path, 12, 11)
    found = Walk(tmp_path, 10).look(0.0)
    thread.join(20.0)
    assert sum(facts.cpu_ticks for facts in found) <= 1 + 101


FORKS = """
import os, sys, threading, time
from pathlib import Path
from carbontrack.attribution.process_tree import Walk, descendants
class Plain(Walk):
    def __init__(self, *args):
        super().__init__(*args)
        self._has_lists = False
def sleeper(depth):
    pid = os.fork()
    if not pid:
        for _ in range(depth): sleeper(depth - 1)
        os.write(w, b".")
        time.sleep(60)
        os._exit(0)
    return pid
r, w = os.pipe()
children = [sleeper(2) for _ in range(3)]
thread = threading.Thread(target=lambda: (children.append(sleeper(2)), gone.wait()))
gone = threading.Event()
thread.start()
children += [sleeper(0) for _ in range(700)]  # their list is longer than a page
whole = 4 * (1 + 2 * (1 + 1)) + 700
seen = 0
while seen < whole: seen += len(os.read(r, 4096))
root = os.getpid()
by_lists, by_reading = (sorted(w(Path("/proc"), root).look()) for w in (Walk, Plain))
print(len(by_lists), [a[0] for a in by_lists] == [b[0] for b in by_reading], whole)
gone.set()
for pid, _, _ in by_lists: os.kill(pid, 9)
"""


def run(program: str, *args: str) -> str:
    """What a program prints in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, check=True,
        cwd=ROOT, timeout=100,
    ).stdout  # fmt: skip


@needs_lists
def test_both_ways_find_the_same_in_the_kernel_s_own_procfs() -> None:
    """Children of children, of a second thread, and more than a page of them."""
    found, same, whole = run(FORKS).split()
    assert (found, same) == (whole, "True")


LOOKS = """
import json, os, sys, time
from pathlib import Path
from carbontrack.attribution.process_tree import Walk
procfs, root = Path(sys.argv[1]), int(sys.argv[2])
events = 0
def count(event, args):
    global events
    if event in ("open", "os.listdir"): events += 1
sys.addaudithook(count)
walk = Walk(procfs, root)
walk.look(0.0)
events = 0
walk.look(1.0)
opened, costs_s = events, []
for _ in range(60):
    begun_s = time.process_time()
    walk.look(1.0)
    costs_s.append(time.process_time() - begun_s)
print(json.dumps([opened, min(costs_s)]))
"""


def look_among(folder: Path, others: int, *, has_lists: bool) -> tuple[int, float]:
    """Files read and CPU seconds of a later look at a tree of three beside so many others."""
    procfs = folder / f"{others}-{has_lists}"
    procfs.mkdir()
    put(procfs, 10, 1)
    put(procfs, 11, 10)
    put(procfs, 12, 11)
    for pid in range(1000, 1000 + others):
        put(procfs, pid, 2)
    if has_lists:
        list_children(procfs, 10, [11])
        list_children(procfs, 11, [12])
        list_children(procfs, 12, [])
    opened, cost_s = json.loads(run(LOOKS, str(procfs), "10"))
    return opened, cost_s


@pytest.mark.parametrize("has_lists", [True, False], ids=["lists", "no lists"])
def test_a_look_reads_no_more_among_three_thousand_than_among_thirty(
    tmp_path: Path, has_lists: bool
) -> None:
    """With lists it takes no more time either; without, the names of all are listed once."""
    few, few_s = look_among(tmp_path, 30, has_lists=has_lists)
    many, many_s = look_among(tmp_path, 3000, has_lists=has_lists)
    assert many == few
    if has_lists:
        assert many_s <= 2.0 * few_s


NUMBERS = """
import os, subprocess, sys
from pathlib import Path
from carbontrack.attribution.process_tree import ProcessTree
procfs = Path(sys.argv[1])
child = subprocess.Popen(["sleep", "60"])
(procfs / str(child.pid)).symlink_to(f"/proc/{child.pid}")
tree, opened = ProcessTree(procfs), 0
def count(event, args):
    global opened
    if event == "open": opened += 1
tree.cpu_s(0.0)
sys.addaudithook(count)
print(tree.pids() == [child.pid], opened)
child.kill()
"""


def test_the_numbers_of_the_tree_are_read_at_the_cost_of_a_later_look(tmp_path: Path) -> None:
    """A survey of memory asks for them at every tick: strangers are not read each time."""
    (tmp_path / "self").symlink_to("/proc/self")
    for pid in range(10**6, 10**6 + 500):
        put(tmp_path, pid, 2)
    found, opened = run(NUMBERS, str(tmp_path)).split()
    assert found == "True"
    assert int(opened) < 50


FULL = """
import json, os, resource, subprocess, sys
from carbontrack.attribution.process_tree import ProcessTree, driver_numbers
burn = "import time\\nwhile time.process_time() < 0.5: pass\\nprint(flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE)
child.stdout.readline()
tree = ProcessTree()
read = [tree.cpu_s(0.0)]
before = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (20, before[1]))
held = []
try:
    while True: held.append(os.open(os.devnull, os.O_RDONLY))
except OSError: pass
read.append(tree.cpu_s(1.0))
pids = tree.pids()
for one in held: os.close(one)
read.append(tree.cpu_s(2.0))
child.kill()
child.wait()
read.append(tree.cpu_s(3.0))
print(json.dumps([read, pids == [child.pid]]))
"""


def test_without_descriptors_the_last_look_stays_and_nothing_counts_twice() -> None:
    """Nobody has gone then; the time of whoever is seen again has been counted already."""
    read, same_pids = json.loads(run(FULL))
    assert read == sorted(read)
    assert same_pids
    assert read[0] > 0.5
    assert read[-1] - read[0] < 0.5


@needs_lists
def test_a_first_look_costs_no_more_among_thousands(tmp_path: Path) -> None:
    """Our own children are found by the kernel's lists, whoever else is there."""
    child = subprocess.Popen(["sleep", "60"])
    costs_s = []
    try:
        for others in (30, 3000):
            procfs = tmp_path / str(others)
            procfs.mkdir()
            for name in ("self", str(child.pid)):
                (procfs / name).symlink_to(f"/proc/{name}")
            for pid in range(10**6, 10**6 + others):
                put(procfs, pid, 2)
            costs_s.append(min(_cost_s(procfs) for _ in range(40)))
    finally:
        child.kill()
        child.wait()
    assert costs_s[1] <= 2.0 * costs_s[0]


def _cost_s(procfs: Path) -> float:
    begun_s = time.process_time()
    assert len(descendants(procfs, os.getpid())) == 1
    return time.process_time() - begun_s
