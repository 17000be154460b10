"""Estimates before a run: energy, emissions, water and embodied emissions from a few numbers.

    energy = sum of power at the utilisation x hours x PUE        emissions = energy x intensity

as in the tables of Strubell et al. (2019) and Patterson et al. (2021), with an interval. The input
is checked first, as a whole (`Given`); then each kind of hardware becomes a mean power with its
interval (`PowerPart`), by the models that a running tracker uses; then powers become energy and
emissions (`Estimate`). docs/explanation/published-runs.md compares it with published runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

from carbontrack.errors import ConfigError
from carbontrack.grid import tables as facility
from carbontrack.grid.history import checked_year
from carbontrack.grid.intensity import GridIntensity
from carbontrack.grid.region import of
from carbontrack.grid.tables import lookup
from carbontrack.impact.embodied import (
    GB_PER_GIB,
    abiotic_of,
    added,
    embodied_g,
    embodied_item,
)
from carbontrack.impact.hardware import find_cpu, find_gpu
from carbontrack.interval import Interval, product, total
from carbontrack.meters.gpu_power import gpu_share
from carbontrack.meters.load_curve import curve_of
from carbontrack.meters.ram_model import W_PER_GIB
from carbontrack.record import Basis, Component

__all__ = ["Estimate", "estimate"]
_RANGES: dict[str, tuple[float, float, str]] = {
    "power_w": (0.0, 1e9, "a number of watts"),
    "gpus": (1, 1e7, "a whole number of cards"),
    "cpus": (1, 1e7, "a whole number of sockets"),
    "ram_gib": (0.0, 1e9, "a number of GiB"),
    "hours": (0.0, 1e9, "a number of hours"),
    "utilisation": (0.0, 1.0, "a share"),
    "pue": (1.0, 10.0, "a ratio"),
    "intensity_g_per_kwh": (0.0, 5000.0, "a number of g CO2e per kWh"),
}
_WHOLE = ("gpus", "cpus")
_ABOVE_ZERO = ("power_w", "hours", "ram_gib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The estimated energy and emissions of a run, with intervals, and what they are based on.

    Attributes:
        energy_kwh: at the meter of the building, PUE included, with low and high.
        emissions_g: grams of CO2e of that energy, with low and high.
        intensity_g_per_kwh: of the grid, with low, high, source and year.
        region: the code of the region; None if a carbon intensity was given.
        power_w: mean power of the computers, before PUE, with low and high.
        utilisation: share of the time that the hardware is busy; for a given power, the share
            drawn.
        cpu_kwh, gpu_kwh, ram_kwh, other_kwh: energy of the computers, before PUE; None if not part
            of the estimate. `other` is the energy of a given `power_w`.
        water_l: litres consumed by the power stations and, where its WUE is known, by the site.
        embodied_g: embodied emissions of the named hardware, without board, chassis, power supplies
            and drives, for the run's share of its lifetime; never included in `emissions_g`.
        abiotic_kg_sb: use of scarce minerals and metals by manufacturing the same hardware, in kg
            of antimony equivalents, with low and high; None if a part of it has no value.
        basis: "modelled" from hardware names, "assumed" if a power was given.
        how: one sentence for each kind of hardware: its power, interval and boundary.
    """

    energy_kwh: float
    energy_low_kwh: float
    energy_high_kwh: float
    emissions_g: float
    emissions_low_g: float
    emissions_high_g: float
    intensity_g_per_kwh: float
    intensity_low_g_per_kwh: float
    intensity_high_g_per_kwh: float
    intensity_source: str
    intensity_year: int | None
    region: str | None
    hours: float
    power_w: float
    power_low_w: float
    power_high_w: float
    utilisation: float
    pue: float
    pue_source: str
    cpu_kwh: float | None = None
    gpu_kwh: float | None = None
    ram_kwh: float | None = None
    other_kwh: float | None = None
    water_l: float | None
    embodied_g: float | None
    embodied_low_g: float | None
    embodied_high_g: float | None
    abiotic_kg_sb: float | None
    abiotic_low_kg_sb: float | None
    abiotic_high_kg_sb: float | None
    basis: Basis
    how: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name, as `carbontrack estimate --json` prints them."""
        return asdict(self) | {"how": list(self.how)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The checked input; the parameters of `carbontrack.estimate` explain the fields."""

    power_w: float | None
    gpu: str | None
    gpus: int
    cpu: str | None
    cpus: int
    ram_gib: float | None
    hours: float
    utilisation: float
    pue: float | None
    region: str | None
    intensity_g_per_kwh: float | None
    year: int | None


