"""From named hardware to watts, each with how far it may be off and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from carbontrack.impact.embodied import GB_PER_GIB, Amount, embodied_g, embodied_item
from carbontrack.impact.given import Given
from carbontrack.impact.hardware import find_cpu, find_gpu
from carbontrack.meters.cpu_model import KNOWN_UNCERTAINTY, power_share
from carbontrack.meters.ram_model import RELATIVE_UNCERTAINTY, W_PER_GIB
from carbontrack.record import Component

GPU_LEAST, GPU_MOST = 0.5, 1.1
"""What an accelerator in training draws, as a share of its TDP. Published means of whole systems
per accelerator, host included: TPU v3 245 to 310 W of 450 (0.54 to 0.69), TPU v2 208 of 280 (0.74),
V100 330 of 300 (1.10) (Patterson et al. 2021, table 4); P100 173 to 189 W of 300 (0.58 to 0.63) and
V100 188 of 300 (0.63) (Strubell et al. 2019, table 3). The interval is that range, rounded out."""
GPU_IDLE = 0.15
"""An idle card's share of its TDP: A100 46 of 400 W, V100 35 of 300, P100 36 of 250, which is 0.12
to 0.14 (Teads, as used by Cloud Carbon Footprint), rounded up. It only widens the interval."""


@dataclass(frozen=True, slots=True)
class PowerPart:
    """The mean power of one kind of hardware, all pieces of it together, before PUE."""

    component: Component
    power_w: float
    below_w: float
    above_w: float
    how: str
    embodied: Amount | None = None


def parts_of(given: Given) -> list[PowerPart]:
    """The hardware of an estimate. Pieces of one kind err together: their half-widths add up.

    Raises:
        ConfigError: a name is in no table.
    """
    parts = []
    if given.power_w is not None:
        watts = given.power_w * given.utilisation
        how = (
            f"{given.power_w:g} W as given, used to {given.utilisation:.0%}; no interval of its own"
        )
        parts.append(PowerPart("other", watts, 0.0, 0.0, how))
    if given.gpu is not None:
        parts.append(_gpu(given.gpu, given))
    if given.cpu is not None:
        parts.append(_cpu(given.cpu, given))
    if given.ram_gib is not None:
        parts.append(_ram(given.ram_gib, given))
    return parts


def square_sum(widths: Iterable[float]) -> float:
    """Half-widths of independent parts combined (JCGM 100:2008, GUM, 5.1.2)."""
    return sqrt(sum(width**2 for width in widths))


def _gpu(name: str, given: Given) -> PowerPart:
    card, load = find_gpu(name), given.utilisation
    all_w = card.tdp_w * given.gpus
    most_w = all_w * (GPU_MOST * load + GPU_IDLE * (1.0 - load))
    item = embodied_item(card.name, card.kind)
    return PowerPart(
        component="gpu",
        power_w=all_w * load,
        below_w=all_w * load * (1.0 - GPU_LEAST),
        above_w=most_w - all_w * load,
        how=f"{given.gpus} x {card.name}: TDP {card.tdp_w:g} W, used to {load:.0%} ({card.source})",
        embodied=embodied_g(item, given.gpus, given.hours) if item else None,
    )


def _cpu(name: str, given: Given) -> PowerPart:
    """TDP x utilisation, as Green Algorithms and ML CO2 Impact reckon.

    A server at half load draws more than half its TDP; the interval reaches up to the load curve.
    """
    part, load = find_cpu(name), given.utilisation
    all_w = part.tdp_w * given.cpus
    spread = max(part.tdp_high_w / part.tdp_w - 1.0, 1.0 - part.tdp_low_w / part.tdp_w)
    width = square_sum((KNOWN_UNCERTAINTY, spread))
    most_w = all_w * max(load * (1.0 + width), power_share(load))
    return PowerPart(
        component="cpu",
        power_w=all_w * load,
        below_w=all_w * load * min(1.0, width),
        above_w=most_w - all_w * load,
        how=f"{given.cpus} x {part.name}: TDP {part.tdp_w:g} W, used to {load:.0%} ({part.source})",
        embodied=embodied_g("cpu", given.cpus, given.hours),
    )


def _ram(gib: float, given: Given) -> PowerPart:
    watts = gib * W_PER_GIB
    half_w = watts * RELATIVE_UNCERTAINTY
    return PowerPart(
        component="ram",
        power_w=watts,
        below_w=half_w,
        above_w=half_w,
        how=f"{gib:g} GiB of memory x {W_PER_GIB:g} W, whether used or not",
        embodied=embodied_g("ram", gib * GB_PER_GIB, given.hours),
    )
