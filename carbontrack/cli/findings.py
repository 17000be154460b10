"""The findings of `carbontrack doctor` as text: the answer, what would improve it, details."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from carbontrack.cli.summary import REGION_FROM
from carbontrack.cli.terminal import Terminal
from carbontrack.grid.tables import beyond_interval
from carbontrack.interval import Interval, total
from carbontrack.meters.cpu_lines import line_of
from carbontrack.meters.rate import rate_text
from carbontrack.record import BASES, COMPONENTS, boundary_text
from carbontrack.report.uncounted import uncounted_text
from carbontrack.text import visible
from carbontrack.units import format_interval, format_watts, format_with_interval

MOVES, STANDS_STILL, NOT_COMPARED = "moves", "stands still", "cannot be compared"
"""What a check of a meter may find."""
_CPU_MODEL = "model:cpu"
_PROCESSOR_AND_MEMORY = {("cpu", "modelled"), ("ram", "modelled")}
_NAMES = {"cpu": "CPU", "gpu": "GPU", "ram": "memory", "other": "other"}
_OF_GUESTS = "only on the host: a virtual machine is shown neither energy counters nor wall power"
_DESIGN_POWER = "if you know its design power (TDP): CARBONTRACK_CPU_TDP_W=WATTS"
_BY_NAME = (
    "let the hypervisor pass on its name (QEMU: -cpu host): its design power is then looked up. "
    "On a cloud the machine type in the firmware does the same"
)
_REGION = "set CARBONTRACK_REGION=CODE (codes: carbontrack regions NAME)"
Findings = dict[str, Any]
Row = tuple[str, str]


def lines(findings: Findings, terminal: Terminal, *, all_settings: bool) -> Iterator[str]:
    """The findings as lines; with `all_settings` also those settings that nobody has set."""
    yield terminal.bold(f"carbontrack {findings['carbontrack']}: {_conclusion(findings)}")
    sections = (
        ("At a glance", _at_a_glance(findings)),
        ("How to improve", _improving(findings)),
        ("This machine", _machine(findings["hardware"])),
        ("Meters", _meters(findings)),
    )
    for title, rows in sections:
        yield from _section(terminal, title, list(rows))
    yield from _refused(findings["refused"], terminal)
    sections = (
        ("Checks", _checks(findings)),
        ("Grid", _grid(findings)),
        ("Settings", _settings(findings["settings"], show_all=all_settings)),
        ("Notes", _notes(findings)),
    )
    for title, rows in sections:
        yield from _section(terminal, title, list(rows))


def _section(terminal: Terminal, title: str, rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield terminal.bold(f"\n{title}")
        yield terminal.table(rows)


def _refused(refused: Sequence[Findings], terminal: Terminal) -> Iterator[str]:
    """The meters that are not used, each with the lines that would change that."""
    if refused:
        yield terminal.bold("\nNot used")
    for one in refused:
        yield terminal.table([(one["id"], one["reason"])])
        if one["cure"]:
            yield from (f"      {visible(line)}" for line in one["cure"].split("\n"))


def _conclusion(findings: Findings) -> str:
    """Which components are measured, and which are not."""
    by_basis: dict[str, list[str]] = {}
    still = findings["checks"]["still"]
    aside = {meter["component"] for meter in findings["meters"] if meter["id"] in still}
    for meter in findings["meters"]:
        how = "not measured, as counters stand still"
        names = by_basis.setdefault(how if meter["component"] in aside else meter["basis"], [])
        if (name := _NAMES[meter["component"]]) not in names:
            names.append(name)
    order = (*BASES, *by_basis)
    by_how = [
        f"{' and '.join(names)} {basis}"
        for basis, names in sorted(by_basis.items(), key=lambda item: order.index(item[0]))
    ]
    if by_how and "measured" not in by_basis:
        by_how.append("nothing measured")
    faults = ";".join(f"{code}:{times}" for code, times in sorted(findings["faults"].items()))
    uncounted = uncounted_text(faults)
    return "; ".join([*(by_how or ["no meter at all"]), *([uncounted] if uncounted else [])])


# -- the answer -----------------------------------------------------------------------------


def _at_a_glance(findings: Findings) -> Iterator[Row]:
    """The power over the second that was watched, of all and of each component, and the grid."""
    by_kind = _powers(findings)
    together = _together(by_kind)
    if together is not None:
        yield "total", together
    for component in COMPONENTS:
        bases = {meter["basis"] for meter in findings["meters"] if meter["component"] == component}
        for basis in sorted(bases, key=BASES.index):
            powers = by_kind.get((component, basis))
            # meters of one kind err together: docs/explanation/accuracy.md
            power = Interval(*map(sum, zip(*powers, strict=True))) if powers else None
            if power is None and _stands_still(findings, component, basis):
                yield _NAMES[component], "not measured: its counters stand still"
            else:
                yield _NAMES[component], f"{basis}, {_watts(power, basis)}"
    intensity = findings["intensity"]
    if intensity is not None:
        yield "grid", f"{_intensity(intensity)}, {_place(findings)}"


def _stands_still(findings: Findings, component: str, basis: str) -> bool:
    kind = component, basis
    return any(
        (meter["component"], meter["basis"]) == kind and meter["id"] in findings["checks"]["still"]
        for meter in findings["meters"]
    )


def _powers(findings: Findings) -> dict[tuple[str, str], list[Interval]]:
    """The watts of each kind of meter, without those that stand still and are not used."""
    by_kind: dict[tuple[str, str], list[Interval]] = {}
    for meter in findings["meters"]:
        power_w = findings["checks"]["watts"].get(meter["id"])
        if power_w is not None and meter["id"] not in findings["checks"]["still"]:
            ends = power_w * meter["relative_low"], power_w * meter["relative_high"]
            kind = meter["component"], meter["basis"]
            by_kind.setdefault(kind, []).append(Interval(power_w, *ends))
    return by_kind


def _watts(power: Interval | None, basis: str) -> str:
    if power is None:
        return "no answer"
    if basis == "measured":
        return format_watts(power.best)
    return format_with_interval(*power, format_watts, gap="  ")


def _together(by_kind: dict[tuple[str, str], list[Interval]]) -> str | None:
    """All meters in one figure, where one of them is a model, and what it covers."""
    bases = {basis for _, basis in by_kind}
    seen = {component for component, _ in by_kind}
    energies = {f"{name}_kwh": 0.0 if name in seen else None for name in COMPONENTS}
    ends_at = boundary_text(SimpleNamespace(**energies))
    if ends_at is None or bases == {"measured"}:
        return None
    # kinds err independently
    power = total(Interval(*map(sum, zip(*own, strict=True))) for own in by_kind.values())
    return f"{_watts(power, 'modelled')}, {ends_at}"


# -- what improves it ------------------------------------------------------------------------


def _improving(findings: Findings) -> Iterator[Row]:
    """What would make the intervals narrower, each with its command."""
    bases = {meter["component"]: meter["basis"] for meter in findings["meters"]}
    hardware = findings["hardware"]
    is_known = hardware["cpu_known"] not in ("family", "nothing")
    if findings["region_basis"] in ("unknown", "timezone"):
        yield "region", _REGION
    if not hardware["is_guest"]:
        yield from _of_hardware(findings, bases, is_known=is_known)
    elif bases.get("cpu") != "measured":
        if not is_known:
            yield "processor", _BY_NAME
            if line_of(hardware["cpu_model"]) == "client":  # it has no other guests
                yield "processor", _DESIGN_POWER
        yield "measuring", _OF_GUESTS


def _of_hardware(findings: Findings, bases: dict[str, str], *, is_known: bool) -> Iterator[Row]:
    """What helps where counters and the plug are this machine's own."""
    if bases.get("cpu") != "measured":
        cures = (r["cure"] for r in findings["refused"] if r["id"].startswith(("rapl", "perf")))
        cure = next(filter(None, cures), None)
        if cure is not None:
            command = cure.split("\n")[-1]
            yield "counters", f"open the processor's, which is accurate within 7%: {command}"
        if not is_known:
            yield "processor", _DESIGN_POWER
    if set(bases.values()) != {"measured"} and "other" not in bases:
        yield (
            "wall meter",
            (
                "two readings, one idle and one under load, count the whole machine: "
                "carbontrack calibrate --wall WATTS"
            ),
        )


