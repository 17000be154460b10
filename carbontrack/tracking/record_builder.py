"""The record builder: turns the sums of a span, or of summed calls, into a record.

The module has three parts: the values that go in, pure functions that compute the columns (energy,
emissions, water, embodied emissions, quality), and `RecordBuilder`. Its `window` captures what can
only be known at the end of a span; its `build` makes the record from that, when it is needed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import isclose
from types import MappingProxyType
from typing import Any

from carbontrack.attribution.memory import LowEnd
from carbontrack.attribution.policy import Attribution
from carbontrack.grid.intensity import GridIntensity
from carbontrack.interval import Interval, product
from carbontrack.meters.meter import MeterSet
from carbontrack.record import BASES, COMPONENTS, WHOLE_MACHINE, Basis, Component, Record, Status
from carbontrack.sampling.counts import CLOCK_FAULT, Counts, Joules
from carbontrack.sampling.ledger import Ledger, Sums
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.interrupts import pass_on
from carbontrack.system.version import VERSION
from carbontrack.tracking.part import MeterFacts, Part, facts_of, interval_j
from carbontrack.units import JOULES_PER_KWH
from carbontrack.values import NamedTuple

_log = logging.getLogger("carbontrack")

CONTRIBUTES = 0.01
"""A basis counts for the record if it applies to more than this share of the energy."""

# -- values ------------------------------------------------------------------------------------


class Resource(NamedTuple):
    """The facts that go into every record of a tracker, independent of the measurement.

    Attributes:
        region_basis: the source of the region.
        water_l_per_kwh: water consumption of power generation, litres per kWh; None: unknown.
        embodied_g_per_h: embodied emissions of the hardware per hour of use, by component or for
            the whole "machine"; None: unknown.
        abiotic_kg_sb_per_h: the use of scarce minerals and metals by making it, in the same way.
        market_g_per_kwh: what the contract for electricity emits, g CO2e per kWh; None: unknown.
        columns: further columns of the record by name: host_id, rank, cloud_provider, …
    """

    region_basis: str | None = None
    water_l_per_kwh: float | None = None
    embodied_g_per_h: Mapping[str, float] | None = None
    abiotic_kg_sb_per_h: Mapping[str, float] | None = None
    market_g_per_kwh: float | None = None
    columns: Mapping[str, Any] = MappingProxyType({})


class Subject(NamedTuple):
    """The subject of a record: a span, or the calls of a function in one window."""

    record_id: str
    run_id: str
    parent_id: str | None
    parent_holds: bool | None
    name: str
    labels: Mapping[str, Any]
    started_at: datetime


class EndStatus(NamedTuple):
    """How a span or a window ended: status, error, and the number of calls."""

    status: Status
    error: str | None = None
    calls: int = 1


class Window(NamedTuple):
    """The time of a span, or of a function's summed calls, as captured at its end.

    Attributes:
        start, end: the machine's counts at its start and end.
        duration_s: the running time: for a span without pauses, for calls the sum of theirs.
        machine_j: each meter's energy for the whole machine while it was running.
        max_gap_s: the longest gap between two readings; None where there was none.
        ended_at: the wall-clock time at its end.
        grid: the grid's intensity at its end; None where it is unknown.
        powers_w: the last known power of each meter.
        before: the machine's counts of a moment before its end, which may be before its start; None
            where they are not known.
    """

    start: Counts
    end: Counts
    duration_s: float
    machine_j: Joules
    max_gap_s: float | None
    ended_at: datetime
    grid: GridIntensity | None
    powers_w: Sequence[float | None]
    before: Counts | None = None

    @property
    def length_s(self) -> float:
        """The time from start to end, pauses included."""
        return self.end.at_s - self.start.at_s


# -- pure functions: the columns --------------------------------------------------------------


def parts_of(sums: Sums, window: Window, meters: Sequence[MeterFacts]) -> list[Part]:
    """The energy of each meter in a span.

    A span shorter than a counter's refresh period cannot be measured by a difference, which would
    be 0 or too much; its energy is the last known power times its length, with basis "modelled".
    A meter that did not answer in the span, and whose power is not known, contributes nothing.
    """
    parts = []
    for index, meter in enumerate(meters):
        joules, machine_j = value_at(sums.ours_j, index), value_at(window.machine_j, index)
        if _too_short(window.length_s, joules, meter.resolution_s):
            powers_w = window.powers_w
            power_w = powers_w[index] if index < len(powers_w) else None
            share = min(1.0, joules / machine_j) if machine_j > 0.0 else 1.0
            if power_w is not None:
                all_j = power_w * window.duration_s
                ends_j = _recent_ends(index, meter, window, all_j * share)
                parts.append(Part(meter, all_j * share, _modelled(meter), all_j, ends_j))
        elif joules > 0.0 or _observed_s(window, index) > 0.0:
            ends_j = _counted_ends(meter, sums)
            parts.append(Part(meter, joules, meter.basis, max(machine_j, joules), ends_j))
    return parts


def _counted_ends(meter: MeterFacts, sums: Sums) -> tuple[float, float] | None:
    if meter.ends is None:
        return None
    return value_at(sums.ends_j, meter.ends), value_at(sums.ends_j, meter.ends + 1)


def _recent_ends(
    index: int, meter: MeterFacts, window: Window, joules: float
) -> tuple[float, float] | None:
    """The ends of a power times a length: as far off, by ratio, as what was counted just before."""
    before, end, place = window.before, window.end, meter.ends
    if before is None or place is None:
        return None
    recent_j = value_at(end.energy_j, index) - value_at(before.energy_j, index)
    if recent_j <= 0.0:
        return None
    low_j, high_j = (
        value_at(end.ends_j, side) - value_at(before.ends_j, side) for side in (place, place + 1)
    )
    return joules * (low_j / recent_j), joules * (high_j / recent_j)


def _too_short(length_s: float, joules: float, resolution_s: float) -> bool:
    if length_s < resolution_s:
        return True
    return joules <= 0.0 and length_s < 3.0 * resolution_s


def _modelled(meter: MeterFacts) -> Basis:
    return "modelled" if meter.basis == "measured" else meter.basis


def value_at(numbers: Sequence[float], index: int) -> float:
    """The number of the meter at `index`; 0 if the tuple is older than the meter."""
    return numbers[index] if index < len(numbers) else 0.0


def _observed_s(window: Window, index: int) -> float:
    return value_at(window.end.observed_s, index) - value_at(window.start.observed_s, index)


def weakest(parts: Sequence[Part]) -> Basis | None:
    """The weakest basis among those of more than 1 % of the energy."""
    whole_j = sum(part.joules for part in parts)
    by_basis: dict[Basis, float] = {}
    for part in parts:
        by_basis[part.basis] = by_basis.get(part.basis, 0.0) + part.joules
    counting = [b for b, joules in by_basis.items() if joules > CONTRIBUTES * whole_j]
    return max(counting or by_basis, key=BASES.index, default=None)


def energy_figures(
    parts: Sequence[Part], window: Window, attribution: Attribution, uncounted_w: float = 0.0
) -> dict[str, Any]:
    """The columns of energy and of its basis and meters.

    Something that no meter counts may have used nothing, or all of `uncounted_w`, which is no error
    of a meter: the interval reaches up by all of it.
    """
    figures: dict[str, Any] = {
        "basis": weakest(parts),
        "meters": ";".join(part.meter.id for part in parts) or None,
    }
    for component in COMPONENTS:
        own = [part for part in parts if part.meter.component == component]
        if own:
            figures[f"{component}_kwh"] = sum(part.joules for part in own) / JOULES_PER_KWH
            if component != "other":
                figures[f"{component}_basis"] = weakest(own)
    if parts:
        names = ("energy_kwh", "energy_low_kwh", "energy_high_kwh")
        ends_j = interval_j(parts, window.length_s)
        if uncounted_w:
            ends_j = ends_j._replace(high=ends_j.high + uncounted_w * window.duration_s)
        for name, joules in zip(names, ends_j, strict=True):
            figures[name] = joules / JOULES_PER_KWH * attribution.pue
        figures |= _machine_figures(parts)
    return figures


def _machine_figures(parts: Sequence[Part]) -> dict[str, Any]:
    cpu = [part for part in parts if part.meter.component == "cpu"]
    cpu_j = sum(part.machine_j for part in cpu)
    return {
        "machine_kwh": sum(part.machine_j for part in parts) / JOULES_PER_KWH,
        "cpu_share": sum(part.joules for part in cpu) / cpu_j if cpu_j > 0.0 else None,
    }


def emission_figures(
    sums: Sums, energy: Mapping[str, Any], grid: GridIntensity | None, pue: float
) -> dict[str, Any]:
    """The columns of emissions and of the grid.

    Emissions were summed with the energy, each joule at the intensity of its moment; the record's
    intensity is the mean weighted by energy.

    The errors of the meters and of the grid's figure are independent. With E = E0 x a and
    I = I0 x b, the logarithm of the emissions' ratio is ln a + ln b: a sum of independent terms,
    whose half-widths combine in quadrature, each side separately (GUM, 5.1.2). Both ends at once
    would hold more often than either interval does.
    """
    if grid is None:
        return {}
    g, low_g, high_g = _mean_intensity(sums, energy_factor=pue, grid=grid)
    figures: dict[str, Any] = {
        "region": grid.zone,
        "intensity_g_per_kwh": g,
        "intensity_low_g_per_kwh": low_g,
        "intensity_high_g_per_kwh": high_g,
        "intensity_source": _sources(sums, grid),
        "intensity_year": grid.year,
    }
    if energy.get("energy_kwh") is not None:
        kwh = Interval(energy["energy_kwh"], energy["energy_low_kwh"], energy["energy_high_kwh"])
        grams = product(kwh, Interval(g, low_g, high_g))
        figures["emissions_g"] = grams.best
        figures["emissions_low_g"] = grams.low
        figures["emissions_high_g"] = grams.high
    return figures


def _sources(sums: Sums, grid: GridIntensity) -> str:
    """The names of the intensity sources, with shares of the energy where there are several."""
    whole_j = sum(sums.served_j.values())
    shares = {source: joules / whole_j for source, joules in sums.served_j.items() if joules > 0.0}
    if len(shares) < 2:
        return next(iter(shares), grid.source)
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return "; ".join(f"{source} ({share:.1%})" for source, share in ranked)


def _mean_intensity(
    sums: Sums, *, energy_factor: float, grid: GridIntensity
) -> tuple[float, float, float]:
    now = (grid.g_per_kwh, grid.low_g_per_kwh, grid.high_g_per_kwh)
    kwh = sum(sums.ours_j) / JOULES_PER_KWH * energy_factor
    if kwh <= 0.0:
        return now
    means = [grams / kwh for grams in sums.grams]
    # An intensity that did not change is returned as it was, without rounding errors of the sums.
    same = (isclose(mean, n, rel_tol=1e-9) for mean, n in zip(means, now, strict=True))
    return now if all(same) else (means[0], means[1], means[2])


def quality_figures(
    window: Window,
    meters: Sequence[MeterFacts],
    standing_faults: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """The columns about data quality: coverage, gaps, missed reads, faults.

    `standing_faults` hold from the start of the meters on, and are in every record.
    """
    start, end = window.start, window.end
    faults = standing_faults
    if end.faults:
        faults = {**standing_faults, **_faults_met(start, end)}
    gap_s = window.max_gap_s
    return {
        "coverage": _coverage(window, meters),
        "max_gap_s": None if gap_s is None else min(gap_s, window.length_s),
        "missed_reads": end.missed - start.missed,
        "faults": ";".join(f"{code}:{times}" for code, times in sorted(faults.items())) or None,
    }


def _faults_met(start: Counts, end: Counts) -> dict[str, int]:
    return {
        code: times - start.faults.get(code, 0)
        for code, times in end.faults.items()
        if times > start.faults.get(code, 0)
    }


def _coverage(window: Window, meters: Sequence[MeterFacts]) -> float | None:
    length_s = window.length_s + window.end.suspended_s - window.start.suspended_s
    if length_s <= 0.0 or not meters:
        return None
    covered_s: dict[Component, float] = {}
    for index, meter in enumerate(meters):
        if meter.is_substitute:
            observed_s = _observed_s(window, index)
            covered_s[meter.component] = covered_s.get(meter.component, 0.0) + observed_s
    observed = (
        _observed_s(window, index) + covered_s.get(meter.component, 0.0)
        for index, meter in enumerate(meters)
        if not meter.is_substitute
    )
    return min(1.0, min(observed) / length_s)


def water_figures(
    energy: Mapping[str, Any], attribution: Attribution, grid_l_per_kwh: float | None
) -> dict[str, Any]:
    """The column `water_l`: on site, WUE times computer energy; off site, at the power plants.

    Nothing where neither factor is known. ISO/IEC 30134-9 defines the WUE.
    """
    site_kwh, wue = energy.get("energy_kwh"), attribution.wue_l_per_kwh
    if site_kwh is None or (wue is None and grid_l_per_kwh is None):
        return {}
    computers_kwh = site_kwh / attribution.pue
    return {"water_l": computers_kwh * (wue or 0.0) + site_kwh * (grid_l_per_kwh or 0.0)}


def market_figures(energy: Mapping[str, Any], g_per_kwh: float | None) -> dict[str, Any]:
    """The column `market_emissions_g`: the site's energy by contract; 0 g per kWh is a figure."""
    site_kwh = energy.get("energy_kwh")
    if site_kwh is None or g_per_kwh is None:
        return {}
    return {"market_emissions_g": site_kwh * g_per_kwh}


