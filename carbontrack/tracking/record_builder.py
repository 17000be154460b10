"""The record builder: turns the sums of a span, or of summed calls, into a record.

The module has three parts: the input values, pure functions that compute the columns (energy,
emissions, water, embodied emissions, quality), and `RecordBuilder`. Its `window` captures the facts
that are known only at the end of a span; its `build` makes the record from them when it is needed.
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
from carbontrack.meters.meter import Hardware, MeterSet
from carbontrack.record import Basis, Component, Record, Status
from carbontrack.sampling.counts import CLOCK_FAULT, Counts, Joules, sub_joules
from carbontrack.sampling.history import RecentPowers
from carbontrack.sampling.ledger import NOTHING, Ledger, Sums
from carbontrack.sampling.sampler import Sampler
from carbontrack.system.interrupts import pass_on
from carbontrack.system.version import VERSION
from carbontrack.tracking.part import MeterFacts, Part, facts_of, interval_j, shares_of, weakest
from carbontrack.units import JOULES_PER_KWH
from carbontrack.values import NamedTuple

_log = logging.getLogger("carbontrack")

# -- values ------------------------------------------------------------------------------------


class Resource(NamedTuple):
    """The facts that go into every record of a tracker, independent of the measurement.

    Attributes:
        region_basis: the source of the region.
        water_l_per_kwh: water consumption of power generation, litres per kWh; None: unknown.
        embodied_g_per_h: embodied emissions of the hardware per hour of use, by component or for
            the whole "machine"; None: unknown.
        abiotic_kg_sb_per_h: the use of scarce minerals and metals by manufacturing it.
        market_g_per_kwh: carbon intensity of the electricity contract, g CO2e per kWh, or None.
        columns: further columns of the record by name: host_id, rank, cloud_provider, …
        labels: labels of every record; those of a span take precedence.
    """

    region_basis: str | None = None
    water_l_per_kwh: float | None = None
    embodied_g_per_h: Mapping[str, float] | None = None
    abiotic_kg_sb_per_h: Mapping[str, float] | None = None
    market_g_per_kwh: float | None = None
    columns: Mapping[str, Any] = MappingProxyType({})
    labels: Mapping[str, Any] = MappingProxyType({})


class Subject(NamedTuple):
    """The subject of a record: a span, or the calls of a function in one window."""

    record_id: str
    run_id: str
    parent_id: str | None
    parent_holds: bool | None
    name: str
    labels: Mapping[str, Any]
    started_at: datetime
    task: Any = None  # the `RunningTask` of a framework that it belongs to, if any

    def columns(self, labels: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """These columns; `labels` are added to its own."""
        columns = {**self._asdict(), "started_at": rfc3339(self.started_at)}
        task = columns.pop("task")
        if task is not None:
            columns.update(task.columns(), labels=task.labels_of(self.labels))
        if labels:
            columns["labels"] = {**labels, **columns["labels"]}
        return columns


class EndStatus(NamedTuple):
    """How a span or a window ended: status, error, and the number of calls."""

    status: Status
    error: str | None = None
    calls: int = 1


WHOLE_S = float("inf")
"""The longest gap of a window without a reading between its start and its end."""
EndFacts = tuple[float | None, datetime, GridIntensity | None, RecentPowers]
"""Facts of a window that are known only at its end: the longest gap, the time, the grid's
intensity, and the recent powers of the meters."""


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

    @classmethod
    def of(
        cls, start: Counts, end: Counts, duration_s: float, machine_j: Joules, facts: EndFacts
    ) -> Window:
        """The window with these facts."""
        gap_s, at, grid, powers = facts
        if gap_s == WHOLE_S and end.at_s <= start.at_s:
            gap_s = None
        powers_w = powers.known_w(end)
        return cls(start, end, duration_s, machine_j, gap_s, at, grid, powers_w, powers.before)

    @property
    def length_s(self) -> float:
        """The time from start to end, pauses included."""
        return self.end.at_s - self.start.at_s

    def observed_s(self, number: int) -> Sequence[float]:
        """For how long each of so many meters was observed."""
        end, start = self.end.observed_s, self.start.observed_s
        return sub_joules(padded(end, number), padded(start, number))


def padded(numbers: Joules, number: int) -> Joules:
    """So many of the numbers; 0 for a meter that the tuple is older than."""
    return numbers if len(numbers) >= number else numbers + (0.0,) * (number - len(numbers))


# -- pure functions: the columns --------------------------------------------------------------


def parts_of(sums: Sums, window: Window, meters: Sequence[MeterFacts]) -> list[Part]:
    """The energy of each meter in a span.

    A span shorter than a counter's refresh period cannot be measured by a difference, which would
    be 0 or too much; its energy is the last known power times its length, with basis "modelled".
    A meter that did not answer in the span, and whose power is not known, contributes nothing.
    """
    parts = []
    number = len(meters)
    ours_j, machines_j = padded(sums.ours_j, number), padded(window.machine_j, number)
    observed_s, length_s = window.observed_s(number), window.length_s
    for index, meter in enumerate(meters):
        joules, machine_j = ours_j[index], machines_j[index]
        if _too_short(length_s, joules, meter.resolution_s):
            powers_w = window.powers_w
            power_w = powers_w[index] if index < len(powers_w) else None
            share = min(1.0, joules / machine_j) if machine_j > 0.0 else 1.0
            if power_w is not None:
                all_j = power_w * window.duration_s
                ends_j = _recent_ends(index, meter, window, all_j * share)
                parts.append(Part(meter, all_j * share, _modelled(meter), all_j, ends_j))
        elif joules > 0.0 or observed_s[index] > 0.0:
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
    """The ends of a power times a length: with the relative interval of the previous count."""
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


def energy_figures(
    parts: Sequence[Part], window: Window, attribution: Attribution, uncounted_w: float = 0.0
) -> dict[str, Any]:
    """The columns of energy and of its basis and meters.

    A component that no meter counts may have used nothing, or all of `uncounted_w`, which is not a
    meter's error: the upper end is raised by all of it.
    """
    figures: dict[str, Any] = {
        "basis": weakest(parts),
        "meters": ";".join([part.meter.id for part in parts]) or None,
    }
    if not parts:
        return figures
    by_component: dict[Component, list[Part]] = {}
    for part in parts:
        by_component.setdefault(part.meter.component, []).append(part)
    for component, own in by_component.items():
        figures[f"{component}_kwh"] = sum([part.joules for part in own]) / JOULES_PER_KWH
        if component != "other":
            figures[f"{component}_basis"] = weakest(own)
    joules, low_j, high_j = interval_j(parts, window.length_s)
    if uncounted_w:
        high_j += uncounted_w * window.duration_s
    figures["energy_kwh"] = joules / JOULES_PER_KWH * attribution.pue
    figures["energy_low_kwh"] = low_j / JOULES_PER_KWH * attribution.pue
    figures["energy_high_kwh"] = high_j / JOULES_PER_KWH * attribution.pue
    figures["machine_kwh"] = sum([part.machine_j for part in parts]) / JOULES_PER_KWH
    figures["cpu_share"] = _cpu_share(by_component.get("cpu", ()))
    return figures


def _cpu_share(cpu: Sequence[Part]) -> float | None:
    machine_j = sum([part.machine_j for part in cpu])
    return sum([part.joules for part in cpu]) / machine_j if machine_j > 0.0 else None


def emission_figures(
    sums: Sums, energy: Mapping[str, Any], grid: GridIntensity | None, pue: float
) -> dict[str, Any]:
    """The columns of emissions and of the grid.

    Emissions were summed with the energy, each joule at the intensity of its moment; the record's
    intensity is the mean weighted by energy.

    The errors of the meters and of the carbon intensity are independent. With E = E0 x a and
    I = I0 x b, the logarithm of the emissions' ratio is ln a + ln b: a sum of independent terms,
    whose half-widths combine in quadrature, each side separately (GUM, 5.1.2). Combining the ends
    directly would give an interval that holds more often than either of the two.
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
    return now if all(map(isclose, means, now)) else (means[0], means[1], means[2])


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
    observed_s = window.observed_s(len(meters))
    covered_s: dict[Component, float] = {}
    for meter, seen_s in zip(meters, observed_s, strict=False):
        if meter.is_substitute:
            covered_s[meter.component] = covered_s.get(meter.component, 0.0) + seen_s
    least_s = min(
        [
            seen_s + covered_s.get(meter.component, 0.0)
            for meter, seen_s in zip(meters, observed_s, strict=False)
            if not meter.is_substitute
        ]
    )
    return min(1.0, least_s / length_s)


