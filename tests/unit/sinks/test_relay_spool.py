"""What a relay has accepted and gathered: kept on disk, once, until it is delivered."""

from __future__ import annotations

import os

from carbontrack.record import Record
from carbontrack.sinks.journal.file import JournalFile
from carbontrack.sinks.journal.journal import FOLDER, Journal, folder, leftover_journals
from carbontrack.sinks.journal.recovery import opener
from carbontrack.sinks.jsonl import record_object
from carbontrack.sinks.relay.gather import Gathering, RelayOutbox
from carbontrack.sinks.relay.rows import WiderRecord, whole_record
from carbontrack.sinks.relay.spool import SPOOL, Spool
from carbontrack.testing import FakeClock
from tests.support.records import a_record

URL, ALIAS, OTHER = "https://a.example/v1", "http://127.0.0.1:8788/v1/records", "https://b.example"


def rows(*numbers: int, **changes):
    return [record_object(a_record(number, **changes)) for number in numbers]


def a_spool(tmp_path, clock=None, limit_bytes=1 << 20):
    return Spool(tmp_path, URL, limit_bytes=limit_bytes, clock=clock or FakeClock())


def sent_from(spool, *, within_s=0.0):
    """What the spool hands out, settled as if it had arrived."""
    found: list[Record] = []
    for queue in spool.queues(enough=10**6, within_s=within_s):
        while some := queue.peek(1000):
            found += some
            queue.settle([record.record_id for record in some])
    spool.queues(enough=10**6, within_s=1e9)  # closes what is empty
    return found


def journals_in(tmp_path):
    return sorted(path.name for path in (tmp_path / FOLDER).glob("*.journal"))


def a_gathering(tmp_path, spool, *folders, clock=None):
    outbox = RelayOutbox(tmp_path, URL, ALIAS)
    unreadable = []
    gathering = Gathering(
        lambda: folders or (tmp_path,),
        (URL, ALIAS),
        (outbox, spool),
        open_sink=opener(is_ours=True),
        clock=clock or FakeClock(),
        on_unreadable=lambda *given: unreadable.append(given),
    )
    return gathering, outbox, unreadable


def test_what_is_accepted_is_handed_out_once_and_then_gone(tmp_path):
    """New records wait until they are enough or old enough; what is settled leaves no file."""
    clock = FakeClock()
    spool = a_spool(tmp_path, clock)
    assert spool.add([rows(1, 2), rows(3)]) == [None, None]
    assert spool.queues(enough=10, within_s=1.0) == []
    clock.advance(1.0)
    assert [one.record_id for one in sent_from(spool, within_s=1.0)] == [
        a_record(number).record_id for number in (1, 2, 3)
    ]
    assert (spool.count(), journals_in(tmp_path)) == (0, [])
    assert spool.add([rows(4)]) == [None]
    assert len(spool.queues(enough=1, within_s=1e9)) == 1


def test_a_batch_without_room_is_refused_whole_and_leaves_the_rest(tmp_path):
    """The smaller one beside it is kept; with room again the large one is, too."""
    spool = a_spool(tmp_path, limit_bytes=20_000)
    large, small = rows(*range(100)), rows(200)
    refusal, answer = spool.add([large, small])
    assert (refusal.status, answer) == (503, None)
    assert refusal.retry_after_s > 0
    assert [one.record_id for one in sent_from(spool)] == [a_record(200).record_id]


def test_a_disk_that_takes_nothing_is_told(tmp_path):
    """Where the journal's folder cannot be, the sender is told to come back."""
    (tmp_path / FOLDER).write_text("in the way")
    refusal = a_spool(tmp_path).add([rows(1)])[0]
    assert (refusal.status, refusal.retry_after_s > 0) == (503, True)


def test_a_recovered_row_never_replaces_what_a_run_has_said_itself(tmp_path):
    """In either order, in one request or in two, the finished row is what is sent."""
    for batches in (
        [rows(1), rows(1, status="recovered")],
        [rows(1, status="recovered"), rows(1)],
        [rows(1) + rows(1, status="recovered")],
        [rows(1, status="recovered") + rows(1)],
    ):
        spool = a_spool(tmp_path)
        assert not any(spool.add(batches))
        assert [one.status for one in sent_from(spool)] == ["ok"]


