"""`carbontrack report`: from records to tables, documents and a page."""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from carbontrack.cli.options import Subparsers, file_to_write, new_parser
from carbontrack.cli.terminal import Terminal
from carbontrack.config.load import load_settings
from carbontrack.errors import ConfigError, NoIntensity
from carbontrack.grid.intensity import GridIntensity
from carbontrack.grid.tables import lookup
from carbontrack.impact.equivalents import compare
from carbontrack.report.bibtex import as_bibtex
from carbontrack.report.documents import as_boamps, as_model_card, as_sci
from carbontrack.report.facts import COLUMNS, Asked, Facts, facts_of
from carbontrack.report.foreign import codecarbon_note, no_records_reason
from carbontrack.report.frame import HOW, Loaded, Summed, load
from carbontrack.report.latex import as_latex, as_latex_statement
from carbontrack.report.method import check_embodied_g
from carbontrack.report.scale.choice import are_distinct, chosen
from carbontrack.report.selection import EVERY_RUN, Selection, since_of
from carbontrack.report.sources import Progress, files_of, sources_of, told_source
from carbontrack.report.statement import as_statement
from carbontrack.report.tables import FORMATS, Summary, as_table
from carbontrack.report.totals import RecordSums, Total
from carbontrack.system.clock import SystemClock
from carbontrack.system.files import replace_file
from carbontrack.text import visible
from carbontrack.units import joules_from

DOCUMENTS: dict[str, Callable[[Facts, Asked], str]] = {
    "latex": as_latex,
    "statement": as_statement,
    "statement-latex": as_latex_statement,
    "bibtex": as_bibtex,
    "modelcard": as_model_card,
    "boamps": as_boamps,
    "sci": as_sci,
}
"""The writers of documents for papers, model cards and reports to others."""
_WITH_EMBODIED = ("latex", "statement", "statement-latex", "bibtex", "sci")
"""The documents that take embodied emissions of the user's."""
_ABOUT = """\
Add up records: energy, emissions and their intervals. Nothing is counted twice:
rows that are nested in another row are left out, and runs of scope machine that
overlap on a host count once. Intervals are combined, not added."""
_EPILOG = """\
examples:
  carbontrack report --last
  carbontrack report --since 7d --by day
  carbontrack report runs/ --by label:model --html report.html
"""
_SLOW_S = 1.0
"""Reading shows its progress when it takes longer than this."""
_ZONES = (
    "SE",
    "FR",
    "CA-QC",
    "BR",
    "GB",
    "US",
    "US-CA",
    "DE",
    "JP",
    "CN",
    "AU",
    "PL",
    "IN",
    "WORLD",
)
"""Grids that supply many data centres, from low to high intensity."""
_MOST_TIMELINES = 6
"""Runs whose power over time is drawn; those with the most energy."""


def add_parser(subparsers: Subparsers) -> None:
    """Add `report` and its options."""
    parser = new_parser(
        subparsers,
        "report",
        run,
        description=_ABOUT,
        epilog=_EPILOG,
        usage="carbontrack report [FILE ...] [options]",
        keep_lines=True,
    )
    add = parser.add_argument
    files = "CSV, JSON lines, SQLite or Parquet files, directories of them, or postgresql://… "
    files += "(default: what a run in this directory writes)"
    add("files", nargs="*", metavar="FILE", help=files)
    add("--last", nargs="?", const="1", metavar="N", help="only the last run, or the last N")
    add("--since", metavar="WHEN", help="only runs that started since a date, "
        "a time, an age such as 2h or 7d, or today")  # fmt: skip
    add(
        "--by",
        metavar="WAY",
        help="group by name (the default), region, day, host, job or label:KEY",
    )
    forms = f"{', '.join(FORMATS)}; for papers and model cards: {', '.join(DOCUMENTS)}"
    add("--format", choices=[*FORMATS, *DOCUMENTS], metavar="FORMAT", help=forms)
    add("--json", action="store_true", help="the same as --format json")
    add("--html", metavar="OUT", help="write a page, in one file that any browser opens")
    _add_details(add)


