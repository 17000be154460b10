"""What is shown of a URL, whatever it is."""

from __future__ import annotations

import pytest

from carbontrack.record import told
from carbontrack.sinks.factory import trouble_of_address
from carbontrack.system.urls import origin_of, shown

NO_URLS = [
    "http://[hunter2",
    "http://[::1",
    "https://carbon.example:hunter2/",
    "http://x]hunter2/",
    "https://u:hunter2@exampl\u2100/",  # a character that would become "a/c"
    "://?hunter2",
    "https://u:hunter2@\ud800/",
    "http://:99999?hunter2",
]


@pytest.mark.parametrize("url", NO_URLS, ids=ascii)
def test_what_is_no_url_is_shown_without_a_secret(url: str) -> None:
    """And nothing raises: it may stand in a file that others have written."""
    assert "hunter2" not in shown(url) + told(url) + str(trouble_of_address(url))
    assert trouble_of_address(url)
    origin_of(url)


def test_a_url_is_shown_without_its_secrets() -> None:
    """What remains says which server, and where on it."""
    assert shown("https://u:hunter2@carbon.example:81/a?key=hunter2#x") == (
        "https://carbon.example:81/a"
    )
