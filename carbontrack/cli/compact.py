"""`carbontrack compact`: files of records into an archive of Parquet, and back to CSV."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal
from carbontrack.errors import ConfigError
from carbontrack.report.archive.compact import Compacted, SourceRead, compact, preview
from carbontrack.report.archive.restore import CSV, to_csv
from carbontrack.text import visible

_KIB = 1024
_ABOUT = """\
Archive records in a directory with one Parquet file a month, each record once.
Give the same sources again at any time: only what is new is added. Sources are
only read. If it is killed, the archive is as before, or complete. To get CSV
back, give a new file that ends in .csv as --into."""
_EPILOG = """\
examples:
  carbontrack compact runs/ --into archive
  carbontrack compact archive --into runs.csv
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `compact` and its options."""
    parser = new_parser(
        subparsers,
        "compact",
        run,
        description=_ABOUT,
        epilog=_EPILOG,
        keep_lines=True,
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="CSV, JSON lines, SQLite or Parquet files, directories, archives",
    )
    add("--into", metavar="DIRECTORY", required=True, help="the archive, or a new CSV file")
    add("--dry-run", action="store_true", help="show what would change, and write nothing")
    add("--verbose", action="store_true", help="show what was found in each file")
    add("--json", action="store_true", help="print what was done as JSON")


def run(args: Namespace) -> int:
    """Compact, and print what was done."""
    into = Path(args.into).expanduser()
    sources = [Path(source).expanduser() for source in args.sources]
    told = _Told(verbose=args.verbose)
    if into.suffix.lower() == CSV and not into.is_dir():
        if args.dry_run:
            raise ConfigError("--dry-run is for an archive; a CSV file is never replaced")
        found = to_csv(sources, into, on_source=told.source, on_wait=told.wait)
    elif args.dry_run:
        found = preview(sources, into, on_source=told.source)
    else:
        found = compact(sources, into, on_source=told.source, on_wait=told.wait)
    terminal = Terminal(sys.stdout)
    if args.json:
        print(terminal.json(_as_json(found, into, is_dry=args.dry_run)))
        return 0
    lines = _lines(found, into, is_dry=args.dry_run)
    terminal.say("".join(f"{visible(line)}\n" for line in lines))
    if args.verbose:
        terminal.say("".join(f"{line}\n" for line in _month_lines(found)))
    return 0


class _Told:
    """What is printed on stderr on the way."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose

    def source(self, source: SourceRead) -> None:
        """A file has been read."""
        if source.skipped_lines:
            why = f"; the first: {source.reason}"
            self._say(
                f"{source.path}: passed over {_count(source.skipped_lines, 'line')} "
                f"without a record{why}"
            )
        if self._verbose:
            self._say(f"{source.path}: {_count(source.records, 'record')}")

    def wait(self) -> None:
        """Another run has to end first."""
        self._say("another compact is writing to it; waiting for its end")

    def _say(self, text: str) -> None:
        Terminal(sys.stderr).say(f"carbontrack: {visible(text)}\n")


def _lines(found: Compacted, into: Path, *, is_dry: bool) -> list[str]:
    if not found.months:
        return [f"{into}: {_count(found.added, 'record')}"]
    written = sum(month.is_written for month in found.months.values())
    of = f"{written} of {_count(len(found.months), 'month')}"
    size = f", {_size(found.bytes)}" if not is_dry else ""
    return [
        f"{into}: {_count(found.records, 'record')}{size}",
        f"{found.added:,} {'would be ' if is_dry else ''}added, {found.replaced:,} replaced, "
        f"{found.unchanged:,} already there, {found.repeated:,} repeated; "
        f"{of} {'would be ' if is_dry else ''}written",
    ]


def _month_lines(found: Compacted) -> list[str]:
    return [
        f"{name}: {_count(month.records, 'record')}{', written' if month.is_written else ''}"
        for name, month in found.months.items()
    ]


def _as_json(found: Compacted, into: Path, *, is_dry: bool) -> dict[str, object]:
    return {
        "into": str(into),
        "dry_run": is_dry,
        "records": found.records if found.months else found.added,
        "added": found.added,
        "replaced": found.replaced,
        "unchanged": found.unchanged,
        "repeated": found.repeated,
        "skipped_lines": found.skipped_lines,
        "months": {
            name: {"records": m.records, "bytes": m.bytes, "written": m.is_written}
            for name, m in found.months.items()
        },
        "sources": [asdict(source) | {"path": str(source.path)} for source in found.sources],
    }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < _KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KIB
    return f"{count:.1f} GiB"
