"""Processes of one record that end together, with a relay and without one.

    python benchmarks/relay_replay.py --senders 10000 --within-s 1

Each sender is a connection of its own that posts one record and waits for the answer as long as a
process does at its end. Who gets none leaves the record in a journal, as a process does. Without a
relay they post to the server itself, and journals wait for somebody to send them; with one they
post to it, and it sends what is in the journals too. Printed as JSON: how many were answered in
time, when the server had all of them, how many connections and requests it saw, and the CPU
seconds of the server and of the relay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import psutil  # noqa: E402 - path set

from carbontrack.record import Record, replace  # noqa: E402
from carbontrack.sinks.journal.journal import Journal  # noqa: E402
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


async def send_one(url: str, number: int, after_s: float) -> bool:
    """One sender; whether it was answered in time that its record is kept."""
    await asyncio.sleep(after_s)
    parts = urlsplit(url)
    body = json_line([record_object(record(number))])
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )

    async def ask() -> bool:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(head.encode() + body)
            return (await reader.readline()).split()[1:2] == [b"204"]
        finally:
            writer.close()

    try:
        return await asyncio.wait_for(ask(), PATIENCE_S)
    except (OSError, asyncio.TimeoutError):
        return False


def send(state: Path, url: str, numbers: range, within_s: float, end: Connection) -> None:
    """Some senders in one process, evenly over the time; those without an answer leave journals."""
    more_files()

    async def all_of_them() -> list[bool]:
        step_s = within_s / len(numbers)
        senders = [send_one(url, one, place * step_s) for place, one in enumerate(numbers)]
        return await asyncio.gather(*senders)

    answers = asyncio.run(all_of_them())
    for number, is_kept in zip(numbers, answers, strict=True):
        if not is_kept:
            journal = Journal(state)
            journal.enqueue(record(number), url)
            journal.close()
    end.send(sum(answers))


def start_relay(state: Path, server: str) -> tuple[subprocess.Popen[bytes], str]:
    """A relay, and where it takes records."""
    relay = subprocess.Popen(
        [
            *(sys.executable, "-m", "carbontrack", "relay", "--json", "--to", server),
            *("--listen", "127.0.0.1:0"),
        ],
        cwd=ROOT,
        env=os.environ | {"CARBONTRACK_STATE_DIR": str(state)},
        stdout=subprocess.PIPE,
    )
    assert relay.stdout is not None
    return relay, json.loads(relay.stdout.readline())["listen"]


def replay(given: argparse.Namespace, state: Path, *, with_relay: bool) -> dict[str, Any]:
    """One replay; the figures."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,))
    server.start()
    url, relay = ours.recv(), None
    if with_relay:
        relay, url_of_senders = start_relay(state, url)
    else:
        url_of_senders = url
    began_s = time.monotonic()
    answered = _send_all(given, state, url_of_senders)
    seen = _seen(ours)
    while with_relay and seen[0] < given.senders and time.monotonic() - began_s < GIVE_UP_S:
        time.sleep(0.2)
        seen = _seen(ours)
    figures = {
        "relay": with_relay,
        "senders": given.senders,
        "answered in time": answered,
        "at the server": seen[0],
        "more than once": seen[1] - seen[0],
        "seconds": round(time.monotonic() - began_s, 1),
        "connections": seen[2],
        "requests": seen[3],
        "CPU seconds of the server": round(sum(psutil.Process(server.pid).cpu_times()[:2]), 2),
        "load": os.getloadavg()[0],
    }
    if relay is not None:
        figures["CPU seconds of the relay"] = round(
            sum(psutil.Process(relay.pid).cpu_times()[:2]), 2
        )
        relay.terminate()
        relay.communicate()
    ours.send("")
    server.join()
    return figures


def _seen(ours: Connection) -> tuple[int, int, int, int]:
    ours.send("figures")
    return ours.recv()


def _send_all(given: argparse.Namespace, state: Path, url: str) -> int:
    share, answered = given.senders // given.processes, 0
    pipes: list[Connection] = []
    clients = []
    for place in range(given.processes):
        numbers = range(place * share, (place + 1) * share)
        mine, other = multiprocessing.Pipe()
        pipes.append(mine)
        clients.append(
            multiprocessing.Process(target=send, args=(state, url, numbers, given.within_s, other))
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
        "--processes", type=int, default=4, help="that the senders are replayed from"
    )
    given = parser.parse_args(argv)
    given.senders -= given.senders % given.processes
    for with_relay in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            figures = replay(given, Path(folder), with_relay=with_relay)
            print(json.dumps(figures), flush=True)
    return int(figures["at the server"] != given.senders)


if __name__ == "__main__":
    raise SystemExit(main())
