"""`carbontrack label`: a grade for the measured energy of a model."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from carbontrack.cli.options import Subparsers, file_to_write, new_parser
from carbontrack.cli.terminal import Terminal
from carbontrack.errors import ConfigError
from carbontrack.report.frame import load
from carbontrack.report.label import ENDINGS, FORMATS, find_task, label_of, tasks
from carbontrack.report.totals import totals
from carbontrack.text import visible


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "label",
        run,
        description="Grade measured energy per 1,000 inferences, A+ to D, against what was "
        "published for a task. Without --units, the calls that the records count are the units.",
        epilog="Example: carbontrack label runs.csv --task text-classification --units 5000 "
        "--output label.svg",
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="records: CSV, JSON lines, SQLite, directories")
    add("--task", required=True, metavar="TASK", help=f"one of {', '.join(tasks())}")
    add("--units", type=float, metavar="N", help="on how many units the energy was spent (calls)")
    add("--unit-name", default="inference", metavar="NAME", help="what a unit is (inference)")
    add("--only", metavar="NAME", help="only the records of this name")
    add("--model", metavar="NAME", help="whose label it is (the records' name)")
    add("--format", choices=[name for name in FORMATS if name != "png"], help="how to print it")
    add("--json", action="store_true", help="the same as --format json")
    add("--output", metavar="FILE", help=f"a file to write, ending in {', '.join(ENDINGS)}")


def run(args: Namespace) -> int:
    """Print the label, or write its file."""
    target = None if args.output is None else _target(args.output)
    find_task(args.task)
    loaded = load(args.files)
    frame = loaded.frame
    if args.only is not None:
        frame = frame[frame["name"] == args.only]
    if len(frame) == 0:
        named = f" named {args.only!r}" if args.only is not None else ""
        why = "" if loaded.reason is None else f": {loaded.reason}"
        raise ConfigError(f"no records{named} in {', '.join(args.files)}{why}")
    names = frame["name"].unique()
    model = (
        args.model or args.only or (str(names[0]) if len(names) == 1 else f"{len(names)} models")
    )
    label = label_of(
        totals(frame)[0], args.task, model=model, units=args.units, unit=args.unit_name
    )
    if target is not None:
        _write(target, FORMATS[ENDINGS[target.suffix.lower()]](label))
        print(f"carbontrack: wrote {visible(str(target))}", file=sys.stderr)
    if target is None or args.format or args.json:
        text = FORMATS["json" if args.json else args.format or "text"](label)
        Terminal(sys.stdout).say(str(text))
    return 0


def _target(text: str) -> Path:
    if Path(text).suffix.lower() not in ENDINGS:
        raise ConfigError(f"--output {text}: the file must end in {', '.join(ENDINGS)}")
    return file_to_write("--output", text)


def _write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
