"""Totals as text: a table for people, JSON and CSV for programs, Markdown for comments."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from carbontrack.record import boundary_text
from carbontrack.report.jobs import Job, by_key
from carbontrack.report.nesting import NotAdded
from carbontrack.report.selection import EVERY_RUN, Selection
from carbontrack.report.totals import COMMON, ModelledOn, Total
from carbontrack.report.uncounted import runs_text
from carbontrack.sinks.csv_file import csv_line
from carbontrack.text import cut_to, padded, visible, visible_markdown, width_of
from carbontrack.units import (
    format_best,
    format_grams,
    format_interval,
    format_joules,
    format_seconds,
    joules_from,
)


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a report: the sum of all records, the groups, and what was left out.

    Attributes:
        by: the property that the groups have in common; None where there are none.
        sources: the files and directories that were read.
        skipped_lines, repeated, not_added, reason: what was left out, and why, as in
            `report.frame.Loaded`.
        jobs: the jobs of the groups, where these are jobs.
        modelled_on: the hosts and processors over which the models' errors were combined.
        uncounted: in how many records something was not measured, by the code of the fault.
        only: the runs that were asked for.
    """

    by: str | None
    total: Total
    groups: Sequence[Total]
    sources: Sequence[str] = ()
    skipped_lines: int = 0
    repeated: int = 0
    not_added: NotAdded = field(default_factory=NotAdded)
    reason: str | None = None
    jobs: Sequence[Job] = ()
    modelled_on: ModelledOn = field(default_factory=ModelledOn)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    only: Selection = EVERY_RUN

    @property
    def of_jobs(self) -> bool:
        """Whether the groups are jobs, of which more than sums is known."""
        return self.by == "job"

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads of the table's columns behind that of the keys."""
        return _JOB_HEADS if self.of_jobs else _HEADS


_HEADS = ("runs", "energy", "interval", "CO2e", "interval", "measured", "time")
_JOB_HEADS = (
    *("ranks", "hosts", "attempts", "runs", "energy", "interval", "useful"),
    *("CO2e", "interval", "measured", "time"),
)
_LEAST = ("time", "attempts", "hosts", "measured", "ranks", "useful")
"""The columns of a table that a narrow terminal does not show, the first one first."""
_JOB_FIELDS = tuple(one.name for one in fields(Job) if one.name != "key")
_UNKNOWN = "(unknown)"
_WIDEST_KEY = 40
LONGEST = 200
"""Columns of a text in Markdown and LaTeX; longer ones are cut."""


def as_table(summary: Summary, columns: int | None = None) -> str:
    """Columns in plain text, with what was left out below.

    Args:
        summary: what to show.
        columns: those of the terminal. Where the table is wider, the columns of it that matter
            least are left out, and named below; sentences are broken between words. None: no limit.
    """
    rows = [list(row) for row in _rows(summary)]
    rows = [[cut_to(visible(row[0]), _WIDEST_KEY), *row[1:]] for row in rows]
    heads = [cut_to(visible(summary.by or "all"), _WIDEST_KEY), *summary.heads]
    (heads, *rows), missing = _fitted([heads, *rows], columns)
    widths = _widths([heads, *rows])
    lines = [_aligned(heads, widths), *(_aligned(row, widths) for row in rows)]
    if len(rows) > 1:
        lines.insert(len(lines) - 1, "  ".join("-" * width for width in widths))
    below = [*notes(summary), *combined(summary)]
    if missing:
        below.append(f"Not shown, because this terminal is too narrow: {', '.join(missing)}.")
    if columns is not None:
        below = [textwrap.fill(line, columns, break_long_words=False) for line in below]
    return "\n".join([*lines, "", *below]).rstrip() + "\n"


def _fitted(table: list[list[str]], columns: int | None) -> tuple[list[list[str]], list[str]]:
    """The heads and rows without the columns for which there is no room, and these heads."""
    missing: list[str] = []
    for head in _LEAST if columns is not None else ():
        widths = _widths(table)
        if sum(widths) + 2 * (len(widths) - 1) <= (columns or 0):
            break
        if head in table[0]:
            at = table[0].index(head)
            table = [[*row[:at], *row[at + 1 :]] for row in table]
            missing.append(head)
    return table, missing


def _widths(table: list[list[str]]) -> list[int]:
    return [max(map(width_of, column)) for column in zip(*table, strict=True)]


