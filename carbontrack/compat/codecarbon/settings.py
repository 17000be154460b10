"""CodeCarbon's parameters as settings of carbontrack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from carbontrack.api.track import PROVIDER
from carbontrack.compat.codecarbon.config import Conf
from carbontrack.compat.codecarbon.log import LOGGER, warn_once

_GIB = 2**30


def settings_of(conf: Conf, region: str | None) -> dict[str, Any]:
    """The settings that these parameters mean.

    Records of carbontrack are written beside CodeCarbon's rows only where an output was set, in the
    environment or a file.
    """
    loaded = PROVIDER.load({})
    found: dict[str, Any] = {
        "scope": conf["tracking_mode"],
        "region": region,
        "pue": _number("pue", conf["pue"], least=1.0),
        "cpu_tdp_w": _number("force_cpu_power", conf["force_cpu_power"]),
        "ram_w_per_gib": _ram_w_per_gib(conf["force_ram_power"]),
        "gpu_ids": _gpu_ids(conf["gpu_ids"]),
        "intensity_g_per_kwh": _intensity(conf["force_carbon_intensity_g_co2e_kwh"]),
        **_live(conf),
    }
    found = {name: value for name, value in found.items() if value is not None}
    if loaded.origins.get("output", "default") == "default":
        found["output"] = ()
    return found


def _live(conf: Conf) -> dict[str, Any]:
    if conf["co2_signal_api_token"]:
        warn_once("co2_signal_api_token is deprecated; use electricitymaps_api_token")
    token = conf["electricitymaps_api_token"] or conf["co2_signal_api_token"]
    if not token:
        return {}
    return {"intensity_source": "electricity_maps", "live_token": token}


def _intensity(given: Any) -> float | None:
    if given is None:
        return None
    return _number("force_carbon_intensity_g_co2e_kwh", given, least=0.0)


def _number(name: str, given: Any, least: float = 0.0) -> float | None:
    if given is None:
        return None
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not least <= number < math.inf:
        LOGGER.warning("%s=%r is no number from %g on, and is ignored", name, given, least)
        return None
    return number


def _ram_w_per_gib(given: Any) -> float | None:
    watts = _number("force_ram_power", given)
    if watts is None:
        return None
    import psutil

    return watts / (psutil.virtual_memory().total / _GIB)


def _gpu_ids(given: str | int | Sequence[str | int] | None) -> list[str] | None:
    if given is None:
        return None
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    return [str(one) for one in ([given] if isinstance(given, int) else given)]
