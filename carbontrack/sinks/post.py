"""One attempt to post records to a URL, and what its result means for the records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from carbontrack.errors import ConfigError
from carbontrack.record import Record
from carbontrack.sinks.jsonl import json_line, record_object
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.http import exchange, load_requests, new_session, retry_after_s

if TYPE_CHECKING:
    import requests

RETRY_AFTER_LIMIT_S = 600.0
"""The longest wait that a server is granted."""
BAD_CERTIFICATE_WAIT_S = 3600.0
"""An invalid certificate will still be invalid a minute later."""
_RETRIED = frozenset({408, 425, 429})
_PERHAPS_ONE = frozenset({400, 413, 422})

Verdict = Literal["delivered", "later", "refused", "divide"]


@dataclass(frozen=True, slots=True)
class PostResult:
    """The result of an attempt.

    Attributes:
        verdict: delivered; later: retry; refused: never retry; divide: the size or a single record
            may be the cause, so retry with half of them.
        reason: in our own words, never the server's, which may repeat a secret.
        status: the HTTP status, if there was an answer.
        wait_s: how long to wait before the next attempt, if the server said so.
    """

    verdict: Verdict
    reason: str
    status: int | None = None
    wait_s: float | None = None


class Poster:
    """Posts records to one URL with one token; not thread-safe."""

    def __init__(
        self, url: str, *, token: str | None, timeout_s: float, clock: Clock | None = None
    ) -> None:
        self.url = url
        self._clock = clock or SystemClock()
        self._token = token
        self._timeout_s = timeout_s
        self._session: requests.Session | None = None

    def post(self, records: Sequence[Record], *, timeout_s: float | None = None) -> PostResult:
        """Try once; `timeout_s` is the longest wait for a connection, and for an answer."""
        load_requests()
        import requests

        body = json_line([record_object(record) for record in records])
        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        try:
            if self._session is None:
                self._session = new_session()
            answer = exchange(  # the status says all: the body is not read
                self._session,
                "POST",
                self.url,
                data=body,
                headers={
                    "Content-Type": "application/json",
                    "User-Agent": "carbontrack",
                    "Idempotency-Key": hashlib.sha256(body).hexdigest(),
                },
                auth=self._authorize,
                timeout_s=limit_s,
            )
        except requests.exceptions.SSLError:
            return PostResult(
                "later", "its certificate does not hold", wait_s=BAD_CERTIFICATE_WAIT_S
            )
        except requests.exceptions.Timeout:
            return PostResult("later", f"no answer within {limit_s:g} s")
        except (requests.exceptions.RequestException, OSError) as error:
            # only the type: the text of the error contains the whole URL
            return PostResult("later", f"no connection ({type(error).__name__})")
        wait_s = retry_after_s(answer.headers.get("Retry-After"), now=self._clock.now_utc())
        return result_for(answer.status, wait_s)

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
    except ValueError as error:
        raise ConfigError(f"the output URL cannot be read: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"the output URL for {host} holds a user name or password; give a token instead, as "
            f"token=… or in CARBONTRACK_HTTP_TOKEN"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(
            f"output {shown(url)!r} is no address to post to; it must begin with http:// or "
            f"https:// and name a host, such as https://carbon.example/records"
        )
    if any(character.isspace() or ord(character) < 32 for character in url):
        raise ConfigError(f"output {shown(url)!r} has a space or a control character in it")
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
            "the token is empty or has characters that an HTTP header cannot hold, perhaps a line "
            "end from the file it was read from; it is not shown here"
        )
    return token


def is_unencrypted(url: str) -> bool:
    """Whether what is sent to the URL can be read on the way: plain http to another machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    here = host in ("localhost", "::1") or host.startswith("127.")
    return parts.scheme == "http" and not here


def shown(url: str) -> str:
    """The URL as it may be shown: without a password or the query, which often holds a key."""
    try:
        parts = urlsplit(url)
    except ValueError:  # as "http://[", which may stand in a journal that others have written
        return "a URL that cannot be read"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
