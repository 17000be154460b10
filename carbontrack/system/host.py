"""What identifies this host, its boot and the control groups of this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from carbontrack.system.interrupts import pass_on


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
        return (procfs / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        pass_on(error)
        return None


def online_threads() -> int:
    """The hardware threads online, as the C library has them.

    Not `os.cpu_count()`: whoever starts Python can set that (PYTHON_CPU_COUNT, -X cpu_count), to
    make a program start fewer workers, and the machine remains what it is.
    """
    try:
        return max(1, os.sysconf("SC_NPROCESSORS_ONLN"))
    except (AttributeError, ValueError, OSError) as error:
        pass_on(error)
        return os.cpu_count() or 1  # Windows


def calibration_path(state: Path, host: str) -> Path:
    """The calibration file of a host; several hosts may share a state directory."""
    safe = "".join(char if char.isalnum() or char in "-_." else "_" for char in host)
    return state / f"calibration-{safe}.json"


def own_groups(procfs: Path, sysfs: Path, controller: str) -> list[tuple[Path, int]]:
    """The control groups (cgroups(7)) of this process for `controller`, from the root down.

    Each with the version of its tree, 1 or 2. In a container the path may be the host's, which does
    not exist here; the root is ours then, and the caller must ignore directories without files.
    """
    try:
        text = (procfs / "self" / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        pass_on(error)
        return []
    found: list[tuple[Path, int]] = []
    for line in text.splitlines():
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
    return found


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


def process_stat(procfs: Path, name: str) -> ProcessStat | None:
    """What procfs says of a process, by its id or "self"; None where there is none.

    A zombie has ended.
    """
    try:
        text = (procfs / name / "stat").read_bytes()
        # "pid (name, which may hold spaces and brackets) state ppid …", proc_pid_stat(5)
        fields = text[text.rindex(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X"):
            return None
        return ProcessStat(int(text[: text.index(b" ")]), int(fields[1]), int(fields[19]))
    except (OSError, ValueError, IndexError) as error:
        pass_on(error)
        return None


_DEEPEST = 256
"""The longest chain of ancestors that is followed."""


def ancestors(procfs: Path) -> tuple[dict[int, int], bool]:
    """The ancestors of this process, the nearest first, with their starts in clock ticks.

    And whether procfs shows all of them: it may hide other users' processes.
    """
    chain: dict[int, int] = {}
    stat = process_stat(procfs, "self")
    while stat is not None and stat.parent_pid > 0 and len(chain) < _DEEPEST:
        stat = process_stat(procfs, str(stat.parent_pid))
        if stat is not None:
            chain[stat.pid] = stat.started_ticks
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
    stat = process_stat(procfs, "self" if pid is None else str(pid))
    if stat is None:
        return ""
    return f"{boot_id(procfs) or ''}:{pid_namespace(procfs)}:{stat.pid}:{stat.started_ticks}"
