"""`carbontrack doctor`: what is measured here, what is not, why, and what would change it."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from carbontrack.assembly import assemble
from carbontrack.cli.notes import collected
from carbontrack.cli.terminal import Terminal
from carbontrack.config import load
from carbontrack.grid.editions import editions
from carbontrack.settings import READERS, SECRETS, Settings
from carbontrack.tracker import Tracker
from carbontrack.version import VERSION

_ABOUT = """\
Show every meter of this machine, used or not and why not, with the lines that would change it;
the region and its carbon intensity; and every setting with the place that it comes from."""
_CODES = "exit codes: 0 when something is measured here, 1 when all is modelled or assumed."

Findings = dict[str, Any]


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Add `doctor` and its options."""
    parser = subparsers.add_parser("doctor", description=_ABOUT, epilog=_CODES, allow_abbrev=False)
    parser.add_argument("--region", help="look at this region instead of the one found")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.set_defaults(func=run)


def run(args: Namespace) -> int:
    """Print the findings; 0 when something is measured, else 1."""
    # an output that cannot be written is no reason to stay silent about the rest
    settings = load({"region": args.region}, writes=False)
    with collected() as notes, assemble(replace(settings, output=())) as tracker:
        findings = examine(settings, tracker)
    findings["notes"] = notes
    terminal = Terminal(sys.stdout)
    if args.json:
        print(json.dumps(findings, ensure_ascii=not terminal.encoding.lower().startswith("utf")))
    else:
        print("\n".join(report(findings, terminal)))
    return 0 if findings["measured"] else 1


def examine(settings: Settings, tracker: Tracker) -> Findings:
    """Everything that the doctor knows, as plain values."""
    session = tracker.session
    meters, intensity = session.sampler.meters, session.intensity()
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
            }
            for meter in meters
        ],
        "refused": [asdict(refusal) for refusal in meters.refused],
        "hardware": asdict(meters.hardware),
        "region": intensity and intensity.zone,
        "region_basis": session.circumstances.region_basis,
        "intensity": intensity and asdict(intensity),
        "pue": session.book.attribution.pue,
        "tables": [asdict(edition) for edition in editions()],
        "facts": dict(session.circumstances.facts),
        "settings": {
            name: {"value": _shown(settings, name), "origin": settings.origins.get(name)}
            for name in READERS
        },
    }


def _shown(settings: Settings, name: str) -> object:
    value = getattr(settings, name)
    return "(set)" if name in SECRETS and value is not None else value


def report(findings: Findings, terminal: Terminal) -> Iterator[str]:
    """The findings as lines for people."""
    hardware = findings["hardware"]
    yield terminal.bold("This machine")
    yield terminal.table([(name, _plain(what)) for name, what in hardware.items() if what])
    yield terminal.bold("\nMeters")
    yield terminal.table([(meter["id"], _meter(meter)) for meter in findings["meters"]])
    if findings["refused"]:
        yield terminal.bold("\nNot used")
        for refusal in findings["refused"]:
            yield terminal.table([(refusal["id"], refusal["reason"])])
            yield from (f"      {line}" for line in (refusal["cure"] or "").splitlines())
    yield terminal.bold("\nGrid")
    yield terminal.table(list(_grid(findings)))
    yield terminal.table(
        [(f"table {edition['table']}", _years(edition)) for edition in findings["tables"]]
    )
    yield terminal.bold("\nSettings")
    yield terminal.table(
        [
            (name, f"{_plain(setting['value'])}  ({setting['origin']})")
            for name, setting in findings["settings"].items()
        ]
    )
    if findings["notes"]:
        yield terminal.bold("\nNotes")
        yield terminal.table([("", note) for note in findings["notes"]])


def _meter(meter: Findings) -> str:
    return f"{meter['component']}, {meter['basis']}, within {meter['relative_uncertainty']:.0%}"


def _grid(findings: Findings) -> Iterator[tuple[str, str]]:
    intensity = findings["intensity"]
    yield "region", f"{findings['region']}  ({findings['region_basis']})"
    if intensity is None:
        yield "intensity", "unknown"
        return
    low, high = intensity["low_g_per_kwh"], intensity["high_g_per_kwh"]
    year = f" in {intensity['year']}" if intensity["year"] else ""
    yield "intensity", f"{intensity['g_per_kwh']:.0f} g CO2e/kWh ({low:.0f} to {high:.0f}){year}"
    yield "source", f"{intensity['source']}, {intensity['method'].replace('_', ' ')}"
    yield "pue", f"{findings['pue']:g}"


def _years(edition: Findings) -> str:
    years = f"{edition['oldest']} to {edition['newest']}, most of {edition['most']}"
    return f"{edition['rows']} figures of {years}"


def _plain(what: object) -> str:
    if what is None:
        return "not set"
    if isinstance(what, (tuple, list)):
        return ", ".join(map(str, what)) or "none"
    return f"{what:g}" if isinstance(what, float) else str(what)
