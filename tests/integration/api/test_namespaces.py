"""Numbers of processes in containers: each is looked up where it was issued, and nowhere else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from carbontrack.system.host import shows_kernel
from tests.support.namespaces import (
    NEW_PROC,
    environ,
    needs_namespaces,
    output,
    start,
    unshare,
)

pytestmark = needs_namespaces

HOST_PROC = """
mkdir host
mount --rbind /proc host
mount -t proc proc /proc
export CARBONTRACK_PROCFS_PATH="$PWD/host"
"""
"""The host's /proc at another path, as containers of monitoring have it."""
OLDER = "true"
"""The /proc from before: its numbers are those of the namespace outside."""
STRANGE = """
mkdir strange
unshare --pid --fork sh -c 'mount -t proc proc strange'
export CARBONTRACK_PROCFS_PATH="$PWD/strange"
"""
"""The /proc of a namespace that we are not in; `self` leads nowhere there."""
BOUND = """
mount -t proc proc /proc
mount --bind /proc /proc
mount -o remount,bind,ro /proc
"""
WAYS = pytest.mark.parametrize(
    "before", [NEW_PROC, HOST_PROC, OLDER, STRANGE, f"{STRANGE}{NEW_PROC}", BOUND],
    ids=["own", "host's", "older", "strange", "strange beside own", "read-only"],
)  # fmt: skip


@pytest.fixture
def busy() -> Iterator[None]:
    """Somebody else keeps a processor busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    process.kill()
    process.wait()


ASLEEP = """
import subprocess, carbontrack
with carbontrack.track("t", output=None) as run:
    child = subprocess.Popen(["sleep", "1.6"])
    child.wait()
print(run.record.cpu_share)
"""


@WAYS
@pytest.mark.usefixtures("busy")
def test_another_container_s_work_is_not_ours(tmp_path: Path, before: str) -> None:
    """Process 1 of its namespace with a child that sleeps has next to nothing of the machine's."""
    assert float(output(ASLEEP, tmp_path, before=before)) < 0.1


AT_WORK = """
import subprocess, sys, time
from pathlib import Path
from carbontrack.attribution.usage import UsageReader
from carbontrack.config.load import load_settings
from carbontrack.system.clock import other_process_cpu_s
work = "import time\\nwhile time.process_time() < 0.6: pass\\nprint(flush=True); time.sleep(99)"
child = subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE)
child.stdout.readline()
reader = UsageReader(Path(load_settings().procfs_path))
ours_s = reader.read(0.0).process_cpu_s - time.process_time()
print(ours_s / other_process_cpu_s(child.pid), reader.read(0.0).process_ram_bytes)
child.kill()
"""


@WAYS
def test_a_child_s_work_is_ours(tmp_path: Path, before: str) -> None:
    """Its CPU seconds while it lives, and its memory, by whatever numbers procfs has."""
    if before == STRANGE:
        pytest.skip("no procfs shows us there by a number of ours")
    ratio, ram_bytes = output(AT_WORK, tmp_path, before=before).split()
    assert 0.9 < float(ratio) < 1.1
    assert int(ram_bytes) > 5e6


NUMBERS = """
import os, subprocess, time
from pathlib import Path
from carbontrack.attribution.process_tree import driver_numbers
from carbontrack.attribution.usage import UsageReader
mark = f"98.{os.getpid()}{os.urandom(4).hex().translate(str.maketrans('abcdef', '123456'))}"
child = subprocess.Popen(["sleep", mark])
time.sleep(0.2)
host = Path(os.environ.get("CARBONTRACK_PROCFS_PATH", "/proc"))
ours = UsageReader(host).pids_as_the_driver_counts()
shown = [host / pid / "cmdline" for pid in os.listdir(host) if pid.isdigit()]
marked = [int(path.parent.name) for path in shown if mark.encode() in path.read_bytes()]
print(ours is None or (len(marked) == 1 and ours == {*marked, int(os.readlink(host / "self"))}))
print(ours is not None, driver_numbers(Path("/proc")) is not None)
child.kill()
"""


