"""What stands beside the emissions in a record: water, and the making of the hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carbontrack.attribution.policy import Attribution
from carbontrack.circumstances import Circumstances
from carbontrack.figures import Course, Part

WHOLE = "machine"
"""The key of a rate that stands for the whole machine, not for a part of it."""


def beside_figures(
    parts: Sequence[Part],
    course: Course,
    energy: Mapping[str, Any],
    attribution: Attribution,
    circumstances: Circumstances,
) -> dict[str, Any]:
    """The columns beside the emissions; what is unknown is left out."""
    water = water_figures(energy, attribution, circumstances.water_l_per_kwh)
    return water | making_figures(parts, course, circumstances.making_g_per_h)


def water_figures(
    energy: Mapping[str, Any], attribution: Attribution, grid_l_per_kwh: float | None
) -> dict[str, Any]:
    """The water consumed: on site per kWh of the computers, at the plants per kWh of the site.

    Beside the emissions, never in them; None where neither is known (ISO/IEC 30134-9 for the WUE).
    """
    site_kwh, wue = energy.get("energy_kwh"), attribution.wue_l_per_kwh
    if site_kwh is None or (wue is None and grid_l_per_kwh is None):
        return {}
    computers_kwh = site_kwh / attribution.pue
    return {"water_l": computers_kwh * (wue or 0.0) + site_kwh * (grid_l_per_kwh or 0.0)}


def making_figures(
    parts: Sequence[Part],
    course: Course,
    rates_g_per_h: Mapping[str, float] | None,
) -> dict[str, Any]:
    """The column `embodied_g`; nothing where the rates, or what to share them by, are unknown.

    Each part of the machine is made for all who use it, so ours is the share of its energy that is
    ours, in the time in which we ran. Shares of energy add up to one over all spans and processes,
    and so do these.
    """
    if not rates_g_per_h:
        return {}
    hours = course.duration_s / 3600.0
    found_g = 0.0
    for name, g_per_h in rates_g_per_h.items():
        share = _share(parts, name)
        if share is None:
            return {}
        found_g += share * g_per_h * hours
    return {"embodied_g": found_g}


def _share(parts: Sequence[Part], name: str) -> float | None:
    """Our share of the energy of a component, or of the machine; None where it used none."""
    own = [part for part in parts if name in (WHOLE, part.meter.component)]
    all_j = sum(part.machine_j for part in own)
    return sum(part.joules for part in own) / all_j if all_j > 0.0 else None