def as_json(summary: Summary) -> str:
    """One JSON object: total, groups, and what was left out."""
    content = {
        "schema": 1,
        "by": summary.by,
        "sources": list(summary.sources),
        **summary.only.to_dict(),
        "total": summary.total.to_dict(),
        "groups": list(_groups(summary)),
        "skipped_lines": summary.skipped_lines,
        "skipped_reason": summary.reason,
        "repeated": summary.repeated,
        **asdict(summary.not_added),
        "modelled_hosts": summary.modelled_on.hosts,
        "modelled_processors": summary.modelled_on.processors,
        "uncounted": dict(summary.uncounted),
    }
    return json.dumps(content, indent=2, ensure_ascii=True) + "\n"


def as_csv(summary: Summary) -> str:
    """A row for each group, or one for all; no key can be taken for a formula by spreadsheets."""
    names = [one.name for one in fields(Total)]
    lines = [csv_line([*names, *(_JOB_FIELDS if summary.of_jobs else ())])]
    for group in list(_groups(summary)) or [summary.total.to_dict()]:
        cells = ["" if cell is None else repr(cell) for cell in group.values()]
        lines.append(csv_line([_not_a_formula(group["key"] or ""), *cells[1:]]))
    return b"".join(lines).decode()


def as_markdown(summary: Summary) -> str:
    """A table for a README or a comment."""
    heads = [visible_markdown(summary.by or "all", LONGEST), *summary.heads]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    lines += [[visible_markdown(row[0], LONGEST), *row[1:]] for row in _rows(summary)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{_paragraph((*notes(summary), *combined(summary)))}".rstrip() + "\n"


FORMATS: dict[str, Callable[[Summary], str]] = {
    "table": as_table,
    "json": as_json,
    "csv": as_csv,
    "markdown": as_markdown,
}
"""The writer of each format."""


def notes(summary: Summary) -> Iterator[str]:
    """Where modelled energy ends, emissions by contract, and each kind of row that was left out."""
    total = summary.total
    yield from selected(summary)
    share, ends_at = total.measured_share, boundary_text(total)
    unrecorded = total.unrecorded_share
    if share is not None and share + unrecorded < 1.0 and ends_at is not None:
        yield f"What is not measured is modelled: {ends_at}."
    if unrecorded:
        of_it = "the energy" if share is None else f"{_percent(unrecorded)} of the energy"
        yield f"How {of_it} is known is not recorded, as in CodeCarbon's files."
    if summary.total.market_emissions_g is not None:
        yield f"By contract (market-based), in addition: {by_contract(summary.total)}."
    yield from _of_jobs(summary)
    yield from left_out(summary)


def selected(summary: Summary) -> Iterator[str]:
    """Which runs were asked for, where these are not all."""
    if summary.only.text is not None:
        yield f"Only {summary.only.text}."


def _of_jobs(summary: Summary) -> Iterator[str]:
    """What the columns of jobs mean, where they say something."""
    used_kwh = {group.key: group.energy_kwh or 0.0 for group in summary.groups}
    useful = [(job.useful_energy_kwh, used_kwh.get(job.key, 0.0)) for job in summary.jobs]
    if any(kwh is not None and kwh < used * (1.0 - 1e-9) for kwh, used in useful):
        yield (
            "Useful is the energy without the attempts of ranks and tasks that were repeated or "
            "did not succeed; all of it was used."
        )
    missing = sum(job.missing_ranks for job in summary.jobs)
    if missing:
        yield (
            f"{missing:,} {'rank has' if missing == 1 else 'ranks have'} no row here; records of "
            "killed processes are written by `carbontrack recover`."
        )


def left_out(summary: Summary) -> Iterator[str]:
    """A sentence for each kind of row, line or meter that was left out, or counts in part."""
    yield from (runs_text(code, runs) for code, runs in summary.uncounted.items())
    yield from _not_added(summary.not_added)
    if summary.repeated:
        yield f"{summary.repeated} repeated records count once."
    if summary.total.unknown_runs:
        have = "run has" if summary.total.unknown_runs == 1 else "runs have"
        yield f"{summary.total.unknown_runs} {have} no known energy."
    if summary.skipped_lines:
        hold = "line holds" if summary.skipped_lines == 1 else "lines hold"
        why = f"; the first: {cut_to(visible(summary.reason), LONGEST)}" if summary.reason else ""
        yield f"{summary.skipped_lines} {hold} no record{why}."


def combined(summary: Summary) -> Iterator[str]:
    """How the errors of models on different machines were combined, if there is more than one."""
    on = summary.modelled_on
    if on.hosts < 2 and on.processors < 2:
        return
    of_hosts = f"{on.hosts:,} hosts with " if on.hosts > 1 else ""
    if on.processors == 1:
        yield f"Modelled figures of {of_hosts}one kind of processor: their errors count as one."
    else:
        yield (
            f"Modelled figures of {of_hosts}{on.processors:,} kinds of processor: the errors of a "
            f"kind count as one, and {COMMON:.0%} of their variance as common to all kinds."
        )


def by_contract(total: Total) -> str:
    """Emissions by contract, and for which share of the energy they are known."""
    grams = f"{format_grams(total.market_emissions_g or 0.0)} CO2e"
    share = total.market_share
    if share is None or share > 1.0 - 1e-9:
        return grams
    return f"{grams} for the {share:.0%} of the energy of which it is known"


def _percent(share: float) -> str:
    return "less than 1%" if share < 0.01 else f"{share:.0%}"


def _not_added(rows: NotAdded) -> Iterator[str]:
    if rows.nested:
        one = rows.nested == 1
        are, others = ("is", "another row") if one else ("are", "other rows")
        energy = _in_brackets(rows.nested_energy_kwh)
        nested = f"{_rows_of(rows.nested)}{energy} {are} nested in {others} of these files"
        yield f"{nested} and {are} not added again."
    if rows.overlapping:
        hosts = "one host" if rows.overlapping_hosts == 1 else f"{rows.overlapping_hosts:,} hosts"
        joules = joules_from(rows.overlapping_energy_kwh)
        of_it = "" if joules is None else f"; {format_joules(joules)} of theirs are not added again"
        overlap = f"of scope machine on {hosts} overlap and count once"
        yield f"{_rows_of(rows.overlapping)} {overlap}{of_it}."
    if rows.not_covered:
        one = rows.not_covered == 1
        yield (
            f"{_rows_of(rows.not_covered)} {'names a' if one else 'name'} "
            f"parent{'' if one else 's'} in these files that ran on another host or at another "
            f"time, and {'is' if one else 'are'} added."
        )


def _rows_of(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _in_brackets(kwh: float | None) -> str:
    joules = joules_from(kwh)
    return "" if joules is None else f" ({format_joules(joules)})"


def _groups(summary: Summary) -> Iterator[dict[str, Any]]:
    """The figures of each group, and what else is known of one that is a job."""
    jobs = by_key(summary.jobs)
    for group in summary.groups:
        yield group.to_dict() | (asdict(jobs[group.key]) if summary.of_jobs else {})


def _rows(summary: Summary) -> Iterator[list[str]]:
    jobs = by_key(summary.jobs)
    for group in summary.groups:
        cells = _cells(_UNKNOWN if group.key is None else group.key, group)
        yield _job_cells(cells, jobs[group.key]) if summary.of_jobs else cells
    cells = _cells("total", summary.total)
    yield _job_cells(cells, Job(key=None)) if summary.of_jobs else cells


def _job_cells(cells: list[str], job: Job) -> list[str]:
    """The cells of a job: ranks, hosts and attempts first, useful energy behind the energy used."""
    key, runs, energy, interval, *others = cells
    of_all = "" if job.expected_ranks is None else f" of {job.expected_ranks:,}"
    ranks = "" if job.ranks is None else f"{job.ranks:,}{of_all}"
    counts = ("" if count is None else f"{count:,}" for count in (job.hosts, job.attempts))
    joules = joules_from(job.useful_energy_kwh)
    useful = "" if joules is None else format_joules(joules)
    return [key, ranks, *counts, runs, energy, interval, useful, *others]


def _cells(key: str, total: Total) -> list[str]:
    joules = joules_from(total.energy_kwh)
    low_j, high_j = joules_from(total.energy_low_kwh), joules_from(total.energy_high_kwh)
    grams, low_g, high_g = total.emissions_g, total.emissions_low_g, total.emissions_high_g
    return [
        key,
        f"{total.runs:,}",
        *_figure_cells(joules, low_j, high_j, format_joules),
        *_figure_cells(grams, low_g, high_g, format_grams),
        "" if total.measured_share is None else f"{total.measured_share:.0%}",
        "" if total.duration_s is None else format_seconds(total.duration_s),
    ]


def _figure_cells(
    best: float | None, low: float | None, high: float | None, form: Callable[..., str]
) -> tuple[str, str]:
    """A figure, and its interval without the unit, which is that of the figure."""
    if best is None:
        return "", ""
    if low is None or high is None:
        return form(best), ""
    ends = format_interval(low, high, form, like=best, unit=False)
    return format_best(best, low, high, form), ends


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        padded(cell, width) if place == 0 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()


def _not_a_formula(text: str) -> str:
    return "'" + text if text.startswith(("=", "+", "-", "@", "'", "\t", "\r")) else text


def _paragraph(sentences: Iterable[str]) -> str:
    return " ".join(visible_markdown(sentence, 2 * LONGEST) for sentence in sentences)
