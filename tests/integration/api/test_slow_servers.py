"""Servers that hold a connection: a request has a deadline in all, and no server holds up another.

No test measures a time: a slow server counts the pieces of its answer, which come in many seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from carbontrack.grid.live.web import FetchFailed, Web
from carbontrack.sinks.http import JournaledHttpSink
from carbontrack.sinks.journal.journal import Journal
from carbontrack.sinks.post import Poster
from carbontrack.sinks.resend import resend
from carbontrack.sinks.sync import drain
from carbontrack.system.http import exchange, new_session
from carbontrack.testing.receiver import Receiver
from tests.integration.api.test_http_delivery import HastyClock, ids, wait_until
from tests.integration.cli.test_dead_letters import set_aside
from tests.support import slow_servers
from tests.support.records import a_record
from tests.support.slow_servers import PIECES, SlowServer

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 1.0
ANSWERS = [
    slow_servers.status_line,
    slow_servers.headers,
    slow_servers.interim_answers,
    slow_servers.silence,
]


def by_name(script: slow_servers.Script) -> str:
    return script.__name__


@pytest.mark.parametrize("script", [*ANSWERS, slow_servers.upload], ids=by_name)
def test_a_request_has_a_deadline_whatever_trickles_in(script: slow_servers.Script) -> None:
    """A byte now and then keeps no request alive: it ends in the middle of the answer."""
    count = 2_000 if script is slow_servers.upload else 1  # more than the system takes at once
    records = [a_record(number, name="x" * 9_000) for number in range(count)]
    with SlowServer(script) as server:
        result = Poster(server.url, token=None, timeout_s=TIMEOUT_S).post(records)
        pieces = server.pieces

    assert (result.verdict, result.reason) == ("later", f"no answer within {TIMEOUT_S:g} s")
    assert (server.connections, pieces < PIECES / 2) == (1, True)


def test_a_tls_handshake_has_a_deadline() -> None:
    """It is late, and no bad certificate, after which the next attempt would be an hour away."""
    with SlowServer(slow_servers.handshake) as server:
        url = server.url.replace("http:", "https:")
        result = Poster(url, token=None, timeout_s=TIMEOUT_S).post([a_record()])
        pieces = server.pieces

    assert (result.reason, result.wait_s) == (f"no answer within {TIMEOUT_S:g} s", None)
    assert pieces < PIECES / 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_has_the_same_deadline(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it forwards the request or makes a tunnel for it."""
    with SlowServer(slow_servers.status_line) as proxy:
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
        poster = Poster(f"{scheme}://carbon.example/x", token=None, timeout_s=TIMEOUT_S)
        result = poster.post([a_record()])
        pieces = proxy.pieces

    assert (result.verdict, result.reason) == ("later", f"no answer within {TIMEOUT_S:g} s")
    assert (proxy.connections, pieces < PIECES / 2) == (1, True)


def test_a_body_that_is_read_has_the_same_deadline() -> None:
    """As of a live service, whose answer is read to its end."""
    with SlowServer(slow_servers.body) as server, new_session(uses_proxies=False) as session:
        with pytest.raises(Exception, match=r"timed out|not finished in time"):
            exchange(session, "GET", server.url, timeout_s=TIMEOUT_S, limit_bytes=1 << 20)
        pieces = server.pieces

    assert 0 < pieces < PIECES / 2


@pytest.mark.parametrize("script", [*ANSWERS, slow_servers.body], ids=by_name)
def test_a_live_service_that_trickles_is_given_up(script: slow_servers.Script) -> None:
    """Else its figures would be asked for once, and never again."""
    with SlowServer(script) as server:
        with pytest.raises(FetchFailed):
            Web(timeout_s=(TIMEOUT_S, TIMEOUT_S)).get(server.url)
        pieces = server.pieces

    assert (server.connections, pieces < PIECES / 2) == (1, True)


def test_a_host_with_many_addresses_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each address has its share of the time: the last one is tried, too."""
    import socket

    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = full.getsockname()[1]
    held = [
        socket.socket() for _ in range(8)
    ]  # more than wait to be accepted: the rest get no answer
    for one in held:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
    tried: list[str] = []
    real = socket.getaddrinfo

    def many(host: str, *given: object, **named: object) -> list[object]:
        if host != "many.example":
            tried.append(host)
            return real(host, *given, **named)  # type: ignore[arg-type,return-value]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (1, 2, 3)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", many)
    monkeypatch.setenv("NO_PROXY", "*")
    result = Poster(f"http://many.example:{port}/", token=None, timeout_s=TIMEOUT_S).post(
        [a_record()]
    )
    for one in (*held, full):
        one.close()

    assert tried == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert result.verdict == "later"


@pytest.mark.parametrize("script", ANSWERS, ids=by_name)
def test_a_slow_server_holds_up_no_other_in_sync(
    tmp_path: Path, script: slow_servers.Script
) -> None:
    """The records of one machine's two outputs: one of them is slow, the other gets its own."""
    with SlowServer(script) as slow, Receiver() as good:
        for number in range(5):
            journal = Journal(tmp_path)
            journal.enqueue(a_record(number), slow.url)
            journal.enqueue(a_record(number), good.url)
            journal.close()
        syncing = threading.Thread(
            target=drain, args=(tmp_path,), kwargs={"clock": HastyClock()}, daemon=True
        )
        syncing.start()
        arrived = wait_until(lambda: good.record_ids == ids(5))
        pieces, still_slow = slow.pieces, syncing.is_alive()

    assert (arrived, still_slow, pieces < PIECES / 2) == (True, True, True)
    syncing.join(60.0)