def _add_details(add: Callable[..., object]) -> None:
    add(
        "--units",
        type=float,
        metavar="N",
        help="for sci: number of functional units (the calls of the records)",
    )
    add(
        "--unit-name",
        default="inference",
        metavar="NAME",
        help="for sci: name of a unit (inference)",
    )
    add(
        "--embodied-g",
        type=float,
        metavar="G",
        help="embodied emissions of these runs (M) in g CO2e, for records that have none",
    )
    add(
        "--verbose",
        action="store_true",
        help="tell whether pandas or DuckDB reads the records, and why",
    )
    add(
        "--about",
        metavar="FILE",
        help="for modelcard and boamps: JSON with what records do not have",
    )


def run(args: Namespace) -> int:
    """Print the table or the document, or write the page."""
    by = args.by or "name"
    form = "json" if args.json else args.format or "table"
    only, files = _only(args)
    sources = files or _own_outputs()
    page = None if args.html is None else _page_path(args.html)
    extra = [*(("labels",) if by.startswith("label:") or page else ()), *(HOW if page else ())]
    document = form if form in DOCUMENTS else None
    if document is not None:
        extra = [*dict.fromkeys((*extra, *COLUMNS))]
    asked = _asked(args, form)
    named = [told_source(source) for source in sources]
    choice = chosen(sources_of(sources), whole_rows=bool(page or document or by == "job"))
    if args.verbose:
        library = "DuckDB" if choice.with_duckdb else "pandas"
        print(f"carbontrack: reads with {library}: {choice.why}", file=sys.stderr)
    frame: Any = None
    with _progress() as progress:
        if choice.with_duckdb:
            summary = _summary(_summed(sources, by, progress, only), by, named, only)
        else:
            loaded = load(sources, extra=extra, progress=progress, with_jobs=by == "job", only=only)
            frame = loaded.frame
            summary = _summary(_counted(loaded, by), by, named, only)
    if page is not None:
        write_page(page, summary, frame, files_of(sources))
        print(f"carbontrack: wrote {visible(str(page))}", file=sys.stderr)
    if page is None or args.format or args.json:
        facts = None if document is None else facts_of(summary, frame)
        text = _text(form, summary) if facts is None else DOCUMENTS[form](facts, asked)
        Terminal(sys.stdout).say(text)
    if (note := codecarbon_note(files_of(sources))) is not None:
        print(f"carbontrack: {visible(note)}", file=sys.stderr)
    return 0


def _text(form: str, summary: Summary) -> str:
    """As it is for a pipe or a file; on a terminal a table fits, and CSV is made harmless."""
    terminal = Terminal(sys.stdout)
    if terminal.is_terminal and form == "table":
        return as_table(summary, terminal.size[0])
    text = FORMATS[form](summary)
    if terminal.is_terminal and form == "csv":
        return "".join(f"{visible(line)}\n" for line in text.removesuffix("\n").split("\n"))
    return text


def write_page(path: Path, summary: Summary, frame: Any, files: Sequence[Path] = ()) -> None:
    """Write the page; an older one is replaced only when the new one is complete.

    Timelines are read from the files beside `files`.
    """
    from carbontrack.report.page import page  # most print a table
    from carbontrack.report.page_html import PageContext
    from carbontrack.report.timelines import largest, timelines_beside

    timelines = largest(timelines_beside(files), frame, _MOST_TIMELINES)
    context = PageContext(
        elsewhere=tuple(_grids()), comparison=_comparison(summary.total), timelines=timelines
    )
    text = page(summary, frame, context)
    replace_file(path, text.encode())


