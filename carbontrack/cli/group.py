"""The control group of a command, by which what leaves its process tree is found (cgroups(7)).

A daemon has left its parents, but not their group: nobody is moved without being asked. Where the
hierarchy of version 2 lets this user make a group below the one that we are in, as in a container
or a unit with `Delegate=yes`, the command begins in one of its own. Where it does not, and nobody
but us is in our group or below it, as under `systemd-run --scope` or as the program of a container,
that group is looked at. Nothing of it is needed: what fails is left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from carbontrack.sampling.sampler import take_in
from carbontrack.sinks.journal.journal import FOLDER, short_boot_id
from carbontrack.sinks.journal.names import journals_of
from carbontrack.system.host import depth_below, stat_of
from carbontrack.system.interrupts import pass_on, suppressed
from carbontrack.tracking.tracker import NoOpTracker, Tracker

_PROCFS, _SYSFS = Path("/proc"), Path("/sys")
_MEMBERS = "cgroup.procs"
_PREFIX = "carbontrack-"


class CommandGroup:
    """A control group that only the command and what it leaves are in.

    Attributes:
        path: the group.
    """

    def __init__(self, home: Path, path: Path) -> None:
        self._home, self.path = home, path

    @classmethod
    def find(cls, procfs: Path = _PROCFS, sysfs: Path = _SYSFS) -> CommandGroup | None:
        """A new one below ours, or ours if nobody else is in it; None where there is neither."""
        home = _own_folder(procfs, sysfs) if depth_below(procfs) == 0 else None
        if home is None:
            return None
        if _is_delegated(home, sysfs):
            _remove_left_over(home, procfs)
            made = cls(home, home / f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}")
            if made._make():
                return made
        return cls(home, home) if _all_members(home) == {os.getpid()} else None

    def _make(self) -> bool:
        try:
            self.path.mkdir()
        except OSError as error:
            pass_on(error)
            return False
        if self._move(os.getpid(), self.path) and self._move(os.getpid(), self._home):
            return True
        self.close()  # a group of threads, or one whose processes may not be moved
        return False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is started within the block begins in the group; we ourselves stay in ours."""
        if self.path == self._home or not self._move(os.getpid(), self.path):
            yield
            return
        try:
            yield
        finally:
            self._move(os.getpid(), self._home)

    def close(self) -> None:
        """Remove a group that was made; who is still in it goes to ours."""
        if self.path == self._home:
            return
        for pid in _members(self.path):
            self._move(pid, self._home)
        with suppressed(OSError):
            self.path.rmdir()

    @staticmethod
    def _move(pid: int, group: Path) -> bool:
        try:
            (group / _MEMBERS).write_text(str(pid))
        except OSError as error:
            pass_on(error)
            return False
        return True


@contextmanager
def followed(tracker: Tracker, state_dir: Path) -> Iterator[CommandGroup | None]:
    """What a command leaves behind counts with it within the block, if its group can be found."""
    group = None
    if (
        not isinstance(tracker, NoOpTracker)
        and tracker.session.ledger.attribution.scope == "process"
    ):
        group = CommandGroup.find()
    if group is not None:
        take_in(tracker.session.sampler, group.path, has_rows(state_dir))
    try:
        yield group
    finally:
        if group is not None:
            group.close()


def _is_delegated(home: Path, sysfs: Path) -> bool:
    """Whether groups may be made below this one.

    A plain user may where it can. The superuser can everywhere, and may where systemd allows it, or
    in a container, which sees its own group as the root.
    """
    top = sysfs / "fs" / "cgroup"
    if os.geteuid() != 0 or home in (top, top / "unified"):
        return True
    for name in ("user.delegate", "trusted.delegate"):
        with suppressed(OSError):
            if os.getxattr(home, name) == b"1":
                return True
    return False


def _own_folder(procfs: Path, sysfs: Path) -> Path | None:
    """The folder of our group in the hierarchy of version 2, unless that is the root of all."""
    try:
        lines = (procfs / "self" / "cgroup").read_text(errors="replace").splitlines()
        name = next(line[3:] for line in lines if line.startswith("0::")).lstrip("/")
    except (OSError, StopIteration) as error:
        pass_on(error)
        return None
    for top in (sysfs / "fs" / "cgroup", sysfs / "fs" / "cgroup" / "unified"):
        if ".." not in name.split("/") and os.getpid() in _members(top / name):
            return top / name if (top / name / "cgroup.events").exists() else None
    return None


def _remove_left_over(home: Path, procfs: Path) -> None:
    """Remove empty groups of runs that were killed; the kernel keeps one that has a process."""
    with suppressed(OSError):
        for path in home.glob(f"{_PREFIX}*-*"):
            pid = path.name.removeprefix(_PREFIX).partition("-")[0]
            if pid.isdecimal() and stat_of(procfs, int(pid)) is None:
                with suppressed(OSError):
                    path.rmdir()


def _all_members(group: Path) -> set[int]:
    """Those of a group and of all groups below it, which belong to others."""
    return set().union(*(_members(Path(folder)) for folder, _, _ in os.walk(group)))


def _members(group: Path) -> set[int]:
    try:
        return set(map(int, (group / _MEMBERS).read_text().split()))
    except (OSError, ValueError) as error:
        pass_on(error)
        return set()


def has_rows(state_dir: Path, procfs: Path = _PROCFS) -> Callable[[int, int], bool]:
    """Says of a process, by its number and its start, whether it is measured on its own.

    It is no descendant of ours any more, so its own rows are added to ours: it must not be in both.
    One that was stays so for good: what it used meanwhile would be in ours after its last row.
    """
    boot, place = short_boot_id(procfs), state_dir / FOLDER
    measured: set[tuple[int, int]] = set()

    def is_measured(pid: int, started_ticks: int) -> bool:
        one = pid, started_ticks
        if one not in measured:
            with suppressed(OSError):
                if journals_of(place, boot, *one):
                    measured.add(one)
        return one in measured

    return is_measured
