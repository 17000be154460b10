"""The statement for a methods section of a paper: paragraphs and a table, in Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from carbontrack.impact.embodied import AS_ANTIMONY, format_antimony
from carbontrack.report import method
from carbontrack.report.digits import three_digits
from carbontrack.report.facts import Asked, Facts, with_short_texts
from carbontrack.report.method import Embodied
from carbontrack.report.tables import by_contract, combined, left_out, selected
from carbontrack.text import visible_markdown
from carbontrack.units import (
    JOULES_PER_KWH,
    format_best,
    format_grams,
    format_interval,
    format_joules,
    format_seconds,
    format_with_interval,
    joules_from,
)
from carbontrack.values import NamedTuple

_RATE = (
    "For modelled processors, the interval contained the true value of nine of ten published "
    "servers, and of eight to nine of ten that the model was not fitted to. For small client "
    "processors the rate is lower, and for virtual machines and laptops it is not known."
)
_MOST_MACHINES = 5
_MOST_INTENSITIES = 3
_LEAST_L = 0.001


class Statement(NamedTuple):
    """What a methods section says, as plain texts.

    Attributes:
        paragraphs: energy and emissions, how they are known, and what they include.
        tool: carbontrack and its version, as the second of the paragraphs names it.
        rows: head and content of each row of the table.
        notes: what was left out of the sums, and how errors were combined.
    """

    paragraphs: list[str]
    tool: str
    rows: list[tuple[str, str]]
    notes: list[str]


def as_statement(facts: Facts, asked: Asked) -> str:
    """Paragraphs, a table and what was left out, in Markdown."""
    found = statement(facts, asked)
    parts = [line for text in found.paragraphs for line in (_escaped(text), "")]
    parts += ["| item | value |", "| --- | --- |"]
    parts += [f"| {head} | {_escaped(text)} |" for head, text in found.rows]
    notes = " ".join(map(_escaped, found.notes))
    return "\n".join([*parts, *(("", notes) if notes else ()), ""])


def _escaped(text: str) -> str:
    return visible_markdown(text)


def statement(facts: Facts, asked: Asked) -> Statement:
    """The statement's content.

    Raises:
        ConfigError: embodied emissions are given that the records hold already.
    """
    embodied = method.embodied_of(facts, asked)
    facts = with_short_texts(facts)
    paragraphs = [
        f"{_energy(facts)} {_emissions(facts)}",
        _known(facts),
        f"{_boundary(facts, embodied)} {method.GHG_PROTOCOL}",
    ]
    notes = [*selected(facts.summary), *left_out(facts.summary), *combined(facts.summary)]
    return Statement(paragraphs, _tool(facts), list(_rows(facts, embodied)), notes)


# -- sentences ---------------------------------------------------------------------------------


def _energy(facts: Facts) -> str:
    total = facts.summary.total
    kwhs = (total.energy_kwh, total.energy_low_kwh, total.energy_high_kwh)
    energy = _in_sentence(*map(joules_from, kwhs), form=format_joules, of=" of electricity")
    return f"{_runs(facts)} on {_machines(facts)} consumed {energy}, {_pue(facts)}."


def _emissions(facts: Facts) -> str:
    total = facts.summary.total
    ends = (total.emissions_low_g, total.emissions_high_g)
    grams = _in_sentence(total.emissions_g, *ends, form=format_grams, of=" CO2e")
    if total.emissions_g is None:
        grams = "unknown"
    location = f"Location-based emissions are {grams}{_where(facts)}."
    if total.market_emissions_g is None:
        return f"{location} Market-based emissions are {method.NO_MARKET_BASED}."
    return f"{location} Market-based emissions are {by_contract(total)}."


def _in_sentence(
    best: float | None,
    low: float | None,
    high: float | None,
    *,
    form: Callable[..., str],
    of: str,
) -> str:
    if best is None:
        return f"an unknown amount{of}"
    if low is None or high is None:
        return f"{form(best)}{of} (uncertainty interval unknown)"
    ends = format_interval(low, high, form, like=best)
    return f"{format_best(best, low, high, form)}{of} (uncertainty interval {ends})"


def _runs(facts: Facts) -> str:
    runs = facts.summary.total.runs
    return "One run" if runs == 1 else f"{runs:,} runs"


def _machines(facts: Facts) -> str:
    if len(facts.machines) != 1:
        return f"{len(facts.machines)} kinds of machines"
    return facts.machines[0].text


def _pue(facts: Facts) -> str:
    if not facts.pues:
        return "with an unknown PUE"
    if facts.pues == (1.0,):
        return "without data-centre overhead (PUE 1)"
    ends = dict.fromkeys((facts.pues[0], facts.pues[-1]))
    return f"including data-centre overhead at a PUE of {' to '.join(f'{pue:g}' for pue in ends)}"


def _where(facts: Facts) -> str:
    texts = method.intensity_texts(facts)
    if not texts:
        return ""
    if len(facts.grids) > _MOST_INTENSITIES:
        return f", from the carbon intensities of {len(facts.places)} regions in the table"
    noun = "a carbon intensity" if len(facts.grids) == 1 else "carbon intensities"
    return f", from {noun} of {' and '.join(texts)}"


def _tool(facts: Facts) -> str:
    return f"carbontrack {facts.versions[0] if facts.versions else ''}".rstrip()


def _known(facts: Facts) -> str:
    tool, basis = _tool(facts), method.basis(facts)
    if basis is None:
        return f"Energy basis (measured or modelled): not recorded, read by {tool}."
    is_mostly_modelled = (facts.summary.total.modelled_share or 0.0) > 0.5
    rate = f" {_RATE}" if is_mostly_modelled else ""
    sources = method.meters(facts)
    return f"Energy basis: {basis}, by {tool}. Meters and models: {sources}.{rate}"


def _boundary(facts: Facts, embodied: Embodied) -> str:
    separately = "" if embodied.g is None else f" (separately: {embodied.text})"
    unknown = " (unknown)" if embodied.g is None else ""
    return (
        f"Boundary: {method.boundary(facts)}. Not included: {method.not_included(facts)}. "
        f"Embodied emissions: not included{separately}{unknown}."
    )


# -- the table ---------------------------------------------------------------------------------


def _rows(facts: Facts, embodied: Embodied) -> Iterator[tuple[str, str]]:
    yield from _work_rows(facts)
    yield from _energy_rows(facts)
    yield from _grid_rows(facts)
    total = facts.summary.total
    ends = (total.emissions_low_g, total.emissions_high_g)
    yield "emissions, location-based", _in_cell(total.emissions_g, *ends, form=format_grams)
    is_known = total.market_emissions_g is not None
    yield "emissions, market-based", by_contract(total) if is_known else method.NO_MARKET_BASED
    yield "embodied emissions, not included", embodied.text
    if total.abiotic_kg_sb is not None and facts.all_abiotic:
        low_kg, high_kg = total.abiotic_low_kg_sb, total.abiotic_high_kg_sb
        metals = format_antimony(total.abiotic_kg_sb, low_kg, high_kg)
        yield "minerals and metals in the hardware", f"{metals}: {AS_ANTIMONY}"
    if total.water_l is not None:
        is_little = total.water_l < _LEAST_L
        litres = f"less than {_LEAST_L:g}" if is_little else three_digits(total.water_l)
        yield "water consumption", f"{litres} L"
    yield "boundary", method.boundary(facts)
    yield "not included", f"{method.not_included(facts)}, embodied emissions"


def _work_rows(facts: Facts) -> Iterator[tuple[str, str]]:
    total = facts.summary.total
    if facts.started is not None:
        days = dict.fromkeys(f"{at:%Y-%m-%d}" for at in facts.started)
        yield "runs", f"{total.runs:,}, started {' to '.join(days)}"
    if total.duration_s is not None:
        yield "run time", format_seconds(total.duration_s)
    for machine in facts.machines[:_MOST_MACHINES]:
        yield "hardware", machine.text
    if len(facts.machines) > _MOST_MACHINES:
        yield "hardware", f"and {len(facts.machines) - _MOST_MACHINES} other kinds"


def _energy_rows(facts: Facts) -> Iterator[tuple[str, str]]:
    total = facts.summary.total
    kwhs = (total.energy_kwh, total.energy_low_kwh, total.energy_high_kwh)
    yield "energy consumption", _in_cell(*map(joules_from, kwhs), form=format_joules)
    for name, head in (("cpu", "CPU"), ("gpu", "GPU"), ("ram", "memory"), ("other", "other")):
        kwh = getattr(total, f"{name}_kwh")
        if kwh is not None:
            yield f"{head}, before PUE", format_joules(kwh * JOULES_PER_KWH)
    yield "energy basis", method.basis(facts) or "not recorded"
    yield "meters and models", method.meters(facts)
    yield "PUE", ", ".join(f"{pue:g}" for pue in facts.pues) or "unknown"


def _grid_rows(facts: Facts) -> Iterator[tuple[str, str]]:
    for row in facts.grids:
        yield "region", method.region(row)
        g_per_kwh, ends = row["g_per_kwh"], (row["low_g_per_kwh"], row["high_g_per_kwh"])
        if g_per_kwh is None:
            yield "carbon intensity", "unknown"
            continue
        interval = "" if None in ends else f" ({format_interval(*ends, '.3g')})"
        counted = method.counted(row) or "what it counts is not recorded"
        yield "carbon intensity", f"{g_per_kwh:.4g}{interval} g CO2e/kWh; {counted}"
        yield "intensity source", method.intensity_source(row)


def _in_cell(
    best: float | None, low: float | None, high: float | None, *, form: Callable[..., str]
) -> str:
    if best is None:
        return "unknown"
    if low is None or high is None:
        return f"{form(best)} (no interval)"
    return format_with_interval(best, low, high, form)
