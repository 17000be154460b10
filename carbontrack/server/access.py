"""The sender of a request: the project and the permission of its token.

A token comes as a bearer, or from a browser as the password of HTTP's basic authentication, whose
user name is ignored. Tokens are looked up by their text and remembered by its hash.
"""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64decode
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from carbontrack.server.limits import Limits, Refused
from carbontrack.store.base import Store
from carbontrack.store.tokens import Tokens
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.values import NamedTuple

OPEN_PROJECT = "default"
"""The project of a server without tokens."""
MOST_REMEMBERED = 10_000
BEARER = {"WWW-Authenticate": 'Bearer realm="carbontrack"'}
BASIC = {"WWW-Authenticate": 'Basic realm="carbontrack: a read token as password", charset="UTF-8"'}


class Caller(NamedTuple):
    """The sender of a request.

    Attributes:
        project: whose records it may send or read.
        may_send, may_read: the permissions of its token.
        quota_records_per_min: of the project; None for no limit.
    """

    project: str
    may_send: bool
    may_read: bool
    quota_records_per_min: int | None


class Access:
    """Finds the caller of a request by its token.

    `is_open` accepts everyone, as the project `default`, until there is a token: for a server that
    only this machine can reach. Then requests must name this machine as their host, because a page
    in a browser here may have another name resolved to this address.
    """

    def __init__(
        self,
        tokens: Tokens,
        store: Store,
        limits: Limits,
        *,
        is_open: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._tokens = tokens
        self._store = store
        self._keep_s = limits.token_s
        self._is_open = is_open
        self._clock = clock or SystemClock()
        self._known: dict[bytes, tuple[float, Caller | None]] = {}
        self._asking: dict[bytes, asyncio.Future[Caller | None]] = {}

    async def caller(self, headers: Mapping[str, str], challenge: Mapping[str, str]) -> Caller:
        """The caller of a request with these headers; `challenge` is the header of a 401.

        Raises:
            Refused: the request has no token, or an invalid one.
            StoreUnavailable: the store does not respond now.
        """
        if self._is_open and (caller := await self._anybody(headers)) is not None:
            return caller
        text = token_in(headers.get("authorization", ""))
        if text is None:
            raise Refused(401, "a token is required", headers=challenge)
        caller = await self._remembered(hashlib.sha256(text.encode()).digest(), text)
        if caller is None:
            raise Refused(401, "the token is not valid", headers=challenge)
        return caller

    async def _anybody(self, headers: Mapping[str, str]) -> Caller | None:
        """The caller while there is no token; None from the first token on."""
        found = await self._remembered(b"", None)
        if found is None:
            self._is_open = False
        elif not is_this_machine(_host_in(headers)):
            raise Refused(
                403,
                "a server without tokens accepts only requests to a host such as localhost or "
                "127.0.0.1",
            )
        return found

    async def _remembered(self, key: bytes, text: str | None) -> Caller | None:
        now_s = self._clock.monotonic_s()
        until_s, caller = self._known.get(key, (now_s, None))
        if now_s < until_s:
            return caller
        asking = self._asking.get(key)
        if asking is None:  # many requests with one token ask once
            asking = asyncio.ensure_future(asyncio.to_thread(self._find, text))
            self._asking[key] = asking
            asking.add_done_callback(lambda _: self._asking.pop(key))
        caller = await asyncio.shield(asking)
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[key] = now_s + self._keep_s, caller
        return caller

    def _find(self, text: str | None) -> Caller | None:
        """Ask the store; `text` is None for a sender that needs no token."""
        if text is None:
            if self._tokens.has_tokens():
                return None
            project, may_send, may_read = OPEN_PROJECT, True, True
        else:
            token = self._tokens.token(text)
            if token is None:
                return None
            project, may_send, may_read = token.project, token.may == "ingest", token.may == "read"
        quota = self._store.project(project).quota_records_per_min
        return Caller(project, may_send, may_read, quota)


def token_in(authorization: str) -> str | None:
    """The token in the header; None if it contains none."""
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        _user, _, password = b64decode(rest.strip(), validate=True).decode().partition(":")
    except ValueError:  # no base64, or no UTF-8
        return None
    return password or None


def is_this_machine(host: str) -> bool:
    """Whether the name or address can be reached only from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _host_in(headers: Mapping[str, str]) -> str:
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""