# -- details ---------------------------------------------------------------------------------


def _machine(hardware: Findings) -> Iterator[Row]:
    threads, sockets = hardware["cpu_threads"], hardware["cpu_sockets"]
    yield "processor", hardware["cpu_model"] or "unknown"
    if threads:
        power_w = hardware["cpu_tdp_w"]
        is_whole = (sockets or 0.0) >= 1.0 and hardware["cpu_known"] in ("part", "given")
        each = f"{threads} x {power_w / threads:.3g} W" if power_w else str(threads)
        yield (
            "threads",
            f"{threads}, design power {power_w:g} W" if is_whole else each,
        )
    if hardware["ram_gib"]:
        yield "memory", f"{hardware['ram_gib']:.1f} GiB"
    models, count = ", ".join(hardware["gpu_models"]), hardware["gpu_count"]
    yield "GPUs", f"{count}: {models}" if models else str(count or "none")


def _meters(findings: Findings) -> Iterator[Row]:
    for meter in findings["meters"]:
        yield meter["id"], _meter(meter, findings)
    kinds = {(meter["component"], meter["basis"]) for meter in findings["meters"]}
    hardware = findings["hardware"]
    if kinds == _PROCESSOR_AND_MEMORY and any(
        meter["id"] == _CPU_MODEL for meter in findings["meters"]
    ):
        model, known = hardware["cpu_model"], hardware["cpu_known"]
        yield "interval", rate_text(model, known, is_guest=hardware["is_guest"])


