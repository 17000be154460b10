"""The summary of a record that `carbontrack run` prints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from carbontrack.cli.live import sparkline
from carbontrack.impact.equivalents import compare
from carbontrack.meters.meter import Hardware
from carbontrack.meters.rate import rate_text
from carbontrack.record import BASES, Record, boundary_text
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

REGION_FROM = {
    "argument": "as given",
    "environment": "from the environment",
    "config": "from the settings",
    "cloud": "from the cloud's variables",
    "metadata": "from the cloud's metadata",
    "timezone": "from the time zone",
    "unknown": "region unknown",
}
"""How the region was found, by `region_basis` of a record."""
_WELL_OBSERVED = 0.99
_SHORT = 24
"""A source of this many characters is shown without being asked for: "ukcarbonintensity"."""
_TRADE_MARKS = re.compile(
    r"\((?:r|tm|c)\)|(?: CPU)? @ [\d.]+ ?GHz|\b\d+-Core Processor", re.IGNORECASE
)


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
    """The summary as labels and texts, short enough for a line of 80 columns each where possible.

    `verbose` adds sources in full and, with the live tracker's `hardware`, how often the interval
    of a model holds. A record alone cannot tell that: it has neither what is known of the processor
    nor whether the machine was virtual.
    """
    found = [("energy", _energy(record)), ("emissions", _emissions(record))]
    if verbose and (often := _rate(record, hardware)) is not None:
        found.insert(1, ("interval", often))
    if record.market_emissions_g is not None:
        grams = format_grams(record.market_emissions_g)
        found.append(("contract", f"{grams} CO2e by contract (market-based)"))
    joules = joules_from(record.energy_kwh)
    comparison = compare(energy_joules=joules, emissions_g=record.emissions_g)
    if comparison is not None:
        found.append(("about", comparison.sourced if verbose else comparison.text))
    if timeline:
        found.append(("power", sparkline(timeline)))
    found.append(("how", _how(record, hardware)))
    uncounted = uncounted_text(record.faults)
    if uncounted is not None:
        found.append(("missing", f"{uncounted}; for the reason run carbontrack doctor"))
    if record.intensity_g_per_kwh is not None:
        found.append(("grid", _grid(record, verbose=verbose)))
    if verdict is not None:
        found.append(("budget", verdict.text))
    if outputs:
        found.append(("record", ", ".join(outputs)))
    return found


def _energy(record: Record) -> str:
    joules = joules_from(record.energy_kwh)
    if joules is None:
        return "unknown"
    low_j, high_j = joules_from(record.energy_low_kwh), joules_from(record.energy_high_kwh)
    text = format_with_interval(joules, low_j, high_j, format_joules, gap="  ")
    text += f", PUE {record.pue:g} included" if record.pue not in (None, 1.0) else ""
    ends_at = boundary_text(record) if record.basis in BASES[1:] else None
    return text if ends_at is None else f"{text}, {ends_at}"


def _rate(record: Record, hardware: Hardware | None) -> str | None:
    """How often an interval like that of the record holds; None where it is not a model's."""
    bases = (record.cpu_basis, record.gpu_basis, record.ram_basis)
    by_models = bases in (("modelled", None, "modelled"), ("modelled", None, None))
    # the rate is that of the models' own intervals
    if hardware is None or not by_models or record.other_kwh is not None or _is_completed(record):
        return None
    return rate_text(hardware.cpu_model, hardware.cpu_known, is_guest=hardware.is_guest)


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


def _how(record: Record, hardware: Hardware | None) -> str:
    parts = list(_parts(record, hardware))
    if not parts:
        return "no meter answered"
    bases = {basis for _, basis, _ in parts}
    if len(bases) == 1 and all(details for _, _, details in parts):
        said = f"{parts[0][1]}: {', '.join(details for _, _, details in parts)}"
    else:
        said = ", ".join(
            f"{part} {basis}{f' ({details})' if details else ''}" for part, basis, details in parts
        )
    return "; ".join([said, *_share(record)])


def _parts(record: Record, hardware: Hardware | None) -> Iterator[tuple[str, str, str]]:
    """Each component, how it is known, and the hardware."""
    if record.cpu_basis is not None:
        model = _plain(record.cpu_model or "unknown processor")
        is_model = record.cpu_basis != "measured" and not _is_completed(record)
        power = _design_power(record, hardware) if is_model else None
        yield "CPU", record.cpu_basis, ", ".join(filter(None, (model, power)))
    if record.gpu_basis is not None:
        yield "GPU", record.gpu_basis, _counted((record.gpu_models or "").split(";"))
    if record.ram_basis is not None:
        size = f"{record.ram_gib:.0f} GiB" if record.ram_gib is not None else ""
        yield "memory", record.ram_basis, size
    if record.other_kwh is not None:
        # basis and meters are those of the whole record, so they are its only where it is alone
        alone = not any((record.cpu_basis, record.gpu_basis, record.ram_basis))
        meters = (record.meters or "").replace(";", ", ")
        if "model:wall" in meters.split(", "):
            yield "other", "assumed", "up to the wall power of servers"
        else:
            yield "other", record.basis or "" if alone else "included", meters if alone else ""


def _design_power(record: Record, hardware: Hardware | None) -> str | None:
    """The design power that a model has used: of whole packages, or of each hardware thread."""
    power_w, threads = record.cpu_tdp_w, record.cpu_threads
    if power_w is None:
        return None
    is_whole = hardware is None or (
        hardware.cpu_known in ("part", "given") and (hardware.cpu_sockets or 0.0) >= 1.0
    )
    if is_whole or not threads:
        return f"TDP {power_w:g} W"
    return f"{threads} thread{'s' * (threads != 1)} x {power_w / threads:.3g} W"


def _plain(model: str) -> str:
    """A processor's name without what every name has: "Intel Xeon Platinum 8370C"."""
    return " ".join(_TRADE_MARKS.sub(" ", model).split()) or model


def _counted(models: Sequence[str]) -> str:
    """The names of boards, each once with its number: "2 x NVIDIA H100"."""
    numbers = {model: models.count(model) for model in models if model}
    return ", ".join(f"{n} x {model}" if n > 1 else model for model, n in numbers.items())


def _share(record: Record) -> Iterator[str]:
    if record.scope == "machine":
        yield "whole machine"
    elif record.cpu_share is not None:
        yield f"{_percent(record.cpu_share)} of CPU energy"
    if record.coverage is not None and record.coverage < _WELL_OBSERVED:
        yield f"observed {_percent(record.coverage)} of the time"


def _percent(share: float) -> str:
    return f"{share * 100:.2g}%" if share < 0.0995 else f"{share * 100:.0f}%"


def _grid(record: Record, *, verbose: bool) -> str:
    year = f" in {record.intensity_year}" if record.intensity_year else ""
    place = REGION_FROM.get(record.region_basis or "", record.region_basis)
    text = f"{record.region}, {record.intensity_g_per_kwh:.0f} g CO2e/kWh{year}"
    source = record.intensity_source
    if source and (verbose or len(source) <= _SHORT):
        text += f" ({source})"
    return f"{text}, {place}" if place else text
