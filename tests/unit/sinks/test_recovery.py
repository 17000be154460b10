"""What killed processes leave is written once, where it was meant to go."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.journal.journal import SEND, Journal, leftover_journals, record_in
from carbontrack.sinks.journal.recovery import Recovered, pick_up, recover
from carbontrack.testing import MemorySink
from carbontrack.testing.clock import FakeClock
from tests.support.records import a_record

GOLDEN = Path(__file__).parents[2] / "golden"
URL = "https://carbon.example/records"


def left_behind(state_dir: Path) -> Journal:
    """A journal that is let go by `close`, as the kernel does it after a kill."""
    return Journal(state_dir)


def test_an_open_run_becomes_a_recovered_record(tmp_path: Path) -> None:
    """The last checkpoint is written, marked as recovered, to every file that the run had."""
    outputs = [str(tmp_path / "runs.csv"), str(tmp_path / "runs.jsonl")]
    journal = left_behind(tmp_path / "state")
    journal.checkpoint(a_record(1, energy_kwh=1.0), outputs)
    journal.checkpoint(a_record(1, energy_kwh=2.0), outputs)
    journal.close()
    expected = a_record(1, energy_kwh=2.0, status="recovered")

    assert recover(tmp_path / "state") == [Recovered(expected, output) for output in outputs]
    assert [list(iter_records(output)) for output in outputs] == [[expected]] * 2
    assert recover(tmp_path / "state") == []
    assert list((tmp_path / "state" / "journal").iterdir()) == []


def test_a_record_for_a_url_waits_on(tmp_path: Path) -> None:
    """Recovery needs no network: what is for a server stays in the journal until it is sent."""
    journal = left_behind(tmp_path)
    journal.checkpoint(a_record(1), [URL])
    journal.close()
    expected = a_record(1, status="recovered")

    assert recover(tmp_path) == [Recovered(expected, URL)]
    assert recover(tmp_path) == []
    (file,) = leftover_journals(tmp_path)
    assert file.keys(SEND) == [(SEND, URL, expected.record_id)]


def test_what_was_recovered_shows_no_secret() -> None:
    """A URL may hold a key, and so may a plugin's address; a path is shown as it is."""
    for output in (f"{URL}?key=hunter2", "https://u:hunter2@carbon.example/", "plugin:hunter2"):
        assert "hunter2" not in repr(Recovered(a_record(), output))
    assert "output='/x/runs.csv'" in repr(Recovered(a_record(), "/x/runs.csv"))
    assert "output=None" in repr(Recovered(a_record(), None))


def test_a_finished_record_keeps_its_status(tmp_path: Path) -> None:
    """A record that was finished but could not be written, as on a full disk, is not relabelled."""
    place = tmp_path / "runs.csv"
    journal = left_behind(tmp_path / "state")
    journal.enqueue(a_record(1, status="error"), str(place))
    journal.close()
    recover(tmp_path / "state")

    assert list(iter_records(place)) == [a_record(1, status="error")]


def test_a_kill_after_any_byte_leaves_what_was_finished_as_it_was(tmp_path: Path) -> None:
    """From the byte on with which it waits for its server, a record is never a recovered one."""
    outputs = [URL, f"{URL}/second", str(tmp_path / "runs.csv")]
    journal = left_behind(tmp_path / "whole")
    journal.checkpoint(a_record(1, energy_kwh=1.0), outputs)
    (file,) = (tmp_path / "whole" / "journal").glob("*.journal")
    opened = file.stat().st_size
    journal.enqueue(a_record(1, energy_kwh=2.0), URL)
    enqueued = file.stat().st_size
    journal.finished(a_record(1).record_id)
    written = file.read_bytes()
    journal.close()
    ends = {*range(opened, len(written), 53), opened, enqueued - 1, enqueued, len(written) - 1}
    for end in sorted(ends):
        state = tmp_path / str(end)
        place = state / "journal"
        place.mkdir(parents=True, mode=0o700)
        (place / "boot-1-1.0.journal").write_bytes(written[:end])
        found = {one.output: one.record for one in recover(state)}
        (left,) = leftover_journals(state)
        waiting = {key[1]: record_in(left, key) for key in left.keys(SEND)}
        left.close()
        expected = a_record(1, energy_kwh=1.0, status="recovered")
        sent = a_record(1, energy_kwh=2.0) if end >= enqueued else expected
        assert waiting == dict.fromkeys(outputs[:2], sent), end
        # the file may have the finished row already, to which a recovered one yields
        assert found == waiting | {outputs[2]: expected}


def test_a_row_that_waited_for_a_full_disk_is_written_as_it_was_finished(tmp_path: Path) -> None:
    """Killed before the end of its run was noted: the row that waits is the one that is written."""
    place = tmp_path / "runs.csv"
    journal = left_behind(tmp_path / "state")
    journal.checkpoint(a_record(1, energy_kwh=1.0), [str(place)])
    journal.enqueue(a_record(1, energy_kwh=2.0), str(place))
    journal.close()
    recover(tmp_path / "state")

    assert list(iter_records(place)) == [a_record(1, energy_kwh=2.0)]


