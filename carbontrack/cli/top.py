"""`carbontrack top`: the runs that are being measured on this host now."""

from __future__ import annotations

import math
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal
from carbontrack.config import load
from carbontrack.record import Record
from carbontrack.report.nesting import holders, shares_of
from carbontrack.report.uncounted import uncounted_text
from carbontrack.sinks.journal.open_runs import OpenRun, open_runs
from carbontrack.system.clock import Clock, SystemClock
from carbontrack.text import cut_to, padded, visible, width_of
from carbontrack.units import (
    format_grams,
    format_joules,
    format_seconds,
    format_watts,
    joules_from,
)

PERIOD_S = 2.0
_ABOUT = """\
Show your runs that are being measured on this host: power, energy and emissions
so far, as of their last checkpoint. On a terminal it refreshes every two
seconds until Ctrl-C. Runs without an output (output=none) are not shown."""
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_SCREEN, _BACK = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_SHORTEST_NAME = 8
_HEADS = ("PID", "NAME", "TIME", "POWER", "ENERGY", "CO2e", "KNOWN", "SEEN")
_OPTIONAL = ("SEEN", "KNOWN", "TIME", "PID", "ENERGY")
"""Columns that are left out on a narrow terminal, the first one first."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `top` and its options."""
    parser = new_parser(
        subparsers,
        "top",
        run,
        description=_ABOUT,
        epilog="Example: carbontrack top --once",
        keep_lines=True,
    )
    parser.add_argument("--once", action="store_true", help="print the table once")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON, once")


def run(args: Namespace, *, clock: Clock | None = None, over: threading.Event | None = None) -> int:
    """Print the open runs; on a terminal, until Ctrl-C or until `over` is set."""
    clock = clock or SystemClock()
    state_dir = load.state_path(load.load_settings(writes=False))
    terminal = Terminal(sys.stdout)
    if args.json:
        print(terminal.json(facts(open_runs(state_dir), clock.now_utc())))
    elif args.once or not terminal.moves_cursor:
        text = page(open_runs(state_dir), clock.now_utc(), terminal)
        terminal.say("\n".join(text) + "\n")
    else:
        _watch(terminal, state_dir, clock, over or threading.Event())
    return 0


def _watch(terminal: Terminal, state_dir: Path, clock: Clock, over: threading.Event) -> None:
    terminal.say(_SCREEN)
    try:
        while True:
            lines = page(open_runs(state_dir), clock.now_utc(), terminal)
            rows = max(1, terminal.size[1] - 1)
            shown = "\n".join(line + _CLEAR_LINE for line in lines[:rows])
            terminal.say(f"{_HOME}{shown}{_CLEAR_BELOW}")
            if clock.wait(over, PERIOD_S):
                return
    except KeyboardInterrupt:  # the way to end it
        return
    finally:
        terminal.say(_BACK)


def facts(runs: Sequence[OpenRun], now: datetime) -> dict[str, object]:
    """The runs as plain values; the totals leave out runs inside other open runs."""
    return {
        "at": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "runs": [
            {
                "pid": run.pid,
                "record_id": run.record.record_id,
                "parent_id": run.record.parent_id,
                "name": run.record.name,
                "started_at": run.record.started_at,
                "seen_s_ago": _age_s(run, now),
                "duration_s": run.record.duration_s,
                "watts": run.watts,
                "energy_kwh": run.record.energy_kwh,
                "emissions_g": run.record.emissions_g,
                "basis": run.record.basis,
                "faults": run.record.faults,
                "region": run.record.region,
            }
            for run in runs
        ],
        **_totals(runs, now),
    }


def _totals(runs: Sequence[OpenRun], now: datetime) -> dict[str, float | None]:
    """The sums over the runs, by name; nothing counts twice."""
    open_now = _until(runs, now)
    shares = shares_of(open_now)
    at = now.isoformat()
    shares_now = shares_of([replace(record, started_at=at) for record in open_now])
    return {
        "watts": _sum([run.watts for run in runs], shares_now),
        "energy_kwh": _sum([run.record.energy_kwh for run in runs], shares),
        "emissions_g": _sum([run.record.emissions_g for run in runs], shares),
    }


def _until(runs: Sequence[OpenRun], now: datetime) -> list[Record]:
    """The records of open runs, which last until now; each one's checkpoint has its own age."""
    return [replace(run.record, ended_at=now.isoformat()) for run in runs]


