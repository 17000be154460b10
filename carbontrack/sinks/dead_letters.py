"""Records that a server refused for good: set aside with the reason, never lost."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from carbontrack.json_text import json_line, record_object
from carbontrack.private_files import make_private_folder
from carbontrack.records import Record
from carbontrack.sinks.post import Outcome

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_FLAGS |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

FOLDER = "dead-letter"
"""Where they are, inside of the state directory."""


def set_aside(
    state_dir: Path, url: str, records: Sequence[Record], outcome: Outcome, *, now: datetime
) -> Path:
    """Add a line for each record to the dead letters of this URL, for this user's eyes only.

    Each line is a JSON object with `record`, `status`, `reason` and `time`.

    Raises:
        OSError: they could not all be written.
    """
    folder = state_dir / FOLDER
    make_private_folder(folder)
    path = folder / _name(url)
    handle = os.open(path, _FLAGS, 0o600)
    try:
        for record in records:
            letter = {
                "record": record_object(record),
                "status": outcome.status,
                "reason": outcome.reason,
                "time": now.isoformat(),
            }
            line = json_line(letter)
            if os.write(handle, line) != len(line):
                raise OSError(28, "the disk is full", str(path))
    finally:
        os.close(handle)
    return path


def _name(url: str) -> str:
    # a host can be told from the name, but nothing in a URL can become a part of a path
    host = re.sub(r"[^a-z0-9-]+", "_", (urlsplit(url).hostname or "").lower())[:60]
    return f"{host}-{hashlib.sha256(url.encode()).hexdigest()[:12]}.ndjson"
