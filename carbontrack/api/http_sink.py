"""The HTTP sink as a program makes it by hand: its journal is where the settings say.

The sinks' own floor knows of no settings, and only `carbontrack.config.load` reads the environment.
"""

from __future__ import annotations

from pathlib import Path

from carbontrack.config import load
from carbontrack.sinks import http


class HttpSink(http.HttpSink):
    """Posts records, as a JSON array, to a URL.

    Each record is in a journal before any attempt to send it, and leaves it when the server has
    answered 2xx. A thread sends; the caller only writes to the journal. What is left at the exit,
    which waits `exit_timeout_s` at most, is sent by the next process with the same journal and
    URL, or by `carbontrack sync`. A record can therefore arrive twice, never not at all;
    `record_id` tells a repetition.

    Args:
        url: http or https, without a password in it.
        token: sent as `Authorization: Bearer …`, and never shown.
        timeout_s: the longest wait for a connection, and for an answer.
        batch: the most records in one request.
        exit_timeout_s: how long `close` may wait.
        journal: where records wait; by default a journal in the setting `state_dir`.
        clock: the time.

    Raises:
        ConfigError: the URL, the token, a number or the settings cannot be used.
    """

    @staticmethod
    def own_state_dir() -> Path:
        """The folder of the settings, which `carbontrack sync` looks into."""
        return load.state_path(load.load_settings(writes=False))
