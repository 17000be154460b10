"""The endpoint of a relay on loopback, for processes that end at once.

One thread with an event loop holds the connections; a second one checks what has come and writes
it to disk, as many requests at a time as have come meanwhile. Connections, their time and the
memory of their bodies are limited: nothing that is sent here can take more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence

from carbontrack.errors import ConfigError
from carbontrack.sinks.relay.peers import Address
from carbontrack.sinks.relay.requests_in import (
    HEAD_LIMIT,
    PATH,
    Doorkeeper,
    RequestHead,
    read_head,
)
from carbontrack.sinks.relay.rows import RefusedRequest, Row, checked_rows
from carbontrack.system.forking import OwnThread
from carbontrack.system.interrupts import pass_on, suppressed
from carbontrack.values import NamedTuple

Keep = Callable[[Sequence[Sequence[Row]]], Sequence[RefusedRequest | None]]
"""Writes the records of some requests to disk; None for those that are there now."""

_REASONS = {
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
_BACKLOG = 4096
"""Connections that wait to be accepted; the kernel may allow fewer."""
_ACCEPTED_AT_ONCE = 32
"""Connections that are accepted before those that are there are served."""
_DISCARDED_BYTES = 64 << 20
"""The most of a refused body that is read, so that its sender comes to reading the answer."""
_PIECE = 1 << 16
_AT_ONCE = 256
"""Requests whose records are written together."""
_STOP_S = 2.0


class Bounds(NamedTuple):
    """What an endpoint grants.

    Attributes:
        connections: the most at a time; further ones are asked to come back later.
        memory_bytes: of all bodies that are there at a time.
        idle_s: how long a connection may stay without a request.
        request_s: how long a request may take, from its first byte until its body is there.
    """

    connections: int = 2000
    memory_bytes: int = 64 << 20
    idle_s: float = 15.0
    request_s: float = 10.0


class Endpoint:
    """Accepts records on a listening socket, from the start of a `with` block to its end.

    Attributes:
        url: where records are posted.
    """

    def __init__(
        self,
        server: socket.socket,
        doorkeeper: Doorkeeper,
        keep: Keep,
        bounds: Bounds | None = None,
    ) -> None:
        self.url = endpoint_of(server.getsockname()[:2])
        self._socket = server
        self._doorkeeper, self._keep = doorkeeper, keep
        self._bounds = bounds or Bounds()
        self._connections = self._memory_bytes = 0
        self._loop = asyncio.new_event_loop()
        self._pending: list[tuple[bytes, asyncio.Future[RefusedRequest | None]]] = []
        self._has_pending, self._stopping = asyncio.Event(), asyncio.Event()
        self._is_started = threading.Event()
        self._thread = OwnThread(self._run, "carbontrack-endpoint")

    def __enter__(self) -> Endpoint:
        self._thread.start()
        self._is_started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(2 * _STOP_S)

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._serve())
        finally:
            self._is_started.set()
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(
            self._converse, sock=self._socket, limit=HEAD_LIMIT, backlog=_ACCEPTED_AT_ONCE
        )
        # asyncio takes one number for both: how many wait, and how many are accepted in a row
        self._socket.listen(_BACKLOG)
        writing = asyncio.ensure_future(self._write_what_comes())
        self._is_started.set()
        await self._stopping.wait()
        server.close()
        # what has come whole is still written and answered
        with suppressed(asyncio.TimeoutError):
            await asyncio.wait_for(self._all_written(), _STOP_S)
        writing.cancel()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _all_written(self) -> None:
        while self._memory_bytes:
            await asyncio.sleep(0.01)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self._connections += 1
        try:
            if self._connections > self._bounds.connections:
                writer.write(_answer(_busy("too many connections"), is_last=True))
                return
            # asked at once: of a process that has ended meanwhile nobody could say whose it was
            ends = (writer.get_extra_info(name)[:2] for name in ("sockname", "peername"))
            user = self._doorkeeper.user_of(*ends)
            while await self._answer_one(reader, writer, user) and not self._stopping.is_set():
                pass
        except asyncio.TimeoutError:  # the other end is idle, or does not read its answer
            writer.transport.abort()
        except (OSError, EOFError) as error:  # or has gone
            pass_on(error)
        finally:
            self._connections -= 1
            writer.close()

    async def _answer_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: int | None
    ) -> bool:
        """Answer the next request; False if it is the last one."""
        first = await asyncio.wait_for(reader.read(1), self._bounds.idle_s)
        if not first:
            return False
        head: RequestHead | None = None
        refusal: RefusedRequest | None = None
        try:
            async with _within(self._bounds.request_s):
                head = await self._head(first, reader)
                refusal = await self._take(head, user, (reader, writer))
        except RefusedRequest as error:
            refusal = error
        except asyncio.TimeoutError:
            head, refusal = None, RefusedRequest(408, "the request took too long")
        is_last = head is None or head.is_last or refusal is not None
        writer.write(_answer(refusal, is_last=is_last))
        await asyncio.wait_for(writer.drain(), self._bounds.request_s)
        return not is_last

    async def _head(self, first: bytes, reader: asyncio.StreamReader) -> RequestHead:
        try:
            return read_head(first + await reader.readuntil(b"\r\n\r\n"))
        except asyncio.LimitOverrunError:
            raise RefusedRequest(431, f"more than {HEAD_LIMIT} bytes before the body") from None

    async def _take(
        self,
        head: RequestHead,
        user: int | None,
        ends: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> RefusedRequest | None:
        """Read the body of a request and write its records to disk."""
        reader, writer = ends
        try:
            self._doorkeeper.check(head, user)
            if self._memory_bytes + head.length > self._bounds.memory_bytes:
                raise _busy("too much at a time")
        except RefusedRequest:
            if not head.waits:
                await _discard(reader, head.length)
            raise
        self._memory_bytes += head.length
        try:
            if head.waits:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(head.length)
            result: asyncio.Future[RefusedRequest | None] = self._loop.create_future()
            self._pending.append((body, result))
            self._has_pending.set()
            return await result
        finally:
            self._memory_bytes -= head.length

    async def _write_what_comes(self) -> None:
        while True:
            await self._has_pending.wait()
            some, self._pending = self._pending[:_AT_ONCE], self._pending[_AT_ONCE:]
            if not self._pending:
                self._has_pending.clear()
            bodies = [body for body, _ in some]
            answers = await self._loop.run_in_executor(None, self._written, bodies)
            for (_, result), answer in zip(some, answers, strict=True):
                if not result.done():
                    result.set_result(answer)

    def _written(self, bodies: Sequence[bytes]) -> list[RefusedRequest | None]:
        """Check the bodies of some requests, and write their records to disk; in a thread."""
        answers: list[RefusedRequest | None] = []
        batches: list[Sequence[Row]] = []
        for body in bodies:
            try:
                batches.append(checked_rows(body))
                answers.append(None)
            except RefusedRequest as refusal:
                batches.append(())
                answers.append(refusal)
        kept = self._keep(batches)
        return [answer or other for answer, other in zip(answers, kept, strict=True)]


@contextlib.asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """As `asyncio.timeout`, which Python 3.10 does not have, for a block of one task."""
    task, is_late = asyncio.current_task(), False
    assert task is not None

    def end() -> None:
        nonlocal is_late
        is_late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, end)
    try:
        yield
    except asyncio.CancelledError:
        if is_late:
            raise asyncio.TimeoutError from None
        raise
    finally:
        timer.cancel()


def _busy(reason: str) -> RefusedRequest:
    # spread, so that those who were refused together do not come back together
    return RefusedRequest(503, reason, retry_after_s=random.randint(5, 30))  # noqa: S311 - no secret


async def _discard(reader: asyncio.StreamReader, length: int) -> None:
    left = min(length, _DISCARDED_BYTES)
    while left > 0:
        piece = await reader.read(min(left, _PIECE))
        if not piece:
            return
        left -= len(piece)


def _answer(refusal: RefusedRequest | None, *, is_last: bool) -> bytes:
    status = 204 if refusal is None else refusal.status
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}"]
    body = b""
    if refusal is not None:
        body = json.dumps({"error": refusal.reason}).encode() + b"\n"
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        if refusal.retry_after_s is not None:
            lines.append(f"Retry-After: {refusal.retry_after_s}")
        if status == 405:
            lines.append("Allow: POST")
        if status == 401:
            lines.append("WWW-Authenticate: Bearer")
    if is_last:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def endpoint_of(address: Address) -> str:
    """The URL at which an endpoint with this address takes records."""
    host, port = address
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"


def listening(address: Address) -> socket.socket:
    """A socket that listens there.

    Raises:
        ConfigError: it cannot, as another program does.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        pass_on(error)
        raise ConfigError(
            f"--listen {address[0]}:{address[1]}: {error.strerror or error}; another relay or "
            "program may be using it: choose another port"
        ) from None
