"""A look at what ancestors have open: never an error of ours, never a wait for itself."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from carbontrack.record import Record
from carbontrack.sinks.journal.file import entry_line
from carbontrack.sinks.journal.journal import CALL, FOLDER, RUN
from carbontrack.sinks.journal.names import name_of
from carbontrack.system.host import boot_id, pid_namespace, process_stat
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.record_builder import rfc3339
from carbontrack.tracking.remote_parent import RemoteParents, forget_ends, say_ended
from carbontrack.tracking.tracker import Tracker

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs procfs")


def journal_of_parent(state: Path, key: tuple[str, str], **entry: Any) -> Path:
    """A journal of the process that has started this one, with one entry."""
    folder = state / FOLDER
    folder.mkdir(mode=0o700)
    parent = process_stat(Path("/proc"), str(os.getppid()))
    assert parent is not None
    name = name_of(boot_id() or "", parent.pid, parent.started_ticks)
    path = folder / f"{name}.0.journal"
    path.write_bytes(entry_line(key, {"pid_namespace": pid_namespace(), **entry}))
    return path


def run_entry(started_at: str) -> dict[str, Any]:
    """An open run of scope process."""
    return {"record": {"record_id": "r-1", "scope": "process", "started_at": started_at}}


def test_a_journal_that_cannot_be_read_is_no_end(tmp_path: Path) -> None:
    """What was known stays known, until it is seen to have changed."""
    path = journal_of_parent(tmp_path, (RUN, "r-1"), **run_entry("2026-01-01T00:00:00.000000Z"))
    clock = FakeClock()
    parents = RemoteParents(None, tmp_path, clock=clock)
    parents.look()
    assert (parents.parent_id, parents.holds) == ("r-1", True)

    whole = path.read_bytes()
    os.truncate(path, 1 << 23)  # longer than is searched
    clock.advance(1.0)
    parents.look()
    assert parents.of_new_root() == ("r-1", True)

    path.write_bytes(whole + b"")
    path.unlink()
    clock.advance(1.0)
    parents.look()
    assert parents.holds is False


def test_a_look_never_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is the program's thread that looks: a time without a zone is in the log, and no more."""
    journal_of_parent(tmp_path, (RUN, "r-1"), **run_entry("2026-01-01T00:00:00"))
    parents = RemoteParents(None, tmp_path, clock=FakeClock())
    parents.look()
    assert parents.of_new_root() == (None, None)
    assert "could not be read" in caplog.text


def test_a_look_inside_a_look_returns(tmp_path: Path) -> None:
    """The garbage collector may close a span at any line of it, in the same thread."""
    journal_of_parent(tmp_path, (RUN, "r-1"), **run_entry("2026-01-01T00:00:00.000000Z"))

    class Interrupted(FakeClock):
        def now_utc(self) -> datetime:
            parents.look()
            return super().now_utc()

    parents = RemoteParents(None, tmp_path, clock=Interrupted())
    parents.look()
    assert parents.holds is True


@pytest.mark.parametrize("scope", ["machine", "process"])
def test_a_call_holds_what_its_tracker_counts(tmp_path: Path, scope: str) -> None:
    """A child that counts the whole machine is in a call of the same scope only."""
    journal_of_parent(tmp_path, (CALL, "r-7/3"), scope=scope)
    parents = RemoteParents(None, tmp_path, scope="machine", clock=FakeClock())
    parents.look()
    assert parents.of_new_root() == (("r-7", True) if scope == "machine" else (None, None))


def test_a_process_looks_at_some_of_the_old_files_of_ends(tmp_path: Path) -> None:
    """However many killed processes have left theirs: the next ones remove the rest."""
    place = tmp_path / "ended"
    place.mkdir(mode=0o700)
    for number in range(200):
        path = place / f"boot-ns-{number + 10_000_000}-1"
        path.touch()
        os.utime(path, (0, 0))
    left = [200]
    while left[-1] > 0:
        say_ended(tmp_path, "r-1", 1.0, f"boot:ns:{os.getpid()}:{len(left)}")
        forget_ends(tmp_path, f"boot:ns:{os.getpid()}:{len(left)}")
        left.append(len(list(place.iterdir())))
        assert left[-2] - 64 <= left[-1] < left[-2]


def test_an_old_file_of_somebody_else_stops_nothing(tmp_path: Path) -> None:
    """Whatever its name is: the end is said, and the file is gone as an old one."""
    (tmp_path / "ended").mkdir()
    for name in ("notes", "x-y", ".-"):
        (tmp_path / "ended" / name).touch()
        os.utime(tmp_path / "ended" / name, (0, 0))
    say_ended(tmp_path, "r-1", 1.0, "boot:ns:1:2")
    assert [path.name for path in (tmp_path / "ended").iterdir()] == ["boot-ns-1-2"]


def test_an_end_is_read_from_the_file_of_the_process_that_said_it(tmp_path: Path) -> None:
    """Not from all that others have left, whatever is in them."""
    path = journal_of_parent(tmp_path, (RUN, "r-1"), **run_entry("2026-01-01T00:00:00.000000Z"))
    clock = FakeClock()
    parents = RemoteParents(None, tmp_path, clock=clock)
    parents.look()
    parent = process_stat(Path("/proc"), str(os.getppid()))
    assert parent is not None
    others = tmp_path / "ended"
    others.mkdir(mode=0o700)
    os.mkfifo(others / "boot-ns-1-1")  # which nobody opens
    ended_at_s = clock.monotonic_s() + 0.25
    identity = f"{boot_id()}:{pid_namespace()}:{parent.pid}:{parent.started_ticks}"
    say_ended(tmp_path, "r-1", ended_at_s, identity)
    path.unlink()
    clock.advance(1.0)
    parents.look()

    assert parents.holds is False
    assert parents.changed_at_s == ended_at_s


class TicksAtTheFirstRow(MemorySink):
    """A sink in whose call a tick comes, at which another process holds what is used here."""

    def __init__(self, state: Path) -> None:
        super().__init__()
        self.state, self.clock = state, FakeClock()
        self.session: Any = None

    def write(self, record: Record) -> None:
        super().write(record)
        if len(self.records) == 1:
            began = rfc3339(self.clock.now_utc())
            journal_of_parent(self.state, (RUN, "r-1"), **run_entry(began))
            self.clock.advance(1.0)
            self.session.after_tick(self.clock.monotonic_s())


def test_what_has_ended_begins_no_other_row_while_its_own_is_written(tmp_path: Path) -> None:
    """Otherwise what it has used would be in two rows, and the second would end before it began."""
    clock, sink = FakeClock(), TicksAtTheFirstRow(tmp_path)
    tracker = Tracker(meters=[FakeMeter(watts=10.0)], sinks=[sink], clock=clock)
    sink.session = tracker.session
    with tracker.span("root"):
        parents = RemoteParents(None, tmp_path, clock=sink.clock)
        tracker.session.remote_parents = parents
        for one in (clock, sink.clock):
            one.advance(1.0)
    tracker.close()
    assert parents.holds is True
    assert [(row.name, row.duration_s) for row in sink.records] == [("root", 1.0)]
