"""Requests to a relay's endpoint as they arrive: the head, parsed strictly, and access control.

The part of HTTP/1.1 (RFC 9112) that senders of records use. Anything ambiguous is refused: a body
without a length, two lengths, a request that a web page has made.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Mapping

from carbontrack.sinks.relay.peers import Address
from carbontrack.sinks.relay.rows import BODY_LIMIT, RefusedRequest
from carbontrack.values import NamedTuple

PATH = "/v1/records"
"""The path for sending records."""
HEAD_LIMIT = 16 << 10
"""Bytes of a request before its body."""
_LENGTH_DIGITS = 12
_OURS = ("localhost", "ip6-localhost")


class RequestHead(NamedTuple):
    """A request before its body.

    Attributes:
        method, path, headers: as they came, but for the names of headers, which are lower case.
        length: bytes of the body.
        is_last: whether the connection ends with the answer.
        waits: whether the sender waits until we ask for the body.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    length: int
    is_last: bool
    waits: bool


def read_head(head: bytes) -> RequestHead:
    """The request that begins so, with the empty line at its end.

    Raises:
        RefusedRequest: it is not a request, or its body has no certain end (400, 411, 505).
    """
    lines = head.decode("latin-1").split("\r\n")[:-2]
    parts = lines[0].split(" ") if lines else []
    if len(parts) != 3 or not parts[2].startswith("HTTP/"):
        raise RefusedRequest(400, "this is not an HTTP request")
    if parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise RefusedRequest(505, "only HTTP/1.1 is supported")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, text = line.partition(":")
        key = name.lower()
        if not colon or not name or name != name.strip() or key in headers:
            raise RefusedRequest(400, "a header cannot be read or is repeated")
        headers[key] = text.strip()
    if "transfer-encoding" in headers:
        raise RefusedRequest(411, "Content-Length is required")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) <= _LENGTH_DIGITS):
        raise RefusedRequest(400, "Content-Length is not a number")
    return RequestHead(
        parts[0],
        parts[1].partition("?")[0],
        headers,
        int(length),
        parts[2] == "HTTP/1.0" or headers.get("connection", "").lower() == "close",
        headers.get("expect", "").lower() == "100-continue",
    )


class Doorkeeper:
    """Decides who may send records to the relay.

    Args:
        tokens: one of these is required, if there are any; then from any user of this machine.
        users: else, the users whose processes may; None: all of this machine.
        find_user: finds the user of a connection.
    """

    def __init__(
        self,
        tokens: frozenset[str],
        users: frozenset[int] | None,
        find_user: Callable[[Address, Address], int | None],
    ) -> None:
        self._hashes = [_hashed(token) for token in tokens]
        self._users, self._find_user = users, find_user

    def user_of(self, ours: Address, theirs: Address) -> int | None:
        """Whose the other end of a connection is; None where that is not known, or not asked."""
        return self._find_user(ours, theirs) if self._users else None

    def check(self, head: RequestHead, user: int | None) -> None:
        """Check a request of a user before its body is read.

        Raises:
            RefusedRequest: it is for something else (404, 405, 415), too long (413), or from
                somebody who may not (401, 403).
        """
        host = head.headers.get("host", "")
        if "origin" in head.headers or not _is_here(host):
            raise RefusedRequest(403, "only programs of this machine may post here, not web pages")
        if head.path != PATH:
            raise RefusedRequest(404, f"send records to {PATH}")
        if head.method != "POST":
            raise RefusedRequest(405, "send records with POST")
        self._check_sender(head, user)
        if head.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedRequest(415, "send records as application/json")
        if head.length > BODY_LIMIT:
            raise RefusedRequest(
                413, f"{head.length} bytes in one request; the limit is {BODY_LIMIT}"
            )

    def _check_sender(self, head: RequestHead, user: int | None) -> None:
        kind, _, token = head.headers.get("authorization", "").partition(" ")
        given = _hashed(token.strip()) if kind.lower() == "bearer" else b""
        is_known = [hmac.compare_digest(given, one) for one in self._hashes]
        if any(is_known):
            return
        if self._hashes and self._users == frozenset():
            raise RefusedRequest(401, "the relay's token is required")
        if self._users is not None and user not in self._users:
            raise RefusedRequest(403, "this relay takes records of another user")


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _is_here(host: str) -> bool:
    """Whether a Host header names this machine itself, and no name that leads here."""
    name = host.lower().rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host.lower()
    if name in _OURS:
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
