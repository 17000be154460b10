"""One attempt to deliver records to an address, and what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from carbontrack.errors import ConfigError
from carbontrack.record import Record
from carbontrack.sinks.jsonl import json_line, record_object
from carbontrack.system.clock import Clock, SystemClock

if TYPE_CHECKING:
    import requests

RETRY_AFTER_LIMIT_S = 600.0
"""The longest wait that a server can ask for and get."""
BAD_CERTIFICATE_WAIT_S = 3600.0
"""A certificate that does not hold is not going to a minute later."""
_RETRIED = frozenset({408, 425, 429})
_PERHAPS_ONE = frozenset({400, 413, 422})

Verdict = Literal["delivered", "later", "refused", "divide"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt.

    Attributes:
        verdict: delivered; later: try the same again; refused: never try again; divide: it may be
            the size, or one record among them, so try a half.
        reason: in a few words of our own, never the server's: its answer may repeat a secret.
        status: the HTTP status, if there was an answer.
        wait_s: how long the server wants to be left alone, if it said so.
    """

    verdict: Verdict
    reason: str
    status: int | None = None
    wait_s: float | None = None


class Poster:
    """Posts records to one URL with one token; used by one thread.

    Certificates are always checked, redirects are never followed, and nothing but the token given
    here is ever sent as one: not what a .netrc file holds.
    """

    def __init__(
        self, url: str, *, token: str | None, timeout_s: float, clock: Clock | None = None
    ) -> None:
        self.url = url
        self._clock = clock or SystemClock()
        self._token = token
        self._timeout_s = timeout_s
        self._session: requests.Session | None = None

    def post(self, records: Sequence[Record], *, timeout_s: float | None = None) -> Outcome:
        """Try once; takes `timeout_s` at most for each step of the exchange."""
        import requests

        body = json_line([record_object(record) for record in records])
        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, self._timeout_s)
        try:
            if self._session is None:
                self._session = requests.Session()
            with self._session.post(
                self.url,
                data=body,
                headers={
                    "Content-Type": "application/json",
                    "User-Agent": "carbontrack",
                    "Idempotency-Key": hashlib.sha256(body).hexdigest(),
                },
                auth=self._authorize,
                timeout=limit_s,
                allow_redirects=False,
                stream=True,  # the status says all; a body without end cannot hold us
            ) as answer:
                asked = answer.headers.get("Retry-After")
                return judged(answer.status_code, asked, now=self._clock.now_utc())
        except requests.exceptions.SSLError:
            return Outcome("later", "its certificate does not hold", wait_s=BAD_CERTIFICATE_WAIT_S)
        except requests.exceptions.Timeout:
            return Outcome("later", f"no answer within {limit_s:g} s")
        except (requests.exceptions.RequestException, OSError) as error:
            # only the kind: the text of the error holds the whole URL
            return Outcome("later", f"no connection ({type(error).__name__})")

    def close(self) -> None:
        """Close the connection; a later post opens another."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _authorize(self, request: Any) -> Any:
        # as a callable, so that requests does not look into .netrc for this host
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def judged(status: int, retry_after: str | None, *, now: datetime) -> Outcome:
    """What an HTTP status means for the records that were sent."""
    if 200 <= status < 300:
        return Outcome("delivered", f"HTTP {status}", status)
    if status in _PERHAPS_ONE:
        return Outcome("divide", f"HTTP {status}", status)
    if status in _RETRIED or status >= 500:
        return Outcome("later", f"HTTP {status}", status, wait_asked_s(retry_after, now=now))
    redirect = " redirects, which are not followed" if 300 <= status < 400 else ""
    return Outcome("refused", f"HTTP {status}{redirect}", status)


def wait_asked_s(retry_after: str | None, *, now: datetime) -> float | None:
    """The wait that a Retry-After header asks for, in seconds or by date, within bounds.

    RFC 9110, section 10.2.3. None for no header and for one that cannot be read.
    """
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isdecimal():
        return min(float(text), RETRY_AFTER_LIMIT_S)
    try:
        until = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=timezone.utc)
    wait_s = (until - now).total_seconds()
    return min(max(wait_s, 0.0), RETRY_AFTER_LIMIT_S)


def checked_url(url: str) -> str:
    """The URL, if records may be posted to it.

    Raises:
        ConfigError: it cannot be used; the message never repeats a password in it.
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
    """The token, if it can stand in a header.

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


def travels_open(url: str) -> bool:
    """Whether what is sent to the URL can be read on the way: plain http to another machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    here = host in ("localhost", "::1") or host.startswith("127.")
    return parts.scheme == "http" and not here


def shown(url: str) -> str:
    """The URL as it may be shown: without the query, which often holds a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
