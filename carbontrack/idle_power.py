"""What this machine draws while it idles: as given, as measured here, or as its models have it."""

from __future__ import annotations

from carbontrack.attribution.idle import IdlePower
from carbontrack.meters.cpu_model import power_share
from carbontrack.meters.meter import Meter, MeterSet
from carbontrack.records import Component
from carbontrack.settings import Settings


def idle_power(settings: Settings, meters: MeterSet) -> IdlePower:
    """The idle power of each component, as far as it is known.

    The processors': the setting `idle_w`, else the load curve's share of the design power. Modelled
    memory draws the same busy or idle.
    """
    cpu_w, tdp_w = settings.idle_w, meters.hardware.cpu_tdp_w
    if cpu_w is None and tdp_w is not None:
        cpu_w = tdp_w * power_share(0.0)
    return IdlePower(cpu=cpu_w, ram=_modelled_ram_w(meters))


def _modelled_ram_w(meters: MeterSet) -> float | None:
    models = [meter for meter in _of(meters, "ram") if meter.basis != "measured"]
    watts = [getattr(meter, "nominal_w", None) for meter in models]
    known = [power_w for power_w in watts if power_w is not None]
    return sum(known) if known and len(known) == len(_of(meters, "ram")) else None


def _of(meters: MeterSet, component: Component) -> list[Meter]:
    return [meter for meter in meters if meter.component == component]
