"""The statement for a methods section of a paper: a paragraph and a table, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from carbontrack.impact.embodied import AS_ANTIMONY, format_antimony
from carbontrack.report.facts import Asked, Facts, place
from carbontrack.report.tables import LONGEST, by_contract, markdown_notes
from carbontrack.report.totals import Total
from carbontrack.text import visible_markdown
from carbontrack.units import (
    JOULES_PER_KWH,
    format_grams,
    format_interval,
    format_joules,
    format_seconds,
    format_with_interval,
    joules_from,
)

_SCOPES = {
    "process": "the share of processors, memory and accelerators that the measured program and "
    "its child processes used",
    "machine": "the whole machine while the measured program ran",
}
_RATE = (
    "Those of modelled processors held nine of ten published servers, and eight to nine of ten "
    "that the model was not fitted to; for small client processors fewer, and for virtual machines "
    "and laptops the rate is not known."
)
_OUTSIDE = "network, storage outside the machine, display, and people"


def as_statement(facts: Facts, _asked: Asked) -> str:
    """A paragraph, a table and what was left out, in Markdown."""
    total = facts.summary.total
    kwhs = (total.energy_kwh, total.energy_low_kwh, total.energy_high_kwh)
    energy = _with_ends(*map(joules_from, kwhs), form=format_joules)
    grams = _with_ends(
        total.emissions_g, total.emissions_low_g, total.emissions_high_g, form=format_grams
    )
    runs = "One run" if total.runs == 1 else f"{total.runs:,} runs"
    first = (
        f"{runs}{_on(facts)} used {energy} of electricity, {_pue(facts)}, and emitted {grams} of "
        f"CO2e{_where(facts)}{_market(facts)}. {_known(facts)} The boundary is "
        f"{_escaped(_scope(facts))}; making the hardware{_embodied(facts)} is no part of the "
        f"figure, nor are {_OUTSIDE}."
    )
    rows = [f"| {head} | {_escaped(text)} |" for head, text in _rows(facts, energy, grams)]
    parts = [first, "", "| item | value |", "| --- | --- |", *rows]
    left_out = markdown_notes(facts.summary)
    return "\n".join([*parts, *(("", left_out) if left_out else ()), ""])


def _with_ends(
    best: float | None, low: float | None, high: float | None, *, form: Callable[..., str]
) -> str:
    if best is None:
        return "an unknown amount"
    if low is None or high is None:
        return f"{form(best)} (no interval)"
    return format_with_interval(best, low, high, form)


def _on(facts: Facts) -> str:
    if len(facts.machines) != 1:
        return f" on {len(facts.machines)} kinds of machines"
    return f" on {_escaped(facts.machines[0].text)}"


def _escaped(text: str) -> str:
    return visible_markdown(text, LONGEST)


def _pue(facts: Facts) -> str:
    if not facts.pues:
        return "of unknown PUE"
    if facts.pues == (1.0,):
        return "without the building's overhead (PUE 1)"
    ends = dict.fromkeys((facts.pues[0], facts.pues[-1]))
    return f"a PUE of {' to '.join(f'{pue:g}' for pue in ends)} included"


def _where(facts: Facts) -> str:
    if len(facts.grids) == 1 and facts.grids[0]["g_per_kwh"] is not None:
        row = facts.grids[0]
        year = "" if row["intensity_year"] is None else f", {row['intensity_year']:.0f}"
        where = place(row["region"]) if row["region"] else "an unknown place"
        return (
            f" at a carbon intensity of {row['g_per_kwh']:.4g} g CO2e/kWh for {_escaped(where)} "
            f"({_escaped(str(row['intensity_source']))}{year})"
        )
    return f" in {len(facts.places)} regions" if facts.places else ""


def _market(facts: Facts) -> str:
    total = facts.summary.total
    if total.market_emissions_g is None:
        return ""
    return f" (location-based; by contract, market-based: {by_contract(total)})"


def _known(facts: Facts) -> str:
    total = facts.summary.total
    version = _escaped(facts.versions[0]) if facts.versions else ""
    tool = f"carbontrack {version}".rstrip()
    if total.measured_share is None:
        return f"How the energy is known was not recorded{f' ({tool})' if version else ''}."
    shares = {
        "measured": total.measured_share,
        "modelled": total.modelled_share,
        "assumed": total.assumed_share,
        "of unrecorded origin": total.unrecorded_share,
    }
    texts = [f"{share:.0%} was {how}" for how, share in shares.items() if share]
    is_mostly_modelled = (total.modelled_share or 0.0) > 0.5
    rate = f" {_RATE}" if is_mostly_modelled else ""
    return f"Of the energy, {', '.join(texts)}, with {tool}; brackets hold intervals.{rate}"


def _scope(facts: Facts) -> str:
    return " or ".join(_SCOPES.get(scope, scope) for scope in facts.scopes) or "unknown"


def _embodied(facts: Facts) -> str:
    grams = facts.summary.total.embodied_g
    if grams is None or not facts.all_embodied:
        return " (unknown)"
    return f" ({format_grams(grams)} CO2e for the time used, beside)"


def _rows(facts: Facts, energy: str, grams: str) -> Iterator[tuple[str, str]]:
    total = facts.summary.total
    if facts.started is not None:
        first, last = facts.started
        yield "runs", f"{total.runs:,}, begun {first:%Y-%m-%d} to {last:%Y-%m-%d}"
    if total.duration_s is not None:
        yield "time running", format_seconds(total.duration_s)
    for machine in facts.machines[:5]:
        yield "hardware", machine.text
    if len(facts.machines) > 5:
        yield "hardware", f"and {len(facts.machines) - 5} other kinds"
    yield "energy", energy
    for name in ("cpu", "gpu", "ram", "other"):
        kwh = getattr(total, f"{name}_kwh")
        if kwh is not None:
            yield f"of which {name}, before PUE", format_joules(kwh * JOULES_PER_KWH)
    yield "PUE", ", ".join(f"{pue:g}" for pue in facts.pues) or "unknown"
    for row in facts.grids:
        where = place(row["region"]) if row["region"] else "unknown"
        basis = row["region_basis"] or "unknown means"
        found = "the place is unknown" if basis == "unknown" else f"found by {basis}"
        yield "region", f"{where}, {found}"
        yield "carbon intensity", _intensity(row)
    yield from _emissions(total, grams)
    yield from _making_rows(facts)
    if total.water_l is not None:
        yield "water consumed, not in the emissions", f"{total.water_l:.3g} L"
    yield "meters", ", ".join(facts.meters) or "unknown"
    yield "boundary", _scope(facts)


def _making_rows(facts: Facts) -> Iterator[tuple[str, str]]:
    total = facts.summary.total
    if total.embodied_g is not None and facts.all_embodied:
        ends = (total.embodied_low_g, total.embodied_high_g)
        made = format_with_interval(total.embodied_g, *ends, format_grams, of=" CO2e")
        yield "making the hardware, not in the emissions", made
    if total.abiotic_kg_sb is not None and facts.all_abiotic:
        ends = (total.abiotic_low_kg_sb, total.abiotic_high_kg_sb)
        metals = format_antimony(total.abiotic_kg_sb, *ends)
        yield "minerals and metals in the hardware", f"{metals}: {AS_ANTIMONY}"


def _emissions(total: Total, grams: str) -> Iterator[tuple[str, str]]:
    """By the methods of the GHG Protocol's scope 2, where the contract is known."""
    if total.market_emissions_g is None:
        yield "emissions", grams
    else:
        yield "emissions, location-based", grams
        yield "emissions, market-based", by_contract(total)


def _intensity(row: dict[str, Any]) -> str:
    if row["g_per_kwh"] is None:
        return "unknown"
    ends = ""
    if row["low_g_per_kwh"] is not None and row["high_g_per_kwh"] is not None:
        ends = f" ({format_interval(row['low_g_per_kwh'], row['high_g_per_kwh'], '.3g')})"
    year = "" if row["intensity_year"] is None else f", {row['intensity_year']:.0f}"
    return f"{row['g_per_kwh']:.4g}{ends} g CO2e/kWh; {row['intensity_source']}{year}"
