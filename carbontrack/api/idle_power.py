"""The idle power of this machine: from settings, from calibration, or from models."""

from __future__ import annotations

from collections.abc import Mapping

from carbontrack.attribution.policy import IdlePower
from carbontrack.config.settings import Settings
from carbontrack.meters.calibration import Calibration
from carbontrack.meters.load_curve import SINCE_2010
from carbontrack.meters.meter import Meter, MeterSet, nominal_w
from carbontrack.meters.wall import WALL_ID
from carbontrack.meters.wall_model import WallModel
from carbontrack.record import BASES, Basis, Component


def idle_power(settings: Settings, meters: MeterSet, calibration: Calibration) -> IdlePower:
    """The idle power of each component, as far as it is known.

    For the processors: the setting `idle_w`, else the idle power that `carbontrack calibrate
    --idle` measured, else the idle share of the design power by the load curve. Modelled memory
    draws the same power busy or idle. If a wall meter was calibrated, or the wall is modelled, the
    rest of its power is the component "other".
    """
    cpu_w, basis = _cpu(settings, meters, calibration.idle_w)
    ram_w = calibration.idle_w.get("ram", _modelled_ram_w(meters))
    gpu_w, other_w = calibration.idle_w.get("gpu"), None
    if calibration.fit is not None and any(meter.id == WALL_ID for meter in meters):
        other_w = calibration.fit.rest_w(sum(watts for watts in (cpu_w, ram_w, gpu_w) if watts))
    for rest in meters:
        if isinstance(rest, WallModel) and cpu_w is not None:
            other_w = rest.rest_w(0.0, cpu_w + (ram_w or 0.0))
    return IdlePower(cpu_w, gpu_w, ram_w, other_w, basis)


def _cpu(
    settings: Settings, meters: MeterSet, measured_w: Mapping[str, float]
) -> tuple[float | None, Basis]:
    if settings.idle_w is not None:
        return settings.idle_w, "modelled"
    if "cpu" in measured_w:
        bases = (meter.basis for meter in _of(meters, "cpu"))
        return measured_w["cpu"], max(bases, key=BASES.index, default="modelled")
    hardware = meters.hardware
    if hardware.cpu_idle_w is not None:
        return hardware.cpu_idle_w, "modelled"
    tdp_w = hardware.cpu_tdp_w
    return (None if tdp_w is None else tdp_w * SINCE_2010.at(0.0).best), "modelled"


def _modelled_ram_w(meters: MeterSet) -> float | None:
    watts = [
        None if meter.basis == "measured" else nominal_w(meter) for meter in _of(meters, "ram")
    ]
    known = [power_w for power_w in watts if power_w is not None]
    return sum(known) if known and len(known) == len(watts) else None


def _of(meters: MeterSet, component: Component) -> list[Meter]:
    return [meter for meter in meters if meter.component == component]
