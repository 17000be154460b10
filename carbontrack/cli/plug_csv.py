"""A smart plug's watts over time, and what our own records say of the same time."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from carbontrack.errors import ConfigError
from carbontrack.meters.wall import WALL_ID, WallReading
from carbontrack.records import Record
from carbontrack.units import JOULES_PER_KWH

TIME_NAMES = ("timestamp", "time", "datetime", "date", "last_changed", "last_updated")
POWER_NAMES = ("watts", "watt", "power", "power_w", "w", "state", "value")
SHORTEST_S = 30.0
"""A run shorter than this is mostly edges: plugs show a value every second to every ten."""
LONGEST_HOLD_S = 120.0
"""A plug's value is held until the next one, for this long at most."""

Series = Sequence[tuple[float, float]]
"""Seconds since 1970 and watts, in the order of time."""


def read_plug(path: Path) -> Series:
    """The series in a CSV file with a header line, one column of times and one of watts.

    Times are ISO 8601 (without a zone: of this machine's) or seconds since 1970.

    Raises:
        ConfigError: the file cannot be read, or has no such columns, or a line makes no sense.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            when, watts = _columns(path, rows.fieldnames or ())
            series = [_sample(path, rows.line_num, row[when], row[watts]) for row in rows]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no CSV file: {error}") from error
    found = sorted(sample for sample in series if sample is not None)
    if len(found) < 2:
        raise ConfigError(f"{path} holds {len(found)} readings; a series needs two at least")
    return found


def _columns(path: Path, header: Iterable[str]) -> tuple[str, str]:
    found = []
    names = list(header)
    for what, wanted in (("times", TIME_NAMES), ("watts", POWER_NAMES)):
        matches = [name for name in names if name.strip().lower() in wanted]
        if not matches:
            raise ConfigError(
                f"{path} has no column of {what}: its header is {', '.join(names) or 'empty'}; "
                f"call it one of {', '.join(wanted)}"
            )
        found.append(matches[0])
    return found[0], found[1]


def _sample(
    path: Path, line: int, when: str | None, watts: str | None
) -> tuple[float, float] | None:
    if (watts or "").strip().lower() in {"", "unavailable", "unknown", "nan"}:
        return None  # how plugs' own software writes that nothing is known
    try:
        at_s, power_w = _seconds((when or "").strip()), float(watts or "")
    except ValueError as error:
        raise ConfigError(f"{path}, line {line}: {error}") from error
    if not 0.0 <= power_w < 1e5:
        raise ConfigError(f"{path}, line {line}: {power_w!r} W is no power of a machine")
    return at_s, power_w


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        if text.endswith(("Z", "z")):  # which Python reads since 3.11 only
            text = text[:-1] + "+00:00"
        return datetime.fromisoformat(text).timestamp()


def mean_w(series: Series, start_s: float, end_s: float) -> float | None:
    """The mean power from start to end; None where the series does not cover it."""
    energy_j = covered_s = 0.0
    following = [*series[1:], (series[-1][0] + LONGEST_HOLD_S, 0.0)]
    for (at_s, power_w), (next_s, _) in zip(series, following, strict=True):
        held_s = min(end_s, next_s, at_s + LONGEST_HOLD_S) - max(start_s, at_s)
        if held_s > 0.0:
            energy_j += power_w * held_s
            covered_s += held_s
    return energy_j / covered_s if covered_s >= 0.99 * (end_s - start_s) > 0.0 else None


def paired(
    records: Iterable[Record], series: Series, meters: Sequence[str], host: str
) -> tuple[list[WallReading], dict[str, int]]:
    """A reading for each run that both saw; and how many runs were left out, by reason."""
    readings: list[WallReading] = []
    left_out: dict[str, int] = {}
    for record in records:
        reading = _pair(record, series, set(meters), host)
        if isinstance(reading, str):
            left_out[reading] = left_out.get(reading, 0) + 1
        else:
            readings.append(reading)
    return readings, left_out


def _pair(record: Record, series: Series, meters: set[str], host: str) -> WallReading | str:
    used = set((record.meters or "").split(";"))
    unusable = {
        "made on another host": record.host_id != host,
        "part of another run": record.parent_id is not None,
        "made with an earlier calibration": WALL_ID in used,
        "made with other meters": WALL_ID not in used and used != meters,
        f"shorter than {SHORTEST_S:g} s": (record.duration_s or 0.0) < SHORTEST_S,
    }
    if any(unusable.values()):
        return next(reason for reason, holds in unusable.items() if holds)
    if not record.started_at or not record.duration_s or not record.machine_kwh:
        return "without energy or time"
    start_s = _seconds(record.started_at)
    wall_w = mean_w(series, start_s, start_s + record.duration_s)
    if not wall_w:
        return "not covered by the plug's file"
    return WallReading(record.machine_kwh * JOULES_PER_KWH / record.duration_s, wall_w)
