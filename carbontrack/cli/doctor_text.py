"""The doctor's findings as a page for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from carbontrack.cli.terminal import Terminal

Findings = dict[str, Any]
Row = tuple[str, str]


def report(findings: Findings, terminal: Terminal) -> Iterator[str]:
    """The findings as lines: the verdict first, then a part for each question."""
    yield terminal.bold(f"carbontrack {findings['carbontrack']}: {_verdict(findings)}")
    yield terminal.bold("\nThis machine")
    yield terminal.table(list(_machine(findings["hardware"])))
    yield terminal.bold("\nMeters")
    yield terminal.table([(meter["id"], _meter(meter, findings)) for meter in findings["meters"]])
    if findings["refused"]:
        yield terminal.bold("\nNot used")
        for refusal in findings["refused"]:
            yield terminal.table([(refusal["id"], refusal["reason"])])
            yield from (f"      {line}" for line in (refusal["cure"] or "").splitlines())
    yield terminal.bold("\nChecks")
    yield terminal.table(list(_checks(findings)))
    yield terminal.bold("\nGrid")
    yield terminal.table(list(_grid(findings)))
    yield terminal.bold("\nSettings")
    yield terminal.table(list(_settings(findings["settings"])))
    if findings["notes"]:
        yield terminal.bold("\nNotes")
        yield terminal.table([("note", note) for note in findings["notes"]])


def _verdict(findings: Findings) -> str:
    """Which components are measured, and which are not."""
    by_basis: dict[str, list[str]] = {}
    for meter in findings["meters"]:
        names = by_basis.setdefault(meter["basis"], [])
        if meter["component"] not in names:
            names.append(meter["component"])
    said = [f"{', '.join(names)} {basis}" for basis, names in sorted(by_basis.items())]
    return "; ".join(said) or "no meter at all"


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
    power_w = findings["checks"]["watts"].get(meter["id"])
    now = "silent" if power_w is None else f"{power_w:.2f} W now"
    line = (
        f"{meter['component']}, {meter['basis']}, within {meter['relative_uncertainty']:.0%}, {now}"
    )
    return f"{line}; {meter['about']}" if meter["about"] else line


def _checks(findings: Findings) -> Iterator[Row]:
    checks = findings["checks"]
    measured = [m["id"] for m in findings["meters"] if m["basis"] == "measured"]
    if checks["still"]:
        still = ", ".join(checks["still"])
        yield "counters", f"{still} did not move in a second: what they count is not to be trusted"
    elif measured:
        yield "counters", f"{len(measured)} watched for a second; all of them count"
    else:
        yield "counters", "none: nothing is measured here"
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
        low, high = intensity["low_g_per_kwh"], intensity["high_g_per_kwh"]
        year = f" in {intensity['year']}" if intensity["year"] else ""
        yield (
            "intensity",
            f"{intensity['g_per_kwh']:.0f} g CO2e/kWh ({low:.0f} to {high:.0f}){year}",
        )
        yield "source", f"{intensity['source']}, {intensity['method'].replace('_', ' ')}"
    yield "pue", f"{findings['pue']:g}"
    tables = ", ".join(f"{e['table']} {e['newest']}" for e in findings["tables"])
    yield "tables", f"{tables} (newest year of each)"


def _settings(settings: Findings) -> Iterator[Row]:
    """Those that somebody set, each with its place; the rest in a line, with their values."""
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
