"""The journal of a process: what it keeps, what it never does, and who inherits it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from carbontrack.sinks.journal.journal import RUN, SEND, Journal, leftover_journals, record_in
from carbontrack.testing.clock import FakeClock
from tests.support.records import HOSTILE, a_record

URL = "https://carbon.example/records"


def killed(journal: Journal) -> Path:
    """Let the journal's file look as after a SIGKILL, and say where its state is."""
    own = journal._state.get()
    if own.file is not None:
        own.file.abandon()
        own.file = None
    return journal.state_dir


def waiting_in(state_dir: Path) -> set[str]:
    """The ids of what waits in the journals that can be acquired, which are released again."""
    found = set()
    for file in leftover_journals(state_dir):
        found |= {key[2] for key in file.keys(SEND)}
        file.close()
    return found


def test_nothing_is_on_disk_before_the_first_entry(tmp_path: Path) -> None:
    """A program that measures nothing leaves no state directory."""
    journal = Journal(tmp_path / "state")
    journal.finished("never seen")
    journal.delivered(URL, ["never seen"])
    journal.close()

    assert not (tmp_path / "state").exists()


def test_a_checkpoint_replaces_the_one_before(tmp_path: Path) -> None:
    """Of an open run, the last checkpoint is found, with the outputs it was meant for."""
    journal = Journal(tmp_path)
    for energy_kwh in (1.0, 2.0, 3.0):
        assert journal.checkpoint(a_record(1, energy_kwh=energy_kwh), ["/a/runs.csv", URL])
    (file,) = leftover_journals(killed(journal))
    (key,) = file.keys(RUN)

    assert record_in(file, key) == a_record(1, energy_kwh=3.0)
    assert (file.get(key) or {})["outputs"] == ["/a/runs.csv", URL]


def test_an_update_stands_for_a_checkpoint(tmp_path: Path) -> None:
    """It is shorter; where the first one is gone, as with the file of before, it is one."""
    journal = Journal(tmp_path)
    first, later = a_record(), replace(a_record(), calls=7, region=None)
    journal.checkpoint(first, [URL])
    (path,) = (tmp_path / "journal").iterdir()
    length = path.stat().st_size
    journal.update(later, [URL], first)
    assert path.stat().st_size < 1.5 * length

    for _ in range(2):
        (file,) = leftover_journals(killed(journal))
        (key,) = file.keys(RUN)
        assert record_in(file, key) == later
        file.drop([key])
        file.close()
        journal = Journal(tmp_path)
        journal.update(later, [URL], first)


def test_a_finished_run_leaves_nothing(tmp_path: Path) -> None:
    """After the last run is finished and the journal closed, no file is left."""
    journal = Journal(tmp_path)
    journal.checkpoint(a_record(1), [])
    journal.finished(a_record(1).record_id)
    journal.close()

    assert list(leftover_journals(tmp_path)) == []
    assert list((tmp_path / "journal").iterdir()) == []


def test_queues_are_kept_apart_by_output(tmp_path: Path) -> None:
    """A record for two outputs waits for each of them on its own, oldest first."""
    journal = Journal(tmp_path)
    for number in range(3):
        journal.enqueue(a_record(number), URL)
        journal.enqueue(a_record(number), "https://other.example/")
    journal.delivered(URL, [a_record(0).record_id])

    assert journal.queued(URL, 10) == [a_record(1), a_record(2)]
    assert journal.queued("https://other.example/", 2) == [a_record(0), a_record(1)]


@pytest.mark.parametrize("text", [*HOSTILE, "nul\0", "\udcff"], ids=range(len(HOSTILE) + 2))
def test_any_record_is_kept_as_it_is(tmp_path: Path, text: str) -> None:
    """No text in a record breaks the journal or is changed by it."""
    journal = Journal(tmp_path)
    record = a_record(name=text, error=text, labels={text: [text]})
    journal.enqueue(record, URL)
    (file,) = leftover_journals(killed(journal))

    assert [record_in(file, key) for key in file.keys(SEND)] == [record]


