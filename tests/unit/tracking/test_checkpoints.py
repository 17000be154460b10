"""Checkpoints of what is open, and that none outlives what it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carbontrack.attribution.policy import Attribution
from carbontrack.record import Record
from carbontrack.sampling.ledger import Ledger
from carbontrack.sampling.sampler import Sampler
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.journal.recovery import recover
from carbontrack.testing import FakeClock, FakeMeter
from carbontrack.tracking.record_builder import RecordBuilder, Resource
from carbontrack.tracking.session import Checkpoints, Session
from carbontrack.tracking.tracker import Tracker


class SlowJournal(Journal):
    """A journal in which something happens just before a checkpoint is written."""

    meanwhile: Callable[[], object] | None = None

    def checkpoint(self, record: Record, *rest: Any, **more: Any) -> Any:
        """Write it, later than it was made."""
        happens, self.meanwhile = self.meanwhile, None
        if happens is not None:
            happens()
        return super().checkpoint(record, *rest, **more)


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


def test_a_written_sum_does_not_come_back(made: tuple[Tracker, SlowJournal, Path]) -> None:
    """Nor does the row of a decorated function that is written at that moment."""
    from carbontrack.api.track import track

    tracker, journal, folder = made

    @track("short", tracker=tracker, window_s=3600)
    def short() -> None:
        """Do nothing."""

    short()
    (site,) = tracker.session.sites.values()
    journal.meanwhile = site.write_row  # type: ignore[attr-defined]
    later(tracker)
    assert journal.meanwhile is None
    tracker.close()

    assert list((folder / "state" / "journal").iterdir()) == []
    rows = (folder / "runs.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 2
