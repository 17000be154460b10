"""How the figures of a report were made, in the sentences that papers and reports to others need.

The words are those of the GHG Protocol (location-based and market-based, Scope 2 and Scope 3) and
of ISO/IEC 21031 (E, I, M, R). What no record says is called unknown, and never left out silently.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from carbontrack.errors import ConfigError, NoIntensity, UnknownRegion
from carbontrack.grid.tables import Method, lookup
from carbontrack.report.facts import Asked, Facts, place
from carbontrack.units import format_grams, format_with_interval
from carbontrack.values import NamedTuple

_SCOPES = {
    "process": "the share of CPU, GPU and memory energy that is attributed to the program and its "
    "child processes",
    "machine": "the whole machine while the program ran",
}
_OUTSIDE = "network, storage outside the machine, displays"
_NOT_WALL = "losses of power supplies, fans and drives"
_REGIONS = {
    "argument": "given by the user",
    "environment": "given by the user",
    "config": "given by the user",
    "cloud": "detected from the cloud's own variables and firmware",
    "metadata": "detected by the cloud's metadata service",
    "timezone": "detected from the time zone",
    "unknown": "not known, so the world average is used",
}
_COUNTED = {
    "lifecycle": "lifecycle emissions of generation, with fuel supply and plants",
    "direct": "direct emissions of power plants only",
    "marginal": "marginal emissions of power plants",
}
_METHODS: tuple[Method, ...] = ("lifecycle", "direct", "marginal")
_METERS = (
    ("rapl", "RAPL energy counters"),
    ("perf", "RAPL energy counters by perf events"),
    ("nvml", "NVIDIA GPU counters (NVML)"),
    ("amdsmi", "AMD GPU counters (AMD SMI)"),
    ("hwmon", "power sensors (hwmon)"),
    ("apple", "Apple energy counters"),
    ("battery", "discharge of the battery"),
    ("model:cpu", "CPU power model"),
    ("model:ram", "memory power model"),
    ("model:gpu", "GPU power model"),
    ("model:wall", "model of the rest of the machine"),
    ("model:packages", "model of closed CPU counters"),
    ("model:dram", "model of closed memory counters"),
)
NO_MARKET_BASED = "not reported, because no carbon intensity of a supply contract is recorded"
RECORDED = "as recorded"
GHG_PROTOCOL = (
    "GHG Protocol: this electricity is Scope 2 for the organisation that operates the machines, "
    "and Scope 3 for one that rents them. The upstream part of a lifecycle carbon intensity and "
    "embodied emissions are Scope 3."
)


class Embodied(NamedTuple):
    """Embodied emissions of the hardware attributed to the runs, and their origin."""

    g: float | None
    low_g: float | None = None
    high_g: float | None = None
    origin: str = "unknown"

    @property
    def text(self) -> str:
        """The figure and its origin: "7.00 g CO2e (3.00 to 12.0 g), from the records"."""
        if self.g is None:
            return "unknown"
        figure = format_with_interval(self.g, self.low_g, self.high_g, format_grams, of=" CO2e")
        return f"{figure}, {self.origin}"


def embodied_of(facts: Facts, asked: Asked) -> Embodied:
    """The embodied emissions of these runs: the records', else those that the user gives.

    Raises:
        ConfigError: what the user gives is no amount above 0, or the records hold it already.
    """
    total = facts.summary.total
    known = total.embodied_g is not None and facts.all_embodied
    if asked.embodied_g is None:
        if not known:
            return Embodied(None)
        low_g, high_g = total.embodied_low_g, total.embodied_high_g
        return Embodied(total.embodied_g, low_g, high_g, RECORDED)
    check_embodied_g(asked.embodied_g)
    if known:
        raise ConfigError(
            f"--embodied-g {asked.embodied_g:g}: every record has embodied emissions already, "
            f"{total.embodied_g:.4g} g in total; leave the option out, or measure with "
            "embodied_g_per_h to use a figure of yours instead"
        )
    return Embodied(asked.embodied_g, origin="given by the user")


def check_embodied_g(given: float) -> None:
    """Check that it is an amount of embodied emissions.

    Raises:
        ConfigError: it is not above 0 and finite.
    """
    if not (isfinite(given) and given > 0.0):
        raise ConfigError(
            f"--embodied-g must be grams of CO2e above 0, not {given:g}; leave it out where the "
            "embodied emissions are not known"
        )


def boundary(facts: Facts) -> str:
    """Whose energy is counted."""
    return " or ".join(_SCOPES.get(scope, scope) for scope in facts.scopes) or "unknown"


def not_included(facts: Facts) -> str:
    """What is outside of the boundary, apart from embodied emissions."""
    at_wall = facts.summary.total.other_kwh is not None
    return f"{_OUTSIDE}{'' if at_wall else f', {_NOT_WALL}'}"


def basis(facts: Facts) -> str | None:
    """How the energy is known: "90% measured, 10% modelled"; None where that is not recorded."""
    total = facts.summary.total
    if total.measured_share is None:
        return None
    shares = {
        "measured": total.measured_share,
        "modelled": total.modelled_share,
        "assumed": total.assumed_share,
        "of unrecorded basis": total.unrecorded_share,
    }
    return ", ".join(f"{_percent(share)} {how}" for how, share in shares.items() if share)


def _percent(share: float) -> str:
    return "<1%" if share < 0.005 else f"{share:.0%}"


def meters(facts: Facts) -> str:
    """The meters by what they are: "memory power model (model:ram)"."""
    groups: dict[str, list[str]] = {}
    for meter in facts.meters:
        what = next((text for start, text in _METERS if meter.startswith(start)), "other meter")
        groups.setdefault(what, []).append(meter)
    texts = (f"{what} ({', '.join(ids)})" for what, ids in groups.items())
    return "; ".join(texts) or "unknown"


def region(row: dict[str, Any]) -> str:
    """A grid's place and how it was found: "France (FR), given by the user"."""
    how = row["region_basis"]
    found = "origin not recorded" if how is None else _REGIONS.get(how, f"found by {how}")
    return f"{place(row['region']) if row['region'] else 'unknown'}, {found}"


