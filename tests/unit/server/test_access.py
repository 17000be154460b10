"""Tokens in headers, and which hosts are this machine."""

from __future__ import annotations

from base64 import b64encode

import pytest

from carbontrack.server.access import is_this_machine, token_in


def basic(text: str) -> str:
    return f"Basic {b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer ct_1_2", "ct_1_2"),
        ("bearer   ct_1_2 ", "ct_1_2"),
        (basic("me:ct_1_2"), "ct_1_2"),
        (basic(":with:colons"), "with:colons"),
        (basic("me:"), None),
        (basic("no colon"), None),
        ("Basic ???", None),
        ("Basic /w==", None),
        ("Basic \xe9", None),
        ("Basic \ud800", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Digest x", None),
        ("", None),
    ],
)
def test_the_token_of_a_header(header: str, token: str | None):
    """A bearer's, or the password of a browser; anything else is none."""
    assert token_in(header) == token


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
def test_which_hosts_are_this_machine(host: str, is_here: bool):
    """A name other than localhost may be anybody's, whatever it resolves to."""
    assert is_this_machine(host) is is_here
