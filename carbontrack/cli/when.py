"""`carbontrack when`: the time of lowest grid intensity for some hours of work."""

from __future__ import annotations

import json
import sys
import threading
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta

from carbontrack.api.assembly import current_environment, find_region
from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal
from carbontrack.config.load import load_settings
from carbontrack.config.settings import Settings
from carbontrack.errors import ConfigError
from carbontrack.grid.advice import GreenWindow, greenest_window
from carbontrack.grid.series import Series, Slot
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.units import format_seconds

_EPILOG = """\
examples:
  carbontrack when --hours 4 --region GB --source ukcarbonintensity
  carbontrack when --hours 4 --series forecast.csv --within 24
  carbontrack when --hours 4 --series forecast.csv --wait && python train.py
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `when` and its options."""
    parser = new_parser(
        subparsers,
        "when",
        run,
        description="Find the lowest-carbon time for some hours of work, in a forecast.",
        epilog=_EPILOG,
        keep_lines=True,
    )
    add = parser.add_argument
    add("--hours", type=float, required=True, metavar="H", help="duration of the work")
    add("--region", metavar="R", help="where it runs; default: the region of this machine")
    add(
        "--source",
        metavar="NAME",
        help="a live service with a forecast, or several, separated by commas",
    )
    add("--series", metavar="FILE", help="instead: a CSV file of times and g CO2e/kWh")
    add("--within", type=float, metavar="H", help="the work must be finished within H hours")
    add("--from", dest="start", metavar="TIME", help="earliest start, in ISO 8601 (now)")
    add("--wait", action="store_true", help="wait until then, with a countdown on stderr")
    add("--json", action="store_true", help="print the figures as JSON")


def run(
    args: Namespace, *, clock: Clock | None = None, base_urls: Mapping[str, str] | None = None
) -> int:
    """Print the lowest-carbon window; with `--wait`, return when it begins."""
    clock = clock or SystemClock()
    settings = load_settings({"region": args.region, "intensity_source": args.source}, writes=False)
    now = clock.now_utc()
    earliest = _time(args.start) if args.start else now
    slots, source = _slots(args, settings, now, base_urls)
    latest_end = None if args.within is None else earliest + timedelta(hours=args.within)
    window = greenest_window(slots, args.hours, earliest=earliest, latest_end=latest_end)
    terminal = Terminal(sys.stdout)
    if args.json:
        print(json.dumps(facts(window, args.hours, source), indent=2))
    else:
        terminal.say(terminal.table(about(window, now, source)) + "\n")
    if args.wait:
        _wait(window, clock)
    return 0


def _time(text: str) -> datetime:
    from carbontrack.grid.series import parse_time_s, utc

    try:
        return utc(parse_time_s(text))
    except ValueError:
        raise ConfigError(f"--from {text!r} is not a time such as 2026-03-01T18:00Z") from None


def _slots(
    args: Namespace, settings: Settings, now: datetime, base_urls: Mapping[str, str] | None
) -> tuple[tuple[Slot, ...], str]:
    if args.series is not None:
        series = Series.from_csv(args.series)
        return tuple(series.slots), series.source
    if not settings.intensity_source:
        raise ConfigError(
            "a time can only be chosen from a forecast: give --source, such as ukcarbonintensity, "
            "or --series FILE; the built-in table has yearly figures only"
        )
    from carbontrack.grid.live.choose import forecast

    return forecast(
        settings.intensity_source,
        find_region(settings, current_environment()),
        token=settings.live_token,
        now=now,
        base_urls=base_urls,
    )


def facts(window: GreenWindow, hours: float, source: str) -> dict[str, object]:
    """The window as plain values; times are RFC 3339, UTC."""
    plain = asdict(window)
    times = {name: plain.pop(name).isoformat().replace("+00:00", "Z") for name in ("start", "end")}
    return {"hours": hours, **times, **plain, "source": source}


def about(window: GreenWindow, now: datetime, source: str) -> list[tuple[str, str]]:
    """The window as labels and texts, in local time."""
    start, end = window.start.astimezone(), window.end.astimezone()
    ahead_s = (window.start - now).total_seconds()
    wait = f"in {format_seconds(ahead_s)}" if ahead_s > 0.0 else "now"
    lines = [
        ("start", f"{start:%a %d %b %Y %H:%M %z}, {wait}"),
        ("end", f"{end:%a %d %b %Y %H:%M %z}"),
        ("intensity", f"{window.g_per_kwh:.0f} g CO2e/kWh on average"),
    ]
    if window.first_g_per_kwh is not None and window.saving is not None:
        first = f"{window.first_g_per_kwh:.0f} g CO2e/kWh at the earliest start"
        lines.append(("saves", f"{window.saving:.0%}, compared with {first}"))
    return [*lines, ("source", source)]


def _wait(window: GreenWindow, clock: Clock) -> None:
    """Wait until the window begins, with a countdown on a terminal. Ctrl-C ends the command."""
    terminal = Terminal(sys.stderr)
    never = threading.Event()
    try:
        while (left_s := (window.start - clock.now_utc()).total_seconds()) > 0.0:
            if terminal.moves_cursor:
                terminal.say(
                    f"\r\x1b[Kwaiting for a lower carbon intensity, {format_seconds(left_s)} left"
                )
            clock.wait(never, min(1.0 if left_s < 60.0 else 10.0, left_s))
    finally:
        if terminal.moves_cursor:
            terminal.say("\r\x1b[K")
