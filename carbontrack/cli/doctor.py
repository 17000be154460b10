"""`carbontrack doctor`: what is measured here, what is not, why, and what would change it.

`examine` looks at the meters, the grid and the settings; `check` tries the meters out and times
what carbontrack itself costs; `report` prints the findings for people.
"""

from __future__ import annotations

import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from carbontrack.api.assembly import assemble, current_environment
from carbontrack.attribution.policy import Attribution
from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal, collected
from carbontrack.config.load import load_settings
from carbontrack.config.settings import READERS, SECRETS, Settings
from carbontrack.grid.tables import beyond_interval, editions
from carbontrack.interval import Interval, total
from carbontrack.meters.cpu_lines import line_of
from carbontrack.meters.cpu_model import FAR_OFF, SLACK_PER_THREAD_S, SLACK_S
from carbontrack.meters.meter import BESIDE_CPU_TIME, Meter, about, moves_within_s
from carbontrack.meters.rapl import ENERGY_FILTERING, filtering_suspected
from carbontrack.meters.rate import rate_text
from carbontrack.record import BASES, COMPONENTS, boundary_text, told
from carbontrack.report.uncounted import uncounted_text
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.clock import process_cpu_s
from carbontrack.system.interrupts import suppressed
from carbontrack.system.version import VERSION
from carbontrack.text import visible
from carbontrack.tracking.tracker import Tracker
from carbontrack.units import format_interval
from carbontrack.values import NamedTuple

WATCH_S = 1.0
"""RAPL refreshes its counters a thousand times a second: one that stands still is not counting."""
MOVES, STANDS_STILL, NOT_COMPARED = "moves", "stands still", "cannot be compared"
WORK_S = 0.15
"""CPU seconds that are used meanwhile, so that there is something to compare with: fifteen steps of
the kernel's count or more, and twice what is no difference for one thread."""
_TICKS, _TICK_GAP_S = 7, 0.03
"""Far enough apart that every tick reads new values, as ticks a second apart do."""
_BATCHES, _SPANS = 5, 40
_CPU_MODEL = "model:cpu"
_PROCESSOR_AND_MEMORY = {("cpu", "modelled"), ("ram", "modelled")}
_ABOUT = """\
Show every meter of this machine, used or not and why not, with the lines that would change it;
whether the counters move, and what carbontrack itself costs here; the region and its carbon
intensity; and every setting with the place that it comes from. Takes two seconds."""
_CODES = "exit codes: 0; with --check 1 when nothing is measured here, all is modelled or assumed."
_OF_GUESTS = "neither its counters nor its wall can be seen from inside a virtual machine"
_DESIGN_POWER = "if you know its design power: CARBONTRACK_CPU_TDP_W=WATTS"
_BY_NAME = (
    "its name, shown by the hypervisor (QEMU: -cpu host), would tell its design power and threads; "
    "so would a cloud's type, named by the firmware"
)
Findings = dict[str, Any]
Row = tuple[str, str]


def add_parser(subparsers: Subparsers) -> None:
    """Add `doctor` and its options."""
    parser = new_parser(subparsers, "doctor", run, description=_ABOUT, epilog=_CODES)
    parser.add_argument("--region", help="use this region instead of the one found")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--check", action="store_true", help="exit with 1 if nothing is measured")


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
        print("\n".join(report(findings, terminal)))
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
        others, verdict, why = None, NOT_COMPARED, "it is a model of what nothing else shows"
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


def report(findings: Findings, terminal: Terminal) -> Iterator[str]:
    """The findings as lines: the conclusion first, then a section for each question."""
    yield terminal.bold(f"carbontrack {findings['carbontrack']}: {_conclusion(findings)}")
    yield terminal.bold("\nThis machine")
    yield terminal.table(list(_machine(findings["hardware"])))
    yield terminal.bold("\nMeters")
    meters = [(meter["id"], _meter(meter, findings)) for meter in findings["meters"]]
    yield terminal.table([*meters, *_together(findings)])
    if findings["refused"]:
        yield terminal.bold("\nNot used")
        for refusal in findings["refused"]:
            yield terminal.table([(refusal["id"], refusal["reason"])])
            if refusal["cure"]:
                yield from (f"      {visible(line)}" for line in refusal["cure"].split("\n"))
    narrowing = list(_narrowing(findings))
    if narrowing:
        yield terminal.bold("\nTo narrow the intervals")
        yield terminal.table(narrowing)
    yield terminal.bold("\nChecks")
    yield terminal.table(list(_checks(findings)))
    yield terminal.bold("\nGrid")
    yield terminal.table(list(_grid(findings)))
    yield terminal.bold("\nSettings")
    yield terminal.table(list(_settings(findings["settings"])))
    if findings["notes"]:
        yield terminal.bold("\nNotes")
        yield terminal.table([("note", note) for note in findings["notes"]])


