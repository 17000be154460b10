"""Records on their way from real sinks to a real server: killed, stopped, or asked for too much."""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import requests

from carbontrack.sinks.http import JournaledHttpSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.sync import drain
from carbontrack.system.clock import SystemClock
from tests.support.records import a_record
from tests.support.serving import (
    a_post,
    bearer,
    rows_of,
    serving,
    serving_with,
    wait_until,
)


class HastyClock(SystemClock):
    """The real clock, on which waits are ten times shorter."""

    def wait(self, event, timeout_s):  # type: ignore[no-untyped-def]
        return event.wait(None if timeout_s is None else timeout_s / 10)


def a_sink(url: str, token: str, journal: Journal, **more: object) -> JournaledHttpSink:
    return JournaledHttpSink(
        f"{url}/v1/records", token=token, journal=journal, clock=HastyClock(), **more
    )


def test_killed_between_commit_and_answer(tmp_path: Path, send_token: str):
    """Rows that were stored, but whose sender was not told, are sent again and stored once."""
    records = [a_record(number) for number in range(40)]
    with serving_with(tmp_path, dies_after=3) as server:
        url = server.url
        journal = Journal(tmp_path / "state")
        with closing(journal), closing(a_sink(url, send_token, journal, batch=8)) as sink:
            for record in records:
                sink.write(record)
            assert server.process.wait(60) == -9
    before = {row["record_id"] for row in rows_of(tmp_path)}
    assert 0 < len(before) < len(records)
    with serving(tmp_path, "--port", url.rpartition(":")[2]) as server:
        (drained,) = drain(tmp_path / "state", None, send_token, outputs=[f"{url}/v1/records"])
        assert drained.remaining == 0
        repeated = server.metric('carbontrack_server_records_total{result="repeated"}')
    rows = rows_of(tmp_path)
    assert len(rows) == len(records)
    assert {row["record_id"] for row in rows} == {record.record_id for record in records}
    assert repeated > 0  # what was stored and not acknowledged has come again


def test_sigterm_loses_nothing_that_was_acknowledged(tmp_path: Path, send_token: str):
    """Told to stop under load, the server answers what it has taken, and ends with 0."""
    acknowledged: list[str] = []
    with serving_with(tmp_path, slow_s=0.05) as server:
        begun = threading.Barrier(9)

        def send(sender: int) -> None:
            with requests.Session() as session:
                for number in range(10_000):
                    record = a_record(record_id=f"{sender}:{number}")
                    if number == 3:
                        begun.wait(60)
                    try:
                        answer = session.post(
                            f"{server.url}/v1/records",
                            json=[record.to_row() | {"labels": {}}],
                            headers=bearer(send_token),
                            timeout=60,
                        )
                    except requests.ConnectionError:
                        return
                    if answer.status_code == 204:
                        acknowledged.append(record.record_id)

        senders = [threading.Thread(target=send, args=(sender,)) for sender in range(8)]
        for sender in senders:
            sender.start()
        begun.wait(60)
        code = server.stop()
        for sender in senders:
            sender.join(60)
        said = server.said()
    assert code == 0, said
    assert "Traceback" not in said
    assert len(acknowledged) >= 24
    stored = {row["record_id"] for row in rows_of(tmp_path)}
    assert set(acknowledged) <= stored


def test_a_store_that_never_answers_does_not_keep_the_server(tmp_path: Path, send_token: str):
    """Told to stop, it refuses what is under way when its time is over, and ends with 1."""
    answers: list[requests.Response] = []
    with serving_with(tmp_path, slow_s=3600.0, stop_s=1.0, last_s=1.0) as server:
        sender = threading.Thread(
            target=lambda: answers.append(server.post([a_record(1)], send_token))
        )
        sender.start()
        assert wait_until(lambda: server.metric("carbontrack_server_queue_records") == 1)
        code = server.stop()
        sender.join(60)
        said = server.said()
    assert code == 1
    assert answers[0].status_code == 503
    assert "Retry-After" in answers[0].headers
    assert "records that were not acknowledged will be sent again" in said
    assert "Traceback" not in said


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path, send_token: str):
    """Also where a thread waits for the store."""
    facts = {"slow_s": 3600.0, "stop_s": 3600.0}
    with serving_with(tmp_path, **facts) as server, server.connect() as sender:
        sender.sendall(a_post([a_record(1)], send_token))
        assert wait_until(lambda: server.metric("carbontrack_server_queue_records") == 1)
        server.process.send_signal(signal.SIGINT)
        assert wait_until(lambda: not server.takes_connections())
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 1


