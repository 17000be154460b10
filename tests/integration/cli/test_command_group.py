"""Daemons of a command: found by its control group, real ones, and left alone where that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.attribution.process_tree import ProcessTree
from carbontrack.cli.group import has_rows
from carbontrack.system.clock import other_process_cpu_s
from carbontrack.system.host import process_stat
from tests.support.namespaces import environ

TOPS = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of version 2 that is ours, as a delegated unit's."""
    top = next((top for top in TOPS if (top / "cgroup.controllers").exists()), None)
    if top is None or not os.access(top, os.W_OK):
        pytest.skip("no control groups of version 2 that this user may make")
    path = top / f"carbontrack-test-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    yield path
    deadline = time.monotonic() + 20.0
    while path.exists():
        for pid in (path / "cgroup.procs").read_text().split():
            os.kill(int(pid), 9)
        try:
            path.rmdir()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


WORK = """
import os, time
done, told = os.pipe()
if os.fork() == 0:
    os.setsid()
    for stream in range(3): os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    if os.fork() == 0:
        while time.process_time() < 1.0: pass
        time.sleep(0.3)
        os.write(told, b".")
        time.sleep(60)
    os._exit(0)
os.wait()
os.read(done, 1)
"""
"""Leaves a daemon behind that works while the command waits, and that lives on."""


