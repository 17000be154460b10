"""`carbontrack doctor`: what is measured here, what is not, why, and what would change it."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from carbontrack.assembly import assemble
from carbontrack.attribution.policy import Attribution
from carbontrack.cli.checkup import check_up
from carbontrack.cli.doctor_text import report
from carbontrack.cli.notes import collected
from carbontrack.cli.terminal import Terminal
from carbontrack.config import load
from carbontrack.grid.editions import editions
from carbontrack.settings import READERS, SECRETS, Settings
from carbontrack.sinks.choose import is_url
from carbontrack.sinks.post import shown
from carbontrack.tracker import Tracker
from carbontrack.version import VERSION

_ABOUT = """\
Show every meter of this machine, used or not and why not, with the lines that would change it;
whether the counters move, and what carbontrack itself costs here; the region and its carbon
intensity; and every setting with the place that it comes from. Takes two seconds."""
_CODES = "exit codes: 0; with --check 1 when nothing is measured here, all is modelled or assumed."

Findings = dict[str, Any]


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Add `doctor` and its options."""
    parser = subparsers.add_parser("doctor", description=_ABOUT, epilog=_CODES, allow_abbrev=False)
    parser.add_argument("--region", help="look at this region instead of the one found")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--check", action="store_true", help="exit with 1 if nothing is measured")
    parser.set_defaults(func=run)


def run(args: Namespace) -> int:
    """Print the findings; 0, or 1 where `--check` asks for a measurement and there is none."""
    # an output that cannot be written is no reason to stay silent about the rest
    settings = load({"region": args.region}, writes=False)
    with collected() as notes, assemble(replace(settings, output=())) as tracker:
        findings = examine(settings, tracker)
        findings["checks"] = check_up(tracker, Path(settings.procfs_path))
    findings["notes"] = notes
    terminal = Terminal(sys.stdout)
    if args.json:
        print(json.dumps(findings, ensure_ascii=not terminal.encoding.lower().startswith("utf")))
    else:
        print("\n".join(report(findings, terminal)))
    return 1 if args.check and not findings["measured"] else 0


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
                "about": getattr(meter, "about", None) or None,
            }
            for meter in meters
        ],
        "refused": [refusal._asdict() for refusal in meters.refused],
        "hardware": asdict(meters.hardware),
        "region": intensity and intensity.zone,
        "region_basis": session.circumstances.region_basis,
        "intensity": intensity and asdict(intensity),
        "pue": session.book.attribution.pue,
        "tables": [asdict(edition) for edition in editions()],
        "idle_power": _idle_power(session.book.attribution),
        "facts": dict(session.circumstances.facts),
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
        # people paste what the doctor says into reports, and a query often holds a key
        return tuple(shown(output) if is_url(output) else output for output in value)
    return "(set)" if name in SECRETS and value is not None else value
