"""`carbontrack doctor`: what is measured here, what is not, why, and what would change it.

`examine` looks at the meters, the grid and the settings; `check` tries the meters out and times
what carbontrack itself costs. `cli.findings` has the text for people.
"""

from __future__ import annotations

import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from carbontrack.api.assembly import assemble, current_environment
from carbontrack.attribution.policy import Attribution
from carbontrack.cli.findings import MOVES, NOT_COMPARED, STANDS_STILL, Findings, lines
from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal, collected
from carbontrack.config.load import load_settings
from carbontrack.config.settings import READERS, SECRETS, Settings
from carbontrack.grid.tables import editions
from carbontrack.meters.cpu_model import FAR_OFF, SLACK_PER_THREAD_S, SLACK_S
from carbontrack.meters.meter import BESIDE_CPU_TIME, Meter, about, moves_within_s
from carbontrack.meters.rapl import ENERGY_FILTERING, filtering_suspected
from carbontrack.record import told
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.clock import process_cpu_s
from carbontrack.system.interrupts import suppressed
from carbontrack.system.version import VERSION
from carbontrack.tracking.tracker import Tracker
from carbontrack.values import NamedTuple

WATCH_S = 1.0
"""RAPL refreshes its counters a thousand times a second: one that stands still is not counting."""
WORK_S = 0.15
"""CPU seconds that are used meanwhile, so that there is something to compare with: fifteen steps of
the kernel's count or more, and twice what is no difference for one thread."""
_TICKS, _TICK_GAP_S = 7, 0.03
"""Far enough apart that every tick reads new values, as ticks a second apart do."""
_BATCHES, _SPANS = 5, 40
_ABOUT = """\
Show what is measured on this machine, what is modelled, with which uncertainty,
and what would improve it. Then the details: meters that cannot be used and why,
checks of the counters, the grid, and the settings. Takes two seconds, writes
nothing, and uses no network."""
_CODES = """\
Example: carbontrack doctor --region FR

exit codes: 0; with --check 1 if nothing is measured, only modelled or assumed."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `doctor` and its options."""
    parser = new_parser(
        subparsers, "doctor", run, description=_ABOUT, epilog=_CODES, keep_lines=True
    )
    add = parser.add_argument
    add("--region", help="use this region instead of the detected one")
    add("--all", action="store_true", help="also show the settings that have their default")
    add("--check", action="store_true", help="exit with 1 if nothing is measured")
    add("--json", action="store_true", help="print everything as one JSON object")


def run(args: Namespace) -> int:
    """Print the findings; 0, or 1 where `--check` asks for a measurement and there is none."""
    # an output that cannot be written must not hide all other findings
    settings = load_settings({"region": args.region}, writes=False)
    with (
        collected() as notes,
        assemble(replace(settings, output=()), current_environment()) as tracker,
    ):
        findings = examine(settings, tracker)
        findings["checks"] = check(tracker, Path(settings.procfs_path))
        _add_ends(findings["meters"], tracker.session.sampler)
        still = findings["checks"]["still"]
        findings["measured"] = any(
            meter["basis"] == "measured" and meter["id"] not in still
            for meter in findings["meters"]
        )
    findings["notes"] = notes
    terminal = Terminal(sys.stdout)
    if args.json:
        print(terminal.json(findings))
    else:
        text = "\n".join(lines(findings, terminal, all_settings=args.all))
        terminal.say(f"{text}\n")
    return 1 if args.check and not findings["measured"] else 0


def examine(settings: Settings, tracker: Tracker) -> Findings:
    """What is known of meters, hardware, grid and settings, as plain values."""
    session = tracker.session
    meters = session.sampler.meters
    intensity = session.ledger.fresh_intensity(session.sampler.clock)
    return {
        "carbontrack": VERSION,
        "measured": any(meter.basis == "measured" for meter in meters),
        "meters": [
            {
                "id": meter.id,
                "component": meter.component,
                "basis": meter.basis,
                "resolution_s": meter.resolution_s,
                "relative_uncertainty": meter.relative_uncertainty,
                "about": about(meter),
            }
            for meter in meters
        ],
        "refused": [refusal._asdict() for refusal in meters.refused],
        "faults": dict(meters.standing_faults()),
        "hardware": asdict(meters.hardware),
        "region": intensity and intensity.zone,
        "region_basis": session.builder.resource.region_basis,
        "intensity": intensity and asdict(intensity),
        "pue": session.ledger.attribution.pue,
        "tables": [edition._asdict() for edition in editions()],
        "idle_power": _idle_power(session.ledger.attribution),
        "facts": dict(session.builder.resource.columns),
        "settings": {
            name: {"value": _shown(settings, name), "origin": settings.origins.get(name)}
            for name in READERS
        },
    }


def _idle_power(attribution: Attribution) -> Findings | None:
    if not attribution.splits_idle():
        return None
    return {"policy": attribution.idle, **attribution.idle_power._asdict()}


def _shown(settings: Settings, name: str) -> object:
    value = getattr(settings, name)
    if name == "output":
        # people paste these findings into bug reports, and the query of a URL often holds a key
        return tuple(map(told, value))
    if name == "meter_plugins":  # the address that a plugin is given may hold one as well
        return tuple(f"{text.partition(':')[0]}:…" if ":" in text else text for text in value)
    return "(set)" if name in SECRETS and value is not None else value


