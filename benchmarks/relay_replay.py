"""Processes of one record that end together, with a relay and without one.

    python benchmarks/relay_replay.py --senders 10000 --within-s 1 [--server serve]

Each sender is a connection of its own that posts one record and waits for the answer as long as a
process does at its end. Who gets none leaves the record in a journal, as a process does. Without a
relay they post to the server itself, and journals wait for somebody to send them; with one they
post to it, and it sends what is in the journals too. The server is the receiver of the tests, or
`carbontrack serve` on SQLite, which does not tell how many connections it had. Printed
as JSON: how many were answered in time, when the server had all of them, how many connections and
requests it saw, and the CPU seconds of the server and of the relay.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "fleet")]

import psutil  # noqa: E402 - path set
from servers import started  # noqa: E402

from carbontrack.record import Record, replace  # noqa: E402
from carbontrack.sinks.journal.file import JournalFile  # noqa: E402
from carbontrack.sinks.journal.journal import SEND, folder, sparse  # noqa: E402
from carbontrack.sinks.jsonl import json_line, record_object  # noqa: E402
from carbontrack.testing.receiver import Receiver  # noqa: E402

PATIENCE_S = 1.8
"""How long a process waits for the answer at its end."""
GIVE_UP_S = 300.0
FIRST = Record(
    record_id="replay:0",
    run_id="replay",
    name="job array",
    labels={"array": "7"},
    started_at="2026-11-24T03:00:00.000Z",
    ended_at="2026-11-24T03:00:01.500Z",
    duration_s=1.5,
    cpu_kwh=1.25e-05,
    energy_kwh=1.5e-05,
    emissions_g=0.00084,
    region="FR",
    basis="modelled",
    meters="model:cpu;model:ram",
    host_id="node-1",
)


def record(number: int) -> Record:
    """The record of one sender."""
    return replace(FIRST, record_id=f"replay:{number}")


def more_files() -> None:
    """Let this process have as many connections as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(end: Connection) -> None:
    """The server; tells on request how many records, connections and requests it has seen."""
    more_files()
    with Receiver() as receiver:
        end.send(receiver.url)
        while end.recv():
            times = len(receiver.records)
            end.send(
                (len(receiver.record_ids), times, receiver.connections, len(receiver.requests))
            )


class Seen(NamedTuple):
    """What a server has seen: distinct records, all that came, connections and requests."""

    records: int
    times: int
    connections: int | None
    requests: int


class ServerRun(NamedTuple):
    """A server that runs: where, with which token, how to ask it, and its CPU seconds."""

    url: str
    token: str | None
    seen: Callable[[], Seen]
    cpu_s: Callable[[], float]


@contextmanager
def receiver() -> Iterator[ServerRun]:
    """The receiver of the tests in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,))
    server.start()

    def seen() -> Seen:
        ours.send("figures")
        return Seen(*ours.recv())

    yield ServerRun(ours.recv(), None, seen, lambda: cpu_s_of(server.pid))
    ours.send("")
    server.join()


@contextmanager
def team_server(place: Path) -> Iterator[ServerRun]:
    """`carbontrack serve` on SQLite."""
    with started("serve", place, None) as server:
        metrics = server.url.replace("/v1/records", "/metrics")

        def seen() -> Seen:
            with urllib.request.urlopen(metrics) as answer:
                lines = answer.read().decode().splitlines()
            return Seen(
                _sum(lines, "carbontrack_server_records_total", 'result="stored"'),
                _sum(lines, "carbontrack_server_records_total", ""),
                None,
                _sum(lines, "carbontrack_server_requests_total", "/v1/records"),
            )

        yield ServerRun(server.url, server.token, seen, server.cpu_s)


def _sum(lines: Iterable[str], name: str, part: str) -> int:
    """The sum of a metric's values whose labels have the part."""
    found = (line for line in lines if line.startswith(name) and part in line)
    return round(sum(float(line.split()[-1]) for line in found))


def cpu_s_of(pid: int | None) -> float:
    """CPU seconds of a process."""
    return sum(psutil.Process(pid).cpu_times()[:2])


class Sender:
    """One sender, from its connection to the answer or the end of its patience."""

    def __init__(self, number: int, request: bytes, address: tuple[str, int]) -> None:
        self.number, self.give_up_s = number, time.monotonic() + PATIENCE_S
        self._request, self._end = request, socket.socket()
        self._end.settimeout(0)
        self._end.connect_ex(address)

    def fileno(self) -> int:
        """For selectors."""
        return self._end.fileno()

    def step(self, selector: selectors.BaseSelector) -> bytes | None:
        """Go on; the beginning of the answer once there is one, b"" if there is none."""
        try:
            if self._request:
                self._end.send(self._request)  # it is short: the socket takes it whole
                self._request = b""
                selector.modify(self, selectors.EVENT_READ)
                return None
            return self._end.recv(100)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def close(self, selector: selectors.BaseSelector) -> None:
        """Give up, or be done."""
        selector.unregister(self)
        self._end.close()