def share_of_run(folder: Path, home: Path | None, *, delegated: bool = False) -> float:
    """The share of a command with a daemon, `carbontrack run` itself being in the group `home`."""
    if home is not None and delegated:
        os.setxattr(home, "user.delegate", b"1")
    enter = "" if home is None else f"echo $$ > {home}/cgroup.procs;"
    command = [sys.executable, "-m", "carbontrack", "run", "--output", "none", "--json", "--"]
    done = subprocess.run(
        ["sh", "-c", f'{enter} exec "$@"', "sh", *command, sys.executable, "-c", WORK],
        capture_output=True, text=True, check=False, cwd=folder, env=environ(folder), timeout=100,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert done.returncode == 0
    return float(json.loads(line)["cpu_share"])


def test_a_command_s_daemon_counts_in_a_group_of_its_own(tmp_path: Path, group: Path) -> None:
    """Where groups may be made one is, and it is gone afterwards; who is left stays in ours."""
    with_daemon = share_of_run(tmp_path, group, delegated=True)
    assert [path.name for path in group.iterdir() if path.is_dir()] == []
    assert len((group / "cgroup.procs").read_text().split()) == 1
    assert with_daemon > 3 * share_of_run(tmp_path, None)


def test_a_command_s_daemon_counts_where_nobody_else_is_in_our_group(
    tmp_path: Path, group: Path
) -> None:
    """As under `systemd-run --scope`, where nothing is made."""
    if os.geteuid() != 0:
        pytest.skip("a plain user that may make a group makes one")
    assert share_of_run(tmp_path, group) > 3 * share_of_run(tmp_path, None)


FOUND = "from carbontrack.cli.group import CommandGroup as G; print(getattr(G.find(), 'path', 0))"


def test_others_in_our_group_are_not_ours(tmp_path: Path, group: Path) -> None:
    """A terminal's session has the user's other programs too."""
    if os.geteuid() != 0:
        pytest.skip("a plain user that may make a group makes one")
    enter = f'echo $$ > {group}/cgroup.procs; exec "$@"'
    assert found_in(group, tmp_path) == str(group)
    other = subprocess.Popen(["sh", "-c", enter, "sh", "sleep", "600"])
    try:
        while str(other.pid) not in (group / "cgroup.procs").read_text().split():
            time.sleep(0.01)
        assert found_in(group, tmp_path) == "0"
    finally:
        other.kill()
        other.wait()


def found_in(group: Path, folder: Path) -> str:
    """The group that a run in this one would look at; "0": none."""
    command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    return subprocess.run(
        [*command, sys.executable, "-c", FOUND],
        capture_output=True, text=True, check=True, env=environ(folder),
    ).stdout.strip()  # fmt: skip


def test_groups_below_ours_are_others(tmp_path: Path, group: Path) -> None:
    """As where a container's program starts other containers: only nobody's is looked at."""
    if os.geteuid() != 0:
        pytest.skip("a plain user that may make a group makes one")
    below = group / "others"
    below.mkdir()
    assert found_in(group, tmp_path) == str(group)
    other = subprocess.Popen(["sleep", "600"])
    try:
        (below / "cgroup.procs").write_text(str(other.pid))
        assert found_in(group, tmp_path) == "0"
    finally:
        other.kill()
        other.wait()
        below.rmdir()


def test_groups_of_runs_that_were_killed_are_removed_by_the_next(
    tmp_path: Path, group: Path
) -> None:
    """Not that of one which runs, nor one with a process in it, nor anybody else's."""
    os.setxattr(group, "user.delegate", b"1")
    ended = subprocess.Popen(["true"])
    ended.wait()
    sleeper = subprocess.Popen(["sleep", "600"])
    names = [f"carbontrack-{ended.pid}-0a", f"carbontrack-{ended.pid}-0b"]
    kept = [names[1], f"carbontrack-{os.getpid()}-0c", "carbontrack-other"]
    for name in {*names, *kept}:
        (group / name).mkdir()
    try:
        (group / names[1] / "cgroup.procs").write_text(str(sleeper.pid))
        made = Path(found_in(group, tmp_path))
        assert sorted(path.name for path in group.iterdir() if path.is_dir()) == sorted(
            [*kept, made.name]
        )
    finally:
        sleeper.kill()
        sleeper.wait()
        for path in group.iterdir():
            if path.is_dir():
                path.rmdir()


DAEMON = """
import os, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
if os.fork() == 0:
    os.setsid()
    import subprocess
    burn = "import time\\nwhile time.process_time() < 0.5: pass\\nprint(flush=True); time.sleep(60)"
    if os.fork() == 0:
        child = subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE)
        child.stdout.readline()
        print(os.getpid(), child.pid, flush=True)
        time.sleep(60)
    os._exit(0)
os.wait()
"""


def test_a_daemon_and_what_it_starts_are_in_the_tree_unless_they_have_rows(group: Path) -> None:
    """Whoever is measured on its own is left out with all below it: no joule is in two rows."""
    starter = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(group)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    with starter.stdout as said:
        daemon, child = map(int, said.readline().split())
    starter.wait()
    tree = ProcessTree()
    before_s = tree.cpu_s(0.0)
    assert {daemon, child}.isdisjoint(tree.pids())
    tree.take_in(group, lambda _pid, _started: False)
    assert {daemon, child} <= set(tree.pids())
    grown_s, clock_s = tree.cpu_s(1.0) - before_s, other_process_cpu_s(child)
    assert clock_s is not None
    assert grown_s > 0.9 * clock_s
    for left_out, wanted in ((child, {daemon}), (daemon, set())):
        tree.take_in(group, lambda pid, _started, one=left_out: pid == one)
        assert {daemon, child} & set(tree.pids()) == wanted


TRACKED = """
import carbontrack, sys
with carbontrack.track("daemon", output="rows.csv"):
    print(flush=True)
    sys.stdin.readline()
"""


def test_who_has_something_open_in_a_journal_is_measured_on_its_own(tmp_path: Path) -> None:
    """By its number and its start; a process without a journal is not."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRACKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=tmp_path, env=environ(tmp_path),
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    stat, own = process_stat(Path("/proc"), str(process.pid)), process_stat(Path("/proc"), "self")
    assert stat is not None
    assert own is not None
    is_measured = has_rows(tmp_path / "state")
    assert is_measured(stat.pid, stat.started_ticks)
    assert not is_measured(stat.pid, stat.started_ticks + 1)
    assert not is_measured(own.pid, own.started_ticks)
    process.communicate("\n")
    assert is_measured(stat.pid, stat.started_ticks)  # what it has used is in its own rows