def test_a_second_relay_takes_over_the_files_of_one_that_was_killed(tmp_path):
    """They are sent as they are, and no living relay's file is touched."""
    killed, living = a_spool(tmp_path), a_spool(tmp_path)
    killed.add([rows(1, 2)])
    living.add([rows(3)])
    killed._taking.abandon()  # as the kernel does
    spool = a_spool(tmp_path)
    gathering, outbox, _ = a_gathering(tmp_path, spool)
    gathering.fill(1000)
    assert len(outbox) == 0
    assert [one.record_id for one in sent_from(spool)] == [
        a_record(number).record_id for number in (1, 2)
    ]
    assert len(journals_in(tmp_path)) == 1
    assert journals_in(tmp_path)[0].startswith(f"{SPOOL}{os.getpid()}")


def test_records_for_the_relay_are_gathered_from_all_folders_and_others_stay(tmp_path):
    """For the server and for the relay's own address; each journal is removed once it is empty."""
    first, second = tmp_path / "first", tmp_path / "second"
    for number, (state_dir, url) in enumerate(
        [(first, URL), (first, ALIAS), (second, ALIAS), (second, OTHER)] * 3
    ):
        journal = Journal(state_dir)
        journal.enqueue(a_record(number), url)
        journal.close()
    gathering, outbox, unreadable = a_gathering(first, a_spool(first), first, second)
    gathering.fill(1000)
    assert not gathering.is_in_round
    assert (gathering.gathered, len(outbox), unreadable) == (9, 9, [])
    assert len(journals_in(second)) == 3
    queue = outbox.queue
    assert queue is not None
    found = queue.peek(1000)
    queue.settle([one.record_id for one in found])
    outbox.close()
    assert {one.record_id for one in found} == {
        a_record(number).record_id for number in range(12) if number % 4 != 3
    }
    assert journals_in(first) == []


def test_a_round_goes_on_where_it_was_and_skips_what_it_knows(tmp_path):
    """No more is taken than a request has; a journal for others is read once, until it changes."""
    for number in range(10):
        journal = Journal(tmp_path)
        journal.enqueue(a_record(number), URL)
        journal.close()
    other = JournalFile.create(tmp_path / FOLDER, "other")
    other.put(("send", OTHER, "x"), {"record": rows(99)[0]})
    other.close()
    gathering, outbox, _ = a_gathering(tmp_path, a_spool(tmp_path))
    gathering.fill(4)
    assert (len(outbox), gathering.is_in_round) == (4, True)
    while gathering.is_in_round:
        outbox.close()
        gathering.fill(4)
    assert gathering.gathered == 10
    gathering.fill(1000)  # what was put back by closing the outbox
    known = gathering._is_known(tmp_path / FOLDER / "other.0.journal")
    assert known
    file = next(f for f in leftover_journals(tmp_path) if f.path.name.startswith("other"))
    file.put(("send", URL, "y"), {"record": rows(98)[0]})
    file.close()
    assert not gathering._is_known(tmp_path / FOLDER / "other.0.journal")


def test_columns_of_a_later_version_are_kept(tmp_path):
    """A row is sent with all that it came with; one of this version is a plain record."""
    spool = a_spool(tmp_path)
    row = rows(1)[0]
    spool.add([[row | {"lunar_kwh": 1.5, "schema": 9}], rows(2)])
    later, own = sent_from(spool)
    assert record_object(later) == row | {"lunar_kwh": 1.5, "schema": 9}
    assert isinstance(later, WiderRecord)
    assert type(own) is Record
    assert whole_record(own, record_object(own)) is own


def test_what_is_gathered_from_several_journals_is_sent_as_it_was_finished(tmp_path):
    """In either order, for one address or two, and however few are asked for at a time."""
    finished, recovered = a_record(1), a_record(1, status="recovered")
    for first, second in ((finished, recovered), (recovered, finished)):
        for urls in ((URL, URL), (URL, ALIAS), (ALIAS, URL)):
            outbox = RelayOutbox(tmp_path, URL, ALIAS)
            for url, record in zip(urls, (first, second), strict=True):
                file = JournalFile.create(folder(tmp_path), "left")
                file.put(("send", url, record.record_id), {"record": record_object(record)})
                outbox.take_from(file)
            outbox.flush()
            assert outbox.queue is not None
            sent = []
            while some := outbox.queue.peek(1):
                sent += [one.status for one in some]
                outbox.queue.settle([one.record_id for one in some])
            outbox.close()
            assert (sent, journals_in(tmp_path)) == (["ok"], [])
