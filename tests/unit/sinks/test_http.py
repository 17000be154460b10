"""The HTTP sink before it sends anything."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from carbontrack.errors import ConfigError
from carbontrack.sinks.http import JournaledHttpSink
from carbontrack.sinks.journal.journal import Journal

URL = "https://carbon.example/records?key=hunter2"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch": 0}, "batch must be above 0"),
        ({"timeout_s": 0.0}, "timeout_s must be above 0"),
        ({"timeout_s": float("nan")}, "timeout_s must be above 0"),
        ({"exit_timeout_s": -1.0}, "exit_timeout_s must be 0 or more"),
        ({"token": "two words"}, "token"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, arguments: dict[str, object], words: str
) -> None:
    """Numbers and tokens that make no sense are errors before anything starts."""
    with pytest.raises(ConfigError, match=words):
        JournaledHttpSink(URL, journal=Journal(tmp_path), **arguments)  # type: ignore[arg-type]


def test_a_sink_that_is_not_used_does_nothing(tmp_path: Path) -> None:
    """No thread, no file and no connection come from construction and close."""
    threads = threading.active_count()
    JournaledHttpSink(URL, token="t", journal=Journal(tmp_path / "state")).close()

    assert threading.active_count() == threads
    assert not (tmp_path / "state").exists()


def test_its_repr_shows_where_and_no_secret(tmp_path: Path) -> None:
    """What is printed by accident holds neither token nor query; the address is whole."""
    sink = JournaledHttpSink(URL, token="s3cret", journal=Journal(tmp_path))

    assert repr(sink) == "HttpSink('https://carbon.example/records')"
    assert sink.address == URL
    assert sink.path == tmp_path


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://localhost/", "http://[::1]:1/"])
def test_a_token_may_go_to_this_machine_openly(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On the machine itself nobody listens in, so nothing is said."""
    JournaledHttpSink(url, token="t", journal=Journal(tmp_path))

    assert caplog.records == []


def test_a_token_over_plain_http_is_warned_of(tmp_path: Path) -> None:
    """A token that anybody on the way can read is pointed out, and not shown."""
    with pytest.warns(UserWarning, match=r"http://carbon\.example/.*use https") as caught:
        JournaledHttpSink("http://carbon.example/?q", token="s3cret", journal=Journal(tmp_path))

    assert "s3cret" not in str(caught[0].message)
