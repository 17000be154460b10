"""One attempt to post records to a URL, and what its result means for the records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from carbontrack.errors import ConfigError
from carbontrack.record import Record
from carbontrack.sinks.jsonl import json_line, record_object
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.http import Answer, exchange, load_requests, new_session, retry_after_s
from carbontrack.system.interrupts import pass_on
from carbontrack.system.urls import origin_of, shown
from carbontrack.values import Value

if TYPE_CHECKING:
    import requests

RETRY_AFTER_LIMIT_S = 600.0
"""The longest wait that a server is granted."""
BAD_CERTIFICATE_WAIT_S = NO_TOKEN_WAIT_S = 3600.0
"""An invalid certificate will still be invalid a minute later, and a token will not be set."""
HOW_TO_GIVE_ONE = (
    "and no token is set for this address: set CARBONTRACK_HTTP_TOKEN, together with this address "
    "as CARBONTRACK_OUTPUT, or name the address: carbontrack sync --url URL"
)
TOO_LATE = "no answer before the program ended"
_WANTS_A_TOKEN = frozenset({401, 403})
_RETRIED = frozenset({408, 425, 429})
_PERHAPS_ONE = frozenset({400, 413, 422})

Verdict = Literal["delivered", "later", "refused", "divide"]


class PostResult(Value):
    """The result of an attempt.

    Attributes:
        verdict: delivered; later: retry; refused: never retry; divide: the size or a single record
            may be the cause, so retry with half of them.
        reason: in carbontrack's words, never the server's, which may repeat a secret.
        status: the HTTP status, if there was an answer.
        wait_s: how long to wait before the next attempt, if the server said so.
    """

    verdict: Verdict
    reason: str
    status: int | None = None
    wait_s: float | None = None


class Poster:
    """Posts records to one URL with one token; not thread-safe.

    A URL's query is hidden from the logs of other libraries.
    """

    def __init__(
        self, url: str, *, token: str | None, timeout_s: float, clock: Clock | None = None
    ) -> None:
        self.url = url
        self._address, _, self._query = url.partition("#")[0].partition("?")
        self._clock = clock or SystemClock()
        self._token = token
        self._timeout_s = timeout_s
        self._session: requests.Session | None = None

    def post(self, records: Sequence[Record], *, timeout_s: float | None = None) -> PostResult:
        """Try once, in `timeout_s` seconds in all: what is left until the program's end."""
        load_requests()
        import requests

        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        if limit_s <= 0.0:
            return PostResult("later", TOO_LATE)
        began_s = SystemClock.monotonic_s()
        try:
            answer = self._exchange(json_line([record_object(one) for one in records]), limit_s)
        except requests.exceptions.SSLError:
            return PostResult(
                "later", "its certificate is not valid", wait_s=BAD_CERTIFICATE_WAIT_S
            )
        except (requests.exceptions.RequestException, OSError) as error:
            pass_on(error)
            is_late = isinstance(error, requests.exceptions.Timeout)
            if is_late or SystemClock.monotonic_s() - began_s >= limit_s:
                is_end = limit_s < self._timeout_s
                return PostResult(
                    "later", TOO_LATE if is_end else f"no answer within {limit_s:g} s"
                )
            # only the type: the text of the error contains the whole URL
            return PostResult("later", f"no connection ({type(error).__name__})")
        if answer.status in _WANTS_A_TOKEN and self._token is None:
            reason = f"HTTP {answer.status}, {HOW_TO_GIVE_ONE}"
            return PostResult("later", reason, answer.status, NO_TOKEN_WAIT_S)
        wait_s = retry_after_s(
            answer.headers.get("Retry-After"),
            now=self._clock.now_utc(),
            server_now=answer.headers.get("Date"),
        )
        return result_for(answer.status, wait_s)

    def _exchange(self, body: bytes, timeout_s: float) -> Answer:
        import requests

        if self._session is None:
            self._session = new_session()
        return exchange(  # the status says all: the body is not read
            self._session,
            "POST",
            self._address,
            data=body,
            headers={
                "Content-Type": "application/json",
                "User-Agent": "carbontrack",
                "Idempotency-Key": hashlib.sha256(body).hexdigest(),
            },
            auth=self._authorize,
            timeout_s=timeout_s,
            query=requests.utils.requote_uri(self._query),
        )

    def close(self) -> None:
        """Close the connection; a later post opens another."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _authorize(self, request: Any) -> Any:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def result_for(status: int, wait_s: float | None = None) -> PostResult:
    """What an HTTP status means for the records that were sent; `wait_s` is its Retry-After."""
    if 200 <= status < 300:
        return PostResult("delivered", f"HTTP {status}", status)
    if status in _PERHAPS_ONE:
        return PostResult("divide", f"HTTP {status}", status)
    if status in _RETRIED or status >= 500:
        granted_s = None if wait_s is None else min(wait_s, RETRY_AFTER_LIMIT_S)
        return PostResult("later", f"HTTP {status}", status, granted_s)
    redirect = " redirects, which are not followed" if 300 <= status < 400 else ""
    return PostResult("refused", f"HTTP {status}{redirect}", status)


def checked_url(url: str) -> str:
    """The URL, if records can be posted to it.

    Raises:
        ConfigError: it cannot be used; the message does not repeat a password in it.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # whose text may contain a password
        raise ConfigError(
            f"output {shown(url)!r} is not a valid URL; its host or its port is invalid"
        ) from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"the output URL for {host} holds a user name or password; give a token instead, as "
            f"token=… or in CARBONTRACK_HTTP_TOKEN"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f"output {shown(url)!r} is not an address to send records to; it must begin with "
            "http:// or https:// and name a host, such as https://carbon.example/records"
        )
    if any(character.isspace() or ord(character) < 32 for character in url):
        raise ConfigError(f"output {shown(url)!r} contains a space or a control character")
    return url


def checked_token(token: str | None) -> str | None:
    """The token, if an HTTP header can hold it.

    Raises:
        ConfigError: it cannot; the message does not show it.
    """
    if token is None:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            "the token is empty or has characters that an HTTP header cannot contain, perhaps a "
            "line break from the file it was read from; it is not shown here"
        )
    return token


def token_for(url: str, token: str | None, addresses: Iterable[str]) -> str | None:
    """The token, if the URL leads to the server of an address that was given with the token.

    A URL from a journal or a dead-letter file may have been written there by any program.
    """
    origin = origin_of(url)
    is_named = origin is not None and origin in map(origin_of, addresses)
    return token if is_named else None


def is_unencrypted(url: str) -> bool:
    """Whether what is sent to the URL can be read on the way: plain http to another machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    here = host in ("localhost", "::1") or host.startswith("127.")
    return parts.scheme == "http" and not here
