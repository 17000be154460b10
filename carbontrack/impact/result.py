"""The answer of the calculator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from carbontrack.record import Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run would use and emit, how far that may be off, and what it was made from.

    Attributes:
        energy_kwh: at the meter of the building, PUE included, with low and high.
        emissions_g: grams of CO2e of that energy, with low and high.
        intensity_g_per_kwh: of the grid, with low, high, source and year.
        region: the code of the place; None with an intensity of your own.
        power_w: mean power of the computers, before PUE.
        cpu_kwh, gpu_kwh, ram_kwh, other_kwh: energy of the computers, before PUE; None if not part
            of the estimate. `other` is what was given as `power_w`.
        water_l: litres that power stations and, where its WUE is known, the site consume.
        embodied_g: the hardware's making for the share of its life; never part of `emissions_g`.
        basis: "modelled" from hardware names, "assumed" where a power was given.
        how: one sentence for each part.
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
    basis: Basis
    how: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name, as `carbontrack estimate --json` prints them."""
        return asdict(self) | {"how": list(self.how)}
