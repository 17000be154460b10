"""Power over time of the runs, read from the files of timelines next to those of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.errors import ConfigError
from carbontrack.record import COMPONENTS, TIMELINE_SUFFIX, timeline_path
from carbontrack.report.read import AnyPath, import_pandas, json_rows
from carbontrack.system.interrupts import pass_on
from carbontrack.system.log import LOGGER
from carbontrack.tracking.timeline import Timeline

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RunTimeline:
    """The timeline of one run, and which run that is.

    Attributes:
        record_id, name, started_at: as in the run's record.
        timeline: its power over time.
    """

    record_id: str
    name: str
    started_at: str
    timeline: Timeline


def iter_timelines(
    path: AnyPath, *, on_skip: Callable[[], None] | None = None
) -> Iterator[RunTimeline]:
    """The timelines in one file, or in the one next to this file of records.

    A run that is in the file twice, as after files were concatenated, comes twice. `on_skip` is
    called for each line that holds no timeline.

    Raises:
        OSError: there is no such file.
    """
    place = Path(path).expanduser()
    if not place.name.lower().endswith(TIMELINE_SUFFIX):
        place = timeline_path(place)
    for row in json_rows(place):
        try:
            yield _from_row(row or {})
        except (KeyError, TypeError, ValueError, AttributeError):
            if on_skip is not None:
                on_skip()


def timelines_beside(files: Iterable[Path]) -> Iterator[RunTimeline]:
    """The timelines of the runs in these files of records; a file may have none."""
    for place in dict.fromkeys(map(timeline_path, files)):
        try:
            yield from iter_timelines(place)
        except OSError as error:
            pass_on(error)


def largest(runs: Iterable[RunTimeline], frame: pd.DataFrame, most: int) -> list[RunTimeline]:
    """The runs of a frame of `report.frame` that used the most energy, the largest first."""
    import numpy as np
    from pandas.util import hash_array

    kwh = dict(zip(frame["record_id"], frame["energy_kwh"].fillna(0.0), strict=True))
    kept: dict[int, RunTimeline] = {}
    for run in runs:
        key = hash_array(np.array([run.record_id], dtype=object), categorize=False)[0]
        if key in kwh and key not in kept:
            kept[key] = run
            if len(kept) > most:
                del kept[min(kept, key=lambda one: kwh[one])]
    return [kept[key] for key in sorted(kept, key=lambda one: -kwh[one])]


def read_timeline(*paths: AnyPath) -> pd.DataFrame:
    """Power over time as one pandas frame, a row for each run, bin and component.

    `paths` are files of timelines, or files of records that have one next to them. The columns are
    record_id and name, as in the records; `at`, the start of the bin as a time in UTC; and
    start_s, end_s, component, energy_j, observed_s and watts, as `PowerRow` explains them. Watts
    are missing in a gap. A run that is there twice counts once.

    Raises:
        MissingExtra: pandas is not installed.
        OSError: there is no such file.
    """
    pandas = import_pandas("analysis", "read_timeline")
    if not paths:
        raise ConfigError("read_timeline needs a file to read, for example 'emissions.csv'")
    found: dict[str, RunTimeline] = {}
    for path in paths:
        skipped: list[None] = []
        for run in iter_timelines(path, on_skip=lambda skipped=skipped: skipped.append(None)):  # type: ignore[misc]
            found.setdefault(run.record_id, run)
        if skipped:
            LOGGER.warning("%s: passed over %d lines that hold no timeline", path, len(skipped))
    frame: pd.DataFrame = _frame(pandas, list(found.values()))
    return frame


def _frame(pd: Any, runs: list[RunTimeline]) -> Any:
    names = ("start_s", "end_s", "component", "energy_j", "observed_s", "watts")
    rows = [
        (run.record_id, run.name, run.started_at, *row)
        for run in runs
        for row in run.timeline.rows()
    ]
    frame = pd.DataFrame(rows, columns=["record_id", "name", "at", *names])
    started = pd.to_datetime(frame["at"], utc=True, errors="coerce", format="ISO8601")
    frame["at"] = started + pd.to_timedelta(frame["start_s"].astype("float64"), unit="s")
    numbers = [name for name in names if name != "component"]
    return frame.astype(dict.fromkeys(numbers, "float64"))


def _from_row(row: Mapping[str, Any]) -> RunTimeline:
    edges_s = tuple(map(float, row["edges_s"]))
    energy_j = {
        c: tuple(map(float, row["energy_j"][c])) for c in COMPONENTS if c in row["energy_j"]
    }
    observed_s = {c: tuple(map(float, row["observed_s"][c])) for c in energy_j}
    timeline = Timeline(edges_s, energy_j, observed_s)
    if any(len(joules) != len(edges_s) for joules in energy_j.values()) or any(
        len(seen) != len(edges_s) - 1 for seen in observed_s.values()
    ):
        raise ValueError("the series differ in length")
    return RunTimeline(str(row["record_id"]), str(row["name"]), str(row["started_at"]), timeline)