def test_a_storm_of_429_ends_with_all_delivered(tmp_path: Path, send_token: str):
    """More senders than the queue has room for: they are asked to wait, and all arrives once."""
    limits = {"queued_rows": 30, "group_rows": 30, "retry_after_s": [1.0, 4.0]}
    with serving_with(tmp_path, slow_s=0.1, **limits) as server:
        sinks = [
            a_sink(server.url, send_token, Journal(tmp_path / f"state-{number}"), batch=10)
            for number in range(6)
        ]
        for number, sink in enumerate(sinks):
            for count in range(50):
                sink.write(a_record(record_id=f"{number}:{count}"))
        stored = 'carbontrack_server_records_total{result="stored"}'
        assert wait_until(lambda: server.metric(stored) >= 300)
        refused = 'carbontrack_server_requests_total{route="/v1/records",status="429"}'
        storm = server.metric(refused)
        for sink in sinks:
            sink.close()
    rows = rows_of(tmp_path)
    assert storm > 0
    assert len(rows) == 300
    assert {row["record_id"] for row in rows} == {
        f"{number}:{count}" for number in range(6) for count in range(50)
    }


def test_a_sink_with_large_batches_and_a_bad_record(tmp_path: Path, send_token: str):
    """413 and 422 halve a batch until the good records are stored; the bad one is set aside."""
    records = [a_record(number) for number in range(1500)]
    records[700] = a_record(700, name="n" * 20_000)  # longer than a name may be
    journal = Journal(tmp_path / "state")
    with serving(tmp_path) as server:
        with closing(journal):
            sink = a_sink(server.url, send_token, journal, batch=5000, exit_timeout_s=60.0)
            for record in records:
                sink.write(record)
            sink.close()
        stored = {row["record_id"] for row in rows_of(tmp_path)}
    assert stored == {record.record_id for record in records} - {records[700].record_id}
    (letters,) = (tmp_path / "state" / "dead-letter").iterdir()
    assert records[700].record_id in letters.read_text()
    assert letters.read_text().count("\n") == 1


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="limits of processes are Linux's")
def test_a_full_disk_is_503_until_there_is_room(tmp_path: Path, send_token: str):
    """What was acknowledged before is there, nothing else is, and the server goes on by itself."""
    acknowledged = 0
    with serving(tmp_path) as server:
        process = psutil.Process(server.process.pid)
        process.rlimit(psutil.RLIMIT_FSIZE, (1 << 20, psutil.RLIM_INFINITY))
        for number in range(200):
            batch = [a_record(record_id=f"{number}:{count}") for count in range(50)]
            answer = server.post(batch, send_token)
            if answer.status_code != 204:
                break
            acknowledged += 50
        assert answer.status_code == 503
        assert 5 <= int(answer.headers["Retry-After"]) <= 60
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        assert len(rows_of(tmp_path)) == acknowledged > 0
        assert server.post(batch, send_token).status_code == 204
        assert "Traceback" not in server.said()
    assert len(rows_of(tmp_path)) == acknowledged + 50


def test_requests_that_wait_share_commits(tmp_path: Path, send_token: str):
    """While one commit runs, what arrives gathers: many requests, few transactions."""
    go = tmp_path / "go"
    with serving_with(tmp_path, waits_for=str(go)) as server:

        def send(number: int) -> None:
            answer = server.post([a_record(record_id=f"together:{number}")], send_token)
            assert answer.status_code == 204

        senders = [threading.Thread(target=send, args=(number,)) for number in range(40)]
        for sender in senders:
            sender.start()
        assert wait_until(lambda: server.metric("carbontrack_server_queue_records") == 40)
        go.touch()
        for sender in senders:
            sender.join(60)
        commits = server.metric("carbontrack_server_commit_seconds_count")
    assert len(rows_of(tmp_path)) == 40
    assert commits <= 2  # of the one that came first, and of all others


def test_a_quota_is_a_bucket_of_a_minute(tmp_path: Path, send_token: str):
    """A project that has used up its minute gets 429 and a time to come back; another does not."""
    from carbontrack.store.base import Project
    from carbontrack.store.factory import open_store

    with open_store(str(tmp_path / "team.db")) as store:
        store.set_project(Project("vision", quota_records_per_min=20))
        other = store.create_token("audio")
    with serving(tmp_path) as server:
        batches = [[a_record(10 * batch + n) for n in range(10)] for batch in range(5)]
        answers = [server.post(batch, send_token) for batch in batches]
        assert [one.status_code for one in answers[:2]] == [204, 204]
        assert answers[-1].status_code == 429
        waits = {int(server.post(batches[4], send_token).headers["Retry-After"]) for _ in range(20)}
        assert server.post(batches[0], other).status_code == 204
    assert min(waits) >= 5
    assert max(waits) <= 120
    assert len(waits) > 5  # at random, so that senders do not come back together