def _asked(args: Namespace, form: str) -> Asked:
    if args.embodied_g is not None:
        check_embodied_g(args.embodied_g)
        if form not in _WITH_EMBODIED:
            raise ConfigError(
                f"--embodied-g is for --format {', '.join(_WITH_EMBODIED)}, not for {form}"
            )
    if args.about is None:
        return Asked(args.units, args.unit_name, embodied_g=args.embodied_g)
    import json

    try:
        about = json.loads(Path(args.about).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--about {args.about}: {error}") from error
    if not isinstance(about, dict):
        raise ConfigError(f"--about {args.about}: not a JSON object")
    return Asked(args.units, args.unit_name, about, args.embodied_g)


def _only(args: Namespace) -> tuple[Selection, list[str]]:
    """The runs that are asked for, and the files; `--last FILE` is the last run of FILE."""
    files = list(args.files)
    since = None if args.since is None else since_of(args.since, SystemClock.now_utc())
    last = args.last
    if isinstance(last, str):
        if not re.fullmatch(r"[+-]?\d+", last):
            files.insert(0, last)
            last = "1"
        if int(last) < 1:
            raise ConfigError(f"--last {last}: write how many of the last runs, from 1")
        last = int(last)
    return (EVERY_RUN if since is None and last is None else Selection(since, last)), files


def _summed(sources: Sequence[str], by: str, progress: Progress | None, only: Selection) -> Summed:
    from carbontrack.report.scale.sums import summed  # most read small files

    found = sources_of(sources)
    distinct = are_distinct(sources, found)
    return summed(found, by, progress=progress, distinct=distinct, only=only)


def _counted(loaded: Loaded, by: str) -> Summed:
    """The sums of records that are in memory."""
    sums = RecordSums(by)
    sums.add(loaded.frame)
    left_out = loaded.skipped_lines, loaded.repeated, loaded.not_added, loaded.reason
    return Summed(sums, len(loaded.frame), *left_out, loaded.jobs)


def _summary(found: Summed, by: str, sources: Sequence[str], only: Selection) -> Summary:
    if not found.records:
        if (reason := no_records_reason(map(Path, sources))) is not None:
            raise ConfigError(f"no records: {reason}")
        why = "" if found.reason is None else f": {found.reason}"
        since = "" if only.since is None else f" since {only.since.astimezone():%Y-%m-%d %H:%M %z}"
        raise ConfigError(f"no records{since} in {', '.join(sources)}{why}")
    return Summary(
        by=by,
        total=found.sums.totals()[0],
        groups=found.sums.totals(by),
        sources=sources,
        skipped_lines=found.skipped_lines,
        repeated=found.repeated,
        not_added=found.not_added,
        reason=found.reason,
        jobs=found.jobs,
        modelled_on=found.sums.modelled_on(),
        uncounted=found.sums.uncounted(),
        only=only,
    )


def _own_outputs() -> list[str]:
    """The files that a run in this directory would write to."""
    outputs = load_settings({}, writes=False).output
    named = [Path(path) for path in outputs if "://" not in path]
    files = [str(file) for path in named for file in (path, *_diverted(path)) if file.exists()]
    if not files:
        missing = " and no ".join(map(str, named))
        what = f"there is no {missing} here" if named else "a run here writes no file"
        raise ConfigError(f"{what}; name the files to report on")
    return files


def _diverted(path: Path) -> list[Path]:
    """The files next to an output that rows go to where they cannot go to it.

    A file with other columns, such as CodeCarbon's, is left as it is; on a network file system each
    machine has a file.
    """
    stem, suffix = escape(path.stem), escape(path.suffix)
    return sorted({*path.parent.glob(f"{stem}.schema-*{suffix}"),
                   *path.parent.glob(f"{stem}.boot-*{suffix}")})  # fmt: skip


def _page_path(text: str) -> Path:
    path = file_to_write("--html", text)
    folder = path.absolute().parent
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--html {text}: {folder} is not writable for this user")
    return path


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal when reading takes longer than a second, if tqdm is installed."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from carbontrack.api.progress import new_terminal_bar

    bar = new_terminal_bar(
        unit="B", unit_scale=True, desc="reading", delay=_SLOW_S, leave=False, disable=None
    )
    if bar is None:
        yield None
        return
    with bar:

        def update(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield update


def _grids() -> Iterator[GridIntensity]:
    for zone in _ZONES:
        try:
            yield lookup(zone)
        except NoIntensity:
            continue


def _comparison(total: Total) -> tuple[str, str, str] | None:
    joules = joules_from(total.energy_kwh)
    found = compare(energy_joules=joules, emissions_g=total.emissions_g)
    if found is None:
        return None
    number, _, _ = found.text.partition(" ")
    noun = found.thing.one if number == "1" else found.thing.many
    return f"{number} {noun}", found.thing.cite, found.thing.source