@dataclass(frozen=True, slots=True)
class PowerPart:
    """The mean power of all hardware of one kind, before PUE, with its interval."""

    component: Component
    power_w: Interval
    how: str
    embodied: Interval | None = None


def estimate(  # noqa: PLR0913 - the public contract: one figure a parameter, all by name
    *,
    power_w: float | None = None,
    gpu: str | None = None,
    gpus: int | None = None,
    cpu: str | None = None,
    cpus: int | None = None,
    ram_gib: float | None = None,
    hours: float | None = None,
    utilisation: float | None = None,
    pue: float | None = None,
    region: str | None = None,
    intensity_g_per_kwh: float | None = None,
    year: int | None = None,
) -> Estimate:
    """Estimate energy, emissions, water and embodied emissions of work that has not run yet.

    Give the power of all the hardware together, or name the hardware; `ram_gib` is added to
    either. Give the region, or your own carbon intensity.

    Args:
        power_w: mean power in watts of all hardware that the run uses.
        gpu: accelerator, such as "A100" or "TPU v3".
        gpus: number of accelerators; 1 by default.
        cpu: processor, such as "Xeon Gold 6248".
        cpus: number of sockets; 1 by default.
        ram_gib: memory installed, in GiB; it draws power whether used or not.
        hours: duration of the run.
        utilisation: share of the time that the hardware is busy, 0 to 1; 1 by default. For a
            processor that is the busy share of its threads' time, for an accelerator the share of
            time in which it computes, as reported by its driver. Idle power is included. For a
            given `power_w` it is the share that is drawn.
        pue: power usage effectiveness of the building, 1 or more; by default that of the cloud
            region if the table has one, else 1.
        region: "FR", "US-CA", "aws:eu-west-3", …
        intensity_g_per_kwh: grams of CO2e per kWh, instead of a region.
        year: for work of an earlier year, from 2000: the region's value of that year, if the tables
            have one; `intensity_year` of the estimate states which year it is.

    Raises:
        ConfigError: something is missing, given twice, out of range, or in no table.
        NoIntensity: no table has a value for the region.
    """
    given = check(
        {
            "power_w": power_w,
            "gpu": gpu,
            "gpus": gpus,
            "cpu": cpu,
            "cpus": cpus,
            "ram_gib": ram_gib,
            "hours": hours,
            "utilisation": utilisation,
            "pue": pue,
            "region": region,
            "intensity_g_per_kwh": intensity_g_per_kwh,
            "year": year,
        }
    )
    return _estimate_of(given, parts_of(given), _grid(given))


def check(given: Mapping[str, object]) -> Given:
    """Check that every value is in its range, and that none is missing or given twice.

    Raises:
        ConfigError: the message names the wrong parameter, the reason, and valid values.
    """
    numbers = {name: _number(name, given[name]) for name in _RANGES}
    _check_complete(given)
    hours = numbers["hours"]
    if hours is None:
        raise ConfigError("hours is missing: for how long will it run?")
    utilisation = numbers["utilisation"]
    return Given(
        power_w=numbers["power_w"],
        gpu=_text("gpu", given["gpu"]),
        gpus=int(numbers["gpus"] or 1),
        cpu=_text("cpu", given["cpu"]),
        cpus=int(numbers["cpus"] or 1),
        ram_gib=numbers["ram_gib"],
        hours=hours,
        utilisation=1.0 if utilisation is None else utilisation,
        pue=numbers["pue"],
        region=_text("region", given["region"]),
        intensity_g_per_kwh=numbers["intensity_g_per_kwh"],
        year=_year(given["year"]),
    )


def parts_of(given: Given) -> list[PowerPart]:
    """The hardware of an estimate. Errors within one kind are the same, so its ends are multiplied.

    Raises:
        ConfigError: a name is in no table.
    """
    parts = []
    if given.power_w is not None:
        watts = given.power_w * given.utilisation
        how = (
            f"{given.power_w:g} W as given, at {given.utilisation:.0%} utilisation; no interval is "
            "known for it"
        )
        parts.append(PowerPart("other", Interval(watts, watts, watts), how))
    if given.gpu is not None:
        parts.append(_gpu(given.gpu, given))
    if given.cpu is not None:
        parts.append(_cpu(given.cpu, given))
    if given.ram_gib is not None:
        parts.append(_ram(given.ram_gib, given))
    return parts


