"""Open entries in the journals of this host's other processes, of which one may include this one.

The journal of a running process is only read, never locked or changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carbontrack.sinks.journal.file import decoded, open_to_read
from carbontrack.sinks.journal.journal import CALL, RUN
from carbontrack.sinks.journal.places import completed, facts_in
from carbontrack.values import NamedTuple

_READ_LIMIT = 1 << 22
"""Bytes of a journal above which it is not searched."""
_PUT = re.compile(rb'[0-9a-f]{8} \{"put":\["(?:run|call)","([^"\\]+)"\]')
_FACTS = re.compile(rb'[0-9a-f]{8} \{"facts":')
_DROP = re.compile(rb'[0-9a-f]{8} \{"drop":')


class OpenEntry(NamedTuple):
    """A span or a decorated call that is open in another process.

    Attributes:
        record_id: its record, or the record that the call will be in.
        started_at: when the record begins, as RFC 3339; "" for a call, which has none yet.
        scope: the scope of its tracker.
        pid_namespace: the inode of its process's pid namespace.
    """

    record_id: str
    started_at: str
    scope: str
    pid_namespace: str


def open_entries(path: Path) -> list[OpenEntry]:
    """The open entries of a journal, oldest first, without summed calls, which include nothing.

    Raises:
        OSError: it cannot be read, or is too long to be searched.
    """
    try:
        handle = open_to_read(path)
    except FileNotFoundError:  # its process has just closed it
        return []
    with os.fdopen(handle, "rb") as file:
        content = file.read(_READ_LIMIT + 1)
    if len(content) > _READ_LIMIT:
        raise OSError(f"{path} is too long")
    lines: dict[str, bytes] = {}
    facts: dict[str | None, dict[str, Any]] = {}
    for line in content.splitlines(keepends=True):
        put = _PUT.match(line)
        if put is not None:
            lines[put.group(1).decode(errors="replace")] = line
        elif _FACTS.match(line):
            entry = decoded(line) or {}
            facts[facts_in(entry)] = entry
        elif _DROP.match(line):
            dropped = (decoded(line) or {}).get("drop")
            for key in dropped if isinstance(dropped, list) else ():
                if isinstance(key, list) and key[:1] in ([RUN], [CALL]):
                    lines.pop(str(key[-1]), None)
    found = []
    for line in lines.values():
        entry = decoded(line) or {}
        found.append(_entry_of(completed(entry, facts.get(facts_in(entry)))))
    return [one for one in found if one is not None]


def _entry_of(entry: Mapping[str, Any]) -> OpenEntry | None:
    if entry.get("is_sum"):
        return None
    namespace = str(entry.get("pid_namespace", ""))
    put = entry.get("put")
    if not isinstance(put, list) or len(put) != 2:
        return None
    kind, key_id = put
    if kind == CALL:
        scope = str(entry.get("scope", "process"))
        return OpenEntry(str(key_id).partition("/")[0], "", scope, namespace)
    record = entry.get("record")
    if not isinstance(record, dict):
        return None
    started_at, scope = str(record.get("started_at", "")), str(record.get("scope", "process"))
    return OpenEntry(str(key_id), started_at, scope, namespace)