def _meter(meter: Findings, findings: Findings) -> str:
    parts = [f"{_NAMES[meter['component']]} {meter['basis']}"]
    known = findings["hardware"]["cpu_known"]
    if meter["basis"] == "measured":
        parts[0] += f" within {meter['relative_uncertainty']:.0%}"
    elif meter["id"] == _CPU_MODEL and known in ("part", "family", "nothing"):
        parts[0] += f", {known} known"
    if meter["id"] in findings["checks"]["still"]:
        parts.append("it stands still, so it is not used")
    return "; ".join([*parts, *([meter["about"]] if meter["about"] else [])])


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
        f"{overhead['tick_us']:.0f} µs a reading, {share:.3%} of a core; "
        f"{overhead['span_us']:.0f} µs a block",
    )
    idle = findings["idle_power"]
    if idle:
        yield "idle", f"CPU {idle['cpu']:.2f} W ({idle['basis']}), for idle={idle['policy']}"


def _grid(findings: Findings) -> Iterator[Row]:
    intensity = findings["intensity"]
    if intensity is None:
        yield "intensity", "unknown"
    else:
        yield "region", f"{findings['region']}, {_place(findings)}"
        yield "intensity", _figure(intensity)
        yield "source", f"{intensity['source']}, {intensity['method'].replace('_', ' ')}"
        beyond = beyond_interval(intensity["zone"], intensity["method"])
        if beyond is not None:
            yield "imports", beyond
    yield "PUE", f"{findings['pue']:g}"
    tables = ", ".join(f"{e['table']} {e['newest']}" for e in findings["tables"])
    yield "tables", f"{tables} (newest year of each)"


def _figure(intensity: Findings) -> str:
    ends = format_interval(intensity["low_g_per_kwh"], intensity["high_g_per_kwh"], ".0f")
    year = f" in {intensity['year']}" if intensity["year"] else ""
    return f"{intensity['g_per_kwh']:.0f} g CO2e/kWh ({ends}){year}"


def _intensity(intensity: Findings) -> str:
    figure = _figure(intensity)
    return f"{intensity['zone']}, {figure}" if intensity["zone"] else figure


def _place(findings: Findings) -> str:
    basis = findings["region_basis"]
    return REGION_FROM.get(basis, str(basis))


def _settings(settings: Findings, *, show_all: bool) -> Iterator[Row]:
    """Each setting that was changed, with its source; the others in one line or, if asked, all."""
    changed = {n: s for n, s in settings.items() if s["origin"] != "default"}
    for name, setting in changed.items():
        yield name, f"{_plain(setting['value'])}  ({setting['origin']})"
    if not show_all:
        others = "all others have" if changed else "all have"
        yield "default", f"{others} their default; to see them: carbontrack doctor --all"
        return
    for name, setting in settings.items():
        if name not in changed:
            yield name, _plain(setting["value"])


def _plain(what: object) -> str:
    if what is None:
        return "not set"
    if isinstance(what, bool):
        return "yes" if what else "no"
    if isinstance(what, (tuple, list)):
        return ", ".join(map(str, what)) or "none"
    return f"{what:g}" if isinstance(what, float) else str(what)


def _notes(findings: Findings) -> Iterator[Row]:
    """Warnings, without that of an unknown region, which is above with its remedy."""
    for note in findings["notes"]:
        if findings["region_basis"] != "unknown" or "CARBONTRACK_REGION" not in note:
            yield "note", note
