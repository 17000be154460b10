"""The process of the server: its socket, its connections' time limits, and its end.

uvicorn runs the application. It leaves two things to proxies that are done here too: a connection
that sends its request slowly, or reads its response slowly, is closed; and after SIGTERM the
process exits with 0, once all requests in progress are answered, or with 1 if a store that does not
respond prevents that.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from carbontrack.errors import ConfigError
from carbontrack.server.access import Access, is_this_machine
from carbontrack.server.app import ReceiverApp
from carbontrack.server.limits import Limits
from carbontrack.store.base import Store
from carbontrack.store.tokens import Tokens
from carbontrack.system.log import LOGGER

_BACKLOG = 2048
"""Connections that wait in the kernel until they are accepted."""
_ACCEPTED_AT_ONCE = 16
"""Connections that are accepted before those that are open get their turn. asyncio's own measure is
the backlog: of thousands that come together each would be accepted, then each read, and none would
have an answer before nearly all have one."""
_SPARE_FILES = 200
"""File descriptors for everything except senders' connections."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any that is free.

    Raises:
        ConfigError: it cannot listen there.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}") from None


def address_of(listening: socket.socket) -> str:
    """The URL of a socket that listens."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def check_is_safe(host: str, tokens: Tokens) -> bool:
    """Whether the server is open to everyone, which is allowed only on this machine.

    Raises:
        ConfigError: there is no token, and other machines could reach it.
    """
    if tokens.has_tokens():
        return False
    if is_this_machine(host):
        return True
    raise ConfigError(
        f"--host {host} allows access from other machines, and there is no token yet; create one "
        "with carbontrack serve --new-token PROJECT, with the same --store and --tokens"
    )


def serve(
    store: Store,
    tokens: Tokens,
    listening: socket.socket,
    *,
    is_open: bool = False,
    limits: Limits | None = None,
    on_start: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT; then answer the requests in progress, and return.

    `on_start` is called with the address once requests are accepted. The process ends with 1 at a
    second SIGINT, or if `limits.stop_s` and `limits.last_s` have passed and it has not ended: a
    thread may wait for the store without an end. What was not acknowledged will be sent again.
    """
    limits = _with_files(limits or Limits())
    access = Access(tokens, store, limits, is_open=is_open)
    app = ReceiverApp(store, access, limits)
    config = uvicorn.Config(
        app.asgi,
        http=_protocol(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,  # nothing of a request is logged: no address, no query, no header
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=int(limits.stop_s),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)  # uvicorn raises the signal again when it has ended
    server = _Uvicorn(config, lambda: on_start(address_of(listening)), limits)
    server.run(sockets=[listening])
    server.late.cancel()


def _ended(_number: int, _frame: FrameType | None) -> None:
    """The server has stopped properly after this signal."""


class _Uvicorn(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, on_start: Callable[[], None], limits: Limits
    ) -> None:
        super().__init__(config)
        self._on_start = on_start
        self.late = threading.Timer(limits.stop_s + limits.last_s, _end_late)
        self.late.daemon = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            listening.listen(_BACKLOG)  # asyncio has told the kernel what it accepts at once
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.late.start()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            os._exit(1)  # whatever the threads wait for
        super().handle_exit(sig, frame)


def _end_late() -> None:
    """End the process, with threads that wait for the store; what they write is one transaction."""
    LOGGER.error(
        "the store kept the server from stopping; records that were not acknowledged will be sent "
        "again"
    )
    os._exit(1)


def _with_files(limits: Limits) -> Limits:
    """The limits, with as many connections as the process may have files open."""
    if sys.platform == "win32":
        return limits
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.connections + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return limits._replace(connections=max(1, soft - _SPARE_FILES))
    return limits


def _protocol(limits: Limits) -> type[asyncio.Protocol]:
    """The class of the connections, with the limits in it: uvicorn makes them by itself."""
    return type("TimedConnection", (_TimedConnection,), {"limits": limits})


class _TimedConnection(H11Protocol):
    """A connection whose every phase has an end: the wait for a request, and the request.

    uvicorn ends connections without any request after an answer, and no others.
    """

    limits: Limits
    _phase: asyncio.TimerHandle | None = None
    _timed_cycle: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A sender has connected: it has some time for the head of its first request."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.abort()
        else:
            self._end_in(self.limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        if self._phase is not None:
            self._phase.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """A head that is complete begins a request, which has some time for all of it."""
        super().handle_events()
        if self.cycle is not self._timed_cycle and not self.cycle.response_complete:
            self._timed_cycle = self.cycle
            self._end_in(self.limits.request_s)

    def on_response_complete(self) -> None:
        """The answer is out: what the sender still sends of its request is dropped, for a while."""
        self._end_in(self.limits.idle_s + self.limits.head_s)
        super().on_response_complete()

    def _end_in(self, seconds: float) -> None:
        if self._phase is not None:
            self._phase.cancel()
        self._phase = self.loop.call_later(seconds, self.transport.abort)
