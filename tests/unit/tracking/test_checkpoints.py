"""Checkpoints of what is open, and that none outlives what it was made of."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from carbontrack.attribution.policy import Attribution
from carbontrack.record import Record
from carbontrack.sampling.ledger import Ledger
from carbontrack.sampling.sampler import Sampler
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.journal.recovery import recover
from carbontrack.system.version import VERSION
from carbontrack.testing import FakeClock, FakeMeter, MemorySink
from carbontrack.tracking.checkpoints import Checkpoints
from carbontrack.tracking.record_builder import RecordBuilder, Resource
from carbontrack.tracking.session import Session
from carbontrack.tracking.task import RunningTask
from carbontrack.tracking.tracker import Tracker


class SlowJournal(Journal):
    """A journal in which something happens just before a checkpoint is written."""

    meanwhile: Callable[[], object] | None = None

    def checkpoint(self, record: Record, *rest: Any, **more: Any) -> Any:
        """Write it, later than it was made."""
        self._happen()
        return super().checkpoint(record, *rest, **more)

    def keep(self, *arguments: Any) -> Any:
        """Write it, later than it was made."""
        self._happen()
        return super().keep(*arguments)

    def update(self, record: Record, *rest: Any, **more: Any) -> Any:
        """Write it, later than it was made."""
        self._happen()
        return super().update(record, *rest, **more)

    def _happen(self) -> None:
        happens, self.meanwhile = self.meanwhile, None
        if happens is not None:
            happens()


@pytest.fixture
def made(tmp_path: Path) -> tuple[Tracker, SlowJournal, Path]:
    """A tracker with a journal and a file, that ticks when it is told to."""
    sampler = Sampler([FakeMeter()], interval_s=3600.0, clock=FakeClock())
    ledger = Ledger(Attribution("machine"), None)
    output = tmp_path / "runs.csv"
    journal = SlowJournal(tmp_path / "state", sampler.clock)
    session = Session(
        RecordBuilder(Resource(), ledger, sampler),
        sinks=[CsvSink(output)],
        checkpoints=Checkpoints(journal, (str(output),), 1.0),
    )
    return Tracker.of(session, owns_sampler=True), journal, tmp_path


def later(tracker: Tracker) -> None:
    """Let the time for checkpoints come, and tick."""
    clock: Any = tracker.session.sampler.clock
    clock.advance(10.0)
    tracker.session.sampler.tick()


def test_a_finished_root_does_not_come_back(made: tuple[Tracker, SlowJournal, Path]) -> None:
    """It ends after the tick has seen it and before its checkpoint is written: one row, no more."""
    tracker, journal, folder = made
    span = tracker.span("a").open()
    journal.meanwhile = span.close
    later(tracker)
    assert journal.meanwhile is None
    tracker.close()

    assert list((folder / "state" / "journal").iterdir()) == []
    assert [found.record.name for found in recover(folder / "state")] == []
    rows = (folder / "runs.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2


@pytest.mark.parametrize("close", [Tracker.close, later])
def test_a_root_that_is_opened_at_the_end_does_not_come_back(
    made: tuple[Tracker, SlowJournal, Path], close: Callable[[Tracker], None]
) -> None:
    """Another thread closes the tracker, or ticks, before the first checkpoint is written."""
    tracker, journal, folder = made
    span = tracker.span("a")

    def in_a_thread() -> None:
        thread = threading.Thread(target=close, args=(tracker,))
        thread.start()
        thread.join()

    journal.meanwhile = in_a_thread
    span.open()
    assert journal.meanwhile is None
    span.close()
    tracker.close()

    assert list((folder / "state" / "journal").iterdir()) == []
    rows = (folder / "runs.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_written_sum_does_not_come_back(
    made: tuple[Tracker, SlowJournal, Path], calls: int
) -> None:
    """Nor does the row of a decorated function that is written at that moment.

    The first call is kept by its thread, those after it by the next tick.
    """
    from carbontrack.api.track import track

    tracker, journal, folder = made

    @track("short", tracker=tracker, window_s=3600)
    def short() -> None:
        """Do nothing."""

    def write_row() -> None:
        (site,) = tracker.session.sites.living()
        site.write_row()

    for number in range(calls):
        if number == calls - 1 and calls < 3:
            journal.meanwhile = write_row
        short()
    if journal.meanwhile is None and calls == 3:
        journal.meanwhile = write_row
    later(tracker)
    assert journal.meanwhile is None
    tracker.close()

    assert list((folder / "state" / "journal").iterdir()) == []
    rows = (folder / "runs.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2


def test_a_sum_whose_row_gets_another_id_does_not_come_back(
    made: tuple[Tracker, SlowJournal, Path],
) -> None:
    """Of two calls at once the second is kept, and then the first gives back the row's id."""
    from carbontrack.api.track import current_span, track

    tracker, _, folder = made
    kept: list[str] = []

    @track("short", tracker=tracker, window_s=3600)
    def short(inside: Callable[[], object]) -> None:
        assert current_span() is not None
        inside()

    def another() -> None:
        contextvars.Context().run(short, lambda: None)
        (site,) = tracker.session.sites.living()
        kept.append(site.window.kept.record_id)

    short(another)
    (site,) = tracker.session.sites.living()
    assert site.window.kept.record_id not in kept
    assert site.window.kept_calls == 2
    tracker.close()

    assert list((folder / "state" / "journal").iterdir()) == []
    assert [found.record.name for found in recover(folder / "state")] == []
    rows = (folder / "runs.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2


def kept_in(folder: Path) -> list[bytes]:
    """The lines of the journal that keep an open run."""
    (path,) = (folder / "state" / "journal").iterdir()
    return [line for line in path.read_bytes().splitlines() if b'{"put":["run"' in line]


def opened_alone(tracker: Tracker, name: str) -> Any:
    """A root, whatever else is open."""
    return contextvars.Context().run(tracker.span(name).open)


def test_a_pass_of_checkpoints_takes_no_reading_of_its_own(
    made: tuple[Tracker, SlowJournal, Path],
) -> None:
    """However many roots are open: each is kept as of the tick's reading."""
    tracker, _, folder = made
    (meter,) = (state.meter for state in tracker.session.sampler.meter_states)
    roots = [opened_alone(tracker, f"root {number}") for number in range(50)]
    before = meter.reads
    later(tracker)
    assert meter.reads == before + 1
    kept = kept_in(folder)
    assert len(kept) == 100
    assert all(b'"duration_s":10.0' in line for line in kept[50:])
    for root in roots:
        root.close()
    tracker.close()


def test_the_first_checkpoint_is_short_and_the_next_tick_says_more(
    made: tuple[Tracker, SlowJournal, Path],
) -> None:
    """Only of the roots that are new: the others wait for their period."""
    tracker, _, folder = made
    older = opened_alone(tracker, "older")
    later(tracker)
    newer = opened_alone(tracker, "newer")
    clock: Any = tracker.session.sampler.clock
    clock.advance(0.5)
    tracker.session.sampler.tick()

    first, second, *last = kept_in(folder)
    assert len(first) < 400
    assert b'"duration_s":10.0' in second
    assert [b'"newer"' in line for line in last] == [True, True]
    assert b'"duration_s":0.5' in last[1]
    newer.close()
    older.close()
    tracker.close()


def test_a_root_that_is_killed_at_once_has_a_row_that_says_what_is_known(
    made: tuple[Tracker, SlowJournal, Path],
) -> None:
    """Who it was, when it began, and where; its energy is unknown, not 0."""
    tracker, journal, folder = made
    span = tracker.span("begun", labels={"n": 1}).open()
    journal.close()  # as the kernel does it

    (found,) = recover(folder / "state", open_sink=lambda _: MemorySink())
    record = found.record
    assert (record.name, record.labels, record.status) == ("begun", {"n": 1}, "recovered")
    assert (record.record_id, record.run_id) == (span.record_id, tracker.session.run_id)
    assert record.started_at == record.ended_at
    assert (record.duration_s, record.energy_kwh, record.emissions_g) == (0.0, None, None)
    assert (record.scope, record.pid, record.carbontrack) == ("machine", os.getpid(), VERSION)
    span.close()
    tracker.close()


@pytest.mark.parametrize("spans", ["all", "roots"])
def test_a_task_that_is_killed_has_a_row_of_its_own(
    made: tuple[Tracker, SlowJournal, Path], spans: Literal["all", "roots"]
) -> None:
    """Inside that of its worker, where tasks have rows; other inner spans leave none."""
    tracker, journal, folder = made
    tracker.session.spans = spans
    worker = tracker.span("worker").open()
    ended, open_one = worker.span("ended"), worker.span("open")
    for number, task in enumerate((ended, open_one)):
        task.task = RunningTask(f"task-{number}", 2)
        task.open()
    inner = open_one.span("inner").open()
    later(tracker)
    ended.close()
    journal.close()  # as the kernel does it

    found = recover(folder / "state", open_sink=lambda _: MemorySink())
    kept = {one.record.name: one.record for one in found}
    assert set(kept) == ({"worker", "open"} if spans == "all" else {"worker"})
    if spans == "all":
        assert (kept["open"].task_id, kept["open"].attempt) == ("task-1", 2)
        assert (kept["open"].parent_id, kept["open"].parent_holds) == (worker.record_id, True)
        assert kept["open"].duration_s == 10.0
    for span in (inner, open_one, worker):
        span.close()
    tracker.close()