def _inside(root: int, parents: Sequence[int | None]) -> list[int]:
    """The places of the runs inside a run, at any depth, each before those inside it."""
    own = [place for place, parent in enumerate(parents) if parent == root]
    return [one for place in own for one in [place, *_inside(place, parents)]]


def _sum(numbers: Sequence[float | None], shares: Sequence[float]) -> float | None:
    parts = zip(numbers, shares, strict=True)
    known = [number * share for number, share in parts if share and number is not None]
    return math.fsum(known) if known else None


def _age_s(run: OpenRun, now: datetime) -> float | None:
    try:
        seen = datetime.fromisoformat(run.record.ended_at.replace("Z", "+00:00"))
    except ValueError:
        return None
    return max(0.0, (now - seen.astimezone(timezone.utc)).total_seconds())


def page(runs: Sequence[OpenRun], now: datetime, terminal: Terminal) -> list[str]:
    """The lines to show, at most as wide as the terminal."""
    if not runs:
        return ["no run of yours is being measured"]
    parents = holders(_until(runs, now))
    roots = [place for place, parent in enumerate(parents) if parent is None]
    sums = _totals(runs, now)
    watts, grams = sums["watts"], sums["emissions_g"]
    inside = len(runs) - len(roots)
    total = f"{len(runs)} open" + f" ({inside} inside others)" * (inside > 0)
    parts = [total, _or_dash(watts, format_watts), f"{_or_dash(grams, format_grams)} CO2e so far"]
    width = terminal.size[0] - 1
    heading = cut_to(terminal.fit("carbontrack  " + " · ".join(parts)), width, "")
    cells = [
        _cells(runs[one], now, nested=one != root)
        for root in roots
        for one in [root, *_inside(root, parents)]
    ]
    texts = [{head: terminal.fit(text) for head, text in row.items()} for row in cells]
    heads = dict(zip(_HEADS, _HEADS, strict=True))
    head, *lines = _table([heads, *texts], width, cut=terminal.fit("…"))
    missing = [cut_to(terminal.fit(line), width, "") for line in _missing(runs)]
    return [terminal.bold(heading), "", terminal.dim(head), *lines, *missing]


def _missing(runs: Sequence[OpenRun]) -> Iterator[str]:
    """What is not measured, a line for each run that lacks something."""
    said = [(run, uncounted_text(run.record.faults)) for run in runs]
    if any(text for _, text in said):
        yield ""
    for run, text in said:
        if text:  # a process of another pid namespace has no number here
            who = visible(run.record.name) if run.pid is None else run.pid
            yield f"missing in {who}: {text}"


def _cells(run: OpenRun, now: datetime, *, nested: bool) -> dict[str, str]:
    record, age_s = run.record, _age_s(run, now)
    return {
        "PID": "-" if run.pid is None else str(run.pid),
        "NAME": ("  " * nested) + visible(record.name),
        "TIME": _or_dash(record.duration_s, format_seconds),
        "POWER": _or_dash(run.watts, format_watts),
        "ENERGY": _or_dash(joules_from(record.energy_kwh), format_joules),
        "CO2e": _or_dash(record.emissions_g, format_grams),
        "KNOWN": visible(record.basis or "-"),
        "SEEN": "-" if age_s is None else f"{age_s:.0f} s ago",
    }


def _or_dash(number: float | None, form: Callable[[float], str]) -> str:
    return "-" if number is None else form(number)


def _table(rows: Sequence[dict[str, str]], width: int, *, cut: str) -> list[str]:
    """The rows in columns; on a narrow terminal columns are left out, then names are shortened."""
    widths = {head: max(width_of(row[head]) for row in rows) for head in _HEADS}
    kept = list(_HEADS)

    def room() -> int:
        return width - sum(widths[head] + 2 for head in kept if head != "NAME")

    for head in _OPTIONAL:
        if room() < min(widths["NAME"], 20):
            kept.remove(head)
    widths["NAME"] = max(_SHORTEST_NAME, min(widths["NAME"], room()))
    lines = ("  ".join(_cell(row[head], head, widths[head], cut) for head in kept) for row in rows)
    return [cut_to(line, width, "").rstrip() for line in lines]


def _cell(text: str, head: str, width: int, cut: str) -> str:
    text = cut_to(text, width, cut)
    if head in ("NAME", "KNOWN"):
        return padded(text, width)
    return " " * (width - width_of(text)) + text
