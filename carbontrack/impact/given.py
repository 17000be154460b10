"""What the calculator is given: checked once, all together, before anything is reckoned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from carbontrack.errors import ConfigError

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


def check(given: Mapping[str, object]) -> Given:
    """The input as numbers in their ranges, with nothing missing and nothing twice.

    Raises:
        ConfigError: says which parameter is wrong, why, and what would be right.
    """
    numbers = {name: _number(name, given[name]) for name in _RANGES}
    _whole_picture(given)
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
    )


def _whole_picture(given: Mapping[str, object]) -> None:
    """Raise for what is missing, or given in two ways that may contradict each other."""

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


def _hint(name: str, number: float) -> str:
    if name == "utilisation" and 1.0 < number <= 100.0:
        return f"; for {number:g} % write {number / 100:g}"
    return ""


def _text(name: str, given: object) -> str | None:
    if given is None or (isinstance(given, str) and given.strip()):
        return given
    raise ConfigError(f"{name}={given!r} is not a name")