def _conclusion(findings: Findings) -> str:
    """Which components are measured, and which are not."""
    by_basis: dict[str, list[str]] = {}
    still = findings["checks"]["still"]
    aside = {meter["component"] for meter in findings["meters"] if meter["id"] in still}
    for meter in findings["meters"]:
        how = "not measured, as counters stand still"
        names = by_basis.setdefault(how if meter["component"] in aside else meter["basis"], [])
        if meter["component"] not in names:
            names.append(meter["component"])
    by_how = [f"{', '.join(names)} {basis}" for basis, names in sorted(by_basis.items())]
    faults = ";".join(f"{code}:{times}" for code, times in sorted(findings["faults"].items()))
    uncounted = uncounted_text(faults)
    return "; ".join([*(by_how or ["no meter at all"]), *([uncounted] if uncounted else [])])


def _machine(hardware: Findings) -> Iterator[Row]:
    threads = hardware["cpu_threads"]
    yield "processor", hardware["cpu_model"] or "unknown"
    if threads:
        power = f", design power {hardware['cpu_tdp_w']:g} W" if hardware["cpu_tdp_w"] else ""
        yield "threads", f"{threads}{power}"
    if hardware["ram_gib"]:
        yield "memory", f"{hardware['ram_gib']:.1f} GiB"
    models, count = ", ".join(hardware["gpu_models"]), hardware["gpu_count"]
    yield "GPUs", f"{count}: {models}" if models else str(count or "none")


def _meter(meter: Findings, findings: Findings) -> str:
    known = meter["basis"]
    if meter["basis"] == "measured":
        known += f", within {meter['relative_uncertainty']:.0%}"
    elif meter["id"] == _CPU_MODEL:
        known += _step(findings)
    power = _power(meter, findings)
    now = "silent" if power is None else _watts(power, ends=meter["basis"] != "measured")
    still = (
        "; it stands still, so it is not used" if meter["id"] in findings["checks"]["still"] else ""
    )
    line = f"{meter['component']}, {known}, {now}{still}"
    return f"{line}; {meter['about']}" if meter["about"] else line


def _power(meter: Findings, findings: Findings) -> Interval | None:
    """A meter's power over the second that it was watched for, with both ends."""
    power_w = findings["checks"]["watts"].get(meter["id"])
    if power_w is None:
        return None
    return Interval(power_w, power_w * meter["relative_low"], power_w * meter["relative_high"])


def _watts(power: Interval, *, ends: bool) -> str:
    text = f"{power.best:.2f} W now"
    return f"{text} ({format_interval(power.low, power.high, '.2f')})" if ends else text


def _step(findings: Findings) -> str:
    """By what a modelled processor's design power is known."""
    known = findings["hardware"]["cpu_known"]
    return f", {known} known" if known in ("part", "family", "nothing") else ""


def _together(findings: Findings) -> Iterator[Row]:
    """All meters in one figure, where one of them is a model, with its boundary and its rate."""
    by_kind: dict[tuple[str, str], list[Interval]] = {}
    for meter in findings["meters"]:
        power = _power(meter, findings)
        if power is not None:
            by_kind.setdefault((meter["component"], meter["basis"]), []).append(power)
    bases = {basis for _, basis in by_kind}
    seen = {component for component, _ in by_kind}
    energies = {f"{name}_kwh": 0.0 if name in seen else None for name in COMPONENTS}
    ends_at = boundary_text(SimpleNamespace(**energies))
    if ends_at is None or bases == {"measured"}:
        return
    # meters of one kind err together, kinds independently: docs/explanation/accuracy.md
    power = total(Interval(*map(sum, zip(*own, strict=True))) for own in by_kind.values())
    by_model = any(meter["id"] == _CPU_MODEL for meter in findings["meters"])
    step = _step(findings) if by_model else ""
    is_known = by_model and set(by_kind) == _PROCESSOR_AND_MEMORY
    often = _rate(findings["hardware"]) if is_known else ""
    weakest = max(bases, key=BASES.index)
    yield "together", f"{weakest}{step}: {_watts(power, ends=True)}, {ends_at}{often}"


def _rate(hardware: Findings) -> str:
    model, known = hardware["cpu_model"], hardware["cpu_known"]
    return f"; {rate_text(model, known, is_guest=hardware['is_guest'])}"


