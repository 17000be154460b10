"""Recovery: records of killed processes, from their journals to the outputs of their runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from carbontrack.errors import CarbontrackError, SinkError
from carbontrack.record import Record, Sink, plugin_of, told
from carbontrack.sinks.factory import is_file, is_url, sink_for
from carbontrack.sinks.journal.file import JournalFile, Key
from carbontrack.sinks.journal.journal import (
    CALL,
    RUN,
    SEND,
    OnUnreadable,
    leftover_journals,
    record_in,
    sparse,
    warn_unreadable,
)
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.log import LOGGER, RateLimitedLog

OpenSink = Callable[[str], Sink]
RETRY_FOR_S = 7 * 86_400.0
"""How long an output that cannot be written is retried."""


class Recovered(NamedTuple):
    """A record from the journal of a killed process, and one of its outputs.

    Attributes:
        record: a checkpoint, with the status "recovered", or a finished record as it was.
        output: a path; a URL, for which it now waits in the journal; None if the run had none.
        trouble: why it could not be written; it stays in the journal and is retried.
    """

    record: Record
    output: str | None
    trouble: str | None = None


def opener(*, is_ours: bool) -> OpenSink:
    """How to open the outputs in a journal: those of plugins only if the folder is the user's.

    A folder of journals that a project's file has chosen may contain an address that the project
    has put there, and a project may not hand an address to a plugin.
    """
    return sink_for if is_ours else _file_sink


def _file_sink(output: str) -> Sink:
    if plugin_of(output) is not None:
        raise SinkError(
            f"{told(output)} is handed nothing from a state_dir that a project's file has chosen; "
            "set state_dir in the environment or in your own config.toml"
        )
    return sink_for(output)


def pick_up(state_dir: Path, open_sink: OpenSink = sink_for) -> None:
    """Recover at the start of a run: logs what was found, and never raises."""
    try:
        found = recover(state_dir, open_sink=open_sink, on_unreadable=_told_of(state_dir))
    except Exception as error:
        LOGGER.warning("killed runs could not be recovered: %r", error)
        return
    for recovered in found:
        LOGGER.info(
            "recovered %r, which was killed after %s, for %s: %s",
            recovered.record.name,
            recovered.record.ended_at,
            _named(recovered.output),
            recovered.trouble or "done",
        )


def _told_of(state_dir: Path) -> OnUnreadable:
    """What tells of journals that cannot be read, at the start of a run."""
    warnings = RateLimitedLog()

    def tell(path: Path, error: OSError) -> None:
        # a folder that cannot be used at all is told of by the journal that is to be written there
        if path.parent != state_dir:
            warn_unreadable(warnings, path, error)

    return tell


def recover(
    state_dir: Path,
    *,
    open_sink: OpenSink = sink_for,
    instead: str | None = None,
    clock: Clock | None = None,
    on_unreadable: OnUnreadable | None = None,
) -> list[Recovered]:
    """Write the records of killed processes to their outputs; never raises for a file.

    A record whose output cannot be written goes to the file `instead`, if there is one.

    Processes that still run are left alone. However many processes call this at once, each record
    is written by one of them. What cannot be written is retried the next time, and moved to a
    dead-letter file after a week. A journal that cannot be read goes to `on_unreadable`, by
    default to the log.
    """
    found: list[Recovered] = []
    now = (clock or SystemClock()).now_utc()
    for file in leftover_journals(state_dir, clock, on_unreadable=on_unreadable):
        with closing(file):
            try:
                unchanged_s = now.timestamp() - file.path.stat().st_mtime
                is_retry = not file.keys(RUN)
                file.drop(file.keys(CALL))  # what was inside of them has rows of its own
                found += _end_runs(file)
                found += _write_records(file, open_sink, instead)
                if is_retry and unchanged_s > RETRY_FOR_S:
                    _give_up(file, state_dir, now)
            except OSError as error:
                found += _unchanged(file, error)
    return found


def _end_runs(file: JournalFile) -> Iterator[Recovered]:
    """Turn each open run into undelivered records; yields those that need no file written."""
    for key in file.keys(RUN):
        record, outputs = record_in(file, key), _outputs(file, key)
        if record is not None:
            record = replace(record, status="recovered")
            _write_timeline(file.get(key) or {}, outputs)
            for output in outputs:
                file.put((SEND, output, record.record_id), {"record": sparse(record)})
                if is_url(output):
                    yield Recovered(record, output)
            if not outputs:
                yield Recovered(record, None)
        file.drop([key])


def _write_timeline(entry: Mapping[str, Any], outputs: Sequence[str]) -> None:
    """Write power over time up to the checkpoint; where that fails it is logged and lost."""
    timeline = entry.get("timeline")
    if not isinstance(timeline, dict):
        return
    from carbontrack.sinks.timelines import TimelineFiles  # few keep one

    try:
        files = TimelineFiles([Path(output) for output in outputs if is_file(output)])
        files.write(timeline)
    except (OSError, CarbontrackError) as error:
        LOGGER.warning("the timeline of a killed run could not be written: %s", error)


def _records_to_write(file: JournalFile) -> Iterator[tuple[Key, Record]]:
    for key in file.keys(SEND):
        record = None if is_url(key[1]) else record_in(file, key)
        if record is not None:
            yield key, record


def _write_records(
    file: JournalFile, open_sink: OpenSink, instead: str | None
) -> Iterator[Recovered]:
    """Write each record whose output is not a URL."""
    for key, record in _records_to_write(file):
        output = key[1]
        trouble = trouble_of_writing(record, output, open_sink)
        if trouble is not None and instead is not None:
            output, trouble = instead, trouble_of_writing(record, instead, open_sink)
        if trouble is None:
            file.drop([key])
        yield Recovered(record, output, trouble)


def trouble_of_writing(record: Record, output: str, open_sink: OpenSink) -> str | None:
    """Write the record; why that failed, or None."""
    try:
        sink = open_sink(output)
        sink.write(record)
        sink.close()  # raises if the record could not be written
    except (OSError, CarbontrackError) as error:
        return str(error)
    return None


def _give_up(file: JournalFile, state_dir: Path, now: datetime) -> None:
    """Move what could not be written for a week to dead letters, as for a deleted directory."""
    from carbontrack.sinks.delivery import write_dead_letters
    from carbontrack.sinks.post import PostResult

    for key, record in _records_to_write(file):
        result = PostResult("refused", f"{key[1]} could not be written for a week")
        path = write_dead_letters(state_dir, key[1], [record], result, now=now)
        file.drop([key])
        LOGGER.warning(
            "%s could not be written for a week; its records are set aside in %s, and tried again "
            "by: carbontrack sync --dead-letters", told(key[1]), path
        )  # fmt: skip


def _named(output: str | None) -> str:
    if output is None:
        return "no output"
    return "its server" if is_url(output) else told(output)


def _unchanged(file: JournalFile, error: OSError) -> Iterator[Recovered]:
    for key in file.keys(RUN):
        record = record_in(file, key)
        if record is not None:
            yield Recovered(record, None, f"{file.path} cannot be written: {error.strerror}")


def _outputs(file: JournalFile, key: Key) -> list[str]:
    entry = file.get(key) or {}
    outputs = entry.get("outputs")
    return [str(output) for output in outputs] if isinstance(outputs, list) else []
