"""HTTP requests for JSON whose failures are all of one kind, and whose messages hold no secrets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from carbontrack.system.clock import SystemClock
from carbontrack.system.http import Answer, exchange, new_session, retry_after_s

TIMEOUT_S = (3.05, 10.0)
"""Seconds to connect, and for all of a request; spent on background threads only."""
LARGEST_BYTES = 4 * 1024 * 1024
_SHOWN = 120


@dataclass(eq=False)
class FetchFailed(Exception):  # noqa: N818 - states what happened
    """A request failed; the reason contains no secret.

    `retry_after_s` is what the service asks for; `refused` means that to retry soon is pointless (a
    wrong token, an unknown zone).
    """

    reason: str
    retry_after_s: float | None = None
    refused: bool = False

    def __str__(self) -> str:
        return self.reason


class Get(Protocol):
    """Fetches JSON: `Web.get`, or a function of a test."""

    def __call__(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        login: tuple[str, str] | None = None,
    ) -> Any:
        """The parsed JSON of a GET, or FetchFailed."""
        ...


class Web:
    """HTTP through requests: certificates checked, no redirects, no secret in any message."""

    def __init__(self, secrets: Iterable[str] = (), *, timeout_s: tuple[float, float] = TIMEOUT_S):
        self._secrets = tuple(secret for secret in secrets if secret)
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return "Web()"

    def get(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        login: tuple[str, str] | None = None,
    ) -> Any:
        """The parsed JSON of a GET.

        Raises:
            FetchFailed: no connection, a status other than 2xx, too long an answer, or no JSON.
        """
        where = url.partition("?")[0]
        shown = {name: text for name, text in (params or {}).items() if text not in self._secrets}
        hidden = {name: text for name, text in (params or {}).items() if text in self._secrets}
        try:
            with new_session() as session:
                answer = exchange(
                    session,
                    "GET",
                    url,
                    params=shown,
                    headers={"Accept": "application/json", **(headers or {})},
                    auth=login,
                    timeout_s=self._timeout_s,
                    limit_bytes=LARGEST_BYTES + 1,
                    query=urlencode(hidden),
                )
        except Exception as error:  # requests, urllib3 and ssl each have their own classes
            # only the class: their messages may quote the address, and with it a key
            raise FetchFailed(f"{where}: {type(error).__name__}") from None
        if not answer.is_success:
            raise self._refusal(where, answer)
        return _parsed(where, answer.body)

    def _refusal(self, where: str, answer: Answer) -> FetchFailed:
        status = answer.status
        said = " ".join(answer.body[:2000].decode("utf-8", "replace").split())
        for secret in self._secrets:
            said = said.replace(secret, "***")
        reason = f"{where}: HTTP {status} {said[:_SHOWN]}".rstrip()
        refused = status in (400, 401, 403, 404)
        asked_s = retry_after_s(
            answer.headers.get("Retry-After"),
            now=SystemClock.now_utc(),
            server_now=answer.headers.get("Date"),
        )
        return FetchFailed(reason, asked_s, refused)


def _parsed(where: str, body: bytes) -> Any:
    import json

    if len(body) > LARGEST_BYTES:
        raise FetchFailed(f"{where}: the answer is larger than {LARGEST_BYTES} bytes")
    try:
        return json.loads(body)
    except ValueError:
        raise FetchFailed(f"{where}: the answer is not JSON") from None
