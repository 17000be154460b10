"""The endpoint of a relay, by real sockets: what it takes, and what it refuses within limits."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbontrack.sinks.jsonl import json_line, record_object
from carbontrack.sinks.relay.endpoint import Bounds, Endpoint, listening
from carbontrack.sinks.relay.requests_in import HEAD_LIMIT, Doorkeeper, read_head
from carbontrack.sinks.relay.rows import BODY_LIMIT, LINE_LIMIT, RefusedRequest, Row
from tests.support.records import HOSTILE, a_record

HEAD = "POST /v1/records HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
PATIENCE_S = 120.0
EVERYBODY = Doorkeeper(frozenset(), None, lambda _ours, _theirs: None)


class Kept:
    """Keeps what the endpoint takes, or refuses it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.refusal: RefusedRequest | None = None

    def __call__(self, batches: Sequence[Sequence[Row]]) -> list[RefusedRequest | None]:
        for rows in batches if self.refusal is None else ():
            self.rows += rows
        return [self.refusal for _ in batches]


@contextmanager
def endpoint(
    kept: Kept, bounds: Bounds | None = None, doorkeeper: Doorkeeper = EVERYBODY
) -> Iterator[tuple[str, int]]:
    """The address of a running endpoint."""
    with Endpoint(listening(("127.0.0.1", 0)), doorkeeper, kept, bounds) as running:
        yield "127.0.0.1", int(running.url.rpartition(":")[2].partition("/")[0])


def request(body: bytes, head: str = HEAD) -> bytes:
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def body_of(*numbers: int) -> bytes:
    return json_line([record_object(a_record(number)) for number in numbers])


def read_answer(end: socket.socket) -> tuple[int, dict[str, str]]:
    """The next answer on a connection; status 0 if it was closed instead."""
    data = b""
    while b"\r\n\r\n" not in data:
        try:
            piece = end.recv(1)
        except ConnectionError:
            return 0, {}
        if not piece:
            return 0, {}
        data += piece
    lines = data.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:-2])
    for _ in range(int(headers.get("Content-Length", 0))):
        end.recv(1)
    return int(lines[0].split()[1]), headers


def answer_to(address: tuple[str, int], sent: bytes) -> tuple[int, dict[str, str]]:
    """Send something, as far as that goes; the answer."""
    with socket.create_connection(address, timeout=PATIENCE_S) as end:
        with suppress(ConnectionError):  # it has been refused before its end
            end.sendall(sent)
        return read_answer(end)


def test_a_connection_takes_one_request_after_the_other():
    """Requests may come in pieces, or several at once; each is answered once it is kept."""
    kept = Kept()
    with endpoint(kept) as address, socket.create_connection(address, PATIENCE_S) as end:
        whole = request(body_of(1, 2))
        for place in range(0, len(whole), 100):
            end.sendall(whole[place : place + 100])
        assert read_answer(end)[0] == 204
        assert len(kept.rows) == 2
        end.sendall(request(body_of(3)) + request(b"[]") + request(body_of(4)))
        assert [read_answer(end)[0] for _ in range(3)] == [204, 204, 204]
    assert [row["record_id"] for row in kept.rows] == [a_record(n).record_id for n in (1, 2, 3, 4)]


def test_hostile_texts_come_through_unchanged():
    """Whatever a name is, it is kept as it was sent."""
    kept = Kept()
    records = [a_record(number, name=name) for number, name in enumerate(HOSTILE)]
    with endpoint(kept) as address:
        body = json_line([record_object(record) for record in records])
        assert answer_to(address, request(body))[0] == 204
    assert [row["name"] for row in kept.rows] == HOSTILE


