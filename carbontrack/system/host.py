"""What identifies this host, its boot and the control groups of this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from carbontrack.system.files import read_at_once, read_file
from carbontrack.system.interrupts import pass_on
from carbontrack.values import NamedTuple


def host_id(etc: Path = Path("/etc")) -> str:
    """A pseudonymous id of this host: a keyed hash of its machine id.

    The machine id is random (machine-id(5)), and its manual asks for a keyed hash wherever it
    leaves the machine. Where there is none, the host's name is hashed instead.
    """
    try:
        from _blake2 import blake2b  # hashlib would load all of OpenSSL first, 5 ms
    except ImportError:
        from hashlib import blake2b
    try:
        secret = (etc / "machine-id").read_bytes().strip()
    except OSError as error:
        pass_on(error)
        secret = b""
    if not secret:
        import socket

        secret = socket.gethostname().encode(errors="surrogateescape")
    return blake2b(secret, digest_size=8, key=b"carbontrack host id").hexdigest()


def boot_id(procfs: Path = Path("/proc")) -> str | None:
    """The kernel's random id of this boot (random(4)); None where there is none, as off Linux."""
    try:
        return read_file(procfs / "sys/kernel/random/boot_id").decode("utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        pass_on(error)
        return None


def online_threads() -> int:
    """The hardware threads online, as the C library has them.

    Not `os.cpu_count()`: it can be set when Python is started (PYTHON_CPU_COUNT, -X cpu_count), to
    make a program start fewer workers, while the machine stays the same.
    """
    try:
        return max(1, os.sysconf("SC_NPROCESSORS_ONLN"))
    except (AttributeError, ValueError, OSError) as error:
        pass_on(error)
        return os.cpu_count() or 1  # Windows


@lru_cache(maxsize=16)
def calibration_path(state: Path, host: str) -> Path:
    """The calibration file of a host; several hosts may share a state directory."""
    safe = "".join(char if char.isalnum() or char in "-_." else "_" for char in host)
    return state / f"calibration-{safe}.json"


def own_groups(procfs: Path, sysfs: Path, controller: str) -> Sequence[tuple[Path, int]]:
    """The control groups (cgroups(7)) of this process for `controller`, from the root down.

    Each with the version of its tree, 1 or 2. In a container the path may be the host's, which does
    not exist here; the root is ours then, and the caller must ignore directories without files.
    """
    try:
        text = read_at_once(f"{procfs}/self/cgroup")
    except OSError as error:
        pass_on(error)
        return ()
    return _groups_in(text, sysfs, controller)


@lru_cache(maxsize=16)
def _groups_in(text: bytes, sysfs: Path, controller: str) -> Sequence[tuple[Path, int]]:
    found: list[tuple[Path, int]] = []
    for line in text.decode(errors="replace").splitlines():
        number, controllers, path = ("::" if line.count(":") < 2 else line).split(":", 2)
        if number == "0":
            top, version = sysfs / "fs" / "cgroup", 2
        elif controller in controllers.split(","):
            top, version = sysfs / "fs" / "cgroup" / controller, 1
        else:
            continue
        pieces = [piece for piece in path.split("/") if piece not in {"", ".", ".."}]
        steps = (pieces[:depth] for depth in range(len(pieces) + 1))
        found += [(top.joinpath(*step), version) for step in steps]
    return tuple(found)


def group_cpu_s(group: Path, version: int) -> float | None:
    """CPU seconds that a control group's processes have used; None where it does not tell."""
    try:
        if version == 1:
            return int((group / "cpuacct.usage").read_bytes()) * 1e-9
        text = (group / "cpu.stat").read_bytes()
        return int(text.split(b"usage_usec", 1)[1].split(None, 1)[0]) * 1e-6
    except (OSError, ValueError, IndexError) as error:
        pass_on(error)
        return None


class ProcessStat(NamedTuple):
    """What procfs says of a process, in its own pid namespace.

    Attributes:
        pid: its process id.
        parent_pid: that of its parent.
        started_ticks: when it started, in clock ticks since the boot; unlike the id, never used
            again.
    """

    pid: int
    parent_pid: int
    started_ticks: int


def stat_fields(text: bytes) -> list[bytes]:
    """The fields of a process's stat from its state on: state, ppid, … (proc_pid_stat(5)).

    The name before them, in brackets, may hold spaces and brackets.

    Raises:
        ValueError: there is no name.
    """
    return text[text.rindex(b")") + 2 :].split()


def process_stat(procfs: Path, name: str) -> ProcessStat | None:
    """What procfs says of a process, by its id or "self"; None where there is none.

    A zombie has ended.
    """
    try:
        text = read_at_once(f"{procfs}/{name}/stat")
        fields = stat_fields(text)
        if fields[0] in (b"Z", b"X"):
            return None
        return ProcessStat(int(text[: text.index(b" ")]), int(fields[1]), int(fields[19]))
    except (OSError, ValueError, IndexError) as error:
        pass_on(error)
        return None


_DEEPEST = 256
"""The longest chain of ancestors that is followed."""


def number_in(procfs: Path) -> int | None:
    """The number of this process in the pid namespace of a procfs; None where it has none.

    A mount shows the processes of one namespace by the numbers of that namespace, for any reader,
    and `self` is resolved there. With a host's procfs in a container that is the host's number, and
    in a procfs of another container there is none (pid_namespaces(7)).
    """
    stat = process_stat(procfs, "self")
    return None if stat is None else stat.pid


def numbers_of(procfs: Path, name: str) -> tuple[int, ...]:
    """The numbers of a process from the mount's pid namespace inwards to its own; () if unknown.

    The last is what the process itself calls its number (NSpid in proc_pid_status(5), Linux 4.1).
    """
    try:
        text = (procfs / name / "status").read_bytes()
        return tuple(map(int, text.split(b"\nNSpid:", 1)[1].split(b"\n", 1)[0].split()))
    except (OSError, ValueError, IndexError) as error:
        pass_on(error)
        return ()


def depth_below(procfs: Path) -> int | None:
    """How many pid namespaces this process is below that of a mount of procfs; None: unknown.

    0 where the numbers there are those of `os.getpid()`: the only ones that may be compared with
    what other processes of our namespace call themselves, or be sent a signal.
    """
    return _depth_below(procfs, os.getpid())


@lru_cache(maxsize=4)
def _depth_below(procfs: Path, pid: int) -> int | None:
    numbers = numbers_of(procfs, "self")
    if numbers:  # one that is not our own ends with another number: another program's tree of files
        return len(numbers) - 1 if numbers[-1] == pid else None
    return 0 if number_in(procfs) == pid else None  # an older kernel, or gVisor


def shows_kernel(procfs: Path) -> bool:
    """Whether a mount of procfs is of the first pid namespace, that of the machine.

    Kernel threads are in no other, and the second process is always one: kthreadd, with the flag
    PF_KTHREAD, which no program can set.
    """
    try:
        text = (procfs / "2" / "stat").read_bytes()
        return bool(int(stat_fields(text)[6]) & _PF_KTHREAD)
    except (OSError, ValueError, IndexError) as error:
        pass_on(error)
        return False


_PF_KTHREAD = 0x00200000


def own_stat(procfs: Path) -> ProcessStat | None:
    """What procfs says of this process, by its number in its own pid namespace, as others know it.

    The number is never that of another namespace, whose mount procfs may be: an equal number of
    ours would be another process.
    """
    stat = process_stat(procfs, "self")
    return None if stat is None else stat._replace(pid=os.getpid())


def stat_of(procfs: Path, pid: int) -> ProcessStat | None:
    """What procfs says of a process of our own pid namespace; None where there is none.

    None too where the mount has the numbers of another namespace.
    """
    return process_stat(procfs, str(pid)) if depth_below(procfs) == 0 else None


def ancestors(procfs: Path) -> tuple[dict[int, int], bool]:
    """The ancestors of this process, the nearest first, with their starts in clock ticks.

    Those in its pid namespace, by their numbers there; and whether procfs shows all of these: it
    may hide other users' processes.
    """
    chain: dict[int, int] = {}
    stat, depth = process_stat(procfs, "self"), depth_below(procfs)
    if depth is None:
        return chain, False
    while stat is not None and stat.parent_pid > 0 and len(chain) < _DEEPEST:
        stat = process_stat(procfs, str(stat.parent_pid))
        if stat is None:
            break
        pid = stat.pid
        if depth:  # a mount of an outer namespace, with numbers of that one
            numbers = numbers_of(procfs, str(pid))
            if len(numbers) <= depth:
                return chain, bool(numbers)  # outside of ours
            pid = numbers[depth]
        chain[pid] = stat.started_ticks
    return chain, stat is not None


def pid_namespace(procfs: Path = Path("/proc")) -> str:
    """The inode of this process's pid namespace (pid_namespaces(7)); "" where there is none."""
    try:
        return os.readlink(procfs / "self/ns/pid").strip("pid:[]")  # noqa: PTH115 - not a path
    except OSError as error:
        pass_on(error)
        return ""


def process_identity(procfs: Path = Path("/proc"), *, pid: int | None = None) -> str:
    """Which process this is, on which boot: "boot id:pid namespace:pid:start"; "" off Linux.

    `pid` is another process of its pid namespace.
    """
    stat = own_stat(procfs) if pid in (None, os.getpid()) else stat_of(procfs, pid or 0)
    if stat is None:
        return ""
    return f"{boot_id(procfs) or ''}:{pid_namespace(procfs)}:{stat.pid}:{stat.started_ticks}"
