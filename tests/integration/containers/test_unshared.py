"""Containers made by `unshare`: the program runs in each as without us, and has its record.

They are real ones, of the kernel's namespaces, mounts and limits; no runtime is needed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from carbontrack.record import Record
from carbontrack.report.read import iter_records

ROOT = Path(__file__).parents[3]
STRANGER = 54323
MIB = 1024 * 1024
MEMORY_GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))

PROGRAM = """
import os, sys, time
import carbontrack
output = {"output": "rows.csv"} if sys.argv[1:] else {}  # else what is the default there
with carbontrack.track("work", region="FR", gpu_ids="none", **output):
    end_s = time.process_time() + 1.5
    while time.process_time() < end_s:
        pass
    print("worked", os.getpid() == 1)
sys.exit(3)
"""


def _can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", *_BY, "--mount", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
_BY = () if IS_ROOT else ("--user", "--map-root-user")
"""A user without rights has them in a user namespace of his own."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not _can_unshare(),
    reason="this kernel or its settings allow no namespaces (unshare --mount --pid)",
)


class Container(NamedTuple):
    """How one differs from the machine around it.

    Attributes:
        mounts: what its first process does before the program, as shell commands.
        own_pids: whether it has a pid namespace of its own, and so a /proc.
        environ: variables that are set, or removed where None.
        user: the user that the program runs as, after the mounts; None: whoever runs the tests.
        memory_mib: the limit of its memory.
        descriptors: how many files the program may have open.
        writes: whether the working folder can be written.
        notes: how many notes we may print: one for each default of ours that cannot be used.
    """

    mounts: str = ""
    own_pids: bool = False
    environ: Mapping[str, str | None] = MappingProxyType({})
    user: int | None = None
    memory_mib: int | None = None
    descriptors: int | None = None
    writes: bool = True
    notes: int = 1


PROC = "mount -t proc proc /proc"
HOST = 'mkdir -p "$PLACE/host" && mount --rbind /proc "$PLACE/host"'
READ_ONLY = (
    'for one in /tmp /var/tmp /dev/shm "$PLACE"; do'
    ' mount --bind "$one" "$one" && mount -o remount,bind,ro "$one" || exit 9; done'
    ' && mount -o remount,bind,ro / && cd "$PLACE"'
)
NO_HOME: dict[str, str | None] = {"HOME": None, "XDG_STATE_HOME": None, "XDG_CONFIG_HOME": None}