class Unspeakable:
    """Cannot say what it is."""

    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ({"x": Unspeakable()}, {"x": "<Unspeakable>"}),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        ({"x": {1, 2}}, {"x": "{1, 2}"}),
    ],
    ids=["unspeakable", "key", "set"],
)
def test_labels_of_any_kind_are_kept_as_text(
    tmp_path: Path, labels: dict[object, object], kept: dict[str, object]
) -> None:
    """A label that JSON has no word for never reaches the program as an error."""
    journal = Journal(tmp_path)
    assert journal.checkpoint(a_record(labels=labels), [URL])  # type: ignore[arg-type]
    (file,) = leftover_journals(killed(journal))

    assert [record_in(file, key).labels for key in file.keys(RUN)] == [kept]


def test_the_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    """The folder is 0700 even where it was there with more."""
    (tmp_path / "journal").mkdir(mode=0o755)
    Journal(tmp_path).enqueue(a_record(), URL)

    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700


def test_a_linked_folder_is_not_followed(tmp_path: Path) -> None:
    """A link in the journal's place is refused; the caller only learns that nothing was kept."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "journal").symlink_to(tmp_path / "elsewhere")

    assert Journal(tmp_path).enqueue(a_record(), URL) is False
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert list(leftover_journals(tmp_path)) == []


def test_a_useless_directory_is_said_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While nothing can be kept the program goes on; when it can again, it is."""
    (tmp_path / "state").write_text("a file in the way")
    clock = FakeClock()
    journal = Journal(tmp_path / "state", clock)
    refused = [journal.enqueue(a_record(number), URL) for number in range(10)]
    (tmp_path / "state").unlink()
    at_once = journal.enqueue(a_record(), URL)
    clock.advance(31.0)

    assert (set(refused), at_once) == ({False}, False)
    assert journal.enqueue(a_record(), URL) is True
    assert len([r for r in caplog.records if "Not a directory" in r.message]) == 1


def test_a_full_journal_gives_up_the_oldest_and_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond its size the oldest undelivered records go; how many is known exactly."""
    journal = Journal(tmp_path, size_limit=200_000)
    for number in range(1000):
        assert journal.enqueue(a_record(number), URL)
    kept = journal.queued(URL, 10_000)

    assert 0 < journal.lost_records < 1000
    assert len(kept) == 1000 - journal.lost_records
    assert kept[-1] == a_record(999)
    assert f"{100} records that could not be delivered have been discarded" in caplog.text


def test_open_runs_are_not_given_up_for_room(tmp_path: Path) -> None:
    """A full queue costs queued records, never the checkpoint of a run."""
    journal = Journal(tmp_path, size_limit=100_000)
    journal.checkpoint(a_record(-1), ["/a/runs.csv"])
    for number in range(500):
        journal.enqueue(a_record(number), URL)
    (file,) = leftover_journals(killed(journal))

    assert file.keys(RUN) == [(RUN, a_record(-1).record_id)]


def test_the_journal_of_a_running_process_is_left_alone(tmp_path: Path) -> None:
    """Journals that are held are passed by."""
    journal = Journal(tmp_path)
    journal.enqueue(a_record(), URL)

    assert list(leftover_journals(tmp_path)) == []
    journal.close()
    assert len(list(leftover_journals(tmp_path))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("idle", [True, False], ids=["idle child", "busy child"])
def test_a_child_has_a_journal_of_its_own(tmp_path: Path, idle: bool) -> None:
    """A forked child neither writes to its parent's journal nor holds its lock."""
    journal = Journal(tmp_path)
    journal.enqueue(a_record(0), URL)
    ready, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if not idle:
                journal.enqueue(a_record(1), URL)
            os.write(ready[1], b"x")
            os.read(go_on[0], 1)
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    killed(journal)
    found = waiting_in(tmp_path)
    os.write(go_on[1], b"x")
    os.waitpid(child, 0)
    later = waiting_in(tmp_path)

    assert found == {a_record(0).record_id}
    assert later == found | (set() if idle else {a_record(1).record_id})


def test_stale_drafts_are_swept_away(tmp_path: Path) -> None:
    """What a process killed while compacting left is removed a day later, not before."""
    Journal(tmp_path).enqueue(a_record(), URL)
    draft = tmp_path / "journal" / "x.draft"
    draft.touch()
    list(leftover_journals(tmp_path))
    assert draft.exists()
    os.utime(draft, (0, 0))
    list(leftover_journals(tmp_path))

    assert not draft.exists()


