"""The public HTTP sink, whose journal is in the directory that the settings name."""

from __future__ import annotations

from pathlib import Path

from carbontrack.config import load
from carbontrack.sinks.http import JournaledHttpSink


class HttpSink(JournaledHttpSink):
    """Posts records, as a JSON array, to a URL.

    Each record is written to a journal first, sent by a thread in the background, and removed from
    the journal when the server has answered 2xx. Records that are left when `exit_timeout_s` has
    passed at exit are sent by the next process with the same journal and URL, or by `carbontrack
    sync`. Delivery is at least once: a record may arrive twice, with the same `record_id`.

    Args:
        url: http or https, without a password in it.
        token: sent as `Authorization: Bearer …`, and never shown.
        timeout_s: the longest time of a request, from the connection to the answer.
        batch: the largest number of records in one request.
        exit_timeout_s: the longest time that `close` may take.
        journal: where records wait; by default a journal in the setting `state_dir`.
        clock: the time source.

    Raises:
        ConfigError: the URL, the token, a number or the settings cannot be used.
    """

    @staticmethod
    def default_state_dir() -> Path:
        """The directory of the setting `state_dir`, where `carbontrack sync` looks."""
        return load.state_path(load.load_settings(writes=False))
