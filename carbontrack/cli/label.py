"""`carbontrack label`: a grade for the energy of a model, per 1,000 inferences."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from carbontrack.cli.options import Subparsers, file_to_write, new_parser
from carbontrack.cli.terminal import Terminal
from carbontrack.errors import ConfigError, did_you_mean
from carbontrack.report.frame import load
from carbontrack.report.label import ENDINGS, FORMATS, find_task, label_of, tasks
from carbontrack.report.label_units import DEFAULT, check_unit, one_inference
from carbontrack.report.totals import totals
from carbontrack.text import visible

if TYPE_CHECKING:
    import pandas as pd

_UNIT_LABEL = "unit"
"""The label of a record that names what its calls are."""
_MOST_NAMES = 8


_ABOUT = """\
Grade the energy of a model per 1,000 inferences, from A+ to D, against
published figures for its task. The label is for one name: choose it with --only
where the records have several. Without --units, the calls of decorated
functions are counted."""
_EXAMPLE = """\
example:
  carbontrack label runs.csv --task text-classification --units 5000 \\
    --output label.svg"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "label",
        run,
        description=_ABOUT,
        epilog=_EXAMPLE,
        usage="carbontrack label FILE [FILE ...] --task TASK [options]",
        keep_lines=True,
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="records: CSV, JSON lines, SQLite, directories")
    add("--task", required=True, metavar="TASK", help=f"one of {', '.join(tasks())}")
    add("--units", type=float, metavar="N", help="inferences made in these runs (calls)")
    add("--unit-name", metavar="NAME", help=f"another word for one inference ({DEFAULT})")
    add("--only", metavar="NAME", help="only the records of this name")
    add("--model", metavar="NAME", help="the model's name on the label (the records' name)")
    add("--format", choices=[name for name in FORMATS if name != "png"], help="output format")
    add("--json", action="store_true", help="the same as --format json")
    add("--output", metavar="FILE", help=f"a file to write, ending in {', '.join(ENDINGS)}")


def run(args: Namespace) -> int:
    """Print the label, or write its file."""
    target = None if args.output is None else _target(args.output)
    task = find_task(args.task).name
    if args.unit_name is not None:
        check_unit(task, args.unit_name)
    loaded = load(args.files, extra=("labels",))
    if len(loaded.frame) == 0:
        why = "" if loaded.reason is None else f": {loaded.reason}"
        raise ConfigError(f"no records in {', '.join(args.files)}{why}")
    frame = _of_one_name(loaded.frame, args)
    label = label_of(
        totals(frame)[0],
        task,
        model=args.model or str(frame["name"].iloc[0]),
        units=args.units,
        unit=_unit(frame, task, args),
    )
    if target is not None:
        _write(target, FORMATS[ENDINGS[target.suffix.lower()]](label))
        print(f"carbontrack: wrote {visible(str(target))}", file=sys.stderr)
    if target is None or args.format or args.json:
        text = FORMATS["json" if args.json else args.format or "text"](label)
        Terminal(sys.stdout).say(str(text))
    return 0


def _of_one_name(frame: pd.DataFrame, args: Namespace) -> pd.DataFrame:
    """The records of the name that is graded.

    Raises:
        ConfigError: there are several names and none is chosen, or no record has the chosen one.
    """
    names = [str(name) for name in frame["name"].value_counts().index if name is not None]
    if args.only is not None:
        found: pd.DataFrame = frame[frame["name"] == args.only]
        if len(found) == 0:  # they may be nested in records of another name
            found = load(args.files, extra=("labels",), named=args.only).frame
        if len(found) == 0:
            raise ConfigError(
                f"no records named {args.only!r} in {', '.join(args.files)}; the names are "
                f"{_listed(names)}{_near(args.only, names)}"
            )
        return found
    if len(names) > 1:
        raise ConfigError(
            f"the records have {len(names)} names, and a label is for one: {_listed(names)}; "
            "choose one with --only NAME"
        )
    return frame


def _unit(frame: pd.DataFrame, task: str, args: Namespace) -> str:
    """The name of what is counted.

    Raises:
        ConfigError: the records say that their calls are something else.
    """
    said = _said_units(frame["labels"].cat.remove_unused_categories().cat.categories)
    if args.unit_name is not None and args.units is not None:
        return str(args.unit_name)  # both are given, so nothing is read from the records
    if len(said) > 1:
        raise ConfigError(
            f"the records count several units: {_listed(said)}; give the number of inferences "
            f"({one_inference(task)} each) with --units N, and their name with --unit-name"
        )
    unit = args.unit_name or (said[0] if said else DEFAULT)
    if said and unit != said[0]:
        raise ConfigError(
            f"the records count units of {said[0]!r} (their label {_UNIT_LABEL!r}), not of "
            f"{unit!r}; give the number of {unit!r} with --units N"
        )
    return str(unit)


def _said_units(labels: Iterable[str]) -> list[str]:
    """The units that the records' labels name, each once."""
    return sorted(set(filter(None, map(_said_unit, labels))))


def _said_unit(labels: str) -> str | None:
    """The unit in a cell of labels; None where another program has written something else there."""
    try:
        found = json.loads(labels)
    except (ValueError, RecursionError):
        return None
    unit = found.get(_UNIT_LABEL) if isinstance(found, dict) else None
    return unit if isinstance(unit, str) else None


def _near(name: str, names: list[str]) -> str:
    from difflib import get_close_matches  # only where a name is wrong

    return did_you_mean(get_close_matches(name, names, 1), form=repr)


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(map(repr, names[:_MOST_NAMES])) + (f" and {more} more" if more > 0 else "")


def _target(text: str) -> Path:
    if Path(text).suffix.lower() not in ENDINGS:
        raise ConfigError(f"--output {text}: the file must end in {', '.join(ENDINGS)}")
    return file_to_write("--output", text)


def _write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
