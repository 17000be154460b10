"""`carbontrack recover`: write the records of runs that were killed."""

from __future__ import annotations

import json
from argparse import Namespace

from carbontrack.cli.journals import UnreadableJournals, print_result
from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.config import load
from carbontrack.errors import ConfigError
from carbontrack.record import told
from carbontrack.sinks.factory import is_file, is_url, sink_for
from carbontrack.sinks.journal.recovery import Recovered, opener, recover
from carbontrack.sinks.jsonl import json_line, record_object
from carbontrack.units import JOULES_PER_KWH, format_grams, format_joules, format_seconds

_ABOUT = """\
Write the records of runs that were killed, up to their last checkpoint, and
finished records that could not be written yet, to the outputs that they were
meant for. Running processes are left alone."""
_EPILOG = """\
Example: carbontrack recover --output recovered.csv

exit codes: 0 if everything is written; 1 if something is left in the journal."""
_NOTHING = ("there is nothing to recover", "no run could be recovered")
_MAY_BE_LOST = (
    "What a killed process used after the time shown is lost:",
    "  open blocks: about checkpoint_s at most (10 s by default)",
    "  short calls: about interval_s at most (1 s by default)",
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "recover",
        run,
        description=_ABOUT,
        epilog=_EPILOG,
        keep_lines=True,
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write here what cannot be written to its own output"
    )
    parser.add_argument("--json", action="store_true", help="print the recovered records as JSON")


def run(args: Namespace) -> int:
    """Recover, and print what was found."""
    unreadable = UnreadableJournals()
    settings = load.load_settings(writes=False)
    found = recover(
        load.state_path(settings),
        open_sink=opener(is_ours=settings.owns_state_dir),
        instead=None if args.output is None else _checked(args.output),
        on_unreadable=unreadable,
        on_set_aside=unreadable.set_aside,
    )
    is_partial = any(recovered.record.status == "recovered" for recovered in found)
    return print_result(
        list(map(_as_json, found)) if args.json else None,
        [*map(_line, found), *(_MAY_BE_LOST if is_partial else ())],
        unreadable,
        nothing=_NOTHING,
        is_complete=not any(recovered.trouble for recovered in found),
    )


def _checked(output: str) -> str:
    """The file of `--output`, checked before a journal is opened."""
    if not is_file(output):
        raise ConfigError(f"--output {told(output)}: not a file")
    sink_for(output).close()
    return output


def _as_json(recovered: Recovered) -> dict[str, object]:
    return {
        "record": json.loads(json_line(record_object(recovered.record))),
        "output": _output(recovered),
        "trouble": recovered.trouble,
    }


def _output(recovered: Recovered) -> str | None:
    return None if recovered.output is None else told(recovered.output)


def _line(recovered: Recovered) -> str:
    record, output = recovered.record, _output(recovered)
    used = "" if record.duration_s is None else format_seconds(record.duration_s)
    if record.energy_kwh is not None:
        used += f", {format_joules(record.energy_kwh * JOULES_PER_KWH)}"
    if record.emissions_g is not None:
        used += f", {format_grams(record.emissions_g)} CO2e"
    if recovered.trouble:
        result = f"not written: {recovered.trouble}"
    elif output is None:
        result = "not written, as it had no output"
    elif recovered.output is not None and is_url(recovered.output):
        result = f"waiting for {output}; to send it: carbontrack sync"
    else:
        result = f"written to {output}"
    return f"{record.name} ({used}, until {record.ended_at}): {result}"