GOOD = body_of(1)
ROW = json.loads(body_of(1))[0]
BAD_REQUESTS = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "another protocol": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a head without end": (b"POST /v1/records HTTP/1.1\r\nA: " + b"a" * 2 * HEAD_LIMIT, 431),
    "a header twice": (request(GOOD, HEAD + "Content-Length: 3\r\n"), 400),
    "no number": (f"{HEAD}Content-Length: -1\r\n\r\n".encode(), 400),
    "chunks": (f"{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(), 411),
    "a page of another site": (request(GOOD, HEAD + "Origin: https://a.example\r\n"), 403),
    "a name that leads here": (request(GOOD, HEAD.replace("127.0.0.1", "a.example")), 403),
    "another path": (request(GOOD, HEAD.replace("/v1/records", "/v2")), 404),
    "another method": (request(GOOD, HEAD.replace("POST", "PUT")), 405),
    "a form": (request(GOOD, HEAD.replace("application/json", "text/plain")), 415),
    "too long a body": (request(b"[" + b" " * BODY_LIMIT + b"]"), 413),
    "too many records": (request(json.dumps([1] * 1001).encode()), 413),
    "no JSON": (request(GOOD[:-3]), 400),
    "no text": (request(b'["\xff\xfe"]'), 400),
    "no list": (request(b"{}"), 400),
    "a deep nest": (request(b"[" * 200_000), 400),
    "NaN": (request(GOOD.replace(b"1.5,", b"NaN,")), 400),
    "no record": (request(b"[1]"), 422),
    "an empty id": (request(json.dumps([ROW | {"record_id": ""}]).encode()), 422),
    "an infinite number": (request(json.dumps([ROW | {"pue": "inf"}]).encode()), 422),
    "a text for a number": (request(json.dumps([ROW | {"pue": [1]}]).encode()), 422),
    "a record without end": (request(json.dumps([ROW | {"os": "x" * LINE_LIMIT}]).encode()), 422),
    "one bad record": (request(json.dumps([ROW, {}]).encode()), 422),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_what_is_wrong_is_refused_whole(name):
    """Each has the status that says what its sender can do; nothing of it is kept."""
    sent, status = BAD_REQUESTS[name]
    kept = Kept()
    with endpoint(kept) as address:
        assert answer_to(address, sent)[0] == status
        assert kept.rows == []
        assert answer_to(address, request(body_of(2)))[0] == 204
    assert len(kept.rows) == 1


def test_slow_and_broken_requests_hold_nothing_up():
    """Who sends no more loses the connection; others are answered meanwhile."""
    kept = Kept()
    bounds = Bounds(connections=50, idle_s=0.5, request_s=0.5)
    beginnings = [b"P", request(GOOD)[:60], request(GOOD)[:-1]]
    with endpoint(kept, bounds) as address, ExitStack() as stack:
        slow = []
        for beginning in beginnings * 10:
            end = stack.enter_context(socket.create_connection(address, PATIENCE_S))
            end.sendall(beginning)
            slow.append(end)
        with socket.create_connection(address, PATIENCE_S) as broken:
            broken.sendall(request(GOOD)[:-1])
        silent = stack.enter_context(socket.create_connection(address, PATIENCE_S))
        assert answer_to(address, request(body_of(2)))[0] == 204
        assert {read_answer(end)[0] for end in slow} <= {0, 408}
        assert read_answer(silent)[0] == 0
    assert [row["record_id"] for row in kept.rows] == [a_record(2).record_id]


def test_more_than_it_grants_is_told_to_come_back():
    """Too many connections, too much memory, no room on disk: 503 with Retry-After."""
    kept = Kept()
    with endpoint(kept, Bounds(connections=2)) as address, ExitStack() as stack:
        ends = [
            stack.enter_context(socket.create_connection(address, PATIENCE_S)) for _ in range(2)
        ]
        for end in ends:
            end.sendall(request(b"[]"))
            assert read_answer(end)[0] == 204
        status, headers = answer_to(address, b"")
        assert (status, int(headers["Retry-After"]) > 0) == (503, True)
    with endpoint(kept, Bounds(memory_bytes=len(GOOD))) as address:
        assert answer_to(address, request(body_of(1, 2)))[0] == 503
        assert answer_to(address, request(GOOD))[0] == 204
    kept.refusal = RefusedRequest(503, "the relay's storage is full", retry_after_s=7)
    with endpoint(kept) as address:
        status, headers = answer_to(address, request(GOOD))
        assert (status, headers["Retry-After"]) == (503, "7")
    assert len(kept.rows) == 1


def test_a_sender_that_waits_is_asked_for_its_body():
    """As curl does with a long one: it sends the body once it may."""
    kept = Kept()
    head = HEAD + "Expect: 100-continue\r\n"
    with endpoint(kept) as address, socket.create_connection(address, PATIENCE_S) as end:
        sent = request(GOOD, head)
        end.sendall(sent[: -len(GOOD)])
        assert read_answer(end)[0] == 100
        end.sendall(GOOD)
        assert read_answer(end)[0] == 204


def test_who_is_let_in():
    """A token where there are some; else the users that are meant, by whose the connection is."""
    users = frozenset({1000})
    for doorkeeper, token, expected in (
        (Doorkeeper(frozenset({"t1", "t2"}), frozenset(), lambda *_: 1000), "t2", 204),
        (Doorkeeper(frozenset({"t1", "t2"}), frozenset(), lambda *_: 1000), "t3", 401),
        (Doorkeeper(frozenset({"t1", "t2"}), frozenset(), lambda *_: 1000), None, 401),
        (Doorkeeper(frozenset({"t1"}), users, lambda *_: 1000), None, 204),
        (Doorkeeper(frozenset({"t1"}), users, lambda *_: 1001), None, 403),
        (Doorkeeper(frozenset({"t1"}), users, lambda *_: None), None, 403),
        (Doorkeeper(frozenset({"t1"}), users, lambda *_: None), "t1", 204),
    ):
        head = HEAD if token is None else f"{HEAD}Authorization: Bearer {token}\r\n"
        with endpoint(Kept(), None, doorkeeper) as address:
            assert answer_to(address, request(GOOD, head))[0] == expected


PIECES = [b"\r\n", b": ", b" ", b"HTTP/1.1", b"a"]


@given(st.binary(max_size=200), st.lists(st.sampled_from(PIECES)))
def test_any_bytes_are_a_request_or_a_refusal(noise, pieces):
    """Nothing else comes out of reading a head."""
    for head in (noise, b"".join(pieces), b"POST / HTTP/1.1\r\n" + noise):
        try:
            found = read_head(head + b"\r\n\r\n")
        except RefusedRequest:
            continue
        assert found.length >= 0