def test_what_cannot_be_written_stays_for_the_next_time(tmp_path: Path) -> None:
    """A missing directory is told; when it is back, the record is written."""
    place = tmp_path / "out" / "runs.csv"
    journal = left_behind(tmp_path / "state")
    journal.checkpoint(a_record(1), [str(place)])
    journal.close()
    (first,) = recover(tmp_path / "state")
    place.parent.mkdir()
    (second,) = recover(tmp_path / "state")

    assert "does not exist" in (first.trouble or "")
    assert second == first._replace(trouble=None)
    assert list(iter_records(place)) == [a_record(1, status="recovered")]


def test_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    """While its process holds the journal, nothing of it is touched."""
    journal = Journal(tmp_path / "state")
    journal.checkpoint(a_record(1), [str(tmp_path / "runs.csv")])

    assert recover(tmp_path / "state") == []
    assert not (tmp_path / "runs.csv").exists()


def test_a_run_without_an_output_is_told(tmp_path: Path) -> None:
    """A run that wrote nowhere is at least reported, once."""
    journal = left_behind(tmp_path)
    journal.checkpoint(a_record(1), [])
    journal.close()

    assert recover(tmp_path) == [Recovered(a_record(1, status="recovered"), None)]
    assert recover(tmp_path) == []


def test_without_a_state_directory_there_is_nothing_to_do(tmp_path: Path) -> None:
    """The first run on a machine finds nothing, and makes nothing."""
    assert recover(tmp_path / "absent") == []
    assert not (tmp_path / "absent").exists()


def test_what_cannot_be_written_for_a_week_is_set_aside(tmp_path: Path) -> None:
    """The output of a deleted project is not tried for ever; its record is in a dead letter."""
    place = tmp_path / "deleted" / "runs.csv"
    clock = FakeClock(now=datetime.now(timezone.utc))
    journal = left_behind(tmp_path / "state")
    journal.checkpoint(a_record(1), [str(place), URL])
    journal.close()
    first = recover(tmp_path / "state", clock=clock)
    clock.advance(6 * 86_400.0)
    second = recover(tmp_path / "state", clock=clock)
    clock.advance(2 * 86_400.0)
    third = recover(tmp_path / "state", clock=clock)
    (letter,) = (tmp_path / "state" / "dead-letter").iterdir()

    assert [len(first), len(second), len(third)] == [2, 1, 1]
    assert recover(tmp_path / "state", clock=clock) == []
    assert "could not be written for a week" in letter.read_text()
    (file,) = leftover_journals(tmp_path / "state")
    assert file.keys(SEND) == [(SEND, URL, a_record(1).record_id)]


def test_a_start_picks_up_without_raising(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At the start of a run, what is found is in the log, and trouble is nobody's exception."""
    caplog.set_level("INFO", "carbontrack")
    journal = left_behind(tmp_path / "state")
    journal.checkpoint(a_record(1), [str(tmp_path / "runs.csv"), f"{URL}?key=hunter2"])
    journal.checkpoint(a_record(2), [str(tmp_path / "absent" / "runs.csv")])
    journal.checkpoint(a_record(3), [])
    journal.close()
    pick_up(tmp_path / "state")

    assert len(list(iter_records(tmp_path / "runs.csv"))) == 1
    assert len(caplog.records) == 4
    assert "does not exist" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_broken_state_directory_does_not_stop_a_run(tmp_path: Path) -> None:
    """A file, a link or garbage where the journal should be is passed by."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "state" / "journal").mkdir(parents=True)
    for name in ("x.journal", "y.draft", "z.txt"):
        (tmp_path / "state" / "journal" / name).write_bytes(b"garbage\xff\n" * 3)
    for state_dir in (tmp_path / "file", tmp_path / "absent", tmp_path / "state"):
        pick_up(state_dir)

    assert not (tmp_path / "state" / "journal" / "x.journal").exists()


@pytest.mark.parametrize("form", ["whole-records", "shared-facts"])
def test_journals_of_each_form_are_recovered(tmp_path: Path, form: str) -> None:
    """Of the version before, in which each checkpoint was a whole record, and of this one."""
    folder = tmp_path / "journal"
    folder.mkdir(mode=0o700)
    whole = (GOLDEN / f"journal-{form}.log").read_bytes()
    (folder / "00000000-4242-1.0.journal").write_bytes(whole)
    sink = MemorySink()
    found = recover(tmp_path, open_sink=lambda _: sink)

    assert [one.output for one in found] == ["/data/finished.csv", *["/data/runs.csv"] * 3]
    assert [(r.name, r.status, r.calls, r.duration_s, r.energy_kwh) for r in sink.records] == [
        ("finished", "ok", 1, 5.0, 0.001),
        ("short", "recovered", 3, 0.0, 0.0),
        ("training", "recovered", 1, 50.0, 0.001388888888888889),
        ("just begun", "recovered", 1, 0.0, None),
    ]
    constants = {(r.host_id, r.os, r.python, r.scope, r.pue, r.pid) for r in sink.records[1:]}
    assert constants == {("0123456789abcdef", "Linux 6.8.0", "3.11.7", "machine", 1.0, 4242)}
    training = sink.records[2]
    assert training.labels == {"epochs": 3}
    assert (training.basis, training.meters, training.coverage) == ("measured", "fake:cpu", 1.0)
    assert training.ended_at == "2026-01-01T00:00:50.000000Z"
    assert list(folder.iterdir()) == []