def embodied_figures(
    parts: Sequence[Part],
    window: Window,
    g_per_h: Mapping[str, float] | None,
    kg_sb_per_h: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The columns `embodied_g` and `abiotic_kg_sb`, where their rates and shares are known.

    What making each component takes, for the time in which we ran, is allocated by our share of its
    energy; what belongs to none of them ("machine"), by our share of all energy. These shares add
    up to one over all spans and processes.
    """
    if not (g_per_h or kg_sb_per_h):
        return {}
    shares, hours = _shares(parts), window.duration_s / 3600.0
    found = {}
    for column, rates in (("embodied_g", g_per_h), ("abiotic_kg_sb", kg_sb_per_h)):
        if rates and rates.keys() <= shares.keys():
            found[column] = sum([shares[name] * per_h for name, per_h in rates.items()]) * hours
    return found


def _shares(parts: Sequence[Part]) -> dict[str, float]:
    """Our share of the energy of each component, and of the machine; none where that is 0."""
    ours: dict[str, float] = {WHOLE_MACHINE: 0.0}
    whole = ours.copy()
    for part in parts:
        for name in (part.meter.component, WHOLE_MACHINE):
            ours[name] = ours.get(name, 0.0) + part.joules
            whole[name] = whole.get(name, 0.0) + part.machine_j
    return {name: ours[name] / all_j for name, all_j in whole.items() if all_j > 0.0}


# -- the builder -------------------------------------------------------------------------------


class RecordBuilder:
    """Builds the records of one tracker.

    Args:
        resource: the facts that go into every record; replaced when the region is found later.
        ledger: the ledger whose policy and grid apply.
        sampler: the sampler that reads the meters.
    """

    def __init__(self, resource: Resource, ledger: Ledger, sampler: Sampler) -> None:
        self.resource = resource
        self.ledger = ledger
        self.sampler = sampler
        self._known: list[tuple[float, float]] = []
        self._meters: list[MeterFacts] = []
        self._refused_of: MeterSet | None = None
        self._refused: tuple[Mapping[str, int], float] = ({}, 0.0)

    def _not_used(self) -> tuple[Mapping[str, int], float]:
        """The faults of meters that are not used, and the most power of what they do not count.

        Cached, since they hardly ever change.
        """
        meters = self.sampler.meters
        if self._refused_of is not meters:
            self._refused_of = meters
            self._refused = meters.standing_faults(), meters.uncounted_w()
        aside, (faults, most_w) = self.sampler.bank.standing_faults, self._refused
        return ({**faults, **aside} if aside else faults), most_w

    def meters(self) -> Sequence[MeterFacts]:
        """The properties of each meter, in the order of every tuple of joules.

        Cached, since they hardly ever change and every record needs them.
        """
        states, shares = self.sampler.meter_states, self.sampler.gpu_shares
        attribution = self.ledger.attribution
        of_share = (
            shares.relative_uncertainty
            if shares.parts and attribution.scope == "process"
            else _no_uncertainty
        )
        now = [(s.meter.relative_uncertainty, of_share(index)) for index, s in enumerate(states)]
        if now != self._known:
            idle_basis = attribution.idle_basis()
            self._meters = [
                facts_of(
                    state.meter,
                    is_substitute=state.is_substitute,
                    idle_basis=idle_basis,
                    share_uncertainty=of_share,
                    ends=state.place_of_ends,
                )
                for state, (_, of_share) in zip(states, now, strict=True)
            ]
            self._known = now
        return self._meters

    def _reaching_down(self, meters: Sequence[MeterFacts], window: Window) -> Sequence[MeterFacts]:
        """The properties of each meter, with how far our memory may lie below what was taken."""
        usage = self.sampler.usage
        if usage is None or self.ledger.attribution.scope != "process":
            return meters
        below = usage.ram_low_end.mean(window.start.at_s, window.end.at_s)
        return [
            meter._replace(share_uncertainty=below, share_is_most=True)
            if meter.component == "ram"
            else meter
            for meter in meters
        ]

    def window(self, start: Counts, end: Counts, duration_s: float, machine_j: Joules) -> Window:
        """Capture what can only be known at the end of a span or a window, which is now."""
        max_gap_s, powers_w, before = self.sampler.history(start.at_s)
        now = self.sampler.clock.now_utc()
        return Window(
            start,
            end,
            duration_s,
            machine_j,
            max_gap_s,
            now,
            self.ledger.intensity(now),
            powers_w,
            before,
        )

    def build(self, subject: Subject, window: Window, sums: Sums, outcome: EndStatus) -> Record:
        """Build the record of the sums in a window.

        If that fails, for instance on the properties of a plugin's meter, the measured columns stay
        empty.
        """
        try:
            measured = self._measured(window, sums)
        except Exception as error:
            pass_on(error)
            _log.exception("the figures of a record could not be made")
            measured = {}
        return Record(
            record_id=subject.record_id,
            run_id=subject.run_id,
            parent_id=subject.parent_id,
            parent_holds=subject.parent_holds,
            name=subject.name,
            labels=subject.labels,
            status=outcome.status,
            error=outcome.error,
            started_at=rfc3339(subject.started_at),
            ended_at=rfc3339(window.ended_at),
            calls=outcome.calls,
            **({"duration_s": window.duration_s} | measured),
            **self._constants(),
        )

    def _measured(self, window: Window, sums: Sums) -> dict[str, Any]:
        meters, attribution, resource = self.meters(), self.ledger.attribution, self.resource
        if LowEnd.was_below:  # in any record of this process
            meters = self._reaching_down(meters, window)
        standing_faults, uncounted_w = self._not_used()
        quality = quality_figures(window, meters, standing_faults)
        if quality["faults"] and f"{CLOCK_FAULT}:" in quality["faults"]:
            return quality | dict.fromkeys(("duration_s", "coverage", "max_gap_s"))
        parts = parts_of(sums, window, meters)
        energy = energy_figures(parts, window, attribution, uncounted_w)
        return (
            energy
            | emission_figures(sums, energy, window.grid, attribution.pue)
            | water_figures(energy, attribution, resource.water_l_per_kwh)
            | market_figures(energy, resource.market_g_per_kwh)
            | embodied_figures(
                parts, window, resource.embodied_g_per_h, resource.abiotic_kg_sb_per_h
            )
            | quality
        )

    def _constants(self) -> dict[str, Any]:
        attribution, hardware = self.ledger.attribution, self.sampler.hardware
        return {
            "region_basis": self.resource.region_basis,
            "pue": attribution.pue,
            "scope": attribution.scope,
            "idle": attribution.idle,
            "cpu_model": hardware.cpu_model,
            "cpu_threads": hardware.cpu_threads,
            "cpu_tdp_w": hardware.cpu_tdp_w,
            "gpu_models": ";".join(hardware.gpu_models) or None,
            "gpu_count": hardware.gpu_count,
            "ram_gib": hardware.ram_gib,
            "pid": os.getpid(),
            "os": system_name(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "carbontrack": VERSION,
            **self.resource.columns,
        }


def _no_uncertainty(_index: int) -> float:
    return 0.0


def rfc3339(when: datetime) -> str:
    """An instant in UTC as RFC 3339 text, to the microsecond: 2026-01-01T00:00:00.000000Z."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond:06d}Z"


def system_name() -> str:
    """The operating system and its release: "Linux 6.8.0"."""
    if not hasattr(os, "uname"):
        return sys.platform
    system = os.uname()
    return f"{system.sysname} {system.release}"


def unmeasured_record(name: str, labels: Mapping[str, Any], at: tuple[str, str]) -> Record:
    """The record of a block that was not measured, with when it began and ended."""
    return Record(
        record_id="disabled",
        run_id="disabled",
        name=name,
        labels=labels,
        status="disabled",
        started_at=at[0],
        ended_at=at[1],
        calls=None,
    )
