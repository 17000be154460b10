"""HTTP requests without redirects and passwords from .netrc, in bounded time and of bounded size.

The library, `requests`, is imported by the first request; certificates are checked, as it does by
default. Its timeouts are for each wait, so a server that sends a byte now and then could hold a
request for days. Connections made here have a deadline for all of a request instead.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from carbontrack.system.clock import SystemClock
from carbontrack.system.forking import holding_forks
from carbontrack.system.interrupts import suppressed
from carbontrack.values import NamedTuple

if TYPE_CHECKING:
    import requests

    Authorize = Callable[[requests.PreparedRequest], requests.PreparedRequest]

_SENT_AT_ONCE = 1 << 16
"""Bytes of a body that are sent before the time that is left is looked at again."""


class Answer(NamedTuple):
    """What a server has answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


class DeadlinePassed(TimeoutError):  # noqa: N818 - states what happened
    """A request was not finished in time."""


class _CurrentRequest:
    """What the connections of a session need to know of its present request.

    Attributes:
        deadline_s: when it has to be over, on the monotonic clock.
        query: added to the address only as it is written to the connection: `urllib3` logs each
            address, some of them as warnings, and a query often holds a key.
    """

    def __init__(self) -> None:
        self.deadline_s = float("inf")
        self.query = ""

    def left_s(self) -> float:
        """Seconds until the deadline.

        Raises:
            DeadlinePassed: there are none.
        """
        left_s = self.deadline_s - SystemClock.monotonic_s()
        if left_s <= 0.0:
            raise DeadlinePassed("not finished in time")
        return left_s

    @contextmanager
    def within(self, timeout_s: float, query: str) -> Iterator[None]:
        """Make a request in the block."""
        self.deadline_s, self.query = SystemClock.monotonic_s() + timeout_s, query
        try:
            yield
        finally:
            self.deadline_s, self.query = float("inf"), ""


def load_requests() -> None:
    """Import the library while no process can be forked, whose child could not import it."""
    with holding_forks():
        import requests  # noqa: F401


def new_session(*, uses_proxies: bool = True) -> requests.Session:
    """A session; without proxies it also ignores what else the environment says of connections."""
    load_requests()
    import requests

    session = requests.Session()
    session.trust_env = uses_proxies
    adapter = _adapter(_CurrentRequest())
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


def exchange(
    session: requests.Session,
    method: str,
    url: str,
    *,
    timeout_s: float | tuple[float, float],
    auth: tuple[str, str] | Authorize | None = None,
    limit_bytes: int = 0,
    query: str = "",
    **content: Any,
) -> Answer:
    """Send one request and read the answer, of its body `limit_bytes` at most.

    Args:
        session: from `new_session`.
        method: such as "GET".
        url: the address, which logs of other libraries may show.
        timeout_s: for all of it, from the connection to the last byte that is read; of a pair, the
            first is for the connection alone. The look-up of the host's name is not interrupted.
        auth: a user name and password, or what adds a token to the request.
        limit_bytes: the most that is read of the body; more is left unread.
        query: a query, encoded, that no log may show.
        content: `headers`, `params` and `data`, as `requests` takes them.

    Raises:
        requests.RequestException: there was no answer.
        Exception: the body could not be read; urllib3 and ssl have errors of their own.
    """
    connect_s, total_s = timeout_s if isinstance(timeout_s, tuple) else (timeout_s, timeout_s)
    current: _CurrentRequest = session.get_adapter(url).current  # type: ignore[attr-defined]
    with (
        current.within(total_s, query),
        session.request(
            method,
            url,
            auth=auth or _unchanged,
            timeout=(connect_s, total_s),
            allow_redirects=False,
            stream=True,
            **content,
        ) as answer,
    ):
        body = answer.raw.read(limit_bytes, decode_content=True) if limit_bytes else b""
        if _has_no_body(answer):
            answer.content  # noqa: B018 - once it is read, the connection can be used again
        return Answer(answer.status_code, answer.headers, body)


def _has_no_body(answer: requests.Response) -> bool:
    named = answer.headers
    is_empty = answer.status_code == 204 or named.get("Content-Length") == "0"
    return is_empty and "Transfer-Encoding" not in named


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    # without any `auth`, requests would look for a password in ~/.netrc
    return request


