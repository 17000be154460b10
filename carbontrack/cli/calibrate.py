"""`carbontrack calibrate`: from readings of a wall meter to what other meters do not see.

Readings are given one by one, taken while we measure, or found by comparing the file of a smart
plug (`read_plug`) with the records of the same time (`paired`).
"""

from __future__ import annotations

import csv
import json
import sys
import threading
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

from carbontrack.api.assembly import assemble, calibration_file, current_environment
from carbontrack.attribution.usage import UsageReader
from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal, collected
from carbontrack.config.load import load_settings
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.meters.calibration import (
    Calibration,
    clear_calibration,
    load_calibration,
    save_calibration,
)
from carbontrack.meters.wall import WALL_ID, WallReading
from carbontrack.record import Component, Record
from carbontrack.report.read import iter_records
from carbontrack.system.host import host_id
from carbontrack.text import visible
from carbontrack.units import JOULES_PER_KWH

TIME_NAMES = ("timestamp", "time", "datetime", "date", "last_changed", "last_updated")
POWER_NAMES = ("watts", "watt", "power", "power_w", "w", "state", "value")
SHORTEST_S = 30.0
"""Plugs report a value every one to ten seconds, so start and end dominate a shorter run."""
LONGEST_HOLD_S = 120.0
"""A plug's value is taken to hold until the next one, for this long at most."""
_BUSY = 0.05
_ABOUT = """\
Count the whole machine with the help of a wall meter. Two or more readings at
different loads give a line, wall = constant + gain x metered; from then on,
what this machine's own meters do not see (power supply, board, fans, disks) is
counted as component `other`. Without options: show what is stored."""
_EPILOG = """\
examples:
  carbontrack calibrate --wall 62      while idle: the wall meter shows 62 W
  carbontrack calibrate --wall 145     under load
  carbontrack calibrate 45:98 80:141   readings that were taken before
"""
Series = Sequence[tuple[float, float]]
"""Seconds since 1970 and watts, in order of time."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `calibrate` and its options."""
    parser = new_parser(
        subparsers,
        "calibrate",
        run,
        description=_ABOUT,
        epilog=_EPILOG,
        usage="carbontrack calibrate [METERED:WALL ...] [options]",
        keep_lines=True,
    )
    _add_options(parser.add_argument)


def _add_options(add: Callable[..., object]) -> None:
    add(
        "readings",
        nargs="*",
        type=_reading,
        metavar="METERED:WALL",
        help="mean watts of the machine's meters and of the wall meter over the same time: 45:98",
    )
    add(
        "--wall",
        type=_watts,
        metavar="W",
        help="the wall meter shows W watts now: measure for --seconds, and store the reading",
    )
    add("--seconds", type=_watts, default=10.0, metavar="S", help="how long to measure (10)")
    add(
        "--plug",
        type=Path,
        metavar="CSV",
        help="times and watts of a smart plug during some runs",
    )
    add(
        "--records",
        type=Path,
        metavar="FILE",
        help="with --plug: the records of these runs (emissions.csv)",
    )
    add(
        "--idle",
        action="store_true",
        help="measure the idle power of this machine now, for idle=none and idle=reserved",
    )
    add("--clear", action="store_true", help="remove the calibration of this host")
    add("--json", action="store_true", help="print what is stored as JSON")  # fmt: skip


def run(args: Namespace) -> int:
    """Add the readings to those kept, save them, and print what is kept; 0."""
    # what is modelled beside our meters is none of them
    settings = replace(load_settings({}, writes=False), boundary="components")
    path = calibration_file(settings, current_environment())
    if args.clear:
        forgotten = clear_calibration(path)
        gone = f"{visible(str(path))} is removed"
        print(gone if forgotten else "this host is not calibrated")
        return 0
    before = load_calibration(path) or Calibration()
    after = _with_readings(args, settings, before)
    if after != before:
        save_calibration(path, after)
    _print(after, path, as_json=args.json)
    return 0


