"""Recovery: records of killed processes, from their journals to the outputs of their runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from carbontrack.errors import CarbontrackError, SinkError
from carbontrack.record import Record, Sink, plugin_of, told
from carbontrack.sinks.factory import is_file, is_url, sink_for, trouble_of_address
from carbontrack.sinks.journal.file import JournalFile
from carbontrack.sinks.journal.journal import (
    CALL,
    NO_RECORD,
    RUN,
    SEND,
    OnSetAside,
    OnUnreadable,
    leftover_journals,
    record_in,
    sparse,
    warn_unreadable,
)
from carbontrack.sinks.journal.names import SetAside
from carbontrack.sinks.journal.places import Key
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.forking import holding_forks
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import LOGGER, RateLimitedLog
from carbontrack.values import NamedTuple, replace

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

    def __repr__(self) -> str:
        output = None if self.output is None else told(self.output)
        return f"Recovered(record={self.record!r}, output={output!r}, trouble={self.trouble!r})"


def opener(*, is_ours: bool) -> OpenSink:
    """How to open the outputs in a journal: those of plugins only if the directory is the user's.

    A directory of journals that a project's file has set may contain an address that the project
    has put there, and a project may not pass an address to a plugin.
    """
    return sink_for if is_ours else _file_sink


def _file_sink(output: str) -> Sink:
    if plugin_of(output) is not None:
        raise SinkError(
            f"{told(output)} receives nothing from a state_dir that a project's file has set; set "
            "state_dir in the environment or in your own config.toml"
        )
    return sink_for(output)


def pick_up(
    state_dir: Path,
    open_sink: OpenSink = sink_for,
    *,
    most: int | None = None,
    goes_on: Callable[[int], bool] = bool,
) -> None:
    """Recover in the background of a run: logs the results, and never raises.

    `most` of the files are looked at. `goes_on` is asked after each record and each journal, with
    the number of journals so far, whether to go on; by default to the end.
    """
    aside, count = SetAside(), 0
    try:
        files = leftover_journals(
            state_dir, on_unreadable=_told_of(state_dir), on_set_aside=aside, most=most
        )
        for file in files:
            count += 1
            for recovered in recovered_from(file, state_dir, open_sink):
                LOGGER.info(
                    "recovered %r, which was killed after %s, for %s: %s",
                    recovered.record.name,
                    recovered.record.ended_at,
                    _named(recovered.output),
                    recovered.trouble or "done",
                )
                if not goes_on(count):
                    break
            if not goes_on(count):
                break
    except Exception as error:
        pass_on(error)
        LOGGER.warning("killed runs could not be recovered: %r", error)
    if (text := aside.text()) is not None:
        LOGGER.warning("%s", text)


def _told_of(state_dir: Path) -> OnUnreadable:
    """The log messages about journals that cannot be read, at the start of a run."""
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
    on_set_aside: OnSetAside | None = None,
) -> list[Recovered]:
    """Write the records of killed processes to their outputs; never raises for a file.

    A record whose output cannot be written goes to the file `instead`, if there is one.

    Processes that still run are left alone. However many processes call this at once, each record
    is written by one of them. A record that cannot be written is retried the next time, and moved
    to a dead-letter file after a week. `on_unreadable` is called with a journal that cannot be
    read, and `on_set_aside` with a file that is not a journal and was set aside; by default both
    are logged.
    """
    found: list[Recovered] = []
    for file in leftover_journals(
        state_dir, clock, on_unreadable=on_unreadable, on_set_aside=on_set_aside
    ):
        found += recovered_from(file, state_dir, open_sink, instead=instead, clock=clock)
    return found


def recovered_from(
    file: JournalFile,
    state_dir: Path,
    open_sink: OpenSink,
    *,
    instead: str | None = None,
    clock: Clock | None = None,
) -> Iterator[Recovered]:
    """Process one journal, and close it, even if the caller stops; the rest stays in it."""
    now = (clock or SystemClock()).now_utc()
    with closing(file):
        try:
            unchanged_s = now.timestamp() - file.path.stat().st_mtime
            is_retry = not file.keys(RUN)
            file.drop(file.keys(CALL))  # what was inside of them has rows of its own
            yield from _end_runs(file)
            yield from _write_records(file, open_sink, instead)
            if is_retry and unchanged_s > RETRY_FOR_S:
                _give_up(file, state_dir, now)
        except OSError as error:
            pass_on(error)
            yield from _unchanged(file, error)


def _end_runs(file: JournalFile) -> Iterator[Recovered]:
    """Turn each open run into undelivered records; yields those that need no file written.

    A process may have been killed after it had finished a record and before it noted that. The
    finished record itself then waits for an output, and stays; servers without one of their own get
    the same one. A file may have it already, and gets a row that is superseded by it.
    """
    waiting = _waiting_by_id(file)
    for key in file.keys(RUN):
        checkpoint, outputs = record_in(file, key), _outputs(file, key)
        if checkpoint is None or outputs is None:
            file.disown(key)
            continue
        kept = waiting.get(checkpoint.record_id, {})
        finished = next((one for one in kept.values() if one.status != "recovered"), None)
        recovered = replace(checkpoint, status="recovered")
        _write_timeline(file.get(key) or {}, outputs)
        for output in outputs:
            if output not in kept:
                kept[output] = finished if finished and _is_address(output) else recovered
                file.put((SEND, output, checkpoint.record_id), {"record": sparse(kept[output])})
        file.drop([key])
        for output in filter(_is_address, outputs):
            yield Recovered(kept[output], output)
        if not outputs:
            yield Recovered(finished or recovered, None)


def _waiting_by_id(file: JournalFile) -> dict[str, dict[str, Record]]:
    """The undelivered records that have an open run as well, by their ids and their outputs."""
    found: dict[str, dict[str, Record]] = {key[1]: {} for key in file.keys(RUN)}
    for key in file.keys(SEND):
        if key[2] in found and (record := record_in(file, key)) is not None:
            found[key[2]][key[1]] = record
    return found


def _write_timeline(entry: Mapping[str, Any], outputs: Sequence[str]) -> None:
    """Write power over time up to the checkpoint; where that fails it is logged and lost."""
    timeline = entry.get("timeline")
    if not isinstance(timeline, dict):
        return
    with holding_forks():
        from carbontrack.sinks.timelines import TimelineFiles  # few keep one

    try:
        files = TimelineFiles([Path(output) for output in outputs if _is_place(output)])
        files.write(timeline)
    except (OSError, CarbontrackError, *NO_RECORD) as error:
        pass_on(error)
        LOGGER.warning("the timeline of a killed run could not be written: %s", error)


def _is_place(output: str) -> bool:
    """Whether it is a file with an absolute path: the start of a relative path is not known."""
    return is_file(output) and os.path.isabs(output)  # noqa: PTH117 - any text


def _is_address(output: str) -> bool:
    """Whether it is a URL to which records can be sent."""
    return is_url(output) and trouble_of_address(output) is None


def _records_to_write(file: JournalFile) -> Iterator[tuple[Key, Record]]:
    for key in file.keys(SEND):
        if _is_address(key[1]):
            continue
        record = record_in(file, key)
        if record is None:
            file.disown(key)
        else:
            yield key, record


def _write_records(
    file: JournalFile, open_sink: OpenSink, instead: str | None
) -> Iterator[Recovered]:
    """Write each record whose output is not a URL, or is not readable."""
    for key, record in _records_to_write(file):
        output = key[1]
        trouble = trouble_of_writing(record, output, open_sink)
        if trouble is not None and instead is not None:
            output, trouble = instead, _trouble_of(record, instead, open_sink)
        if trouble is None:
            file.drop([key])
        yield Recovered(record, output, trouble)


def trouble_of_writing(record: Record, output: str, open_sink: OpenSink) -> str | None:
    """Write the record to an output that a journal names; why that failed, or None."""
    if is_url(output):
        return trouble_of_address(output)
    if is_file(output) and not _is_place(output):
        return (
            f"{output!r:.200} is not an absolute path, and the directory in which the run started "
            "is not known"
        )
    return _trouble_of(record, output, open_sink)


def _trouble_of(record: Record, output: str, open_sink: OpenSink) -> str | None:
    try:
        sink = open_sink(output)
        sink.write(record)
        sink.close()  # raises if the record could not be written
    except (OSError, CarbontrackError) as error:
        pass_on(error)
        return str(error)
    except Exception as error:  # a text that is no path, or a plugin's
        pass_on(error)
        return f"{type(error).__name__}: {error}"
    return None


def _give_up(file: JournalFile, state_dir: Path, now: datetime) -> None:
    """Move what could not be written for a week to dead letters, as for a deleted directory."""
    with holding_forks():
        from carbontrack.sinks.delivery import write_dead_letters
        from carbontrack.sinks.post import PostResult

    for key, record in _records_to_write(file):
        result = PostResult("refused", f"{told(key[1])} could not be written for a week")
        path = write_dead_letters(state_dir, key[1], [record], result, now=now)
        file.drop([key])
        LOGGER.warning(
            "%s could not be written for a week; its records were moved to %s; to try again, run: "
            "carbontrack sync --dead-letters", told(key[1]), path
        )  # fmt: skip


def _named(output: str | None) -> str:
    if output is None:
        return "no output"
    return "its server" if _is_address(output) else told(output)


def _unchanged(file: JournalFile, error: OSError) -> Iterator[Recovered]:
    for key in file.keys(RUN):
        record = record_in(file, key)
        if record is not None:
            yield Recovered(record, None, f"{file.path} cannot be written: {error.strerror}")


def _outputs(file: JournalFile, key: Key) -> list[str] | None:
    """The outputs of a run; None where they are none."""
    outputs = (file.get(key) or {}).get("outputs")
    if not isinstance(outputs, list) or not all(isinstance(one, str) for one in outputs):
        return None
    return outputs
