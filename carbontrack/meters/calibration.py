"""The calibration of this host, and its file in the state directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from carbontrack.errors import ConfigError
from carbontrack.meters.wall import WallFit, WallReading, check_readings, fit_wall
from carbontrack.record import COMPONENTS
from carbontrack.system.files import read_file, replace_privately

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """Readings of a wall meter and of carbontrack's meters, their line, and the idle power.

    Attributes:
        meters: the ids of the meters that were read.
        readings: their power and the wall meter's.
        fit: the line; None while there are too few readings.
        idle_w: by component (cpu, gpu, ram), the power measured while nothing ran.
    """

    meters: tuple[str, ...] = ()
    readings: tuple[WallReading, ...] = ()
    fit: WallFit | None = None
    idle_w: Mapping[str, float] = field(default_factory=dict)

    def with_readings(
        self, readings: tuple[WallReading, ...], meters: tuple[str, ...]
    ) -> Calibration:
        """The calibration with more readings, made with these meters.

        Raises:
            ConfigError: the readings give no line, or earlier ones were made with other meters.
        """
        if self.readings and set(meters) != set(self.meters):
            raise ConfigError(
                f"the earlier readings were taken with {', '.join(self.meters)}, but the meters "
                f"here are {', '.join(meters)}; start again with: carbontrack calibrate --clear"
            )
        everything = (*self.readings, *readings)
        check_readings(everything)
        if len(everything) == 1:
            return replace(self, meters=meters, readings=everything)
        return replace(self, meters=meters, readings=everything, fit=fit_wall(everything, meters))


def load_calibration(path: Path) -> Calibration | None:
    """The stored calibration; None if there is none.

    Raises:
        ConfigError: the file cannot be read, or is not a calibration.
    """
    try:
        content = read_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return _from_json(json.loads(content.decode()))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
            RecursionError) as error:  # fmt: skip
        raise ConfigError(
            f"{path} is not a calibration file ({error}); remove it with: carbontrack calibrate "
            "--clear"
        ) from error


def _from_json(kept: dict[str, object]) -> Calibration:
    if kept["schema"] != SCHEMA:
        raise ValueError(f"schema {kept['schema']!r}")
    meters = tuple(str(name) for name in _list(kept["meters"]))
    readings = tuple(WallReading(float(x), float(y)) for x, y in _list(kept["readings"]))
    idle = kept["idle_w"]
    if not isinstance(idle, dict):
        raise TypeError("idle_w is not a table")
    idle_w = {name: float(watts) for name, watts in idle.items() if name in COMPONENTS}
    if any(not 0.0 <= watts < float("inf") for watts in idle_w.values()):
        raise ValueError("an idle power below 0 W")
    # the line is always fitted anew, so that a file cannot hold one that its readings do not give
    fit = fit_wall(readings, meters) if len(readings) > 1 else None
    return Calibration(meters, readings, fit, idle_w)


def _list(what: object) -> list[Any]:
    if not isinstance(what, list):
        raise TypeError("not a list")
    return what


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Write it in one step, readable by its owner only."""
    kept = {"schema": SCHEMA, **asdict(calibration)}
    del kept["fit"]
    replace_privately(path, json.dumps(kept, indent=1))


def clear_calibration(path: Path) -> bool:
    """Remove it; whether there was one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