def send(
    state: Path, to: tuple[str, str | None], numbers: range, within_s: float, end: Connection
) -> None:
    """Some senders in one process, evenly over the time; those without an answer leave journals."""
    more_files()
    url, token = to
    parts = urlsplit(url)
    address, selector = (str(parts.hostname), int(parts.port or 80)), selectors.DefaultSelector()
    requests = {number: request_of(parts.path, parts.netloc, token, number) for number in numbers}
    kept, open_ones, next_one = set[int](), dict[Sender, None](), iter(numbers)
    began_s, step_s, started, is_last = time.monotonic(), within_s / len(numbers), 0, False
    while not is_last or open_ones:
        now_s = time.monotonic()
        while not is_last and began_s + started * step_s <= now_s:
            number = next(next_one, None)
            is_last = number is None
            if number is not None:
                sender = Sender(number, requests[number], address)
                open_ones[sender] = None
                selector.register(sender, selectors.EVENT_WRITE)
                started += 1
        done = late_ones(open_ones, now_s)
        for key, _ in selector.select(0.001):
            answer = key.fileobj.step(selector)
            if answer is not None:
                done.append(key.fileobj)
                if answer.split()[1:2] == [b"204"]:
                    kept.add(key.fileobj.number)
        for sender in dict.fromkeys(done):
            sender.close(selector)
            del open_ones[sender]
    for number in numbers:
        if number not in kept:
            leave(state, number, url)
    end.send(len(kept))


def late_ones(senders: Iterable[Sender], now_s: float) -> list[Sender]:
    """Those whose patience is over; the first is the one that waits the longest."""
    return list(itertools.takewhile(lambda sender: sender.give_up_s < now_s, senders))


def request_of(path: str, host: str, token: str | None, number: int) -> bytes:
    """The request of a sender."""
    body = json_line([record_object(record(number))])
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{bearer}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def leave(state: Path, number: int, url: str) -> None:
    """Leave a record as a process does that ends: in a journal of its own."""
    file = JournalFile.create(folder(state), f"replay-{number}")
    file.put((SEND, url, record(number).record_id), {"record": sparse(record(number))})
    file.close()


def start_relay(state: Path, server: ServerRun) -> tuple[subprocess.Popen[bytes], str]:
    """A relay, and where it takes records."""
    relay = subprocess.Popen(
        [
            *(sys.executable, "-m", "carbontrack", "relay", "--json", "--to", server.url),
            *("--listen", "127.0.0.1:0"),
        ],
        cwd=ROOT,
        env=os.environ
        | {"CARBONTRACK_STATE_DIR": str(state), "CARBONTRACK_HTTP_TOKEN": server.token or ""},
        stdout=subprocess.PIPE,
    )
    assert relay.stdout is not None
    return relay, json.loads(relay.stdout.readline())["listen"]


def replay(given: argparse.Namespace, place: Path, *, with_relay: bool) -> dict[str, Any]:
    """One replay; the figures."""
    with team_server(place) if given.server == "serve" else receiver() as server:
        state = place / "state"
        state.mkdir()
        relay, to = None, (server.url, server.token)
        if with_relay:
            relay, url = start_relay(state, server)
            to = url, None
        began_s = time.monotonic()
        answered = _send_all(given, state, to)
        sent_s = time.monotonic() - began_s
        seen = server.seen()
        while (
            with_relay and seen.records < given.senders and time.monotonic() - began_s < GIVE_UP_S
        ):
            time.sleep(0.2)
            seen = server.seen()
        figures = {
            "server": given.server,
            "relay": with_relay,
            "senders": given.senders,
            "answered in time": answered,
            "at the server": seen.records,
            "more than once": seen.times - seen.records,
            "seconds until all senders had ended": round(sent_s, 1),
            "seconds until the server had them": round(time.monotonic() - began_s, 1),
            "connections": seen.connections,
            "requests": seen.requests,
            "CPU seconds of the server": round(server.cpu_s(), 2),
            "load": os.getloadavg()[0],
        }
        if relay is not None:
            figures["CPU seconds of the relay"] = round(cpu_s_of(relay.pid), 2)
            relay.terminate()
            relay.communicate()
    return figures


def _send_all(given: argparse.Namespace, state: Path, to: tuple[str, str | None]) -> int:
    share, answered = given.senders // given.processes, 0
    pipes: list[Connection] = []
    clients = []
    for place in range(given.processes):
        numbers = range(place * share, (place + 1) * share)
        mine, other = multiprocessing.Pipe()
        pipes.append(mine)
        clients.append(
            multiprocessing.Process(target=send, args=(state, to, numbers, given.within_s, other))
        )
    for client in clients:
        client.start()
    for pipe, client in zip(pipes, clients, strict=True):
        answered += pipe.recv()
        client.join()
    return answered


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures without and with a relay; 1 if the relay has lost a record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--senders", type=int, default=10_000)
    parser.add_argument("--within-s", type=float, default=1.0)
    parser.add_argument(
        "--processes", type=int, default=2, help="that the senders are replayed from"
    )
    parser.add_argument("--server", choices=("receiver", "serve"), default="receiver")
    given = parser.parse_args(argv)
    given.senders -= given.senders % given.processes
    for with_relay in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            figures = replay(given, Path(folder), with_relay=with_relay)
            print(json.dumps(figures), flush=True)
    return int(figures["at the server"] != given.senders)


if __name__ == "__main__":
    raise SystemExit(main())
