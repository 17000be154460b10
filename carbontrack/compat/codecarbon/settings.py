"""CodeCarbon's parameters as settings of carbontrack."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from carbontrack.api.track import PROVIDER
from carbontrack.compat.codecarbon.config import Conf
from carbontrack.compat.codecarbon.log import LOGGER, warn_once
from carbontrack.config.settings import Settings
from carbontrack.errors import CarbontrackError

_GIB = 2**30
_DEFAULTS = {"output": (), "pue": 1.0, "scope": "machine"}
_WITH_DEFAULT = {"pue": "pue", "wue": "wue", "tracking_mode": "scope"}
"""Parameters that take precedence over carbontrack's own settings only if they were set."""


def settings_of(conf: Conf, region: str | None) -> Settings:
    """The settings that correspond to these parameters.

    If a parameter was not set, carbontrack's own environment and files apply, and then CodeCarbon's
    default. Records of carbontrack are written in addition to CodeCarbon's rows only if such an
    output was set.

    Raises:
        ConfigError: carbontrack's own environment or files cannot be used.
    """
    ours = {name for name, at in PROVIDER.load({}).origins.items() if at != "default"}
    found = {
        "region": region,
        "cpu_tdp_w": _number("force_cpu_power", conf),
        "ram_w_per_gib": _ram_w_per_gib(conf),
        "gpu_ids": _gpu_ids(conf["gpu_ids"]),
        "intensity_g_per_kwh": _number("force_carbon_intensity_g_co2e_kwh", conf),
        **_live(conf),
    }
    for name in _WITH_DEFAULT.keys() & conf.named:
        is_number = isinstance(conf[name], float)
        found[_WITH_DEFAULT[name]] = _number(name, conf) if is_number else conf[name]
    defaults = {name: one for name, one in _DEFAULTS.items() if name not in ours}
    return _usable({name: one for name, one in found.items() if one is not None}, defaults)


def _usable(found: dict[str, Any], defaults: dict[str, Any]) -> Settings:
    """Settings without those that carbontrack refuses: a tracker must not end a program."""
    try:
        return PROVIDER.checked({**defaults, **found}, inside=False)
    except CarbontrackError:
        kept: dict[str, Any] = dict(defaults)
        settings = PROVIDER.checked(kept, inside=False)
    for name, value in found.items():
        try:
            settings = PROVIDER.checked({**kept, name: value}, inside=False)
        except CarbontrackError as error:
            LOGGER.error("ignored: %s", error)
        else:
            kept[name] = value
    return settings


def _live(conf: Conf) -> dict[str, Any]:
    if conf["co2_signal_api_token"]:
        warn_once("co2_signal_api_token is deprecated; use electricitymaps_api_token")
    token = conf["electricitymaps_api_token"] or conf["co2_signal_api_token"]
    if not token:
        return {}
    return {"live_token": str(token), "intensity_source": ("electricity_maps",)}


def _number(name: str, conf: Conf) -> float | None:
    number: float | None = conf[name]
    if number is None or 0.0 <= number < math.inf:
        return number
    LOGGER.warning("%s=%r is not a number of 0 or more and is ignored", name, number)
    return None


def _ram_w_per_gib(conf: Conf) -> float | None:
    watts = _number("force_ram_power", conf)
    if watts is None:
        return None
    import psutil

    return watts / (psutil.virtual_memory().total / _GIB)


def _gpu_ids(given: str | int | Iterable[str | int] | None) -> tuple[str, ...] | None:
    """The GPUs as a list; an empty one means all of them, as in CodeCarbon."""
    if given is None:
        return None
    if isinstance(given, int):
        given = str(given)
    parts = given.split(",") if isinstance(given, str) else given
    found = tuple(str(one).strip(" []'\"") for one in parts)
    return tuple(one for one in found if one) or None
