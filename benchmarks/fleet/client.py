"""A client of the receiver: posts records over any number of connections, and counts what it sees.

Plain sockets, one request after the other on each connection, as `HttpSink` posts them: a JSON
array, a bearer token, and again after 408, 425, 429, 5xx and broken connections, as `Retry-After`
says. Its own CPU time is a part of what it tells.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit

from carbontrack.record import Record
from carbontrack.sinks.jsonl import json_line, record_object

AGAIN = frozenset({408, 425, 429, *range(500, 600)})
ANSWER_S = 60.0
"""How long an answer is waited for."""
_BEGIN = datetime(2026, 11, 1, tzinfo=timezone.utc)


@dataclass
class Posted:
    """What came of some requests.

    Attributes:
        delivered: records that were answered with 2xx.
        refused: records that were answered with a status that says not to try again.
        answers: how many answers had each status; 0 for broken connections.
        latencies_s: of requests with an answer, each from its first byte to its answer.
    """

    delivered: int = 0
    refused: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)

    def quantile_s(self, share: float) -> float | None:
        """The latency below which a share of the answers came."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


@dataclass(frozen=True)
class Address:
    """Where to post, and with which token."""

    host: str
    port: int
    path: str
    token: str | None = None

    @classmethod
    def of(cls, url: str, token: str | None = None) -> Address:
        """The parts of a URL."""
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port or 80, parts.path or "/", token)

    def request(self, body: bytes, *, keep: bool = True) -> bytes:
        """The bytes of a request."""
        token = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n{token}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        return head.encode() + body


def bodies(count: int, batch: int, *, first: int = 0, run: str = "fleet") -> Iterator[bytes]:
    """Arrays of so many records each, with ids of their own."""
    for start in range(first, first + count, batch):
        rows = range(start, min(start + batch, first + count))
        yield b"[" + b",".join(_object(number, run) for number in rows) + b"]"


def _object(number: int, run: str) -> bytes:
    begun = _BEGIN + timedelta(seconds=number)
    kwh = 1e-5 * (1 + number % 97)
    record = Record(
        record_id=f"{run}-{number:08d}",
        run_id=f"{run}-{number:08d}",
        name=f"job {number % 50}",
        labels={"model": f"m{number % 20}"},
        started_at=_text(begun),
        ended_at=_text(begun + timedelta(seconds=1.5)),
        duration_s=1.5,
        cpu_kwh=kwh,
        ram_kwh=kwh / 10,
        energy_kwh=kwh * 1.1,
        energy_low_kwh=kwh,
        energy_high_kwh=kwh * 1.3,
        emissions_g=kwh * 56,
        region="FR",
        region_basis="argument",
        intensity_g_per_kwh=56.0,
        basis="modelled",
        cpu_basis="modelled",
        ram_basis="modelled",
        meters="model:cpu;model:ram",
        coverage=1.0,
        missed_reads=0,
        scope="process",
        cpu_model="AMD EPYC 7763 64-Core Processor",
        cpu_threads=128,
        host_id=f"{number % 1000:016x}",
        pid=1000 + number % 30_000,
        os="Linux 6.1",
        python="3.11.7",
    )
    return json_line(record_object(record)).rstrip(b"\n")


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


class Connection:
    """One connection, opened at its first request and again after it broke."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes, *, keep: bool = True) -> tuple[int, float | None]:
        """The status of the answer, 0 if the connection broke; and Retry-After in seconds."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(
                    self._address.host, self._address.port
                )
            reader, writer = self._streams
            writer.write(self._address.request(body, keep=keep))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), ANSWER_S)
            status, headers = int(head.split(b" ", 2)[1]), head.lower()
            await reader.readexactly(int(header_of(headers, b"content-length") or 0))
            if not keep or header_of(headers, b"connection") == b"close":
                self.close()
            return status, retry_after_s(headers)
        except (OSError, EOFError, ValueError, asyncio.TimeoutError, asyncio.LimitOverrunError):
            self.close()
            return 0, None

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def retry_after_s(head: bytes) -> float | None:
    """Retry-After of an answer whose head is in small letters; None for none, or a date."""
    after = header_of(head, b"retry-after")
    return float(after) if after and after.isdigit() else None


def header_of(head: bytes, name: bytes) -> bytes | None:
    """A header of an answer whose head is in small letters."""
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else None


async def post_all(
    address: Address,
    batches: Sequence[bytes],
    *,
    connections: int,
    limit_s: float,
    longest_wait_s: float = 2.0,
    found: Posted | None = None,
) -> Posted:
    """Post the batches, each until it is delivered or refused, over so many connections.

    `longest_wait_s` caps Retry-After, so that a measurement of some seconds is one of the server.
    `found` is where it is counted, for those who look on.
    """
    waiting = list(reversed(list(batches)))
    found = Posted() if found is None else found
    late_at_s = time.monotonic() + limit_s

    async def one() -> None:
        connection, chance = Connection(address), random.Random()
        while waiting and time.monotonic() < late_at_s:
            body = waiting.pop()
            for attempt in range(1000):
                begun_s = time.monotonic()
                status, after_s = await connection.post(body)
                note(found, status, time.monotonic() - begun_s, body)
                if status not in (0, *AGAIN) or time.monotonic() > late_at_s:
                    break
                most_s = min(longest_wait_s, after_s if after_s else 0.05 * 2 ** min(attempt, 6))
                await asyncio.sleep(chance.uniform(0.0, most_s))
        connection.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return found


def note(found: Posted, status: int, took_s: float, body: bytes) -> None:
    """Count an answer, or a connection that broke."""
    found.answers[status] += 1
    if status:
        found.latencies_s.append(took_s)
    if 200 <= status < 300:
        found.delivered += records_of(body)
    elif status not in (0, *AGAIN):
        found.refused += records_of(body)


def records_of(body: bytes) -> int:
    """The records in a body."""
    return body.count(b'"record_id":')


def as_json(found: Posted) -> dict[str, Any]:
    """What came of it, to print."""
    return {
        "delivered": found.delivered,
        "refused": found.refused,
        "answers": {str(status): count for status, count in sorted(found.answers.items())},
        "p50_s": found.quantile_s(0.5),
        "p99_s": found.quantile_s(0.99),
    }