def _estimate_of(given: Given, parts: list[PowerPart], grid: GridIntensity) -> Estimate:
    pue, pue_source = _pue(given)
    kwh_per_w = given.hours / 1e3
    power_w = total(part.power_w for part in parts)
    kwh = _times(power_w, kwh_per_w * pue)
    grams = product(kwh, Interval(grid.g_per_kwh, grid.low_g_per_kwh, grid.high_g_per_kwh))
    by_component = {
        f"{name}_kwh": sum(p.power_w.best for p in parts if p.component == name) * kwh_per_w
        for name in sorted({part.component for part in parts})
    }
    return Estimate(
        energy_kwh=kwh.best,
        energy_low_kwh=kwh.low,
        energy_high_kwh=kwh.high,
        emissions_g=grams.best,
        emissions_low_g=grams.low,
        emissions_high_g=grams.high,
        intensity_g_per_kwh=grid.g_per_kwh,
        intensity_low_g_per_kwh=grid.low_g_per_kwh,
        intensity_high_g_per_kwh=grid.high_g_per_kwh,
        intensity_source=grid.source,
        intensity_year=grid.year,
        region=given.region and grid.zone,
        hours=given.hours,
        power_w=power_w.best,
        power_low_w=power_w.low,
        power_high_w=power_w.high,
        utilisation=given.utilisation,
        pue=pue,
        pue_source=pue_source,
        water_l=_water_l(given, power_w.best * kwh_per_w, pue),
        basis="assumed" if any(p.component == "other" for p in parts) else "modelled",
        how=tuple(part.how for part in parts),
        **by_component,
        **_making(given, parts),
    )


def _grid(given: Given) -> GridIntensity:
    if given.region is not None:
        return lookup(given.region, year=given.year)
    g_per_kwh = given.intensity_g_per_kwh
    if g_per_kwh is None:
        raise ConfigError("an estimate needs region or intensity_g_per_kwh")
    return GridIntensity("custom", g_per_kwh, g_per_kwh, g_per_kwh, "given", None, "given")


def _pue(given: Given) -> tuple[float, str]:
    if given.pue is not None:
        return given.pue, "given"
    known = of(given.region, basis="argument").pue if given.region is not None else None
    if known is not None:
        return known, "of the cloud region or its provider"
    return 1.0, "none given: the building's cooling and power supply are not included"


def _water_l(given: Given, computers_kwh: float, pue: float) -> float | None:
    """Litres consumed by the power stations, and by the site if its WUE is known."""
    if given.region is None:
        return None
    zone = of(given.region, basis="argument").zone
    grid, site = facility.grid_water(zone), facility.site(zone)
    if grid is None:
        return None
    wue = site.wue_l_per_kwh if site else None
    return facility.water_l(computers_kwh, pue=pue, wue_l_per_kwh=wue, grid=grid)


def _making(given: Given, parts: list[PowerPart]) -> dict[str, Any]:
    """Embodied impact of the hardware for the run's share of its lifetime: g CO2e and kg Sb eq."""
    g = added(part.embodied for part in parts if part.embodied is not None)
    kg_sb = abiotic_of(_items(given), given.hours)
    return {
        "embodied_g": g and g.best,
        "embodied_low_g": g and g.low,
        "embodied_high_g": g and g.high,
        "abiotic_kg_sb": kg_sb and kg_sb.best,
        "abiotic_low_kg_sb": kg_sb and kg_sb.low,
        "abiotic_high_kg_sb": kg_sb and kg_sb.high,
    }


def _items(given: Given) -> Iterator[tuple[str | None, float]]:
    """The named hardware as items of the table of embodied emissions; None: in no table."""
    if given.gpu is not None:
        card = find_gpu(given.gpu)
        yield embodied_item(card.name, card.kind), given.gpus
    if given.cpu is not None:
        yield "cpu", given.cpus
    if given.ram_gib is not None:
        yield "ram", given.ram_gib * GB_PER_GIB


