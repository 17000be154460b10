"""What would it cost? Energy, emissions and water of a run from a few figures, before it runs.

    energy = sum of power x utilisation x hours x PUE        emissions = energy x intensity

as in the tables of Strubell et al. (2019) and Patterson et al. (2021), with an interval.
"""

from __future__ import annotations

from carbontrack.errors import ConfigError
from carbontrack.grid import tables as facility
from carbontrack.grid.intensity import GridIntensity
from carbontrack.grid.region import of
from carbontrack.grid.tables import lookup
from carbontrack.impact.embodied import total as total_of
from carbontrack.impact.given import Given, check
from carbontrack.impact.parts import PowerPart, parts_of, square_sum
from carbontrack.impact.result import Estimate

__all__ = ["Estimate", "estimate"]


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
) -> Estimate:
    """Energy, emissions, water and embodied share of work that has not run yet.

    Give the power of all the hardware together, or name the hardware; `ram_gib` comes on top of
    either. Give the place, or an intensity of your own.

    Args:
        power_w: mean power in watts of everything that works for the run.
        gpu: accelerator, such as "A100" or "TPU v3".
        gpus: how many of them; 1 by default.
        cpu: processor, such as "Xeon Gold 6248".
        cpus: how many sockets; 1 by default.
        ram_gib: memory installed, in GiB; it draws power whether it is used or not.
        hours: how long it runs.
        utilisation: share of the power that is drawn on average, 0 to 1; 1 by default.
        pue: power usage effectiveness of the building, 1 or more; by default that of the cloud
            region where the table has one, else 1.
        region: "FR", "US-CA", "aws:eu-west-3", …
        intensity_g_per_kwh: grams of CO2e per kWh, instead of a region.

    Raises:
        ConfigError: something is missing, given twice, out of range, or in no table.
        NoIntensity: no table has a figure for the region.
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
        }
    )
    return _estimated(given, parts_of(given), _grid(given))


def _grid(given: Given) -> GridIntensity:
    if given.region is not None:
        return lookup(given.region)
    g_per_kwh = given.intensity_g_per_kwh
    if g_per_kwh is None:
        raise ConfigError("an estimate needs region or intensity_g_per_kwh")
    return GridIntensity("custom", g_per_kwh, g_per_kwh, g_per_kwh, "given", None, "given")


def _pue(given: Given) -> tuple[float, str]:
    if given.pue is not None:
        return given.pue, "given"
    known = of(given.region, basis="argument").pue if given.region is not None else None
    if known is not None:
        return known, "the cloud region's own or its provider's"
    return 1.0, "none given: cooling and power supply of the building are left out"


def _estimated(given: Given, parts: list[PowerPart], grid: GridIntensity) -> Estimate:
    pue, pue_source = _pue(given)
    kwh_per_w = given.hours / 1e3
    power_w = sum(part.power_w for part in parts)
    low_w = max(0.0, power_w - square_sum(part.below_w for part in parts))
    high_w = power_w + square_sum(part.above_w for part in parts)
    kwh, low_kwh, high_kwh = (w * kwh_per_w * pue for w in (power_w, low_w, high_w))
    embodied = total_of(part.embodied for part in parts if part.embodied is not None)
    by_component = {
        f"{name}_kwh": sum(p.power_w for p in parts if p.component == name) * kwh_per_w
        for name in sorted({part.component for part in parts})
    }
    return Estimate(
        energy_kwh=kwh,
        energy_low_kwh=low_kwh,
        energy_high_kwh=high_kwh,
        emissions_g=kwh * grid.g_per_kwh,
        emissions_low_g=low_kwh * grid.low_g_per_kwh,
        emissions_high_g=high_kwh * grid.high_g_per_kwh,
        intensity_g_per_kwh=grid.g_per_kwh,
        intensity_low_g_per_kwh=grid.low_g_per_kwh,
        intensity_high_g_per_kwh=grid.high_g_per_kwh,
        intensity_source=grid.source,
        intensity_year=grid.year,
        region=given.region and grid.zone,
        hours=given.hours,
        power_w=power_w,
        utilisation=given.utilisation,
        pue=pue,
        pue_source=pue_source,
        water_l=_water_l(given, power_w * kwh_per_w, pue),
        embodied_g=embodied.best if embodied else None,
        embodied_low_g=embodied.low if embodied else None,
        embodied_high_g=embodied.high if embodied else None,
        basis="assumed" if any(p.component == "other" for p in parts) else "modelled",
        how=tuple(part.how for part in parts),
        **by_component,
    )


def _water_l(given: Given, computers_kwh: float, pue: float) -> float | None:
    """Of the power stations, and of the site where its WUE is known."""
    if given.region is None:
        return None
    zone = of(given.region, basis="argument").zone
    grid, site = facility.grid_water(zone), facility.site(zone)
    if grid is None:
        return None
    wue = site.wue_l_per_kwh if site else None
    return facility.water_l(computers_kwh, pue=pue, wue_l_per_kwh=wue, grid=grid)


# moved beside for now; the next step joins them
from carbontrack.impact.given import (
    _ABOVE_ZERO,
    _RANGES,
    _WHOLE,
    Given,
    _hint,
    _number,
    _text,
    _whole_picture,
    check,
)
from carbontrack.impact.parts import (
    GPU_IDLE,
    GPU_LEAST,
    GPU_MOST,
    PowerPart,
    _cpu,
    _gpu,
    _ram,
    parts_of,
    square_sum,
)
from carbontrack.impact.result import Estimate
