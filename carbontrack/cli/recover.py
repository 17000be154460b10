"""`carbontrack recover`: turn what killed runs left behind into records."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace, _SubParsersAction

from carbontrack.cli.terminal import Unseen
from carbontrack.config import load
from carbontrack.sinks.factory import is_url, told
from carbontrack.sinks.journal.recovery import Recovered, opener, recover
from carbontrack.sinks.jsonl import json_line, record_object
from carbontrack.units import JOULES_PER_KWH, format_grams, format_joules, format_seconds

_NOTHING = {False: "no run was left behind", True: "no run could be recovered"}


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "recover",
        help="write the records of runs that were killed",
        description="Write what runs that were killed had used up to their last checkpoint, to "
        "the outputs that they had. Runs that still live are left alone. "
        "Exit code 0: all is written; 1: something could not be, and stays in the journal.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print what was recovered as JSON")
    parser.set_defaults(func=run)


def run(args: Namespace) -> int:
    """Recover, and say what was found."""
    unseen = Unseen()
    settings = load.load_settings(writes=False)
    open_sink = opener(is_ours=settings.owns_state_dir)
    found = recover(load.state_path(settings), open_sink=open_sink, on_trouble=unseen)
    if args.json:
        print(json.dumps([_as_json(recovered) for recovered in found]))
    else:
        print("\n".join(map(_told, found)) or _NOTHING[bool(unseen.found)])
    return 1 if unseen.say() or any(recovered.trouble for recovered in found) else 0


def _as_json(recovered: Recovered) -> dict[str, object]:
    return {
        "record": json.loads(json_line(record_object(recovered.record))),
        "output": _place(recovered),
        "trouble": recovered.trouble,
    }


def _place(recovered: Recovered) -> str | None:
    return None if recovered.output is None else told(recovered.output)


def _told(recovered: Recovered) -> str:
    record, place = recovered.record, _place(recovered)
    used = "" if record.duration_s is None else format_seconds(record.duration_s)
    if record.energy_kwh is not None:
        used += f", {format_joules(record.energy_kwh * JOULES_PER_KWH)}"
    if record.emissions_g is not None:
        used += f", {format_grams(record.emissions_g)} CO2e"
    if recovered.trouble:
        fate = f"not written: {recovered.trouble}"
    elif place is None:
        fate = "it had no output"
    elif recovered.output is not None and is_url(recovered.output):
        fate = f"waits for {place}; send it with: carbontrack sync"
    else:
        fate = f"written to {place}"
    return f"{record.name} ({used}, until {record.ended_at}): {fate}"