def test_a_driver_s_numbers_are_known_through_the_host_s_procfs(tmp_path: Path) -> None:
    """The numbers of the host for our process and its child; in a container alone, none."""
    of_host = shows_kernel(Path("/proc"))
    right, known, inside = output(NUMBERS, tmp_path, before=HOST_PROC).split()
    assert (right, known, inside) == ("True", str(of_host), "False")
    assert output(NUMBERS, tmp_path).split() == ["True", "False", "False"]


OPEN = """
import carbontrack, os, sys
with carbontrack.track("inside", output="rows.csv"):
    print(os.getpid(), flush=True)
    sys.stdin.readline()
"""


def runs_of(folder: Path) -> list[dict[str, object]]:
    """What `carbontrack top` shows outside."""
    command = [sys.executable, "-m", "carbontrack", "top", "--once", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=folder, env=environ(folder)
    )
    return list(json.loads(done.stdout)["runs"])


def test_a_shared_state_folder_tells_the_living_from_the_dead(tmp_path: Path) -> None:
    """Process 1 of a container is not ours: alive while it runs, gone when it has been killed."""
    process = start(OPEN, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "1"
    assert [(run["name"], run["pid"]) for run in runs_of(tmp_path)] == [("inside", None)]
    recovered = subprocess.run(
        [sys.executable, "-m", "carbontrack", "recover"], capture_output=True, text=True,
        check=True, cwd=tmp_path, env=environ(tmp_path),
    )  # fmt: skip
    assert "inside" not in recovered.stdout + recovered.stderr
    process.send_signal(signal.SIGKILL)  # of unshare, which takes process 1 with it
    process.communicate()
    deadline = time.monotonic() + 20.0
    while runs_of(tmp_path):
        assert time.monotonic() < deadline, runs_of(tmp_path)


PARENT = """
import carbontrack, os, subprocess, sys
with carbontrack.track("outer", output="outer.csv"):
    if sys.argv[1:] != ["again"] and os.environ.get("MOUNT"):
        subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    subprocess.run([sys.executable, "-c", '''
import carbontrack
with carbontrack.track("inner", output=None) as run:
    pass
print(run.record.parent_holds)
'''], check=True)
"""


@pytest.mark.parametrize("mounts", ["", "1"], ids=["same", "own afterwards"])
@pytest.mark.parametrize("before", [OLDER, NEW_PROC], ids=["older", "own"])
def test_a_parent_is_known_whatever_mount_it_read_its_number_from(
    tmp_path: Path, before: str, mounts: str
) -> None:
    """A process calls itself what its own namespace calls it, so its child finds its journal."""
    assert output(PARENT, tmp_path, before=before, MOUNT=mounts).split() == ["True"]


BUDGET = """
import os, subprocess, sys
done = subprocess.run([sys.executable, "-m", "carbontrack", "run", "--output", "none", "--quiet",
    "--budget", "0.0000001 g", "--on-exceed", "terminate", "--grace", "1", "--",
    sys.executable, "-c", "while True: pass"], timeout=60)
print(done.returncode)
"""


@pytest.mark.parametrize("before", [OLDER, NEW_PROC], ids=["older", "own"])
def test_a_budget_ends_the_command_and_nobody_else(tmp_path: Path, before: str) -> None:
    """Where /proc has others' numbers, the command alone is sent the signals."""
    others = subprocess.Popen(["sleep", "60"])
    assert output(BUDGET, tmp_path, before=before).split() == ["3"]
    assert others.poll() is None
    others.kill()
    others.wait()


SUBSET = "mount -t proc -o subset=pid proc /proc"
NO_SYSFS = "mount -t tmpfs none /sys"
NO_PROC = "mount -t tmpfs none /proc"
MEASURED = """
import json, time, carbontrack
with carbontrack.track("t", output=None) as run:
    end = time.process_time() + 0.7
    while time.process_time() < end: pass
print(json.dumps(run.record.to_row()))
"""


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize(
    ("before", "is_hidden"),
    [
        (NEW_PROC, False),
        (SUBSET, True),
        (f"{SUBSET}\n{NO_SYSFS}", True),
        (NO_PROC, True),
        (f"{NO_PROC}\n{NO_SYSFS}", True),
    ],
    ids=["whole", "subset=pid", "and no sysfs", "no procfs", "neither"],
)
def test_a_hidden_machine_is_modelled_and_said_to_be_hidden(
    tmp_path: Path, before: str, is_hidden: bool
) -> None:
    """Energy is an estimate with its interval, the record names the fault, and nothing is None."""
    row = json.loads(output(MEASURED, tmp_path, before=before))
    assert row["coverage"] == 1.0
    assert row["missed_reads"] == 0
    assert (row["faults"] or "").startswith("machine_hidden:") is is_hidden
    assert row["cpu_basis"] in ("modelled", "assumed")
    for part in ("cpu_kwh", "ram_kwh", "energy_kwh", "machine_kwh"):
        assert row[part] > 0.0, part
    assert row["energy_low_kwh"] < row["energy_kwh"] < row["energy_high_kwh"]


@pytest.mark.usefixtures("busy")
def test_the_interval_without_a_view_of_the_machine_holds_what_is_seen_with_one(
    tmp_path: Path,
) -> None:
    """Others may keep the machine busy: our part is then less, and the machine's power more."""
    given = {"CARBONTRACK_RAM_W_PER_GIB": "0"}
    hidden = f"{SUBSET}\n{NO_SYSFS}"
    for scope in ("process", "machine"):
        rows = [
            json.loads(output(MEASURED, tmp_path, before=before, CARBONTRACK_SCOPE=scope, **given))
            for before in (NEW_PROC, hidden)
        ]
        seen, low, high = (
            # the work is the same in both; how long it took is not, and the machine's goes with it
            row[f"energy_{end}kwh"] / (row["duration_s"] if scope == "machine" else 1.0)
            for row, end in ((rows[0], ""), (rows[1], "low_"), (rows[1], "high_"))
        )
        assert low <= seen <= high, scope


OTHER_GROUP = 47110
HIDDEN_FROM = f"setpriv --regid={OTHER_GROUP} --clear-groups --bounding-set=-all"
"""Without capabilities, and not in the group that hidepid lets see everything."""


@pytest.fixture
def another_user_busy() -> Iterator[None]:
    """A processor is kept busy by another user, where we may start something as one."""
    as_another = ["setpriv", f"--reuid={OTHER_GROUP}", f"--regid={OTHER_GROUP}", "--clear-groups"]
    command = ["sh", "-c", "while :; do :; done"]
    process = subprocess.Popen([*(as_another if os.geteuid() == 0 else ()), *command])
    yield
    process.kill()
    process.wait()


@pytest.mark.usefixtures("another_user_busy")
@pytest.mark.parametrize("option", ["hidepid=1", "hidepid=2", "hidepid=4", "hidepid=2,subset=pid"])
def test_where_procfs_hides_others_our_own_tree_is_whole(tmp_path: Path, option: str) -> None:
    """A procfs that shows our processes only, or only those that we may trace."""
    mount = f"mount -t proc -o {option} proc /proc"
    through = HIDDEN_FROM if os.geteuid() == 0 else ""
    check = subprocess.run([*unshare("sh", "-c"), mount], capture_output=True, check=False)
    if check.returncode:
        pytest.skip(f"this kernel has no {option}: {check.stderr!r}")
    ratio, ram_bytes = output(AT_WORK, tmp_path, before=mount, through=through).split()
    assert 0.9 < float(ratio) < 1.1
    assert int(ram_bytes) > 5e6
    assert float(output(ASLEEP, tmp_path, before=mount, through=through)) < 0.1
