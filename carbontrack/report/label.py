"""Energy labels: energy per 1,000 units, graded A+ to D against what was published for a task.

`label_of` makes the label of some records; the `as_...` functions write it as text, Markdown, JSON,
SVG or PNG. Every energy on it is in watt-hours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import exp, log, sqrt
from textwrap import wrap
from typing import Any

from carbontrack.errors import ConfigError, MissingExtra, did_you_mean
from carbontrack.report.digits import WH, interval_in, three_digits
from carbontrack.report.label_units import DEFAULT, check_unit, one_inference, plural
from carbontrack.report.totals import Total
from carbontrack.system.files import package_text
from carbontrack.text import cut_to, visible, visible_html, visible_markdown
from carbontrack.units import JOULES_PER_KWH

TABLE = "data/inference.csv"
PER = 1000
"""Grades are of the energy of this many units, as in the published tables."""
_LEAST_UNITS = 1e-9
"""Of fewer, the energy of 1,000 units is no number that can be printed."""
GRADES = ("A+", "A", "B", "C", "D")
ALL_MEASURED = 0.99
"""A grade is provisional below this measured share: as in a record, 1 % may be known otherwise."""
RULE = (
    "Each grade is a fifth of the published distribution (log-normal, by its mean and standard "
    "deviation); A+ is the fifth with the lowest energy. Energy is that of the computers, before "
    "PUE."
)
_PARTS = (
    ("cpu_kwh", "CPU"),
    ("gpu_kwh", "GPU"),
    ("ram_kwh", "memory"),
    ("other_kwh", "the rest of the machine"),
)
_COLOURS = ("#1b7f3b", "#5a9e2f", "#a88600", "#d9761a", "#b8322a")
"""Of the grades; white letters on them have a WCAG contrast of 3 or more, enough for large text."""
_GREY = "#5b6762"
_COLUMNS = 78
_WIDTH, _HEIGHT = 440, 380
_BAR_HEIGHT, _GAP, _TOP = 30, 6, 92
_FONT = "font-family='Liberation Sans, Arial, Helvetica, sans-serif'"


@dataclass(frozen=True, slots=True)
class Task:
    """What was published of a task: kWh for 1,000 inferences, mean and standard deviation."""

    name: str
    mean_kwh: float
    sd_kwh: float
    year: int
    source: str

    def thresholds_kwh(self) -> tuple[float, ...]:
        """The upper ends of A+, A, B and C, in kWh for 1,000 units."""
        from statistics import NormalDist  # 10 ms that only a label needs

        variance = log(1.0 + (self.sd_kwh / self.mean_kwh) ** 2)
        middle, width = log(self.mean_kwh) - variance / 2.0, sqrt(variance)
        fifths = (n / len(GRADES) for n in range(1, len(GRADES)))
        return tuple(exp(NormalDist(middle, width).inv_cdf(share)) for share in fifths)

    def grade(self, kwh: float) -> str:
        """The grade of this many kWh for 1,000 units."""
        return GRADES[sum(kwh > threshold for threshold in self.thresholds_kwh())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """The grade of a model for a task, and the figures that it rests on.

    Attributes:
        model: what was graded, in its owner's words.
        task: the task that it is graded for.
        grade: "A+", "A", "B", "C" or "D"; low and high are those of the interval's ends.
        provisional: over 1 % of the energy is modelled, assumed, or of unrecorded basis.
        measured_share, modelled_share, assumed_share: of the energy, from 0 to 1; None where it is
            not recorded.
        runs: how many records were added up.
        units: how many units the energy was spent on.
        kwh_per_1000: energy of the computers for 1,000 units, before PUE, with low and high.
        boundary: the parts of the computer that are counted.
        thresholds_kwh: the upper ends of A+, A, B and C.
        rule, source, year: how the thresholds were computed, and from which publication.
    """

    model: str
    task: str
    grade: str
    grade_low: str | None
    grade_high: str | None
    provisional: bool
    measured_share: float | None
    modelled_share: float | None
    assumed_share: float | None
    runs: int
    units: float
    unit: str
    kwh_per_1000: float
    kwh_per_1000_low: float | None
    kwh_per_1000_high: float | None
    thresholds_kwh: tuple[float, ...]
    rule: str
    source: str
    year: int
    boundary: str

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self) | {"thresholds_kwh": list(self.thresholds_kwh)}

    @property
    def energy(self) -> str:
        """The energy per 1,000 units: "1.42 Wh per 1,000 inferences"."""
        return f"{_wh(self.kwh_per_1000)} per 1,000 {plural(self.unit, PER)}"

    @property
    def interval(self) -> str:
        """The uncertainty interval, and the grades in it: "1.20 to 1.80 Wh (A+ to A)"."""
        low, high = self.kwh_per_1000_low, self.kwh_per_1000_high
        if low is None or high is None:
            return "unknown"
        ends = interval_in(low * JOULES_PER_KWH, high * JOULES_PER_KWH, WH)
        grades = dict.fromkeys((self.grade_low, self.grade_high))
        return f"{ends} Wh ({' to '.join(filter(None, grades))})"

    @property
    def basis(self) -> str:
        """How the energy is known: "90% measured, 10% modelled"."""
        if self.measured_share is None:
            return "not recorded"
        shares = {
            "measured": self.measured_share,
            "modelled": self.modelled_share,
            "assumed": self.assumed_share,
        }
        known = {how: share for how, share in shares.items() if share is not None}
        rest = 1.0 - sum(known.values())
        known["of unrecorded basis"] = rest if rest > 1e-9 else 0.0
        return ", ".join(f"{_percent(share)} {how}" for how, share in known.items() if share)

    @property
    def counted(self) -> str:
        """The work: "5,000 inferences in 2 runs"."""
        of_runs = f"{self.runs:,} run{'s' * (self.runs != 1)}"
        return f"{self.units:,.12g} {plural(self.unit, self.units)} in {of_runs}"


def label_of(
    total: Total, task: str, *, model: str, units: float | None = None, unit: str = DEFAULT
) -> Label:
    """The label of the records that a total sums.

    Args:
        total: the sum; its components are the energy of the computers.
        task: a task of the table.
        model: what is graded.
        units: how many units the energy was spent on; None: the calls that were counted.
        unit: what a unit is called.

    Raises:
        ConfigError: the table has no such task, the unit does not fit it, the energy of a run is
            unknown, or no units were counted.
    """
    published = find_task(task)
    check_unit(published.name, unit)
    known = [kwh for name, _ in _PARTS if (kwh := getattr(total, name)) is not None]
    if not known or not sum(known) > 0.0:
        raise ConfigError("a label needs records with a known energy, and these have none")
    if total.unknown_runs:
        raise ConfigError(
            f"{total.unknown_runs} of {total.runs} records have no known energy, so the energy per "
            "inference is not known; choose records with --only NAME, or take those out of the file"
        )
    count = _counted_units(total, published, unit) if units is None else units
    if not _LEAST_UNITS <= count < float("inf"):
        raise ConfigError(f"a label needs a number of units above 0, not {count!r}; give --units N")
    per = PER / count
    best = sum(known) * per
    before_pue = sum(known) / total.energy_kwh if total.energy_kwh else 1.0
    ends = (total.energy_low_kwh, total.energy_high_kwh)
    low, high = (None if kwh is None else kwh * before_pue * per for kwh in ends)
    return Label(
        model=model,
        task=published.name,
        grade=published.grade(best),
        grade_low=None if low is None else published.grade(low),
        grade_high=None if high is None else published.grade(high),
        provisional=(total.measured_share or 0.0) < ALL_MEASURED,
        measured_share=total.measured_share,
        modelled_share=total.modelled_share,
        assumed_share=total.assumed_share,
        runs=total.runs,
        units=count,
        unit=unit,
        kwh_per_1000=best,
        kwh_per_1000_low=low,
        kwh_per_1000_high=high,
        thresholds_kwh=published.thresholds_kwh(),
        rule=RULE,
        source=published.source,
        year=published.year,
        boundary=_boundary(total),
    )


def _counted_units(total: Total, task: Task, unit: str) -> float:
    """The calls that the records count.

    A block or a command counts as one, whatever it did, so records of one call each say nothing of
    the work.
    """
    if total.calls is None or total.calls <= total.runs:
        raise ConfigError(
            f"the records do not say how many {plural(unit, PER)} they stand for "
            f"({one_inference(task.name)} each): a block or a command counts as one call, whatever "
            "it did. Give the number with --units N, or decorate the function that does one with "
            "@carbontrack.track, which counts its calls"
        )
    return total.calls


def _boundary(total: Total) -> str:
    names = [name for column, name in _PARTS if getattr(total, column) is not None]
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    wall = "" if total.other_kwh is not None else ", not wall power"
    return f"{listed}{wall}, before PUE"


def find_task(name: str) -> Task:
    """The row of a task: "text-classification", "text classification".

    Raises:
        ConfigError: the table has no such task; the message names those that it has.
    """
    asked = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
    found = tasks().get(asked)
    if found is None:
        from difflib import get_close_matches  # only where a name is wrong

        near = did_you_mean(get_close_matches(asked, tasks(), 1), form=repr)
        raise ConfigError(
            f"no distribution was published for {name!r}, only for {', '.join(tasks())}{near}"
        )
    return found


@cache
def tasks() -> dict[str, Task]:
    """Every task of the table by its name."""
    found = {}
    for line in package_text(TABLE).splitlines()[1:]:
        name, mean, sd, year, _grade, source = line.split(",", 5)
        found[name] = Task(name, float(mean), float(sd), int(year), source.strip('"'))
    return found


def sentence(label: Label) -> str:
    """What the label says, in a sentence of plain text."""
    state = " (provisional)" if label.provisional else ""
    task = label.task.replace("-", " ")
    return f"{label.model} is rated {label.grade}{state} for {task}: {label.energy}."


def as_text(label: Label) -> str:
    """The sentence, interval, work, basis and boundary, then the scale and its source."""
    lines = [sentence(label), *(f"  {head:<13s}{text}" for head, text in _remarks(label))]
    lines += ["", f"Scale, in energy per 1,000 {plural(label.unit, PER)}:"]
    for grade, bounds in _bounds(label):
        lines.append(f"  {grade:2s}  {bounds}{'  <' * (grade == label.grade)}")
    for paragraph in (label.rule, f"Source of the scale: {label.source}."):
        lines += ["", *wrap(paragraph, _COLUMNS)]
    lines.append("")
    return "\n".join(map(visible, lines))


def as_markdown(label: Label) -> str:
    """A paragraph and a table for a model card."""
    escaped = replace(label, model=visible_markdown(label.model), unit=visible_markdown(label.unit))
    remarks = " ".join(f"{head.capitalize()}: {text}." for head, text in _remarks(escaped))
    rows = [
        f"| {'**' * (g == label.grade)}{g}{'**' * (g == label.grade)} | {b} |"
        for g, b in _bounds(label)
    ]
    return "\n".join(
        [
            *(f"**{sentence(escaped)}** {remarks}", ""),
            *(f"| grade | energy per 1,000 {plural(escaped.unit, PER)} |", "| --- | --- |"),
            *(*rows, "", f"{label.rule} Source of the scale: {label.source}.", ""),
        ]
    )


def as_json(label: Label) -> str:
    """Every attribute by name."""
    return json.dumps({"schema": 1, **label.to_dict()}, indent=2) + "\n"


def as_svg(label: Label) -> str:
    """The label as a vector picture."""
    bars = "".join(_bar(label, place) for place in range(len(GRADES)))
    texts = [
        _text(20, 36, 20, label.model, "bold", limit=34),
        _text(20, 60, 14, f"Energy label: {label.task.replace('-', ' ')}"),
        _text(20, 80, 11, f"Wh per 1,000 {plural(label.unit, PER)}", colour=_GREY, limit=60),
        _text(20, 296, 17, label.energy, "bold", limit=44),
        _text(20, 315, 12, f"Uncertainty: {label.interval}"),
        _text(20, 331, 12, f"Basis: {label.basis}"),
        _text(20, 347, 12, f"Boundary: {label.boundary}", limit=66),
        _text(20, 367, 9, f"Scale: {label.source}", colour=_GREY, limit=86),
    ]
    title = visible_html(sentence(label))
    size = f"viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}'"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' aria-label='{title}'>"
        f"<title>{title}</title>"
        f"<rect x='1' y='1' width='{_WIDTH - 2}' height='{_HEIGHT - 2}' rx='12' fill='#ffffff' "
        f"stroke='#9aa5a0'/>{''.join(texts)}{_chip(label)}{bars}</svg>\n"
    )


def as_png(label: Label) -> bytes:
    """The picture in pixels, at twice its size for high-resolution screens.

    Raises:
        MissingExtra: the library that draws it is not installed.
    """
    try:
        from vl_convert import svg_to_png
    except ImportError as error:
        raise MissingExtra("vl-convert-python", "report", "a label in PNG") from error
    return bytes(svg_to_png(as_svg(label), scale=2))


FORMATS: dict[str, Callable[[Label], str | bytes]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
    "svg": as_svg,
    "png": as_png,
}
"""The writer of each format."""
ENDINGS = {".svg": "svg", ".png": "png", ".json": "json", ".md": "markdown", ".txt": "text"}
"""The format of a file by its ending."""


def _wh(kwh: float) -> str:
    return f"{three_digits(kwh * JOULES_PER_KWH / WH.size)} Wh"


def _percent(share: float) -> str:
    return "<1%" if share < 0.005 else f"{share:.0%}"


def _bounds(label: Label) -> list[tuple[str, str]]:
    ends = [_wh(kwh) for kwh in label.thresholds_kwh]
    return list(zip(GRADES, [*(f"up to {end}" for end in ends), f"above {ends[-1]}"], strict=True))


def _remarks(label: Label) -> list[tuple[str, str]]:
    """What a reader has to know of the figure, each with its head.

    "provisional" and "measured" are never in one sentence: together they would contradict.
    """
    remarks = [
        ("uncertainty", label.interval),
        ("counted", label.counted),
        ("basis", label.basis),
        ("boundary", label.boundary),
    ]
    if label.provisional:
        remarks.append(("provisional", "over 1% of the energy is modelled, assumed or unrecorded"))
    return remarks


def _chip(label: Label) -> str:
    """The mark of a provisional grade, in the upper right corner."""
    if not label.provisional:
        return ""
    return (
        f"<rect x='316' y='46' width='98' height='20' rx='10' fill='#ffffff' stroke='{_GREY}' "
        f"stroke-dasharray='4 2'/>{_text(327, 60, 11, 'PROVISIONAL', 'bold', colour=_GREY)}"
    )


def _bar(label: Label, place: int) -> str:
    grade, top = GRADES[place], _TOP + place * (_BAR_HEIGHT + _GAP)
    end = 90 + place * 28
    middle, bottom = top + _BAR_HEIGHT / 2, top + _BAR_HEIGHT
    arrow = f"20,{top} {end},{top} {end + 14},{middle} {end},{bottom} 20,{bottom}"
    drawn = f"<polygon points='{arrow}' fill='{_COLOURS[place]}'/>"
    drawn += _text(30, top + 22, 19, grade, "bold", colour="#ffffff")
    drawn += _text(end + 22, top + 20, 12, _bounds(label)[place][1], colour=_GREY)
    if grade == label.grade:
        dash = " stroke-dasharray='5 3'" if label.provisional else ""
        pointer = f"414,{top - 3} 350,{top - 3} 332,{middle} 350,{bottom + 3} 414,{bottom + 3}"
        drawn += (
            f"<polygon points='{pointer}' fill='#1f2a26' stroke='#ffffff' stroke-width='2'{dash}/>"
        )
        drawn += _text(364, top + 23, 22, grade, "bold", colour="#ffffff")
    return drawn


def _text(
    x: float,
    y: float,
    size: int,
    text: str,
    weight: str = "normal",
    *,
    limit: int = 80,
    colour: str = "#1f2a26",
) -> str:
    shown = visible_html(cut_to(visible(text), limit))
    return (
        f"<text x='{x}' y='{y}' font-size='{size}' font-weight='{weight}' fill='{colour}' {_FONT}>"
        f"{shown}</text>"
    )
