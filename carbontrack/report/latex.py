r"""LaTeX for papers: a table of the sums, and the statement of the methods section.

Tables need the package booktabs, and columns have one unit each. The statement cites by the keys
that `--format bibtex` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from textwrap import wrap

from carbontrack.report import method
from carbontrack.report.bibtex import TOOL, keys_of_intensity
from carbontrack.report.digits import ENERGY, MASS, TIME, Unit, interval_in, three_digits, unit_for
from carbontrack.report.facts import Asked, Facts, with_short_texts
from carbontrack.report.jobs import Job, by_key
from carbontrack.report.statement import statement
from carbontrack.report.tables import LONGEST, Summary, combined, notes
from carbontrack.report.totals import Total
from carbontrack.text import cut_to, visible, visible_latex
from carbontrack.units import joules_from
from carbontrack.values import NamedTuple

_UNKNOWN_KEY = "(unknown)"
_EMPTY = "--"
_DASH = "--"
"""An en dash, for ranges."""
_COLUMNS = 78
_PREAMBLE = r"% needs \usepackage{booktabs}"


class _Column(NamedTuple):
    head: str
    unit: str
    cell: Callable[[Total, Job], str]


def as_latex(facts: Facts, asked: Asked) -> str:
    """A table with a row for each group: caption, label, and one unit in each column.

    Raises:
        ConfigError: embodied emissions are given that the records hold already.
    """
    embodied = method.embodied_of(facts, asked)
    facts = with_short_texts(facts)
    summary = facts.summary
    columns = _columns(summary)
    by = cut_to(visible(summary.by or "all"), LONGEST)
    lines = [_row([by, *(column.head for column in columns)])]
    units = (f"({column.unit})" if column.unit else "" for column in columns)
    lines += [_row(["", *units]), r"\midrule"]
    jobs = by_key(summary.jobs)
    for group in summary.groups:
        key = _UNKNOWN_KEY if group.key is None else cut_to(visible(group.key), LONGEST)
        job = jobs[group.key] if summary.of_jobs else Job(key=None)
        lines.append(_row([key, *(column.cell(group, job) for column in columns)]))
    if len(summary.groups) != 1:
        total = (column.cell(summary.total, Job(key=None)) for column in columns)
        lines += [r"\midrule", _row(["total", *total])]
    caption = " ".join(_caption(facts, embodied))
    return _table(caption, "carbontrack", "l" + "r" * len(columns), lines, _notes(summary))


def as_latex_statement(facts: Facts, asked: Asked) -> str:
    """The paragraphs of the statement, and its table, with citations.

    Raises:
        ConfigError: embodied emissions are given that the records hold already.
    """
    found = statement(facts, asked)
    energy, known, boundary = map(_own, found.paragraphs)
    keys = keys_of_intensity(facts)
    if keys:
        energy += rf" The carbon intensity is that of~\cite{{{','.join(keys)}}}."
    tool = _own(found.tool)
    known = known.replace(tool, rf"{tool}~\cite{{{TOOL}}}", 1)
    lines = [_row(["item", "value"]), r"\midrule", *map(_row, found.rows)]
    paragraphs = [line for text in (energy, known, boundary) for line in (*_wrapped(text), "")]
    caption = "Energy consumption and emissions, with uncertainty intervals in brackets."
    table = _table(
        caption, "carbontrack-statement", r"p{0.3\linewidth}p{0.6\linewidth}", lines, found.notes
    )
    return "\n".join([*paragraphs, table])


def _own(text: str) -> str:
    """A text for LaTeX, with the subscript of CO2e."""
    return visible_latex(text).replace("CO2e", r"CO\textsubscript{2}e")


def _row(cells: Sequence[str]) -> str:
    row = " & ".join(_own(cell) for cell in cells) + r" \\"
    # at the start of a row these would be an argument of the row before
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def _wrapped(text: str) -> list[str]:
    return wrap(text, _COLUMNS, break_long_words=False, break_on_hyphens=False)


def _table(
    caption: str, label: str, columns: str, lines: Sequence[str], remarks: Sequence[str]
) -> str:
    below = [r"\par\smallskip", r"{\footnotesize", *map(_own, remarks), r"\par}"]
    return "\n".join(
        [
            _PREAMBLE,
            r"\begin{table}[htbp]",
            r"\centering",
            r"\small",
            r"\setlength{\tabcolsep}{4pt}",
            *_wrapped(rf"\caption{{{_own(caption)}}}"),
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            *(below if remarks else ()),
            r"\end{table}",
            "",
        ]
    )


def _notes(summary: Summary) -> list[str]:
    return [*notes(summary), *combined(summary)]


def _caption(facts: Facts, embodied: method.Embodied) -> Iterator[str]:
    total = facts.summary.total
    runs = f"{total.runs:,} run{'s' * (total.runs != 1)}"
    yield f"Energy consumption and location-based emissions of {runs}."
    yield "Intervals are uncertainty intervals; in a total they are combined, not added."
    yield f"Energy basis: {method.basis(facts) or 'not recorded'}."
    intensities = "; ".join(method.intensity_texts(facts))
    yield f"Carbon intensity: {intensities or 'unknown'}."
    yield f"Boundary: {method.boundary(facts)}; not included: {method.not_included(facts)}."
    separately = "" if embodied.g is None else f" ({embodied.text})"
    yield f"Embodied emissions: not included{separately}."


def _columns(summary: Summary) -> list[_Column]:
    groups = summary.groups or [summary.total]
    energy = unit_for((joules_from(group.energy_kwh) for group in groups), ENERGY)
    mass = unit_for((group.emissions_g for group in groups), MASS)
    time = unit_for((group.duration_s for group in groups), TIME)
    of_jobs = list(_of_jobs(energy)) if summary.of_jobs else []
    return [
        *of_jobs[:-1],
        _Column("runs", "", lambda total, _: f"{total.runs:,}"),
        _Column("energy", energy.name, lambda t, _: _cell(joules_from(t.energy_kwh), energy)),
        _Column(
            "interval",
            energy.name,
            lambda t, _: _ends(
                joules_from(t.energy_low_kwh), joules_from(t.energy_high_kwh), energy
            ),
        ),
        *of_jobs[-1:],
        _Column("emissions", f"{mass.name} CO2e", lambda t, _: _cell(t.emissions_g, mass)),
        _Column(
            "interval",
            f"{mass.name} CO2e",
            lambda t, _: _ends(t.emissions_low_g, t.emissions_high_g, mass),
        ),
        _Column(
            "measured",
            "%",
            lambda t, _: _EMPTY if t.measured_share is None else f"{100.0 * t.measured_share:.0f}",
        ),
        _Column("time", time.name, lambda t, _: _cell(t.duration_s, time)),
    ]


def _of_jobs(energy: Unit) -> Iterator[_Column]:
    """What is known of a job beyond sums; useful energy is the last of them."""
    yield _Column("ranks", "", lambda _, job: _ranks(job))
    yield _Column("hosts", "", lambda _, job: _count(job.hosts))
    yield _Column("attempts", "", lambda _, job: _count(job.attempts))
    yield _Column(
        "useful", energy.name, lambda _, job: _cell(joules_from(job.useful_energy_kwh), energy)
    )


def _ranks(job: Job) -> str:
    of_all = "" if job.expected_ranks is None else f" of {job.expected_ranks:,}"
    return f"{_count(job.ranks)}{of_all}"


def _count(count: int | None) -> str:
    return _EMPTY if count is None else f"{count:,}"


def _cell(amount: float | None, unit: Unit) -> str:
    return _EMPTY if amount is None else three_digits(amount / unit.size)


def _ends(low: float | None, high: float | None, unit: Unit) -> str:
    return interval_in(low, high, unit, between=_DASH) or _EMPTY
