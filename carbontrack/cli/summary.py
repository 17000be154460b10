"""The summary of a record that `carbontrack run` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from carbontrack.cli.live import sparkline
from carbontrack.impact.equivalents import compare
from carbontrack.meters.meter import Hardware
from carbontrack.meters.rate import rate_text
from carbontrack.record import Record, boundary_text
from carbontrack.report.uncounted import uncounted_text
from carbontrack.text import visible
from carbontrack.tracking.budget import Verdict
from carbontrack.tracking.timeline import PowerRow
from carbontrack.units import (
    format_grams,
    format_joules,
    format_seconds,
    format_with_interval,
    joules_from,
)

_PLACE = {
    "argument": "as given",
    "environment": "from the environment",
    "config": "from the settings",
    "cloud": "from the cloud's own variables",
    "metadata": "from the cloud's metadata",
    "timezone": "from the time zone",
    "unknown": "the place is unknown",
}
_WELL_OBSERVED = 0.99


def headline(record: Record) -> str:
    """The name, the duration and the error of the record."""
    parts = [record.name]
    if record.duration_s is not None:
        parts.append(format_seconds(record.duration_s))
    return visible(", ".join([*parts, record.error] if record.error else parts))


def rows(
    record: Record,
    *,
    outputs: Sequence[str] = (),
    verdict: Verdict | None = None,
    timeline: Sequence[PowerRow] = (),
    verbose: bool = False,
    hardware: Hardware | None = None,
) -> list[tuple[str, str]]:
    """The summary as labels and texts; with the live tracker's `hardware`, how often a model holds.

    A record alone cannot tell that: it has neither what is known of the processor nor whether the
    machine was virtual.
    """
    found = [("energy", _energy(record, hardware)), ("emissions", _emissions(record))]
    if record.market_emissions_g is not None:
        grams = format_grams(record.market_emissions_g)
        found.append(("contract", f"{grams} CO2e by contract, beside the emissions of the place"))
    joules = joules_from(record.energy_kwh)
    comparison = compare(energy_joules=joules, emissions_g=record.emissions_g)
    if comparison is not None:
        found.append(("about", comparison.sourced if verbose else comparison.text))
    if timeline:
        found.append(("power", sparkline(timeline)))
    found.append(("how", ", ".join(_how(record)) or "no meter answered"))
    uncounted = uncounted_text(record.faults)
    if uncounted is not None:
        found.append(("missing", f"{uncounted}; carbontrack doctor tells why"))
    if record.intensity_g_per_kwh is not None:
        found.append(("grid", _grid(record)))
    if verdict is not None:
        found.append(("budget", verdict.text))
    if outputs:
        found.append(("record", ", ".join(outputs)))
    return found


def _energy(record: Record, hardware: Hardware | None) -> str:
    joules = joules_from(record.energy_kwh)
    if joules is None:
        return "unknown"
    low_j, high_j = joules_from(record.energy_low_kwh), joules_from(record.energy_high_kwh)
    text = format_with_interval(joules, low_j, high_j, format_joules, gap="  ")
    text += f", PUE {record.pue:g} included" if record.pue not in (None, 1.0) else ""
    return ", ".join([text, *_claim(record, hardware)])


def _claim(record: Record, hardware: Hardware | None) -> Iterator[str]:
    """What a modelled figure is of, and how often an interval like it holds."""
    ends_at = boundary_text(record)
    if record.basis not in ("modelled", "assumed") or ends_at is None:
        return
    often = ""
    bases = (record.cpu_basis, record.gpu_basis, record.ram_basis)
    by_models = bases in (("modelled", None, "modelled"), ("modelled", None, None))
    # the rate is that of the models' own intervals
    if hardware is not None and by_models and not _is_completed(record):
        text = rate_text(hardware.cpu_model, hardware.cpu_known, is_guest=hardware.is_guest)
        often = f"; {text}"
    yield f"{record.basis}: {ends_at}{often}"


def _is_completed(record: Record) -> bool:
    """Whether a component's closed zones are taken to be like those that are read."""
    return not {"model:packages", "model:dram"}.isdisjoint((record.meters or "").split(";"))


def _emissions(record: Record) -> str:
    if record.emissions_g is None:
        return "unknown"
    low_g, high_g = record.emissions_low_g, record.emissions_high_g
    return format_with_interval(
        record.emissions_g, low_g, high_g, format_grams, of=" CO2e", gap="  "
    )


def _how(record: Record) -> Iterator[str]:
    if record.cpu_basis is not None:
        link = "on" if record.cpu_basis == "measured" or _is_completed(record) else "from"
        tdp = f" (TDP {record.cpu_tdp_w:g} W)" if record.cpu_tdp_w is not None else ""
        yield f"CPU {record.cpu_basis} {link} {record.cpu_model or 'an unknown processor'}{tdp}"
    if record.gpu_basis is not None:
        models = f" ({record.gpu_models.replace(';', ', ')})" if record.gpu_models else ""
        yield f"GPU {record.gpu_basis}{models}"
    if record.ram_basis is not None:
        size = f" ({record.ram_gib:.0f} GiB)" if record.ram_gib is not None else ""
        yield f"memory {record.ram_basis}{size}"
    if record.other_kwh is not None:
        # basis and meters are those of the whole record, so they are its only where it is alone
        alone = not any((record.cpu_basis, record.gpu_basis, record.ram_basis))
        meters = (record.meters or "").replace(";", ", ")
        if "model:wall" in meters.split(", "):
            yield "other assumed, up to what servers draw at the wall"
        else:
            yield f"other {record.basis} ({meters})" if alone else "other"
    if record.scope == "machine":
        yield "all of the machine"
    elif record.cpu_share is not None:
        yield f"{_percent(record.cpu_share)} of the machine's CPU energy"
    if record.coverage is not None and record.coverage < _WELL_OBSERVED:
        yield f"observed {_percent(record.coverage)} of the time"


def _percent(share: float) -> str:
    return f"{share * 100:.2g}%" if share < 0.0995 else f"{share * 100:.0f}%"


def _grid(record: Record) -> str:
    year = f" in {record.intensity_year}" if record.intensity_year else ""
    place = _PLACE.get(record.region_basis or "", record.region_basis)
    text = f"{record.region}, {record.intensity_g_per_kwh:.0f} g CO2e/kWh{year}"
    if record.intensity_source:
        text += f" ({record.intensity_source})"
    return f"{text}; {place}" if place else text