def water_figures(
    energy: Mapping[str, Any], attribution: Attribution, grid_l_per_kwh: float | None
) -> dict[str, Any]:
    """The column `water_l`: on site, WUE times computer energy; off site, at the power plants.

    Nothing if neither factor is known. ISO/IEC 30134-9 defines the WUE.
    """
    site_kwh, wue = energy.get("energy_kwh"), attribution.wue_l_per_kwh
    if site_kwh is None or (wue is None and grid_l_per_kwh is None):
        return {}
    computers_kwh = site_kwh / attribution.pue
    return {"water_l": computers_kwh * (wue or 0.0) + site_kwh * (grid_l_per_kwh or 0.0)}


def market_figures(energy: Mapping[str, Any], g_per_kwh: float | None) -> dict[str, Any]:
    """The column `market_emissions_g`: the site's energy by contract; 0 g per kWh is valid."""
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
    """The columns `embodied_g` and `abiotic_kg_sb`, if their rates and shares are known.

    The embodied impact of each component, for the running time, is allocated by our share of its
    energy; that of the rest ("machine"), by our share of all energy. These shares add up to one
    over all spans and processes.
    """
    if not (g_per_h or kg_sb_per_h):
        return {}
    shares, hours = shares_of(parts), window.duration_s / 3600.0
    found = {}
    for column, rates in (("embodied_g", g_per_h), ("abiotic_kg_sb", kg_sb_per_h)):
        if rates and rates.keys() <= shares.keys():
            found[column] = sum([shares[name] * per_h for name, per_h in rates.items()]) * hours
    return found


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
        self._constants: tuple[object, Mapping[str, Any]] = (None, {})
        self._facts: tuple[object, object, Mapping[str, Any]] = (None, None, {})

    def _not_used(self) -> tuple[Mapping[str, int], float]:
        """The faults of unused meters, and the most power of the components that are not counted.

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
        """The window of summed calls that ends now."""
        return Window.of(start, end, duration_s, machine_j, self.facts_now(start.at_s))

    def facts_now(self, since_s: float) -> EndFacts:
        """Capture the facts that are known only at the end of a span or a window, which is now."""
        sampler = self.sampler
        now = sampler.clock.now_utc()
        gap_s = sampler.history.longest_gap_s(since_s, sampler.counts.at_s)
        return gap_s, now, self.ledger.intensity(now), sampler.history.powers

    def build(self, subject: Subject, window: Window, sums: Sums, outcome: EndStatus) -> Record:
        """Build the record of the sums in a window."""
        columns = self.columns(subject, window, sums, outcome)
        return Record(**{**self.constants(), **columns})  # a task's attempt, not the launcher's

    def columns(
        self, subject: Subject, window: Window, sums: Sums, outcome: EndStatus
    ) -> dict[str, Any]:
        """The columns of the record without the constants.

        If that fails, for instance on the properties of a plugin's meter, the measured columns stay
        empty.
        """
        try:
            measured = self._measured(window, sums)
        except Exception as error:
            pass_on(error)
            _log.exception("the values of a record could not be computed")
            measured = {}
        return {
            **subject.columns(self.resource.labels),
            "status": outcome.status,
            "error": outcome.error,
            "ended_at": rfc3339(window.ended_at),
            "calls": outcome.calls,
            "duration_s": window.duration_s,
            **measured,
        }

    def first_columns(self, subject: Subject) -> dict[str, Any]:
        """The columns of a record that has just begun, whose energy is not known yet."""
        columns = subject.columns(self.resource.labels)
        return {**columns, "ended_at": columns["started_at"], "duration_s": 0.0}

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
        return {
            **energy,
            **emission_figures(sums, energy, window.grid, attribution.pue),
            **water_figures(energy, attribution, resource.water_l_per_kwh),
            **market_figures(energy, resource.market_g_per_kwh),
            **embodied_figures(
                parts, window, resource.embodied_g_per_h, resource.abiotic_kg_sb_per_h
            ),
            **quality,
        }

    def facts(self, grid: GridIntensity | None) -> Mapping[str, Any]:
        """The constants and what is known of the grid; the same mapping until one changes."""
        constants, known = self.constants(), self._facts
        if known[0] is not constants or known[1] is not grid:
            of_grid = emission_figures(NOTHING, {}, grid, self.ledger.attribution.pue)
            self._facts = known = constants, grid, {**constants, **of_grid}
        return known[2]

    def constants(self) -> Mapping[str, Any]:
        """The columns that are the same in every record of this process, until a fact changes."""
        facts = (os.getpid(), self.resource, self.ledger.attribution, self.sampler.hardware)
        known = self._constants
        if facts != known[0]:
            self._constants = known = facts, _constants_of(*facts)
        return known[1]


def _constants_of(
    pid: int, resource: Resource, attribution: Attribution, hardware: Hardware
) -> Mapping[str, Any]:
    return {
        "region_basis": resource.region_basis,
        "pue": attribution.pue,
        "scope": attribution.scope,
        "idle": attribution.idle,
        "cpu_model": hardware.cpu_model,
        "cpu_threads": hardware.cpu_threads,
        "cpu_tdp_w": hardware.cpu_tdp_w,
        "gpu_models": ";".join(hardware.gpu_models) or None,
        "gpu_count": hardware.gpu_count,
        "ram_gib": hardware.ram_gib,
        "pid": pid,
        "os": system_name(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "carbontrack": VERSION,
        **resource.columns,
    }


def _no_uncertainty(_index: int) -> float:
    return 0.0


def rfc3339(when: datetime) -> str:
    """An instant in UTC as RFC 3339 text, to the microsecond: 2026-01-01T00:00:00.000000Z."""
    return when.isoformat(timespec="microseconds")[:26] + "Z"


def system_name() -> str:
    """The operating system and its release: "Linux 6.8.0"."""
    return " ".join(os.uname()[:3:2]) if hasattr(os, "uname") else sys.platform
