"""The runs that are open on this host, read from the journals of running processes.

The journal of a running process is only read, never changed: its lock shows that the process runs.
To find out whether it does without the lock, the boot id and the process id in the journal's name
are compared with this boot, and with the time the process was started. A process of another pid
namespace, as in another container that shares the state directory, has a number that is unused here
or belongs to another process; the lock of its journal is tried briefly, shared with other readers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from carbontrack.record import Record
from carbontrack.sinks.journal.file import decoded, is_locked, lines_of, open_to_read
from carbontrack.sinks.journal.journal import NO_RECORD, RUN, folder, short_boot_id
from carbontrack.sinks.journal.names import SUFFIX
from carbontrack.sinks.journal.places import completed, facts_in, updated
from carbontrack.system.host import depth_below, pid_namespace
from carbontrack.system.interrupts import pass_on
from carbontrack.units import JOULES_PER_KWH
from carbontrack.values import NamedTuple, Value

_SLACK_S = 2.0
"""How much later than its first line a process may seem to have started, by clock ticks."""

_MIN_INTERVAL_S = 0.05
"""Over a shorter time a difference is noise; the first checkpoint is written at the start."""

StartOf = Callable[[int], "float | None"]
"""When the process with this id started, in seconds since the epoch; None where there is none."""


class OpenRun(Value):
    """A run that was open at its last checkpoint.

    Attributes:
        pid: the process that measures it; None if it is in another pid namespace, whose numbers are
            not valid here.
        record: its record as of the checkpoint.
        watts: between the last two checkpoints, or since the start of the run if there is only
            one; None where unknown.
    """

    pid: int | None
    record: Record
    watts: float | None


def open_runs(
    state_dir: Path,
    *,
    start_of: StartOf | None = None,
    boot_id: str | None = None,
    procfs: Path = Path("/proc"),
) -> list[OpenRun]:
    """The runs that are open on this host, oldest first; files that cannot be read are skipped."""
    start_of = start_of or started_at_s
    boot = boot_id[:8] if boot_id else short_boot_id(procfs)
    found: list[OpenRun] = []
    try:
        place = folder(state_dir, create=False)
        names = os.listdir(place)  # noqa: PTH208 - there may be thousands of others
    except OSError as error:
        pass_on(error)
        return found
    namespace = pid_namespace(procfs) if depth_below(procfs) in (0, None) else "another mount's"
    for path in sorted(place / name for name in names if name.startswith(f"{boot}-")):
        if not _is_one_of(path, boot):
            continue
        lives: dict[bool, bool] = {}
        for checkpoints in _runs_in(path):
            here = str(checkpoints.entry.get("pid_namespace", "")) in ("", namespace)
            pid = int(path.stem.split("-")[1])
            if here not in lives:
                lives[here] = _is_running(path, pid, start_of) if here else _is_locked(path)
            if lives[here]:
                last = checkpoints.last
                found.append(OpenRun(pid if here else None, last[-1], _watts(*last)))
    return sorted(found, key=lambda run: (run.record.started_at, run.pid or 0))


def started_at_s(pid: int) -> float | None:
    """When a process started; None where there is none, or only a zombie."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None


def _is_one_of(path: Path, boot: str) -> bool:
    """Whether it has the name of a journal of this boot."""
    parts = path.stem.split("-")
    return path.suffix == SUFFIX and len(parts) == 3 and parts[0] == boot and parts[1].isdigit()


def _is_running(path: Path, pid: int, start_of: StartOf) -> bool:
    """Whether the process of a journal runs; False if its id belongs to another by now."""
    started_s = start_of(pid)
    try:
        written_s = path.stat().st_mtime
    except OSError as error:
        pass_on(error)
        return False
    return started_s is not None and started_s <= written_s + _SLACK_S


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a journal, and so runs, wherever it is."""
    try:
        handle = open_to_read(path)
    except OSError as error:
        pass_on(error)
        return False
    try:
        return is_locked(handle)
    finally:
        os.close(handle)


def _runs_in(path: Path) -> Iterator[_Checkpoints]:
    """Each open run; the last line may be incomplete, as it is being written."""
    seen: dict[tuple[str, ...], _Checkpoints] = {}
    facts: dict[str, dict[str, Any]] = {}
    try:
        handle = open_to_read(path)
        try:
            for _, line in lines_of(handle):
                entry = decoded(line) or {}
                name = facts_in(entry)
                if name is not None and "put" not in entry:
                    facts[name] = entry
                elif name is not None:
                    entry = completed(entry, facts.get(name))
                _replay(entry, seen)
        finally:
            os.close(handle)
    except OSError as error:
        pass_on(error)
        return
    yield from seen.values()


class _Checkpoints(NamedTuple):
    """What a journal has of one open run: the entry that was put, and the last two records."""

    entry: dict[str, Any]
    last: list[Record]


def _replay(entry: dict[str, Any], seen: dict[tuple[str, ...], _Checkpoints]) -> None:
    put, dropped, updates = entry.get("put"), entry.get("drop"), entry.get("update")
    changed = put or updates
    if isinstance(changed, list) and changed[:1] == [RUN]:
        key = tuple(map(str, changed))
        before = seen.get(key)
        if updates and before is None:
            return
        whole = updated(before.entry, entry) if updates and before is not None else entry
        try:
            record = Record.from_row(whole["record"])
        except NO_RECORD:
            return
        last = [*(before.last if before else ()), record][-2:]
        seen[key] = _Checkpoints(before.entry if updates and before is not None else entry, last)
    elif isinstance(dropped, list):
        for gone in dropped:
            seen.pop(tuple(map(str, gone)) if isinstance(gone, list) else (), None)


def _watts(*checkpoints: Record) -> float | None:
    last = checkpoints[-1]
    kwh, seconds = last.energy_kwh, last.duration_s
    if len(checkpoints) == 2:
        before = checkpoints[0]
        if before.energy_kwh is not None and before.duration_s is not None:
            kwh = None if kwh is None else kwh - before.energy_kwh
            seconds = None if seconds is None else seconds - before.duration_s
    if kwh is None or seconds is None or seconds < _MIN_INTERVAL_S:
        return None
    return max(0.0, kwh) * JOULES_PER_KWH / seconds
