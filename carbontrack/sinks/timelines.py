"""Power over time of each run, as a line of JSON in a file next to the run's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from carbontrack.record import timeline_path
from carbontrack.sinks.files import shared_file
from carbontrack.sinks.jsonl import json_line
from carbontrack.system.interrupts import pass_on


class TimelineFiles:
    """A file of timelines next to each of the files `outputs`.

    Any number of processes may write to one file at a time; each line has the record_id of its run.

    Raises:
        ConfigError: no file can be written next to an output; the message has the reason and what
            to do.
    """

    def __init__(self, outputs: Sequence[Path], *, procfs: Path = Path("/proc")) -> None:
        paths = dict.fromkeys(timeline_path(output) for output in outputs)
        self._files = [shared_file(path, procfs=procfs) for path in paths]

    def write(self, timeline: Mapping[str, object]) -> None:
        """Append the timeline of a finished record, as a JSON object, to every file.

        Raises:
            OSError: a file could not be written; the others were.
        """
        line = json_line(timeline)
        failure: OSError | None = None
        for file in self._files:
            try:
                file.append(line)
            except OSError as error:
                pass_on(error)
                failure = error
        if failure is not None:
            raise failure
