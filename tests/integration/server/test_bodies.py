"""Bodies and connections that are huge, deep, slow or broken: refused within limits."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from carbontrack.server.limits import Limits
from carbontrack.store.factory import open_store
from tests.support.records import a_record
from tests.support.serving import PATIENCE_S, Serving, Team, serving_with, wait_until


def head(token: str, length: int | None, **more: str) -> bytes:
    """The head of a request with records."""
    lines = {
        "Host": "127.0.0.1",
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        **({} if length is None else {"Content-Length": str(length)}),
        **more,
    }
    text = "".join(f"{name}: {content}\r\n" for name, content in lines.items())
    return f"POST /v1/records HTTP/1.1\r\n{text}\r\n".encode()


def answered(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


DEEP = 200_000
BAD = {
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'[{"record_id":"x","labels":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}]",
    "cut off": b'[{"record_id":',
    "not UTF-8": b'[{"record_id":"\xff\xfe"}]',
    "UTF-16": '[{"record_id":"x"}]'.encode("utf-16"),
    "NaN": b'[{"record_id":"x","duration_s":NaN}]',
    "too large a number": b'[{"record_id":"x","run_id":"r","name":"n","duration_s":1e999}]',
    "a huge whole number": b'[{"record_id":"x","pid":' + b"9" * 100_000 + b"}]",
    "not an array": b'{"record_id":"x"}',
    "arrays in it": b"[[],[]]",
    "nothing": b"",
    "two arrays": b"[][]",
    "only garbage": bytes(range(256)) * 100,
    "many escapes": b'["' + b"\\" * 100_001 + b'"]',
    "lone surrogates": b'["' + b"\\ud800" * 100_000,
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_a_broken_body_is_422(team: Team, body: bytes):
    """Whatever it is, the answer is short and says why; the server goes on."""
    answer = team.server.post_body(body, team.send)
    assert answer.status_code == 422
    assert 0 < len(answer.json()["error"]) < 500
    assert team.server.post([a_record()], team.send).status_code == 204


def test_a_huge_body_is_refused_before_it_is_read(team: Team):
    """Its declared length is enough; the sender, who sends on for a while, gets the answer."""
    with team.server.connect() as connection:
        connection.sendall(head(team.send, 1 << 40) + b"x" * (1 << 20))
        assert status(connection.recv(1 << 16)) == 413


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50,
        b"POST /v1/records HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/records HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/records HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 9000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000,
        b"\r\n" * 100_000,
    ],
    ids=[
        "TLS",
        "negative",
        "two lengths",
        "long length",
        "long line",
        "many headers",
        "empty lines",
    ],
)
def test_what_is_no_request_is_ended(team: Team, junk: bytes):
    """No more of it is read than a head may have, and the connection is closed."""
    with team.server.connect() as connection:
        connection.settimeout(PATIENCE_S)
        with suppress(OSError):
            connection.sendall(junk)
        answer = answered(connection)
    assert answer == b"" or status(answer) == 400
    assert team.server.get("/healthz").status_code == 200


@pytest.fixture(scope="module")
def hasty_team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, str]]:
    """A server with little patience, and a token of it."""
    folder = tmp_path_factory.mktemp("hasty")
    with open_store(str(folder / "team.db")) as store:
        token = store.create_token("vision")
    limits = {"head_s": 0.5, "body_s": 0.5, "request_s": 1.5, "idle_s": 0.5, "connections": 60}
    with serving_with(folder, **limits) as server:
        yield server, token


@pytest.fixture
def hasty(hasty_team: tuple[Serving, str]) -> Serving:
    return hasty_team[0]


@pytest.fixture
def send_token(hasty_team: tuple[Serving, str]) -> str:
    return hasty_team[1]


@pytest.mark.parametrize("part", ["nothing", "head", "after the answer"])
def test_a_slow_head_is_cut_off(hasty: Serving, send_token: str, part: str):
    """A sender that opens a connection and then takes its time for the head loses it.

    It may send a byte now and then: that is no progress.
    """
    with hasty.connect() as connection:
        connection.settimeout(PATIENCE_S)
        if part == "after the answer":
            connection.sendall(head(send_token, 2) + b"[]")
            assert status(connection.recv(1 << 16)) == 204
        drips = 0
        try:
            while part != "nothing":
                connection.sendall(b"G" if drips == 0 else b"E")
                drips += 1
                assert drips < 20 * PATIENCE_S
                time.sleep(0.05)
        except OSError:
            pass
        assert answered(connection) == b""


def test_a_slow_body_is_408(hasty: Serving, send_token: str):
    """A body that drips is given up, and nothing of it is held any longer."""
    late = 'carbontrack_server_requests_total{route="/v1/records",status="408"}'
    before = hasty.metric(late)
    with hasty.connect() as connection:
        connection.settimeout(PATIENCE_S)
        connection.sendall(head(send_token, 1 << 20))
        try:
            for _ in range(int(20 * PATIENCE_S)):
                connection.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            pass
        answer = answered(connection)
    assert answer == b"" or status(answer) == 408
    assert hasty.metric(late) == before + 1
    assert hasty.metric("carbontrack_server_held_bytes") == 0


def test_a_refused_body_is_not_read_for_ever(hasty: Serving):
    """A sender that was told no, and sends on and on, is cut off."""
    with hasty.connect() as connection:
        connection.settimeout(PATIENCE_S)
        connection.sendall(head("ct_none", 1 << 40))
        sent = 0
        try:
            while sent < 1 << 36:
                sent += connection.send(b"x" * (1 << 16))
                time.sleep(0.005)
        except OSError:
            pass
        assert sent < 1 << 36


def test_an_answer_that_is_not_taken_is_given_up(hasty: Serving):
    """A sender that asks and asks, and reads nothing, is not kept by the server."""
    process = psutil.Process(hasty.process.pid)
    asked = memoryview(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    with socket.socket() as connection:
        # before it is connected, so that little is on its way when no more is taken
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        host, port = hasty.url.removeprefix("http://").rsplit(":", 1)
        connection.connect((host, int(port)))
        ours = connection.getsockname()[1]
        connection.settimeout(0.1)

        def ask_and_ask(sent: int = 0) -> None:
            give_up_s = time.monotonic() + PATIENCE_S
            while time.monotonic() < give_up_s:
                with suppress(TimeoutError):  # it reads no more while its answers are not taken
                    sent += connection.send(asked[sent % len(asked) :])

        with pytest.raises(ConnectionError):
            ask_and_ask()
        there = (other.raddr for other in process.net_connections("tcp") if other.raddr)
        assert ours not in {address.port for address in there}


def test_connections_beyond_the_limit_are_closed(hasty: Serving):
    """They take nothing from those that are served, and there is room again soon."""
    connections = [hasty.connect() for _ in range(75)]
    try:
        for connection in connections:
            connection.settimeout(PATIENCE_S)
            assert (
                answered(connection) == b""
            )  # those that were let in are cut off for their silence
    finally:
        for connection in connections:
            connection.close()
    assert hasty.get("/healthz").status_code == 200


def test_a_sender_that_leaves_holds_nothing(team: Team):
    """Gone in the middle of a body, it leaves neither bytes nor rows behind."""
    held, patience_s = "carbontrack_server_held_bytes", Limits().body_s / 2  # before it is given up
    for _ in range(5):
        with team.server.connect() as connection:
            connection.sendall(head(team.send, 1 << 20) + b"[" * (1 << 19))
            assert wait_until(lambda: team.server.metric(held) > 0, patience_s)
        assert wait_until(lambda: team.server.metric(held) == 0, patience_s)


def test_two_lengths_of_one_body(team: Team):
    """A body in chunks whose head also has a length: nobody is asked which of them holds."""
    with team.server.connect() as connection:
        chunked = head(team.send, 2, **{"Transfer-Encoding": "chunked"})
        connection.sendall(chunked + b"100000\r\n" + b" " * 1000)
        assert status(connection.recv(1 << 16)) in (400, 411)


def test_many_large_bodies_are_held_only_as_far_as_there_is_room(tmp_path: Path):
    """Bodies at the same time: some are taken, the others are told to come back; memory is bounded.

    Each declares 4 MiB and holds it back until all have been told what there is room for: two of
    one project, which has three quarters of it.
    """
    length = 4 << 20
    with open_store(str(tmp_path / "team.db")) as store:
        token = store.create_token("vision")
    with serving_with(tmp_path, held_bytes=3 * length) as server, ExitStack() as opened:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        connections = {opened.enter_context(server.connect()) for _ in range(40)}
        for connection in connections:
            connection.settimeout(PATIENCE_S)
            connection.sendall(head(token, length) + b" " * (1 << 16))
        refused: set[socket.socket] = set()
        while len(refused) < 38:
            answering = select.select(list(connections - refused), [], [], PATIENCE_S)[0]
            assert answering
            assert {status(one.recv(1 << 16)) for one in answering} == {429}
            refused.update(answering)
        grown = process.memory_info().rss - before
        for connection in connections - refused:
            connection.sendall(b" " * (length - (1 << 16)))
            assert status(connection.recv(1 << 16)) == 422  # read to its end: it is no JSON
    assert len(refused) == 38
    assert grown < 40 * length / 2


def test_a_body_of_small_things_takes_bounded_memory(team: Team):
    """Each byte of a body may become an object of fifty; one body is decoded at a time."""
    length = 4 << 20
    process = psutil.Process(team.server.process.pid)
    before = process.memory_info().rss
    for body in (b"[" + b"{}," * (length // 3 - 2) + b"{}]", b'[{"labels":[' + b"[]," * 1_000_000):
        for _ in range(2):
            assert team.server.post_body(body[:length], team.send).status_code in (413, 422)
    assert process.memory_info().rss - before < 50 * length
