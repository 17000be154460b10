"""Power over time of each run, as a line of JSON in a file beside the run's record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from carbontrack.beside import timeline_path
from carbontrack.curve import Timeline
from carbontrack.json_text import json_line
from carbontrack.records import Record
from carbontrack.sinks.outputs import shared_file

TIMELINE_SCHEMA = 1


class TimelineFiles:
    """A file of timelines beside each output that is a file; none beside an address.

    Any number of processes may write to one file at a time; the line of a run bears its record_id.

    Raises:
        ConfigError: no file can be written beside an output; says why and what to do.
    """

    def __init__(self, outputs: Sequence[Path], *, procfs: Path = Path("/proc")) -> None:
        places = dict.fromkeys(timeline_path(output) for output in outputs)
        self._files = [shared_file(place, procfs=procfs) for place in places]

    def write(self, record: Record, timeline: Timeline) -> None:
        """Add the timeline of a finished record to every file.

        Raises:
            OSError: a file could not be written; the others were.
        """
        line = json_line(timeline_object(record, timeline))
        trouble: OSError | None = None
        for file in self._files:
            try:
                file.append(line)
            except OSError as error:
                trouble = error
        if trouble is not None:
            raise trouble


def timeline_object(record: Record, timeline: Timeline) -> dict[str, object]:
    """The line as a mapping; instants are rounded to the microsecond, energy is not rounded."""
    return {
        "schema": TIMELINE_SCHEMA,
        "record_id": record.record_id,
        "run_id": record.run_id,
        "name": record.name,
        "started_at": record.started_at,
        "edges_s": [round(edge_s, 6) for edge_s in timeline.edges_s],
        "energy_j": timeline.energy_j,
        "observed_s": {
            component: [round(seen_s, 6) for seen_s in seen]
            for component, seen in timeline.observed_s.items()
        },
    }
