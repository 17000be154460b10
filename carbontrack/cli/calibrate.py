"""`carbontrack calibrate`: a wall meter's readings become a meter of what ours do not see."""

from __future__ import annotations

import json
import sys
import threading
from argparse import ArgumentParser, ArgumentTypeError, Namespace, _SubParsersAction
from dataclasses import asdict, replace
from pathlib import Path

from carbontrack.assembly import assemble, calibration_file
from carbontrack.attribution.usage import UsageReader
from carbontrack.calibration import (
    Calibration,
    clear_calibration,
    load_calibration,
    save_calibration,
)
from carbontrack.cli.notes import collected
from carbontrack.cli.plug_csv import paired, read_plug
from carbontrack.cli.terminal import Terminal
from carbontrack.config import load
from carbontrack.errors import ConfigError
from carbontrack.host_id import host_id
from carbontrack.meters.wall import WALL_ID, WallReading
from carbontrack.records import Component
from carbontrack.report.read import iter_records
from carbontrack.settings import Settings

_ABOUT = """\
Teach this host what a wall meter sees beyond its own meters: power supply, board, fans, disks.
Two or more readings at different loads give a line, wall = constant + gain x metered, and from then
on the rest is counted as component `other`. Without any option: show what is kept."""
_BUSY = 0.05


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Add `calibrate` and its options."""
    parser = subparsers.add_parser("calibrate", description=_ABOUT, allow_abbrev=False)
    add = parser.add_argument
    add(
        "readings",
        nargs="*",
        type=_reading,
        metavar="METERED:WALL",
        help="mean watts of our meters and of the wall meter over the same time, as in 45:98",
    )
    add(
        "--wall",
        type=_watts,
        metavar="W",
        help="the wall meter shows W now: measure our side for --seconds, and keep the pair",
    )
    add("--seconds", type=_watts, default=10.0, metavar="S", help="for how long; 10 by default")
    add(
        "--plug",
        type=Path,
        metavar="CSV",
        help="a smart plug's times and watts during some runs",
    )
    add(
        "--records",
        type=Path,
        metavar="FILE",
        help="with --plug: the records of these runs; emissions.csv by default",
    )
    add(
        "--idle",
        action="store_true",
        help="measure what this machine draws now, while nothing runs, for idle=none and reserved",
    )
    add("--clear", action="store_true", help="forget everything that was calibrated on this host")
    add("--json", action="store_true", help="print what is kept as one JSON object")  # fmt: skip
    parser.set_defaults(func=run)


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


def run(args: Namespace) -> int:
    """Take the readings in, keep them, and show what is kept; 0."""
    settings = load({}, writes=False)
    path = calibration_file(settings)
    if args.clear:
        forgotten = clear_calibration(path)
        print(f"{path} is removed" if forgotten else "nothing was calibrated on this host")
        return 0
    before = load_calibration(path) or Calibration()
    after = _taken_in(args, settings, before)
    if after != before:
        save_calibration(path, after)
    _show(after, path, as_json=args.json)
    return 0


def _taken_in(args: Namespace, settings: Settings, kept: Calibration) -> Calibration:
    if args.plug is not None:
        host = settings.host_id or host_id()
        meters = _meters(settings)
        records = iter_records(args.records or "emissions.csv")
        found, left_out = paired(records, read_plug(args.plug), meters, host)
        for reason, count in left_out.items():
            print(f"{count} records left out: {reason}", file=sys.stderr)
        if not found:
            raise ConfigError(f"no run was seen by both {args.plug} and the records")
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
                f"the processors were {busy:.0%} busy: what an idle machine draws can be "
                "measured only while nothing runs"
            )
        kept = replace(kept, idle_w={k: w for k, w in powers_w.items() if k != "other"})
    return kept


def _meters(settings: Settings) -> tuple[str, ...]:
    with collected(), assemble(replace(settings, output=())) as tracker:
        found = tracker.session.sampler.meters
        return tuple(meter.id for meter in found if meter.id != WALL_ID)


def _measured(
    settings: Settings, seconds: float
) -> tuple[dict[Component, float], tuple[str, ...], float | None]:
    """Mean watts by component, without the wall's rest; the meters; and how busy the CPUs were."""
    usage = UsageReader(Path(settings.procfs_path))
    with collected(), assemble(replace(settings, output=(), scope="machine")) as tracker:
        sampler = tracker.session.sampler
        with tracker.span("calibrate"):
            before, busy_s = sampler.machine, usage.machine_busy_s()
            print(f"measuring for {seconds:g} s …", file=sys.stderr)
            sampler.clock.wait(threading.Event(), seconds)
            sampler.sample()
            after, busy_after_s = sampler.machine, usage.machine_busy_s()
        elapsed_s = after.at_s - before.at_s
        powers_w: dict[Component, float] = {}
        meters = [slot.meter for slot in sampler.slots if slot.meter.id != WALL_ID]
        for place, slot in enumerate(sampler.slots):
            if slot.meter in meters:
                power_w = (after.energy_j[place] - before.energy_j[place]) / elapsed_s
                component = slot.meter.component
                powers_w[component] = powers_w.get(component, 0.0) + power_w
        threads = sampler.hardware.cpu_threads or 1
        busy = None
        if busy_s is not None and busy_after_s is not None:
            busy = (busy_after_s - busy_s) / elapsed_s / threads
        return powers_w, tuple(meter.id for meter in meters), busy


def _show(kept: Calibration, path: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(kept)))
        return
    terminal = Terminal(sys.stdout)
    rows = [
        (f"reading {number}", f"{metered_w:.1f} W metered, {wall_w:.1f} W at the wall")
        for number, (metered_w, wall_w) in enumerate(kept.readings[:20], 1)
    ]
    if len(kept.readings) > len(rows):
        rows.append(("…", f"{len(kept.readings)} readings in all"))
    if kept.fit is not None:
        line = f"wall = {kept.fit.constant_w:.1f} W + {kept.fit.gain:.3f} x metered"
        rows.append(
            ("line", f"{line}; the rest is known within {kept.fit.relative_uncertainty:.0%}")
        )
    elif kept.readings:
        rows.append(("line", "not yet: take another reading while the machine is busier"))
    rows += [(f"idle {name}", f"{watts:.2f} W") for name, watts in kept.idle_w.items()]
    if not rows:
        print("nothing was calibrated on this host; see: carbontrack calibrate --help")
        return
    print(
        terminal.table(
            [*rows, ("meters", ", ".join(kept.meters) or "none"), ("kept in", str(path))]
        )
    )