def check(tracker: Tracker, procfs: Path) -> Findings:
    """Watch the meters for a second, compare them with other signs, and time ticks and spans."""
    sampler = tracker.session.sampler
    with tracker.span("doctor"):
        before = _look(sampler)
        _work()
        sampler.clock.wait(threading.Event(), WATCH_S)
        sampler.sample()
        after = _look(sampler)
        overhead = _overhead(tracker)
    meters = tuple(sampler.meters)
    suspected = any(m.id.startswith("rapl:") for m in meters) and filtering_suspected(procfs)
    compared = [_compared(meter, before, after) for meter in meters]
    return {
        "watts": {meter.id: _mean_w(meter.id, before, after) for meter in meters},
        "compared": compared,
        "still": [one["id"] for one in compared if one["verdict"] == STANDS_STILL],
        "energy_filtering": ENERGY_FILTERING if suspected else None,
        "overhead": overhead,
    }


def _work() -> None:
    end_s = process_cpu_s() + WORK_S
    while process_cpu_s() < end_s:
        pass


class Look(NamedTuple):
    """What one look at the meters saw.

    Attributes:
        at_s: the instant.
        counts_j: the count of each meter by its id; one that was silent is absent.
        machine_s, own_s: CPU seconds of all processors, None where unknown, and of this process.
    """

    at_s: float
    counts_j: Mapping[str, float]
    machine_s: float | None
    own_s: float


def _look(sampler: Sampler) -> Look:
    is_own = sampler.usage is not None and sampler.usage.busy_is_own
    busy_s = None if is_own else sampler.meters.busy_s
    with sampler.lock:
        now_s, counts_j = sampler.clock.monotonic_s(), {}
        for meter in sampler.meters:
            with suppressed(Exception):
                counts_j[meter.id] = meter.read_joules(now_s)
        return Look(now_s, counts_j, busy_s() if busy_s is not None else None, process_cpu_s())


def _mean_w(name: str, before: Look, after: Look) -> float | None:
    if name not in before.counts_j or name not in after.counts_j or after.at_s <= before.at_s:
        return None
    return (after.counts_j[name] - before.counts_j[name]) / (after.at_s - before.at_s)


def _compared(meter: Meter, before: Look, after: Look) -> Findings:
    """What a meter was compared with over a second, and the verdict, in plain words."""
    own_s, seconds = after.own_s - before.own_s, after.at_s - before.at_s
    known = before.machine_s is not None and after.machine_s is not None
    machine_s = (after.machine_s or 0.0) - (before.machine_s or 0.0) if known else own_s
    power_w = _mean_w(meter.id, before, after)
    is_count = meter.basis == "measured" or moves_within_s(meter) is not None  # or a part of one
    others: str | None = "CPU seconds of the processors"
    if power_w is None:
        others, verdict, why = None, NOT_COMPARED, "it did not answer"
    elif not is_count and meter.component != "cpu":
        others, verdict, why = None, NOT_COMPARED, "nothing else shows this power"
    elif not is_count and not known:
        others, verdict = None, NOT_COMPARED
        why = "how busy all processors are cannot be read, and our own time is counted"
    elif not is_count:
        others = "CPU seconds of this process"
        is_beside = BESIDE_CPU_TIME in getattr(meter, "fault_counts", ())
        is_beside |= own_s > FAR_OFF * machine_s + SLACK_S + SLACK_PER_THREAD_S  # by one thread
        verdict = "disagrees" if is_beside else "agrees"
        why = f"the system counted {machine_s:.2f}, and this process used {own_s:.2f}"
    elif power_w > 0.0:
        verdict = MOVES
        why = f"{power_w * seconds:.3g} J in {seconds:.1f} s, {machine_s:.2f} CPU seconds worked"
    elif moves_within_s(meter) is None and meter.component not in ("cpu", "ram"):
        others, verdict = None, NOT_COMPARED
        why = "it did not move in a second, and what it measures may be at rest"
    else:
        verdict = STANDS_STILL
        why = f"0 J in {seconds:.1f} s, {max(machine_s, own_s):.2f} CPU seconds worked"
    return {"id": meter.id, "with": others, "verdict": verdict, "why": why}


def _add_ends(meters: list[Findings], sampler: Sampler) -> None:
    """How many times its figure each meter's low and high end are; counted ones, just now."""
    for index, meter in enumerate(meters):
        width = meter["relative_uncertainty"]
        ends = max(0.0, 1.0 - width), 1.0 + width
        joules, place = sampler.counts.energy_j[index], sampler.meter_states[index].place_of_ends
        if place is not None and joules > 0.0:
            low_j, high_j = sampler.counts.ends_j[place : place + 2]
            ends = low_j / joules, high_j / joules
        meter["relative_low"], meter["relative_high"] = ends


def _overhead(tracker: Tracker) -> Findings:
    sampler = tracker.session.sampler
    now_s, pause = sampler.clock.monotonic_s, threading.Event()
    ticks_s = []
    for _ in range(_TICKS):
        sampler.clock.wait(pause, _TICK_GAP_S)
        ticks_s.append(_timed(now_s, sampler.tick))

    def spans() -> None:
        for _ in range(_SPANS):
            with tracker.span("doctor"):
                pass

    span_s = min(_timed(now_s, spans) for _ in range(_BATCHES)) / _SPANS
    return {"tick_us": median(ticks_s) * 1e6, "span_us": span_s * 1e6}


def _timed(now_s: Callable[[], float], act: Callable[[], object]) -> float:
    begun_s = now_s()
    act()
    return now_s() - begun_s