CONTAINERS = {
    "own pids": Container(PROC, own_pids=True),
    "own pids, the host's /proc elsewhere": Container(
        f"{HOST} && {PROC}", own_pids=True, environ={"CARBONTRACK_PROCFS_PATH": "$PLACE/host"}
    ),
    "own pids, the host's /proc at /proc": Container("true", own_pids=True),
    "subset=pid": Container(f"{PROC} -o subset=pid", own_pids=True),
    "hidepid=2": Container(f"{PROC} -o hidepid=2", own_pids=True),
    "hidepid=2, another user": Container(
        # whose settings and whose state are in folders of somebody else
        f"{PROC} -o hidepid=2",
        own_pids=True,
        user=STRANGER,
        notes=2,
    ),
    "hidepid=2 and subset=pid": Container(f"{PROC} -o hidepid=2,subset=pid", own_pids=True),
    # the state, the output, and how many records that costs
    "read-only root": Container(READ_ONLY, environ=NO_HOME, writes=False, notes=3),
    "no HOME": Container(environ=NO_HOME),
    "HOME of nobody": Container(environ={**NO_HOME, "HOME": "/nonexistent"}),
    "uid without a passwd entry": Container(environ=NO_HOME, user=STRANGER),
    "64 MiB of memory": Container(memory_mib=64),
    "32 descriptors": Container(descriptors=32),
    "16 descriptors": Container(descriptors=16),
    "no /sys": Container("mount -t tmpfs none /sys"),
    "no /dev but null": Container(
        "mount -t tmpfs none /mnt && touch /mnt/null && mount --bind /dev/null /mnt/null"
        " && mount --rbind /mnt /dev"
    ),
    "all at once": Container(
        f"{PROC} -o hidepid=2,subset=pid && mount -t tmpfs none /sys",
        own_pids=True,
        environ={**NO_HOME, "HOME": "/nonexistent"},
        user=STRANGER,
        memory_mib=64,
        descriptors=32,
    ),
    "all at once, and nothing to write to": Container(
        f"{HOST} && {READ_ONLY} && {PROC} -o hidepid=2 && mount -t tmpfs none /sys",
        own_pids=True,
        environ=NO_HOME,
        user=STRANGER,
        memory_mib=64,
        descriptors=32,
        writes=False,
        notes=3,  # no folder for the state, no output, and what that costs
    ),
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A working folder that every user may reach and write to; pytest's own are for one user."""
    folder = Path(tempfile.mkdtemp(prefix="place-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def memory_group() -> Iterator[Callable[[int], Path | None]]:
    """Make a control group with a limit of memory; None where that is not permitted."""
    made: list[Path] = []

    def make(limit_bytes: int) -> Path | None:
        for root in MEMORY_GROUPS:
            folder = root / f"carbontrack-tests-{os.getpid()}-{len(made)}"
            for name in ("memory.limit_in_bytes", "memory.max"):
                with suppress(OSError):
                    folder.mkdir(exist_ok=True)
                    if folder not in made:
                        made.append(folder)
                    if (folder / name).exists():
                        (folder / name).write_text(str(limit_bytes))
                        return folder
        return None

    yield make
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


def run(
    container: Container,
    place: Path,
    make_group: Callable[[int], Path | None],
    program: str = PROGRAM,
) -> subprocess.CompletedProcess[str]:
    """The program in the container; its status is the program's own."""
    group = make_group(container.memory_mib * MIB) if container.memory_mib else None

    def limit() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        elif container.memory_mib is not None:  # no rights to a group: what the process may map
            # threads' stacks are mapped whole, and hardly used: they count against this limit
            resource.setrlimit(resource.RLIMIT_DATA, (container.memory_mib * MIB * 4,) * 2)
        if container.descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (container.descriptors,) * 2)

    shell = " && ".join(filter(None, [container.mounts, 'exec "$@"']))
    user = []
    if container.user is not None and IS_ROOT:
        user = ["setpriv", f"--reuid={container.user}", f"--regid={container.user}"]
        user += ["--clear-groups"]
    pids = ["--pid", "--fork", "--kill-child"] if container.own_pids else []
    # the interpreter by its own path: another user may not be let into the folder of a link
    command = ["unshare", *_BY, "--mount", *pids, "sh", "-c", shell, "sh", *user, sys.executable]
    environ: dict[str, str | None] = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environ |= {"PYTHONPATH": str(ROOT), "PLACE": str(place), "CARBONTRACK_STATE_DIR": None}
    environ |= {"TMPDIR": str(place)} if container.writes else {}
    environ |= container.environ
    return subprocess.run(
        [*command, "-c", program, *(["writes"] if container.writes else [])],
        cwd=place,
        env={
            name: value.replace("$PLACE", str(place))
            for name, value in environ.items()
            if value is not None
        },
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        timeout=300,
    )


def notes(stderr: str) -> list[str]:
    """What we say on stderr; there is nothing else."""
    lines = stderr.splitlines()
    assert all("carbontrack: " in line for line in lines), stderr
    return lines


def skip_where_it_cannot_be(container: Container) -> None:
    """Some need rights that only root has, and a stranger has to be let into our folders."""
    if container.user is not None:
        if not IS_ROOT:
            pytest.skip("only root can run a program as a user who is in no list")
        test = [shutil.which("setpriv") or "setpriv", f"--reuid={STRANGER}", "--clear-groups"]
        reaches = subprocess.run(
            [*test, sys.executable, "-c", "import psutil, requests"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
            cwd="/",
        )
        if reaches.returncode:
            pytest.skip("another user may not read this interpreter and its libraries")


def knowable(record: Record, container: Container) -> dict[str, object]:
    """What each record can tell, wherever it was made."""
    return {
        "cpu_kwh": record.cpu_kwh,
        "ram_kwh": record.ram_kwh,
        "energy_kwh": record.energy_kwh,
        "energy_low_kwh": record.energy_low_kwh,
        "energy_high_kwh": record.energy_high_kwh,
        "emissions_g": record.emissions_g,
        "duration_s": record.duration_s,
        "basis": record.basis,
        "pid": record.pid,
        "python": record.python,
    }


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_program_runs_in_it_and_has_its_record(
    place: Path, memory_group: Callable[[int], Path | None], kind: str
) -> None:
    """Its status and its output are its own; one record where there is room, few notes."""
    container = CONTAINERS[kind]
    skip_where_it_cannot_be(container)
    done = run(container, place, memory_group)

    assert (done.returncode, done.stdout) == (3, f"worked {container.own_pids}\n"), done.stderr
    assert len(notes(done.stderr)) <= container.notes, done.stderr
    rows = list(iter_records(place / "rows.csv")) if (place / "rows.csv").exists() else []
    assert len(rows) == (1 if container.writes else 0)
    for row in rows:
        unknown = [name for name, value in knowable(row, container).items() if value is None]
        assert unknown == []
        assert row.status == "ok"
        assert row.energy_kwh is not None
        assert row.energy_kwh > 0.0
        assert row.cpu_share is None or 0.0 < row.cpu_share <= 1.0


AS_A_COMMAND = """
import sys
from carbontrack.cli import main
sys.exit(main(["run", "--quiet", "--region", "FR", "--", "/bin/sh", "-c", "echo worked; exit 3"]))
"""


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_command_is_started_in_it(
    place: Path, memory_group: Callable[[int], Path | None], kind: str
) -> None:
    """`carbontrack run` starts what it was given, and ends as it does, with its output alone."""
    container = CONTAINERS[kind]
    skip_where_it_cannot_be(container)
    done = run(container, place, memory_group, AS_A_COMMAND)
    assert (done.returncode, done.stdout) == (3, "worked\n"), done.stderr


def test_a_hosts_proc_gives_the_share_of_our_own_process(
    place: Path, memory_group: Callable[[int], Path | None]
) -> None:
    """With the host's /proc at another path, our CPU time is found there, or in our own.

    What the process has used of the machine is the same with the setting and without.
    """
    wide = CONTAINERS["own pids, the host's /proc elsewhere"]
    shares = {}
    for kind, container in {"host": wide, "own": CONTAINERS["own pids"]}.items():
        folder = place / kind
        folder.mkdir()
        folder.chmod(0o777)
        done = run(container, folder, memory_group)
        assert done.returncode == 3, done.stderr
        (record,) = iter_records(folder / "rows.csv")
        assert record.cpu_share is not None, kind
        assert record.cpu_share > 0.0, kind
        shares[kind] = record.cpu_share
    assert shares["host"] > 0.2 * shares["own"]


def test_the_doctor_can_be_asked_in_the_worst_of_them(
    place: Path, memory_group: Callable[[int], Path | None]
) -> None:
    """It answers with what is in the way, and no traceback."""
    container = CONTAINERS["all at once"]
    skip_where_it_cannot_be(container)
    program = "import sys; from carbontrack.cli import main; sys.exit(main(['doctor', '--json']))"
    done = run(container, place, memory_group, program)
    assert "Traceback" not in done.stderr
    assert isinstance(json.loads(done.stdout), dict), done.stderr