class Interrupting(FakeClock):
    """In the middle of a change a finalizer runs, once."""

    finalizer: Callable[[], object] | None = None

    def monotonic_s(self) -> float:
        finalizer, self.finalizer = self.finalizer, None
        if finalizer is not None:
            finalizer()
        return super().monotonic_s()


def test_a_finalizer_in_the_middle_of_a_change_waits_its_turn(tmp_path: Path) -> None:
    """The garbage collector may close a span inside of any line of ours; nothing hangs or mixes."""
    clock = Interrupting()
    journal = Journal(tmp_path, clock)
    clock.finalizer = lambda: journal.checkpoint(a_record(1), [URL])
    journal.checkpoint(a_record(0), [URL])
    (file,) = leftover_journals(killed(journal))

    assert {key[1] for key in file.keys(RUN)} == {a_record(n).record_id for n in range(2)}
    assert all(record_in(file, key) is not None for key in file.keys(RUN))
    assert file.bad_lines == 0


def test_labels_are_read_while_no_lock_is_held(tmp_path: Path) -> None:
    """What a label's own method does, even in another thread, never waits for the journal."""
    journal = Journal(tmp_path)

    class Busy:
        def __str__(self) -> str:
            other = threading.Thread(target=journal.checkpoint, args=(a_record(1), [URL]))
            other.start()
            other.join(60.0)
            return "hung" if other.is_alive() else "free"

    journal.checkpoint(a_record(0, labels={"x": Busy()}), [URL])
    (file,) = leftover_journals(killed(journal))

    record = record_in(file, (RUN, a_record(0).record_id))
    assert record is not None
    assert record.labels == {"x": "free"}


def test_an_empty_file_is_closed_at_rest(tmp_path: Path) -> None:
    """Not just after it was used, unless it is to be at once; never with an entry in it."""
    journal = Journal(tmp_path)

    def file_count() -> int:
        return len(list((tmp_path / "journal").iterdir()))

    journal.checkpoint(a_record(1), [URL])
    journal.rest(at_once=True)
    assert file_count() == 1
    journal.finished(a_record(1).record_id)
    journal.rest(at_once=False)
    assert file_count() == 1
    journal.rest(at_once=False)
    assert file_count() == 0

    journal.checkpoint(a_record(2), [URL])
    journal.finished(a_record(2).record_id)
    journal.rest(at_once=True)
    assert file_count() == 0


def test_a_file_at_rest_is_closed_with_its_last_entry(tmp_path: Path) -> None:
    """A server takes a record long after the program fell idle: nothing stays open for it."""
    journal = Journal(tmp_path)
    journal.enqueue(a_record(1), URL)
    journal.rest(at_once=True)
    assert len(list((tmp_path / "journal").iterdir())) == 1
    journal.delivered(URL, [a_record(1).record_id])
    assert list((tmp_path / "journal").iterdir()) == []

    journal.checkpoint(a_record(2), [URL])
    journal.finished(a_record(2).record_id)
    assert len(list((tmp_path / "journal").iterdir())) == 1  # it is kept for the next run again


def test_a_shared_journal_is_closed_by_the_last_of_its_users(tmp_path: Path) -> None:
    """What one user keeps is not left to others when another one closes."""
    first, second = Journal.shared(tmp_path), Journal.shared(tmp_path)
    assert first is second
    assert first.checkpoint(a_record(1), [URL])
    second.close()
    assert list(leftover_journals(tmp_path)) == []
    first.close()
    (file,) = leftover_journals(tmp_path)
    file.abandon()
    assert Journal.shared(tmp_path) is not first


def test_a_run_that_is_finished_after_the_close_is_not_left(tmp_path: Path) -> None:
    """Another thread is about to say that it has been written."""
    journal = Journal(tmp_path)
    assert journal.checkpoint(a_record(1), [URL])
    journal.close(keeps_runs=True)
    assert list(leftover_journals(tmp_path)) == []
    journal.finished(a_record(1).record_id)
    assert list((tmp_path / "journal").iterdir()) == []