def test_a_slow_server_holds_up_no_dead_letters(tmp_path: Path) -> None:
    """Files are sent side by side, too."""
    with SlowServer(slow_servers.headers) as slow, Receiver() as good:
        set_aside(tmp_path, slow.url, 0)
        set_aside(tmp_path, good.url, 1)
        sending = threading.Thread(
            target=resend, args=(tmp_path / "state",), kwargs={"clock": HastyClock()}, daemon=True
        )
        sending.start()
        arrived = wait_until(lambda: good.record_ids == {a_record(1).record_id})
        still_slow = sending.is_alive()

    assert (arrived, still_slow) == (True, True)
    sending.join(60.0)


@pytest.mark.parametrize("first", ["slow", "good"])
def test_a_server_that_is_away_keeps_no_journal_from_others(tmp_path: Path, first: str) -> None:
    """What ended processes left for two servers reaches the one that answers."""
    with SlowServer(slow_servers.silence_after_one) as slow, Receiver() as good:
        for number in range(5):
            journal = Journal(tmp_path)
            journal.enqueue(a_record(number), slow.url)
            journal.enqueue(a_record(number), good.url)
            journal.close()
        own = Journal(tmp_path)
        urls = [slow.url, good.url] if first == "slow" else [good.url, slow.url]
        sinks = [JournaledHttpSink(url, journal=own, exit_timeout_s=0.1) for url in urls]
        for sink, url in zip(sinks, urls, strict=True):
            sink.write(a_record(9))
            assert wait_until(lambda url=url: not own.queued(url, 1))
            assert url == good.url or wait_until(lambda: slow.connections == 2)
        arrived = wait_until(lambda: good.record_ids == ids(5) | {a_record(9).record_id})
        for sink in sinks:
            sink.close()
        own.close()

    assert arrived


def test_what_is_not_delivered_is_there_for_the_next(tmp_path: Path) -> None:
    """Moved out of many journals for a server that is away, all of it is delivered later, once."""
    with Receiver() as receiver:
        url = receiver.url
    for number in range(30):
        journal = Journal(tmp_path)
        journal.enqueue(a_record(number), url)
        journal.enqueue(a_record(number), "http://127.0.0.1:9/")
        journal.close()
    (away, other) = drain(tmp_path, clock=HastyClock())
    with Receiver(port=int(url.split(":")[2].split("/")[0])) as receiver:
        (done,) = drain(tmp_path, url, clock=HastyClock())
        requests = len(receiver.requests)

    assert (away.remaining, other.remaining) == (30, 30)
    assert (done.delivered, done.remaining, requests) == (30, 0, 1)
    assert receiver.record_ids == ids(30)
    assert len(receiver.records) == 30


@pytest.mark.parametrize("address", ["http://[::1", "://x", "http://a b/", "https://"])
def test_an_address_that_is_none_is_passed_over(tmp_path: Path, address: str) -> None:
    """Its records stay, and it costs no attempt and no other address anything."""
    with Receiver() as receiver:
        journal = Journal(tmp_path)
        journal.enqueue(a_record(0), address)
        journal.enqueue(a_record(1), receiver.url)
        journal.close()
        (bad, good) = drain(tmp_path)

    assert (bad.remaining, bad.trouble) == (1, "records cannot be sent to this address")
    assert (good.delivered, good.remaining) == (1, 0)


def test_many_addresses_are_all_sent_to(tmp_path: Path) -> None:
    """More than are sent to at the same time."""
    with Receiver() as receiver:
        journal = Journal(tmp_path)
        for number in range(50):
            journal.enqueue(a_record(number), f"{receiver.url}?{number}")
        journal.close()
        found = drain(tmp_path)

    assert [one.url for one in found] == [f"{receiver.url}?{number}" for number in range(50)]
    assert {(one.delivered, one.remaining) for one in found} == {(1, 0)}
    assert list((tmp_path / "journal").iterdir()) == []


EXIT = """
import sys
import carbontrack
with carbontrack.auto(region="FR", output=sys.argv[1:]) as tracker:
    with tracker.span("x"):
        pass
"""


def test_at_the_exit_a_slow_server_holds_up_no_other(tmp_path: Path) -> None:
    """Both are tried at the same time; the slow one's record waits in the journal."""
    with SlowServer(slow_servers.headers) as slow, Receiver() as good:
        subprocess.run(
            [sys.executable, "-c", EXIT, slow.url, good.url],
            cwd=tmp_path,
            env=os.environ | {"CARBONTRACK_STATE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        )
        pieces = slow.pieces

    assert len(good.records) == 1
    assert pieces < PIECES / 2
    assert len(list((tmp_path / "journal").iterdir())) == 1