def _gpu(name: str, given: Given) -> PowerPart:
    card = find_gpu(name)
    power_w = _times(gpu_share(given.utilisation), card.tdp_w * given.gpus)
    item = embodied_item(card.name, card.kind)
    busy = f"busy {given.utilisation:.0%} of the time"
    what = f"{given.gpus} x {card.name}, TDP {card.tdp_w:g} W, {busy}"
    return PowerPart(
        component="gpu",
        power_w=power_w,
        how=_how("modelled, part known", power_w, "GPUs only, not wall power", what, card.source),
        embodied=embodied_g(item, given.gpus, given.hours) if item else None,
    )


def _cpu(name: str, given: Given) -> PowerPart:
    """The load curve of a running tracker, times the TDP and the published ratios to it."""
    part = find_cpu(name)
    spread = Interval(1.0, part.tdp_low_w / part.tdp_w, part.tdp_high_w / part.tdp_w)
    share = curve_of(part.year).widened(spread).at(given.utilisation)
    power_w = _times(share, part.tdp_w * given.cpus)
    what = f"{given.cpus} x {part.name}, TDP {part.tdp_w:g} W, at a load of {given.utilisation:.0%}"
    return PowerPart(
        component="cpu",
        power_w=power_w,
        how=_how("modelled, part known", power_w, "CPU, not wall power", what, part.source),
        embodied=embodied_g("cpu", given.cpus, given.hours),
    )


def _ram(gib: float, given: Given) -> PowerPart:
    power_w = _times(W_PER_GIB, gib)
    what = f"{gib:g} GiB x {W_PER_GIB.best:g} W, used or not"
    return PowerPart(
        component="ram",
        power_w=power_w,
        how=_how("modelled", power_w, "memory, not wall power", what),
        embodied=embodied_g("ram", gib * GB_PER_GIB, given.hours),
    )


def _times(one: Interval, factor: float) -> Interval:
    """An interval times a number without one."""
    return Interval(*(end * factor for end in one))


def _how(known: str, power_w: Interval, boundary: str, what: str, source: str = "") -> str:
    """One sentence: "modelled, part known: 47 W (20 to 105), CPU, not wall power; …"."""
    best, low, high = (f"{w:,.0f}" if w >= 100.0 else f"{w:.3g}" for w in power_w)
    cited = f" ({source})" if source else ""
    return f"{known}: {best} W ({low} to {high}), {boundary}; {what}{cited}"


def _check_complete(given: Mapping[str, object]) -> None:
    """Refuse input that is incomplete, or given in two ways that may contradict each other."""

    def has(name: str) -> bool:
        return given[name] is not None

    for name, count in (("gpu", "gpus"), ("cpu", "cpus")):
        if has(count) and not has(name):
            raise ConfigError(f"{count} without {name}: name the hardware as well")
        if has("power_w") and has(name):
            raise ConfigError(f"give power_w, for all hardware together, or {name}, not both")
    if not (has("power_w") or has("gpu") or has("cpu") or has("ram_gib")):
        raise ConfigError("an estimate needs power_w, or the name of a gpu or cpu")
    if has("region") == has("intensity_g_per_kwh"):
        wrong = "not both" if has("region") else "one of them is needed"
        raise ConfigError(f"give region or intensity_g_per_kwh; {wrong}")
    if has("year") and not has("region"):
        raise ConfigError("year without region: your own carbon intensity has no year")


def _number(name: str, given: object) -> float | None:
    if given is None:
        return None
    low, high, what = _RANGES[name]
    number = math.nan
    if isinstance(given, Real) and not isinstance(given, bool):
        number = float(given)
    if not low <= number <= high or (name in _ABOVE_ZERO and number == 0.0):
        limits = f"above 0 and up to {high:g}" if name in _ABOVE_ZERO else f"{low:g} to {high:g}"
        raise ConfigError(f"{name}={given!r} is not {what}, {limits}{_hint(name, number)}")
    if name in _WHOLE and not number.is_integer():
        raise ConfigError(f"{name}={given!r} is not {what}")
    return number


def _year(given: object) -> int | None:
    if given is None:
        return None
    if isinstance(given, Real) and not isinstance(given, bool) and float(given).is_integer():
        return checked_year(int(float(given)))  # numpy's integers too
    return checked_year(given)


def _hint(name: str, number: float) -> str:
    if name == "utilisation" and 1.0 < number <= 100.0:
        return f"; for {number:g} % write {number / 100:g}"
    return ""


def _text(name: str, given: object) -> str | None:
    if given is None or (isinstance(given, str) and given.strip()):
        return given
    raise ConfigError(f"{name}={given!r} is not a name")
