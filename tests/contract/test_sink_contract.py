"""What every sink promises, whatever it writes to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from carbontrack.config.settings import FILE_SUFFIXES
from carbontrack.record import Record, Sink
from carbontrack.report.parquet import ENDING
from carbontrack.report.read import ROWS, iter_records
from carbontrack.sinks.factory import SUFFIXES, sink_for
from carbontrack.sinks.journal.journal import Journal
from carbontrack.testing.receiver import Receiver
from tests.support.records import HOSTILE, a_record


@dataclass
class Case:
    """A sink, how to open it again, and how to read what arrived."""

    open: Callable[[], Sink]
    arrived: Callable[[], list[Record]]


@pytest.fixture(params=["runs.csv", "runs.jsonl", "runs.sqlite", "http"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    if request.param == "http":
        with Receiver() as receiver:
            yield Case(
                lambda: sink_for(receiver.url, journal=Journal(tmp_path / "state")),
                lambda: [Record.from_row(row) for row in receiver.records],
            )
    else:
        place = tmp_path / request.param
        yield Case(lambda: sink_for(place), lambda: list(iter_records(place)))


def test_what_is_written_can_be_set_and_read() -> None:
    """The setting `output`, the sinks and the readers know the same endings of files.

    Parquet is read beside them: no sink writes it, but `carbontrack compact`.
    """
    assert set(FILE_SUFFIXES) == set(SUFFIXES) == set(ROWS) - {ENDING}
    assert ENDING in ROWS


def test_a_record_arrives_as_it_was_given(case: Case) -> None:
    """Every field that is set comes back equal, to the last digit; what is None stays None."""
    record = a_record()
    sink = case.open()
    sink.write(record)
    sink.close()

    assert case.arrived() == [record]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_is_only_text(case: Case, text: str) -> None:
    """Commas, quotes, line ends, formulas and emoji in names, labels and errors come back."""
    record = a_record(name=text, labels={"note": text}, error=text, region=text)
    sink = case.open()
    sink.write(record)
    sink.write(a_record(1))
    sink.close()

    assert case.arrived() == [record, a_record(1)]


def test_an_output_continues(case: Case) -> None:
    """A second sink adds to what the first one left."""
    for number in range(3):
        sink = case.open()
        sink.write(a_record(number))
        sink.close()

    assert [record.record_id for record in case.arrived()] == [
        a_record(number).record_id for number in range(3)
    ]


def test_two_open_sinks_share_an_output(case: Case) -> None:
    """Sinks that are open at the same time do not disturb each other."""
    sinks = [case.open(), case.open()]
    for number in range(10):
        sinks[number % 2].write(a_record(number))
    for sink in sinks:
        sink.close()

    assert sorted(r.record_id for r in case.arrived()) == sorted(
        a_record(number).record_id for number in range(10)
    )


def test_closing_twice_is_the_same_as_once(case: Case) -> None:
    """A second close does nothing and raises nothing."""
    sink = case.open()
    sink.write(a_record())
    sink.close()
    sink.close()

    assert case.arrived() == [a_record()]


def test_a_late_record_is_kept(case: Case) -> None:
    """A record written after the close, as at exit, still arrives."""
    sink = case.open()
    sink.write(a_record(0))
    sink.close()
    sink.write(a_record(1))
    sink.close()

    assert len(case.arrived()) == 2


def test_many_threads_write_through_one_sink(case: Case) -> None:
    """Of 8 threads with 50 records each, all 400 arrive once."""
    sink = case.open()

    def work(thread: int) -> None:
        for number in range(50):
            sink.write(a_record(thread * 50 + number))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()

    ids = [record.record_id for record in case.arrived()]
    assert len(ids) == len(set(ids)) == 400


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_parent_and_forked_child_both_write(case: Case) -> None:
    """A sink that was open when the process forked works on in both, and writes nothing twice."""
    sink = case.open()
    sink.write(a_record(0))
    child = os.fork()
    if child == 0:
        try:
            sink.write(a_record(1))
            sink.close()
            os._exit(0)
        finally:
            os._exit(1)
    sink.write(a_record(2))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    sink.close()

    ids = sorted(record.record_id for record in case.arrived())
    assert ids == [a_record(number).record_id for number in range(3)]


def test_relative_paths_are_fixed_at_construction(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that changes its directory later still writes to the same output."""
    sink = case.open()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    sink.write(a_record())
    sink.close()

    assert case.arrived() == [a_record()]
    assert list(elsewhere.iterdir()) == []
