"""From the journals of processes that were killed to the outputs that their runs had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from carbontrack.errors import CarbontrackError, SinkError
from carbontrack.record import Record, Sink, plugin_of
from carbontrack.sinks.factory import is_file, is_url, sink_for, told
from carbontrack.sinks.journal.file import JournalFile, Key
from carbontrack.sinks.journal.journal import RUN, SEND, OnTrouble, orphans, record_in, sparse
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.system.log import LOGGER

OpenSink = Callable[[str], Sink]
PATIENCE_S = 7 * 86_400.0
"""How long an output that cannot be written is tried again."""


class Recovered(NamedTuple):
    """A record that a killed process left behind, and one output it was meant for.

    Attributes:
        record: a checkpoint, with the status "recovered", or a finished record as it was.
        output: a path; a URL, for which it waits in the journal now; None if the run had none.
        trouble: why it could not be written; it stays in the journal and is tried again.
    """

    record: Record
    output: str | None
    trouble: str | None = None


def opener(*, is_ours: bool) -> OpenSink:
    """How to open the outputs that stand in a journal: those of plugins only if it is ours.

    A folder of journals that a project's file has chosen may hold an address that the project has
    written into it, and a project may not hand an address to a plugin.
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
    """Recover what is there at the start of a run; says it in the log and never raises."""
    try:
        found = recover(state_dir, open_sink=open_sink)
    except Exception as error:
        LOGGER.warning("what killed runs left could not be looked at: %r", error)
        return
    for recovered in found:
        LOGGER.info(
            "recovered %r, which was killed after %s, for %s: %s",
            recovered.record.name,
            recovered.record.ended_at,
            _named(recovered.output),
            recovered.trouble or "done",
        )


def recover(
    state_dir: Path,
    *,
    open_sink: OpenSink = sink_for,
    clock: Clock | None = None,
    on_trouble: OnTrouble | None = None,
) -> list[Recovered]:
    """Write what killed processes left to the outputs that they had; never raises for a file.

    Runs that still live are left alone. However many processes call this at once, each record is
    written by one of them. What cannot be written is tried again the next time, and set aside in
    a dead-letter file after a week. A journal that cannot be opened is told to `on_trouble`, or
    else to the log.
    """
    found: list[Recovered] = []
    now = (clock or SystemClock()).now_utc()
    for file in orphans(state_dir, clock, on_trouble=on_trouble):
        try:
            untouched_s = now.timestamp() - file.path.stat().st_mtime
            was_tried = not file.keys(RUN)
            found += _ended_runs(file)
            found += _written(file, open_sink)
            if was_tried and untouched_s > PATIENCE_S:
                _give_up(file, state_dir, now)
        except OSError as error:
            found += _untouched(file, error)
        finally:
            file.close()
    return found


def _ended_runs(file: JournalFile) -> Iterator[Recovered]:
    """Turn each open run into a record on its way; only what waits for a URL is told here."""
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
    """Power over time up to the checkpoint; where it cannot be written it is given up, and said."""
    timeline = entry.get("timeline")
    if not isinstance(timeline, dict):
        return
    from carbontrack.sinks.timelines import TimelineFiles  # few keep one

    try:
        files = TimelineFiles([Path(output) for output in outputs if is_file(output)])
        files.write(timeline)
    except (OSError, CarbontrackError) as error:
        LOGGER.warning("the timeline of a killed run could not be written: %s", error)


def _written(file: JournalFile, open_sink: OpenSink) -> Iterator[Recovered]:
    """Write each record that is on its way to a file."""
    for key in file.keys(SEND):
        record = None if is_url(key[1]) else record_in(file, key)
        if record is None:
            continue
        try:
            sink = open_sink(key[1])
            sink.write(record)
            sink.close()  # raises if the record could not be written
        except (OSError, CarbontrackError) as error:
            yield Recovered(record, key[1], str(error))
        else:
            file.drop([key])
            yield Recovered(record, key[1])


def _give_up(file: JournalFile, state_dir: Path, now: datetime) -> None:
    """Set aside what no file has taken for a week, such as that of a directory long deleted."""
    from carbontrack.sinks.delivery import set_aside
    from carbontrack.sinks.post import Outcome

    for key in file.keys(SEND):
        record = None if is_url(key[1]) else record_in(file, key)
        if record is not None:
            reason = f"{key[1]} could not be written for a week"
            set_aside(state_dir, key[1], [record], Outcome("refused", reason), now=now)
            file.drop([key])


def _named(output: str | None) -> str:
    if output is None:
        return "no output"
    return "its server" if is_url(output) else told(output)


def _untouched(file: JournalFile, error: OSError) -> Iterator[Recovered]:
    for key in file.keys(RUN):
        record = record_in(file, key)
        if record is not None:
            yield Recovered(record, None, f"{file.path} cannot be written: {error.strerror}")


def _outputs(file: JournalFile, key: Key) -> list[str]:
    entry = file.get(key) or {}
    outputs = entry.get("outputs")
    return [str(output) for output in outputs] if isinstance(outputs, list) else []