def _adapter(current: _CurrentRequest) -> Any:
    """An adapter whose connections keep to the present request's deadline, and add its query."""
    from requests.adapters import HTTPAdapter

    class BoundedAdapter(HTTPAdapter):
        def init_poolmanager(self, *given: Any, **named: Any) -> Any:
            super().init_poolmanager(*given, **named)
            _bind_connections(self.poolmanager, current)

        def proxy_manager_for(self, *given: Any, **named: Any) -> Any:
            manager = super().proxy_manager_for(*given, **named)
            _bind_connections(manager, current)
            return manager

    adapter: Any = BoundedAdapter()
    adapter.current = current
    return adapter


def _bind_connections(manager: Any, current: _CurrentRequest) -> None:
    """Let every connection that the manager makes know the present request."""
    pools = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {
        scheme: pool
        if issubclass(pool.ConnectionCls, _Bounded)
        else type(pool.__name__, (pool,), {"ConnectionCls": _bounded(pool.ConnectionCls, current)})
        for scheme, pool in pools.items()
    }


def _bounded(connection: Any, current: _CurrentRequest) -> Any:
    class Response(connection.response_class):  # type: ignore[misc]
        def __init__(self, sock: Any, *given: Any, **named: Any) -> None:
            super().__init__(sock, *given, **named)
            self.fp: Any
            self.fp.close()
            self.fp = io.BufferedReader(_BoundedReader(sock, current))

    return type(
        "Connection", (_Bounded, connection), {"current": current, "response_class": Response}
    )


class _Bounded:
    """What is different in a connection of ours; it stands before one of urllib3's."""

    current: _CurrentRequest
    timeout: Any
    sock: Any
    port: int
    _dns_host: str

    def _new_conn(self) -> Any:
        """Connect to one of the host's addresses, each in its share of the time that is left."""
        from urllib3.exceptions import HTTPError

        host, until_s = self._dns_host, SystemClock.monotonic_s() + self._connect_s()
        found = [host]
        if not hasattr(self, "_socks_options"):  # such a proxy looks up the name itself
            with suppressed(UnicodeError):  # urllib3 has an error of its own for such a name
                infos = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
                found = list(dict.fromkeys(str(info[-1][0]) for info in infos))
        try:
            for place, address in enumerate(found[:-1]):
                with suppressed(HTTPError, OSError):
                    left_s = until_s - SystemClock.monotonic_s()
                    return self._connect_to(address, left_s / (len(found) - place))
            return self._connect_to(found[-1], until_s - SystemClock.monotonic_s())
        finally:
            self._dns_host = host

    def _connect_s(self) -> float:
        return min(self.current.left_s(), float(self.timeout))

    def _connect_to(self, host: str, timeout_s: float) -> Any:
        until_s = SystemClock.monotonic_s() + timeout_s
        self._dns_host, self.timeout = host, max(0.001, timeout_s)
        sock = super()._new_conn()  # type: ignore[misc]
        # what is left is for the handshake of TLS
        sock.settimeout(max(0.001, until_s - SystemClock.monotonic_s()))
        return sock

    def putrequest(self, method: str, url: str, *given: Any, **named: Any) -> Any:
        """Begin a request, with the query that no log may show."""
        query = self.current.query
        if query:
            url = f"{url}{'&' if '?' in url else '?'}{query}"
        return super().putrequest(method, url, *given, **named)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """Send in pieces, each in the time that is left."""
        whole = isinstance(data, (bytes, bytearray)) and len(data) > _SENT_AT_ONCE
        pieces = (
            [data[at : at + _SENT_AT_ONCE] for at in range(0, len(data), _SENT_AT_ONCE)]
            if whole
            else [data]
        )
        for piece in pieces:
            if self.sock is not None:  # else it connects first
                self.sock.settimeout(self.current.left_s())
            super().send(piece)  # type: ignore[misc]


class _BoundedReader(io.RawIOBase):
    """Bytes from a socket, each piece of them in the time that is left."""

    def __init__(self, sock: Any, current: _CurrentRequest) -> None:
        super().__init__()
        self._sock, self._current = sock, current
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._current.left_s())
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def retry_after_s(
    header: str | None, *, now: datetime, server_now: str | None = None
) -> float | None:
    """The wait that a Retry-After header asks for, in seconds or until a date (RFC 9110, 10.2.3).

    A date is measured against the header `Date`, `server_now`, where there is one: the server's
    clock and ours may differ. A date that has passed is 0. None where there is no header, or one
    that cannot be read. urllib3's parser does not fit: it measures dates against the system's
    clock, and raises for what it cannot read.
    """
    text = (header or "").strip()
    if text.isdecimal():
        return float(text)
    until = _date_in(text)
    if until is None:
        return None
    return max(0.0, (until - (_date_in(server_now or "") or now)).total_seconds())


def _date_in(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (TypeError, ValueError, OverflowError, LookupError):
        return None