def _with_readings(args: Namespace, settings: Settings, kept: Calibration) -> Calibration:
    if args.plug is not None:
        host = settings.host_id or host_id()
        meters = _meters(settings)
        records = iter_records(args.records or "emissions.csv")
        found, left_out = paired(records, read_plug(args.plug), meters, host)
        for reason, count in left_out.items():
            print(f"{count} record{'s' * (count != 1)} left out: {reason}", file=sys.stderr)
        if not found:
            raise ConfigError(f"no run is covered by both {args.plug} and the records")
        kept = kept.with_readings(tuple(found), meters)
    if args.readings:
        kept = kept.with_readings(tuple(args.readings), _meters(settings))
    if args.wall is not None:
        powers_w, meters, _ = _measured(settings, args.seconds)
        reading = WallReading(sum(powers_w.values()), args.wall)
        kept = kept.with_readings((reading,), meters)
    if args.idle:
        powers_w, _, busy = _measured(settings, args.seconds)
        if busy is not None and busy > _BUSY:
            raise ConfigError(
                f"the processors were {busy:.0%} busy; idle power can be measured only while "
                "nothing runs"
            )
        kept = replace(kept, idle_w={k: w for k, w in powers_w.items() if k != "other"})
    return kept


def _meters(settings: Settings) -> tuple[str, ...]:
    with collected(), assemble(replace(settings, output=()), current_environment()) as tracker:
        found = tracker.session.sampler.meters
        return tuple(meter.id for meter in found if meter.id != WALL_ID)


def _measured(
    settings: Settings, seconds: float
) -> tuple[dict[Component, float], tuple[str, ...], float | None]:
    """Mean watts by component without the wall meter's; the meters; and the CPUs' utilisation."""
    usage = UsageReader(Path(settings.procfs_path))
    with (
        collected(),
        assemble(replace(settings, output=(), scope="machine"), current_environment()) as tracker,
    ):
        sampler = tracker.session.sampler
        with tracker.span("calibrate"):
            before, busy_s = sampler.counts, usage.machine_busy_s()
            print(f"measuring for {seconds:g} s …", file=sys.stderr)
            sampler.clock.wait(threading.Event(), seconds)
            sampler.sample()
            after, busy_after_s = sampler.counts, usage.machine_busy_s()
        elapsed_s = after.at_s - before.at_s
        powers_w: dict[Component, float] = {}
        meters = [meter for meter in sampler.meters if meter.id != WALL_ID]
        for place, state in enumerate(sampler.meter_states[: len(before.energy_j)]):
            if state.meter in meters:  # not what stands in for one meanwhile
                power_w = (after.energy_j[place] - before.energy_j[place]) / elapsed_s
                component = state.meter.component
                powers_w[component] = powers_w.get(component, 0.0) + power_w
        threads = sampler.hardware.cpu_threads or 1
        busy = None
        if busy_s is not None and busy_after_s is not None:
            busy = (busy_after_s - busy_s) / elapsed_s / threads
        return powers_w, tuple(meter.id for meter in meters), busy


def _print(kept: Calibration, path: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(kept)))
        return
    terminal = Terminal(sys.stdout)
    rows = [
        (f"reading {number}", f"{metered_w:.1f} W metered, {wall_w:.1f} W at the wall")
        for number, (metered_w, wall_w) in enumerate(kept.readings[:20], 1)
    ]
    if len(kept.readings) > len(rows):
        rows.append(("…", f"{len(kept.readings)} readings in total"))
    if kept.fit is not None:
        line = f"wall = {kept.fit.constant_w:.1f} W + {kept.fit.gain:.3f} x metered"
        rows.append(
            ("line", f"{line}; the rest is known within {kept.fit.relative_uncertainty:.0%}")
        )
    elif kept.readings:
        rows.append(("line", "not yet: take another reading while the machine is busier"))
    rows += [(f"idle {name}", f"{watts:.2f} W") for name, watts in kept.idle_w.items()]
    if not rows:
        print("this host is not calibrated; see: carbontrack calibrate --help")
        return
    print(
        terminal.table(
            [*rows, ("meters", ", ".join(kept.meters) or "none"), ("stored in", str(path))]
        )
    )


def _watts(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 < number < 1e5:
        raise ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _reading(text: str) -> WallReading:
    metered, colon, wall = text.partition(":")
    try:
        return WallReading(_watts(metered), _watts(wall if colon else ""))
    except ArgumentTypeError:
        raise ArgumentTypeError(f"{text!r} is not METERED:WALL in watts, as in 45:98") from None


def read_plug(path: Path) -> Series:
    """The series in a CSV file with a header line, one column of times and one of watts.

    Times are ISO 8601 (without a zone: of this machine's) or seconds since 1970.

    Raises:
        ConfigError: the file cannot be read, lacks these columns, or has a line with other cells.
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
    """A reading for each run that the series covers; and the number of runs left out, by reason."""
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
        return None  # what the software of plugs writes for an unknown value
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
