"""HTTP requests without redirects and passwords from .netrc, and with bounded answers.

The library, `requests`, is imported by the first request; certificates are checked, as it does by
default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from carbontrack.system.forking import holding_forks

if TYPE_CHECKING:
    import requests

    Authorize = Callable[[requests.PreparedRequest], requests.PreparedRequest]


class Answer(NamedTuple):
    """What a server has answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


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
    return session


def exchange(
    session: requests.Session,
    method: str,
    url: str,
    *,
    timeout_s: float | tuple[float, float],
    auth: tuple[str, str] | Authorize | None = None,
    limit_bytes: int = 0,
    **content: Any,
) -> Answer:
    """Send one request and read the answer, of its body `limit_bytes` at most.

    Args:
        session: from `new_session`.
        method: such as "GET".
        url: the address.
        timeout_s: for the connection and for each wait for further bytes; a pair has one for each.
        auth: a user name and password, or what adds a token to the request.
        limit_bytes: the most that is read of the body; more is left unread.
        content: `headers`, `params` and `data`, as `requests` takes them.

    Raises:
        requests.RequestException: there was no answer.
        Exception: the body could not be read; urllib3 and ssl have errors of their own.
    """
    with session.request(
        method,
        url,
        auth=auth or _unchanged,
        timeout=timeout_s,
        allow_redirects=False,
        stream=True,
        **content,
    ) as answer:
        body = answer.raw.read(limit_bytes, decode_content=True) if limit_bytes else b""
        return Answer(answer.status_code, answer.headers, body)


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    # without any `auth`, requests would look for a password in ~/.netrc
    return request


def retry_after_s(header: str | None, *, now: datetime) -> float | None:
    """The wait that a Retry-After header asks for, in seconds or until a date (RFC 9110, 10.2.3).

    None where there is no header, or one that cannot be read. urllib3's parser does not fit: it
    measures dates against the system's clock, and raises for what it cannot read.
    """
    text = (header or "").strip()
    if text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=timezone.utc)
    return max(0.0, (until - now).total_seconds())
