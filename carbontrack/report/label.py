"""Energy labels: measured energy per unit, graded A+ to D against what was published for a task.

`label_of` makes the label of some records; the `as_...` functions write it as text, Markdown, JSON,
SVG or PNG.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import exp, log, sqrt
from typing import Any

from carbontrack.errors import ConfigError, MissingExtra
from carbontrack.record import boundary_text
from carbontrack.report.totals import Total
from carbontrack.system.files import package_text
from carbontrack.text import cut_to, visible, visible_html, visible_markdown
from carbontrack.units import JOULES_PER_KWH, format_interval, format_joules, joules_from

TABLE = "data/inference.csv"
PER = 1000
"""Grades are of the energy of this many units, as in the published tables."""
GRADES = ("A+", "A", "B", "C", "D")
ALL_MEASURED = 0.99
"""A grade is provisional below this measured share: as in a record, 1 % may be known otherwise."""
RULE = (
    "Fifths of a log-normal distribution with the published mean and standard deviation: A+ is the "
    "fifth that uses least. Energy of the computers, before PUE."
)
_COLOURS = ("#1b7f3b", "#5a9e2f", "#a88600", "#d9761a", "#b8322a")
"""Of the grades; white letters on them have a WCAG contrast of 3 or more, enough for large text."""
_WIDTH, _HEIGHT = 440, 330
_BAR_HEIGHT, _GAP, _TOP = 30, 6, 84
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
        model: what was measured, in its owner's words.
        task: the task that it is graded for.
        grade: "A+", "A", "B", "C" or "D"; low and high are those of the interval's ends.
        provisional: less than 99 % of the energy was measured.
        units: how many units the energy was spent on.
        kwh_per_1000: energy of the computers for 1,000 units, before PUE, with low and high.
        boundary: of which parts that is, where all of it is of processor, memory and GPUs.
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
    units: float
    unit: str
    kwh_per_1000: float
    kwh_per_1000_low: float | None
    kwh_per_1000_high: float | None
    thresholds_kwh: tuple[float, ...]
    rule: str
    source: str
    year: int
    boundary: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self) | {"thresholds_kwh": list(self.thresholds_kwh)}

    @property
    def joules(self) -> tuple[float, float | None, float | None]:
        """The energy of 1,000 units in joules: best, low, high."""
        low, high = joules_from(self.kwh_per_1000_low), joules_from(self.kwh_per_1000_high)
        return self.kwh_per_1000 * JOULES_PER_KWH, low, high


def label_of(
    total: Total, task: str, *, model: str, units: float | None = None, unit: str = "inference"
) -> Label:
    """The label of the records that a total sums.

    Args:
        total: the sum; its components are the energy of the computers.
        task: a task of the table.
        model: what was measured.
        units: how many units the energy was spent on; None: the calls that were counted.
        unit: what a unit is called.

    Raises:
        ConfigError: the table has no such task, no energy is known, or there are no units.
    """
    published = find_task(task)
    parts = (total.cpu_kwh, total.gpu_kwh, total.ram_kwh, total.other_kwh)
    known = [kwh for kwh in parts if kwh is not None]
    count = total.calls if units is None else units
    if not known or not sum(known) > 0.0:
        raise ConfigError("a label needs records with a known energy, and these have none")
    if total.unknown_runs:
        raise ConfigError(f"{total.unknown_runs} of {total.runs} runs have no known energy")
    if count is None or not 0.0 < count < float("inf"):
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
        units=count,
        unit=unit,
        kwh_per_1000=best,
        kwh_per_1000_low=low,
        kwh_per_1000_high=high,
        thresholds_kwh=published.thresholds_kwh(),
        rule=RULE,
        source=published.source,
        year=published.year,
        boundary=boundary_text(total),
    )


def find_task(name: str) -> Task:
    """The row of a task: "text-classification", "text classification".

    Raises:
        ConfigError: the table has no such task; the message names those that it has.
    """
    found = tasks().get("-".join(name.lower().replace("_", " ").replace("-", " ").split()))
    if found is None:
        raise ConfigError(
            f"no distribution was published for {name!r}; known: {', '.join(tasks())}"
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
    best, _, _ = label.joules
    is_a = (
        "is a provisional" if label.provisional else "is a" + ("n" if label.grade[0] == "A" else "")
    )
    task = label.task.replace("-", " ")
    return (
        f"{label.model} {is_a} {label.grade} for {task}: "
        f"{format_joules(best)} per 1,000 {_plural(label.unit)}."
    )


def as_text(label: Label) -> str:
    """The sentence, the interval, the thresholds, the rule and its source."""
    lines = [sentence(label), *(f"  {line}" for line in _remarks(label)), ""]
    lines += [f"  {grade:2s}  {bounds}" for grade, bounds in _bounds(label)]
    return "\n".join(map(visible, [*lines, "", f"  {label.rule}", f"  {label.source}.", ""]))


def as_markdown(label: Label) -> str:
    """A paragraph and a table for a model card."""
    escaped = replace(label, model=visible_markdown(label.model), unit=visible_markdown(label.unit))
    rows = [
        f"| {'**' * (g == label.grade)}{g}{'**' * (g == label.grade)} | {b} |"
        for g, b in _bounds(label)
    ]
    return "\n".join(
        [
            *(f"**{sentence(escaped)}** {' '.join(_remarks(escaped))}".rstrip(), ""),
            *("| grade | energy per 1,000 |", "| --- | --- |", *rows, ""),
            *(f"{label.rule} Source: {label.source}.", ""),
        ]
    )


def as_json(label: Label) -> str:
    """Every attribute by name."""
    return json.dumps({"schema": 1, **label.to_dict()}, indent=2) + "\n"


def as_svg(label: Label) -> str:
    """The label as a vector picture."""
    bars = "".join(_bar(label, place) for place in range(len(GRADES)))
    best, low, high = label.joules
    ends = "no interval"
    if low is not None and high is not None:
        ends = format_interval(low, high, format_joules, like=best)
    state = "measured"
    if label.provisional:
        wall = ", not wall power" if label.boundary else ""
        nothing = not label.measured_share and label.boundary
        state = f"PROVISIONAL: {nothing or f'not all measured{wall}'}"
    texts = [
        _text(20, 34, 20, label.model, "bold", limit=34),
        _text(20, 58, 14, f"{label.task.replace('-', ' ')} · energy label"),
        _text(20, 286, 16, f"{format_joules(best)} per 1,000 {_plural(label.unit)}", "bold"),
        _text(20, 305, 12, f"{ends} · {state}"),
        _text(20, 321, 9, f"{label.source}", limit=86),
    ]
    title = visible_html(sentence(label))
    size = f"viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}'"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' {size} role='img' aria-label='{title}'>"
        f"<title>{title}</title>"
        f"<rect x='1' y='1' width='{_WIDTH - 2}' height='{_HEIGHT - 2}' rx='12' fill='#ffffff' "
        f"stroke='#9aa5a0'/>{''.join(texts)}{bars}</svg>\n"
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


def _bounds(label: Label) -> list[tuple[str, str]]:
    ends = [format_joules(kwh * JOULES_PER_KWH) for kwh in label.thresholds_kwh]
    return list(zip(GRADES, [*(f"up to {end}" for end in ends), f"above {ends[-1]}"], strict=True))


def _remarks(label: Label) -> list[str]:
    best, low, high = label.joules
    remarks = []
    if low is not None and high is not None:
        ends = format_interval(low, high, format_joules, like=best)
        grades = {label.grade_low, label.grade_high}
        over = f", so {label.grade_low} to {label.grade_high}" if len(grades) > 1 else ""
        remarks.append(f"Interval {ends}{over}; {label.units:,.0f} {_plural(label.unit)} measured.")
    if label.provisional:
        share = "Nothing" if not label.measured_share else f"Only {label.measured_share:.0%}"
        remarks.append(f"Provisional: {share} of the energy was measured.")
        if label.boundary:
            remarks.append(f"It is the energy of {label.boundary}.")
    return remarks


def _bar(label: Label, place: int) -> str:
    grade, top = GRADES[place], _TOP + place * (_BAR_HEIGHT + _GAP)
    end = 90 + place * 28
    middle, bottom = top + _BAR_HEIGHT / 2, top + _BAR_HEIGHT
    arrow = f"20,{top} {end},{top} {end + 14},{middle} {end},{bottom} 20,{bottom}"
    drawn = f"<polygon points='{arrow}' fill='{_COLOURS[place]}'/>"
    drawn += _text(30, top + 22, 19, grade, "bold", colour="#ffffff")
    drawn += _text(end + 22, top + 20, 12, _bounds(label)[place][1], colour="#5b6762")
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


def _plural(unit: str) -> str:
    return unit if unit.endswith("s") else f"{unit}s"