def _narrowing(findings: Findings) -> Iterator[Row]:
    """What would make the intervals narrower, each with its command."""
    bases = {meter["component"]: meter["basis"] for meter in findings["meters"]}
    hardware = findings["hardware"]
    is_known = hardware["cpu_known"] not in ("family", "nothing")
    if not hardware["is_guest"]:
        yield from _of_hardware(findings, bases, is_known=is_known)
    elif bases.get("cpu") != "measured":
        yield "host", _OF_GUESTS
        if not is_known:
            yield "processor", _BY_NAME
            if line_of(hardware["cpu_model"]) == "client":  # it has no other guests
                yield "processor", _DESIGN_POWER
    if findings["region_basis"] in ("unknown", "timezone"):
        yield (
            "region",
            (
                "a known grid narrows the interval of the emissions: carbontrack regions NAME, "
                "then CARBONTRACK_REGION=CODE"
            ),
        )


def _of_hardware(findings: Findings, bases: dict[str, str], *, is_known: bool) -> Iterator[Row]:
    """What helps where counters and the plug are this machine's own."""
    if bases.get("cpu") != "measured":
        cures = (r["cure"] for r in findings["refused"] if r["id"].startswith(("rapl", "perf")))
        cure = next(filter(None, cures), None)
        if cure is not None:
            command = cure.split("\n")[-1]
            yield "counters", f"the processor's own counter is accurate within 7%: {command}"
        if not is_known:
            yield "processor", _DESIGN_POWER
    if set(bases.values()) != {"measured"} and "other" not in bases:
        yield (
            "wall meter",
            (
                "two readings of a wall meter, idle and under load, let the whole machine be "
                "counted: carbontrack calibrate --wall WATTS"
            ),
        )


def _checks(findings: Findings) -> Iterator[Row]:
    checks = findings["checks"]
    measured = {m["id"] for m in findings["meters"] if m["basis"] == "measured"}
    moving = {one["id"] for one in checks["compared"] if one["verdict"] == MOVES}
    watched = len(measured | moving)
    if checks["still"]:
        still = ", ".join(checks["still"])
        yield "counters", f"{still} did not move in a second: not used while this lasts"
    elif watched:
        many = "all of them count" if watched == len(moving) else f"{len(moving)} of them count"
        yield "counters", f"{watched} watched for a second; {many}"
    else:
        yield "counters", "none: nothing is measured here"
    for one in checks["compared"]:
        others = f", compared with the {one['with']}" if one["with"] else ""
        yield one["id"], f"{one['verdict']}{others}: {one['why']}"
    if checks["energy_filtering"]:
        yield "filtering", checks["energy_filtering"]
    overhead = checks["overhead"]
    share = overhead["tick_us"] * 1e-6 / findings["settings"]["interval_s"]["value"]
    yield (
        "own cost",
        f"a reading {overhead['tick_us']:.0f} us, which is {share:.3%} of a core; "
        f"a block {overhead['span_us']:.0f} us",
    )
    idle = findings["idle_power"]
    if idle:
        yield "idle", f"processors {idle['cpu']:.2f} W ({idle['basis']}), for idle={idle['policy']}"


def _grid(findings: Findings) -> Iterator[Row]:
    intensity = findings["intensity"]
    yield "region", f"{findings['region']}  ({findings['region_basis']})"
    if intensity is None:
        yield "intensity", "unknown"
    else:
        ends = format_interval(intensity["low_g_per_kwh"], intensity["high_g_per_kwh"], ".0f")
        year = f" in {intensity['year']}" if intensity["year"] else ""
        yield "intensity", f"{intensity['g_per_kwh']:.0f} g CO2e/kWh ({ends}){year}"
        yield "source", f"{intensity['source']}, {intensity['method'].replace('_', ' ')}"
        beyond = beyond_interval(intensity["zone"], intensity["method"])
        if beyond is not None:
            yield "imports", beyond
    yield "pue", f"{findings['pue']:g}"
    tables = ", ".join(f"{e['table']} {e['newest']}" for e in findings["tables"])
    yield "tables", f"{tables} (newest year of each)"


def _settings(settings: Findings) -> Iterator[Row]:
    """Each setting that was changed, with its source; then all defaults in one line."""
    for name, setting in settings.items():
        if setting["origin"] != "default":
            yield name, f"{_plain(setting['value'])}  ({setting['origin']})"
    rest = {n: s["value"] for n, s in settings.items() if s["origin"] == "default"}
    filled = ", ".join(f"{n}={_plain(value)}" for n, value in rest.items() if value is not None)
    yield "default", filled
    yield "not set", ", ".join(name for name, value in rest.items() if value is None)


def _plain(what: object) -> str:
    if what is None:
        return "not set"
    if isinstance(what, bool):
        return "yes" if what else "no"
    if isinstance(what, (tuple, list)):
        return ", ".join(map(str, what)) or "none"
    return f"{what:g}" if isinstance(what, float) else str(what)
