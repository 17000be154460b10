"""What a server asks for, and what is sent to it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from carbontrack.system.http import Answer, exchange, new_session, retry_after_s
from carbontrack.testing.receiver import Fault, Receiver

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("86400", 86400.0),
        ("9" * 40, pytest.approx(1e40)),
        ("Tue, 24 Nov 2026 12:00:30 GMT", 30.0),
        ("Tuesday, 24-Nov-26 12:00:30 GMT", 30.0),
        ("Tue Nov 24 12:00:30 2026", 30.0),
        ("Tue, 24 Nov 2026 11:00:00 GMT", 0.0),
        ("Wed, 25 Nov 2026 12:00:00 GMT", 86400.0),
        ("Tue, 24 Nov 2026 13:00:30 +0100", 30.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", 3.0),
        ("9" * 5000, float("inf")),
        ("Fri, 31 Dec 9999 23:59:59 GMT", pytest.approx(2.5e11, rel=0.01)),
        ("Fri, 31 Dec 99999999999 23:59:59 GMT", None),
        ("Tue, 24 Nov 2026 12:00:30 +99999999999", None),
        ("Tue, 24 Nov 0001 00:00:00 +2359", 0.0),
        ("Tue, 32 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_in_both_forms(header: str | None, wait_s: float | None) -> None:
    """Seconds and dates are understood; what is neither is no wait."""
    assert retry_after_s(header, now=NOW) == wait_s


@pytest.mark.parametrize("hours_apart", [-30, -1, 1, 30])
def test_clocks_that_differ_do_not_count(hours_apart: int) -> None:
    """A date is measured against the server's own clock, which its answer names."""
    theirs = NOW + timedelta(hours=hours_apart)
    until = format_datetime(theirs + timedelta(seconds=30), usegmt=True)

    assert retry_after_s(until, now=NOW, server_now=format_datetime(theirs, usegmt=True)) == 30.0
    assert retry_after_s("7", now=NOW, server_now=format_datetime(theirs, usegmt=True)) == 7.0
    assert retry_after_s(until, now=theirs, server_now="yesterday") == 30.0


def ask(url: str, limit_bytes: int = 0) -> Answer:
    """Post an empty list."""
    with new_session(uses_proxies=False) as session:
        return exchange(
            session, "POST", url, data=b"[]", headers={}, timeout_s=10.0, limit_bytes=limit_bytes
        )


def test_a_redirect_is_an_answer():
    """It is not followed, so that nothing that was sent reaches another address."""
    with Receiver(faults=lambda _: Fault(302, {"Location": "/elsewhere"})) as receiver:
        answer = ask(receiver.url)

        assert (answer.status, answer.is_success) == (302, False)
        assert answer.headers["Location"] == "/elsewhere"
        assert len(receiver.requests) == 1