def intensity_source(row: dict[str, Any]) -> str:
    """Who publishes a grid's carbon intensity, and of which year."""
    source, year = row["intensity_source"] or "unknown source", row["intensity_year"]
    return source if year is None else f"{source}, data of {year:.0f}"


def counted(row: dict[str, Any]) -> str | None:
    """Which emissions a grid's carbon intensity counts; None where that is not recorded."""
    source = row["intensity_source"] or ""
    for word, text in _COUNTED.items():
        if word in source.lower():  # live services say so themselves
            return text
    for method in _METHODS:
        found = _method(row["region"], source, method)
        if found is not None:
            return next((text for word, text in _COUNTED.items() if word in found), None)
    return None


def _method(code: str | None, source: str, method: Method) -> str | None:
    """The method of the table's figure for a place, if it has this source."""
    if not code or not source:
        return None
    try:
        found = lookup(code, method=method)
    except (NoIntensity, UnknownRegion, ConfigError, ValueError):
        return None
    return found.method if found.source == source else None


def intensity_texts(facts: Facts) -> list[str]:
    """A text for each source: the intensities of its places, its publisher, and the data's year."""
    by_source: dict[str, list[str]] = {}
    for row in facts.grids:
        if row["g_per_kwh"] is not None:
            where = place(row["region"]) if row["region"] else "an unknown place"
            text = f"{row['g_per_kwh']:.4g} g CO2e/kWh for {where}"
            by_source.setdefault(intensity_source(row), []).append(text)
    return [f"{', '.join(texts)} ({source})" for source, texts in by_source.items()]
