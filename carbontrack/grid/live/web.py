"""Asking a web service for JSON, so that every way of failing is one kind of error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from carbontrack.forking import holding_forks

if TYPE_CHECKING:
    import requests

TIMEOUT_S = (3.05, 10.0)
"""Seconds to connect and to wait for the next bytes; only ever spent on a background thread."""
LARGEST_BYTES = 4 * 1024 * 1024
_SHOWN = 120


@dataclass(eq=False)
class FetchFailed(Exception):  # noqa: N818 - states what happened
    """A service did not give what was asked; the reason holds no secret.

    `retry_after_s` is the service's own wish; `refused` means that asking again soon is pointless
    (a wrong token, an unknown zone).
    """

    reason: str
    retry_after_s: float | None = None
    refused: bool = False

    def __str__(self) -> str:
        return self.reason


class Get(Protocol):
    """Fetches JSON; `Web.get` is one, and a test's function may be another."""

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
    """HTTP through requests: certificates checked, no redirects, nothing secret in any message."""

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
            FetchFailed: no connection, an answer that is no 2xx, too much of it, or no JSON.
        """
        with holding_forks():
            import requests

        where = url.partition("?")[0]
        try:
            with requests.get(
                url,
                params=params,
                headers={"Accept": "application/json", **(headers or {})},
                auth=login or _leave_alone,
                timeout=self._timeout_s,
                allow_redirects=False,
                stream=True,
            ) as answer:
                body = answer.raw.read(LARGEST_BYTES + 1, decode_content=True)
        except Exception as error:  # requests, urllib3 and ssl each have their own kinds
            # only the kind: their texts may quote the address, and with it a key
            raise FetchFailed(f"{where}: {type(error).__name__}") from None
        if not 200 <= answer.status_code < 300:
            raise self._refusal(where, answer, body)
        return _parsed(where, body)

    def _refusal(self, where: str, answer: requests.Response, body: bytes) -> FetchFailed:
        status = answer.status_code
        said = " ".join(body[:2000].decode("utf-8", "replace").split())
        for secret in self._secrets:
            said = said.replace(secret, "***")
        reason = f"{where}: HTTP {status} {said[:_SHOWN]}".rstrip()
        refused = status in (400, 401, 403, 404)
        return FetchFailed(reason, _retry_after_s(answer.headers.get("Retry-After")), refused)


def _leave_alone(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stand where requests would otherwise look for a password in ~/.netrc."""
    return request


def _parsed(where: str, body: bytes) -> Any:
    import json

    if len(body) > LARGEST_BYTES:
        raise FetchFailed(f"{where}: the answer is larger than {LARGEST_BYTES} bytes")
    try:
        return json.loads(body)
    except ValueError:
        raise FetchFailed(f"{where}: the answer is no JSON") from None


def _retry_after_s(header: str | None) -> float | None:
    """Seconds, where the header gives seconds; dates are left to our own back-off."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
