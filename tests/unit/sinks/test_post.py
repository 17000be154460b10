"""What an answer means, and what may be asked in the first place."""

from __future__ import annotations

import pytest

from carbontrack.errors import ConfigError
from carbontrack.sinks.post import checked_token, checked_url, result_for
from carbontrack.system.urls import shown


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, "delivered"), (201, "delivered"), (202, "delivered"), (204, "delivered")]
    + [(status, "later") for status in (408, 425, 429, 500, 502, 503, 504, 507, 599)]
    + [(status, "refused") for status in (301, 302, 307, 308, 401, 403, 404, 405, 410, 415, 451)]
    + [(status, "divide") for status in (400, 413, 422)],
)
def test_a_status_has_one_meaning(status: int, verdict: str) -> None:
    """2xx is delivered; what may pass is tried again; the rest is set aside."""
    assert result_for(status).verdict == verdict


@pytest.mark.parametrize(("asked_s", "wait_s"), [(None, None), (7.0, 7.0), (86400.0, 600.0)])
def test_a_server_is_granted_ten_minutes_at_most(asked_s: float | None, wait_s: float | None):
    """What Retry-After asks for is waited for, within bounds."""
    assert result_for(503, asked_s).wait_s == wait_s


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8765/records", "https://carbon.example", "https://[::1]:8/x?y=z"],
)
def test_http_addresses_are_taken(url: str) -> None:
    """An address with a host is taken as it is."""
    assert checked_url(url) == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://carbon.example/x", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("https:///records", "name a host"),
        ("https://ada:hunter2@carbon.example/", "user name or password"),
        ("https://hunter2@carbon.example/", "token"),
        ("https://carbon.example:port/", "is not a valid URL"),
        ("https://carbon.example/a b", "space"),
        ("https://carbon.example/a\x01b", "control character"),
        ("htps://carbon.example/?key=hunter2", "http:// or https://"),
    ],
)
def test_other_addresses_are_refused_without_repeating_a_secret(url: str, words: str) -> None:
    """The error says what is wrong, and shows neither password nor query."""
    with pytest.raises(ConfigError, match=words) as caught:
        checked_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "hunter2\n", "hunter2 x", "hünter2", "hunter2\x7f"])
def test_a_token_that_no_header_holds_is_refused_unseen(token: str) -> None:
    """A line end from a file is found before anything is sent, and not shown."""
    with pytest.raises(ConfigError) as caught:
        checked_token(token)
    assert "unter2" not in str(caught.value)


def test_what_is_shown_of_an_address() -> None:
    """Never a query or a user."""
    assert shown("https://u:p@carbon.example:8/x?key=1#y") == "https://carbon.example:8/x"
